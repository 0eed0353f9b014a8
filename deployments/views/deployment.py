"""One deployment: how it stands, its way up, its events and cost, and the acts that are valid now."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone

from billing import ledger
from billing.periods import calendar_month
from deployments import changes, services
from deployments.advising import gather
from deployments.lifecycle import Desired
from deployments.models import Deployment, Event, ResidencyEvidence
from deployments.monitoring import reliability, uptime
from deployments.views import glance, protection, reads
from deployments.views.form_fields import PLACES
from deployments.views.frame import frame
from deployments.views.settings_form import SettingsForm
from panel.accounts.access import requires
from panel.ui.http import SignedInRequest
from panel.ui.live import live, wanted_fragment

TABS = ("overview", "events", "cost", "settings")
EVENTS_ROWS = 100
EVIDENCE_ROWS = 5


@requires("deployments.view_deployment")
def detail(request: SignedInRequest, pk: UUID) -> HttpResponse:
    """`?tab=overview|events|cost|settings`; `#status` and `#panel` poll, `#changes` says what saving would do."""
    now = timezone.now()
    d = reads.get_deployment_or_404(request.user, pk)
    tab = request.GET.get("tab", "overview")
    tab = tab if tab in TABS else "overview"
    context = frame(request, d, tab, now=now)
    if not wanted_fragment(request, ("status",)):
        context |= _TAB_CONTEXT[tab](d, now)
    if tab == "settings" and _may_edit(request, d):
        typed = request.GET if "seen" in request.GET else None
        context |= _form_context(SettingsForm(d, typed), d)
    # The part that follows the typing stands inside the tab's own template.
    preview = wanted_fragment(request, ("changes",))
    template = "deployments/_settings_tab.html" if preview else "deployments/detail.html"
    return live(request, template, context, fragments=("status", "panel", "changes"))


def _overview_tab(d: Deployment, now: datetime) -> dict[str, Any]:
    instance, month = d.current, calendar_month(now)
    facts = uptime.facts_of_one(d.pk, since=month.start, until=now)
    evidence = (
        ResidencyEvidence.objects.filter(instance__deployment=d)
        .select_related("instance")
        .only(*(f.attname for f in ResidencyEvidence._meta.concrete_fields), "instance__attempt")
    )
    return {
        "waterfall": reads.waterfall(instance, reads.moves_of(instance, facts, since=month.start), now=now),
        "lines": reads.named(_newest(d, 8)),
        "glance": glance.cards([instance.pk] if instance else [], now=now),
        "lease_silence": reads.lease_silence(instance, now=now),
        "goal": reliability.goal(d, month, facts=facts, now=now),
        "evidence": list(evidence.order_by("-at", "-pk")[:EVIDENCE_ROWS]),
    }


def _newest(d: Deployment, count: int) -> list[Event]:
    """Its newest events, each with no more of its machine than the attempt's number."""
    columns = (*(f.attname for f in Event._meta.concrete_fields), "instance__attempt")
    return list(d.events.select_related("instance").only(*columns).order_by("-at", "-pk")[:count])


def _events_tab(d: Deployment, now: datetime) -> dict[str, Any]:
    return {"lines": reads.named(_newest(d, EVENTS_ROWS)), "limit": EVENTS_ROWS}


def _cost_tab(d: Deployment, now: datetime) -> dict[str, Any]:
    until = now.replace(minute=0, second=0, microsecond=0)
    hours = dict(ledger.by_hour(d.pk, until - timedelta(hours=23), now, now=now))
    starts = [until - timedelta(hours=23 - i) for i in range(24)]
    rows = [(start, hours.get(start, Decimal(0))) for start in starts]
    return {
        "hours": [(start, usd) for start, usd in reversed(rows) if usd],
        "chart": [(f"{start:%H:00}", usd) for start, usd in rows],
        "last_day": sum((usd for _, usd in rows), Decimal(0)),
        "advice": gather.best_of(d, now=now),
    }


def _settings_tab(d: Deployment, now: datetime) -> dict[str, Any]:
    return {
        "attempts": list(d.instances.select_related("account").without_secrets().order_by("-attempt")[:20])
    }


