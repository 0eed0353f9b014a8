"""The Advice page: what would cost less, with the arithmetic, and one click to where it is done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django import forms
from django.contrib import messages
from django.core.paginator import Paginator
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone

from deployments.advising import dismissing, gather, pattern
from deployments.advising.case import Advice, Kind
from deployments.models import Deployment
from deployments.views import reads
from deployments.views.settings_form import SettingsForm
from panel.accounts.access import requires
from panel.ui.http import SignedInRequest

PAGE = 25
_ICONS = {
    Kind.UNUSED: "moon", Kind.SCHEDULE: "calendar", Kind.ALWAYS_ON: "scale", Kind.FLEX: "scale", Kind.MOVE: "replace",
    Kind.SMALLER: "replace", Kind.LARGER: "replace", Kind.DISK: "hard-drive",
}  # fmt: skip
_ACTS = {
    Kind.UNUSED: "Prepare the stop", Kind.SCHEDULE: "Prepare the schedule", Kind.DISK: "Prepare the end",
}  # fmt: skip


class DismissForm(forms.Form):
    days = forms.TypedChoiceField(
        choices=list(dismissing.SPANS.items()), coerce=int,
        error_messages={"required": "Choose for how long.", "invalid_choice": "Choose for how long."},
    )  # fmt: skip
    reason = forms.CharField(
        max_length=200,
        error_messages={
            "required": "Say why it is not followed, in a few words.",
            "max_length": "The reason may have 200 characters.",
        },
    )


@dataclass(frozen=True, slots=True)
class Row:
    """One piece of advice as the page shows it."""

    advice: Advice
    icon: str
    act: str
    """What its button says."""

    @property
    def key(self) -> str:
        return f"{self.advice.kind}-{self.advice.case.pk}"


@requires("billing.view_ledgerentry")
def advice(request: SignedInRequest) -> HttpResponse:
    """What saves most first; `?page=` goes on. Nothing of it is stored: it is reckoned anew for each look."""
    now = timezone.now()
    board = gather.board(Deployment.objects.visible_to(request.user), now=now)
    page = Paginator(board.shown, PAGE).get_page(request.GET.get("page"))
    context = {
        "board": board,
        "page": page,
        "rows": [_row(a) for a in page],
        "dismissed": [_row(a) for a in board.dismissed[:PAGE]],
        "spans": dismissing.SPANS,
        "needed": pattern.DAYS_NEEDED,
        "may_act": request.user.has_perm("deployments.operate_deployment"),
        "now": now,
    }
    return render(request, "deployments/advice.html", context)


def _row(found: Advice) -> Row:
    return Row(found, _ICONS[found.kind], _ACTS.get(found.kind, "Prepare this launch"))


@requires("deployments.operate_deployment")
def act(request: SignedInRequest, pk: UUID, kind: str, action: str) -> HttpResponse:
    """`prepare` leads to the filled-in page that does it; `dismiss` and `restore` on POST."""
    if kind not in Kind or action not in _DO:
        raise Http404
    return _DO[action](request, reads.get_deployment_or_404(request.user, pk), Kind(kind))


def _prepare(request: SignedInRequest, d: Deployment, kind: Kind) -> HttpResponse:
    board = gather.board(Deployment.objects.filter(pk=d.pk), now=timezone.now())
    found = next((a for a in (*board.shown, *board.dismissed) if a.kind is kind), None)
    if found is None:
        messages.info(
            request, f"{d.name}: this advice no longer holds. What was measured, or the offers, changed."
        )
        return redirect("advice")
    return redirect(prepared(d, found))


def prepared(d: Deployment, found: Advice) -> str:
    """The address of the page on which the advice is done, filled in."""
    if found.kind is Kind.UNUSED:
        return reverse("deployment_action", args=[d.pk, "stop"])
    if found.kind is Kind.DISK:
        return reverse("deployment_action", args=[d.pk, "terminate"])
    if found.choice is None:
        return f"{d.get_absolute_url()}?{urlencode(dict(_settings(d, found)), doseq=True)}"
    return f"{reverse('launch')}?{urlencode(dict(_launch(d, found)), doseq=True)}"


def _settings(d: Deployment, found: Advice) -> Iterator[tuple[str, Any]]:
    """The settings as they stand, with the schedule typed into them."""
    yield "tab", "settings"
    values = dict(SettingsForm(d).initial)
    if found.schedule is not None:
        values |= {
            "schedule_days": list(found.schedule.days), "schedule_from": found.schedule.start,
            "schedule_until": found.schedule.end, "time_zone": found.schedule.zone,
        }  # fmt: skip
    for name, value in values.items():
        if value is not None and value is not False:
            yield name, value


def _launch(d: Deployment, found: Advice) -> Iterator[tuple[str, Any]]:
    """The same deployment again, on the offer that is advised."""
    schedule = d.schedule
    values: dict[str, Any] = {
        "name": d.name, "model": d.model_key, "context": d.context, "concurrency": found.concurrency, "purpose": d.purpose,
        "policy": d.policy, "countries": d.allowed_countries, "price_ceiling": d.price_ceiling and f"{d.price_ceiling.normalize():f}",
        "plan_b": d.plan_b, "allow_plaintext": "on" if d.allow_plaintext else None, "time_zone": d.time_zone,
        "schedule_days": list(schedule.days) if schedule else None,
        "schedule_from": f"{schedule.start:%H:%M}" if schedule else None,
        "schedule_until": f"{schedule.end:%H:%M}" if schedule else None,
        "offer": found.choice.offer if found.choice else None,
    }  # fmt: skip
    yield from ((name, value) for name, value in values.items() if value not in (None, ""))


def _dismiss(request: SignedInRequest, d: Deployment, kind: Kind) -> HttpResponse:
    if request.method != "POST":
        return redirect("advice")
    form = DismissForm(request.POST)
    if not form.is_valid():
        messages.warning(request, " ".join(str(e) for errors in form.errors.values() for e in errors))
        return redirect("advice")
    days = form.cleaned_data["days"]
    dismissing.dismiss(
        d, kind, days=days, reason=form.cleaned_data["reason"], actor=request.user, now=timezone.now()
    )
    messages.success(
        request, f"{kind.word} of {d.name} is not advised for {dismissing.SPANS[days].removeprefix('a ')}."
    )
    return redirect("advice")


def _restore(request: SignedInRequest, d: Deployment, kind: Kind) -> HttpResponse:
    if request.method == "POST" and dismissing.restore(d, kind, actor=request.user, now=timezone.now()):
        messages.success(request, f"{kind.word} of {d.name} is advised again where it holds.")
    return redirect("advice")


_DO = {"prepare": _prepare, "dismiss": _dismiss, "restore": _restore}
