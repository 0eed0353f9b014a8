"""The orphan radar: every account's machines, whose they are, and what is done about those nobody knows."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone

from deployments import radar as rules
from deployments import services
from deployments.views import protection
from panel.accounts.access import requires
from panel.ui.http import SignedInRequest
from panel.ui.live import live

MOST = 200
"""Rows of one bin on a page; the rest are counted."""


@requires("deployments.view_provideraccount")
def radar(request: SignedInRequest) -> HttpResponse:
    """`?hidden=1` shows the hidden ones too; `#radar` polls."""
    now = timezone.now()
    seen = rules.sightings(now=now)
    with_hidden = request.GET.get("hidden") == "1"
    context = {
        "sweeps": rules.sweeps(seen, now=now),
        "bins": [_bin(seen, which, with_hidden=with_hidden) for which in _BINS],
        "hidden": sum(s.machine.hidden for s in seen),
        "with_hidden": with_hidden,
        "may_act": request.user.has_perm("deployments.operate_deployment"),
        "now": now,
    }
    return live(request, "deployments/radar.html", context, fragments=("radar",))


_BINS = {
    rules.Bin.FOUND: "Labelled as ours, but unknown",
    rules.Bin.OURS: "Ours and known",
    rules.Bin.FOREIGN: "Somebody else’s",
}


def _bin(seen: list[rules.Sighting], which: rules.Bin, *, with_hidden: bool) -> dict[str, Any]:
    rows = [s for s in seen if s.bin is which and (with_hidden or not s.machine.hidden)]
    rates = [s.machine.usd_per_hour for s in rows if s.machine.usd_per_hour is not None]
    return {
        "key": which.value,
        "title": _BINS[which],
        "rows": rows[:MOST],
        "more": max(0, len(rows) - MOST),
        "burn": sum(rates) if rates else None,
        "unpriced": len(rows) - len(rates) if rates else 0,
    }


@requires("deployments.operate_deployment")
def act(request: SignedInRequest, pk: int, action: str) -> HttpResponse:
    """Adopt, terminate, hide or show on POST; the first two ask on a page of their own first."""
    if action not in _SAID:
        raise Http404
    now = timezone.now()
    seen = next((s for s in rules.sightings(now=now) if s.machine.pk == pk), None)
    if seen is None:
        messages.info(request, "This machine is in no list any more.")
        return redirect("radar")
    if request.method != "POST":
        return render(request, "deployments/radar_confirm.html", {"s": seen, "action": action})
    try:
        _do(seen, action, request)
    except (rules.RadarRefused, services.ActionRefused) as e:
        messages.warning(request, str(e))
    else:
        messages.success(request, _SAID[action].format(name=seen.machine.label or seen.machine.remote_id))
    return redirect("radar")


def _do(seen: rules.Sighting, action: str, request: SignedInRequest) -> None:
    now, actor = timezone.now(), request.user
    if action == "hide":
        rules.hide(seen.machine, actor=actor, now=now)
    elif action == "show":
        rules.show(seen.machine, actor=actor, now=now)
    elif not seen.may_decide or seen.instance is None:
        raise rules.RadarRefused("Nothing is left to decide: look at what it says now.")
    elif action == "adopt":
        services.adopt_found(seen.instance.deployment, actor=actor, now=now)
    elif not protection.may_end(request, seen.instance.deployment):
        raise rules.RadarRefused(protection.REFUSED)
    else:
        services.terminate(seen.instance.deployment, actor=actor, now=now)


_SAID = {
    "adopt": "{name} is adopted: it is one of ours now, and goes on running and billing.",
    "terminate": "{name} is being terminated. It bills until its provider confirms that it is gone.",
    "hide": "{name} is hidden.",
    "show": "{name} is shown again.",
}
