"""The Compliance page: open clocks first, then how complete the registers are, and where data stands."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.views.decorators.http import require_POST

from panel.accounts.access import requires
from panel.audit.models import AuditEvent
from panel.registers import above, clocks, completeness, drafts, periods, sections
from panel.registers.models import Breach, SubjectRequest
from panel.ui.http import SignedInRequest
from panel.ui.live import live, wanted_fragment

SEE = "registers.see_compliance"
MANAGE = "registers.manage_compliance"
REFUSALS = ("residency.refused", "residency.violation")
REFUSAL_ROWS = 10
OVER_ROWS = 10


@requires(SEE)
def compliance(request: SignedInRequest) -> HttpResponse:
    """The page; `#clocks` polls."""
    now = timezone.now()
    may_manage = request.user.has_perm(MANAGE)
    context: dict[str, Any] = {"now": now, "clocks": clocks.running(now=now), "may_manage": may_manage}
    if not wanted_fragment(request, ("clocks",)):
        context |= _rest(request, may_manage=may_manage, now=now)
    return live(request, "registers/compliance.html", context, fragments=("clocks",))


def _rest(request: SignedInRequest, *, may_manage: bool, now: datetime) -> dict[str, Any]:
    return {
        "standings": completeness.standings(today=periods.today(now)),
        "places": above.places(),
        "withheld": above.withheld(),
        "refusals": _refusals(),
        "sections": [(s, s.facts(now), url_of(s.link)) for s in sections.sections()],
        "evidence_url": url_of("evidence") if may_manage else "",
        "over": _over() if may_manage else [],
        "in_admin": request.user.is_staff,
    }


def _refusals() -> list[tuple[AuditEvent, str, str]]:
    """(event, at which point the guard said no, of which offer or machine), the newest first."""
    rows = AuditEvent.objects.filter(action__in=REFUSALS).order_by("-sequence")[:REFUSAL_ROWS]
    return [(row, *_told(row)) for row in rows]


def _told(row: AuditEvent) -> tuple[str, str]:
    after = row.after or {}
    if row.action == "residency.refused":
        return "before the launch", str(after.get("what", ""))
    places = [" ".join(filter(None, place)) or "an unknown place" for place in after.get("found", [])]
    return "after the launch: the machine was ended", ", ".join(places)


def _over() -> list[Any]:
    """Breaches and requests whose clocks stand still, the newest first."""
    breaches = [b for b in Breach.objects.order_by("-pk")[: 2 * OVER_ROWS] if not b.is_running]
    requests = list(SubjectRequest.objects.exclude(answered_on=None).order_by("-pk")[:OVER_ROWS])
    done: list[Any] = [*breaches, *requests]
    return sorted(done, key=lambda row: row.filed_at, reverse=True)[:OVER_ROWS]


def url_of(name: str, *args: Any) -> str:
    """Where a page of another app is; empty while there is none."""
    try:
        return reverse(name, args=args) if name else ""
    except NoReverseMatch:
        return ""


@requires(MANAGE)
@require_POST
def draft(request: SignedInRequest) -> HttpResponse:
    """Look for what ran and add drafts of its records."""
    made = drafts.draft(actor=request.user, now=timezone.now())
    if made:
        words = (
            f"{len(made)} new draft{'' if len(made) == 1 else 's'}: read and confirm them in the registers."
        )
        messages.success(request, words)
    else:
        messages.info(request, "Nothing new ran: every record that it needs is there.")
    return redirect("compliance")