def _may_edit(request: SignedInRequest, d: Deployment) -> bool:
    """Whether its settings are a form. A machine that was adopted was never asked for in any way."""
    may = request.user.has_perm("deployments.operate_deployment")
    return may and d.desired != Desired.TERMINATED and d.model is not None


def _form_context(form: SettingsForm, d: Deployment) -> dict[str, Any]:
    """The form, and what saving it as it stands would do."""
    readable = form.is_bound and (form.is_valid() or hasattr(form, "cleaned_data"))
    planned = changes.plan(d, form.changed()) if readable else ()
    return {
        "form": form,
        "seen": changes.fingerprint(d),
        "zones": PLACES,
        "planned": planned,
        "replaces": any(c.effect is changes.Effect.REPLACE for c in planned),
        "standing": changes.standing(d),
    }


_TAB_CONTEXT = {
    "overview": _overview_tab,
    "events": _events_tab,
    "cost": _cost_tab,
    "settings": _settings_tab,
}


@requires("deployments.operate_deployment")
def settings(request: SignedInRequest, pk: UUID) -> HttpResponse:
    """Save the settings on POST. What replaces the machine is shown first, and saved once it is agreed to."""
    now = timezone.now()
    d = reads.get_deployment_or_404(request.user, pk)
    tab = f"{d.get_absolute_url()}?tab=settings"
    if request.method != "POST" or not _may_edit(request, d):
        return redirect(tab)
    form = SettingsForm(d, request.POST)
    saved = _try_save(request, form, d, now=now)
    if saved is not None:
        _say_saved(request, saved)
        return redirect(tab)
    context = frame(request, d, "settings", now=now) | _settings_tab(d, now) | _form_context(form, d)
    return render(request, "deployments/detail.html", context, status=422)


def _try_save(
    request: SignedInRequest, form: SettingsForm, d: Deployment, *, now: datetime
) -> tuple[changes.Change, ...] | None:
    """What was changed, or None with the reason in the form."""
    if form.is_valid():
        protection.check_settings(request, form)
    if not form.is_valid():
        return None
    if form.is_old:
        form.add_error(
            None, "Somebody else changed these settings meanwhile. Look over what saving does now."
        )
        return None
    try:
        return changes.change_settings(
            d, form.changed(), actor=request.user, now=now, may_replace="replace" in request.POST
        )
    except changes.ChangeRefused as e:
        form.refuse(e)
        return None


def _say_saved(request: SignedInRequest, saved: tuple[changes.Change, ...]) -> None:
    if not saved:
        messages.info(request, "Nothing was changed.")
    elif any(c.effect is changes.Effect.REPLACE for c in saved):
        messages.success(request, "Saved. The machine is given back and a new one is rented.")
    else:
        messages.success(request, "Saved.")


@requires("deployments.operate_deployment")
def act(request: SignedInRequest, pk: UUID, action: str) -> HttpResponse:
    """Stop, start or terminate on POST; asked for with GET, the page that says what it will do."""
    verb = _VERBS.get(action)
    if verb is None:
        raise Http404
    now = timezone.now()
    d = reads.get_deployment_or_404(request.user, pk)
    if action == "terminate" and not protection.may_end(request, d):
        raise PermissionDenied(protection.REFUSED)
    if request.method != "POST":
        context = frame(request, d, "overview", now=now) | {"action": action}
        return render(request, "deployments/confirm.html", context)
    try:
        verb(d, actor=request.user, now=now)
    except services.ActionRefused as e:
        messages.warning(request, str(e))
    else:
        messages.success(request, _SAID[action].format(name=d.name))
    return redirect(d)


_VERBS = {
    "stop": services.stop,
    "start": services.start,
    "terminate": services.terminate,
    "mend": services.mend,
    "rotate": services.rotate_machine_key,
}
_SAID = {
    "stop": "{name} is being stopped.",
    "start": "{name} is being started again.",
    "mend": "{name} is being mended: its provider is asked to put back what it changed.",
    "rotate": "{name} is getting a new key. The old one opens it until the machine has taken the new one.",
    "terminate": "{name} is being terminated. It bills until its provider confirms that the machine is gone.",
}
