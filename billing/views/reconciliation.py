"""The Reconciliation page: three figures for each account and month, unexplained money, and one gap of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db import transaction
from django.db.models import QuerySet
from django.http import Http404, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from billing import closing, gaps, reconcile, statements
from billing.models import Adjustment, Bill, Discrepancy, LedgerEntry, MonthClose, ProviderStatement
from billing.periods import DAY, calendar_month, midnight
from billing.statements import BALANCE, unassigned_id
from panel.accounts.access import REFUSED, requires
from panel.accounts.models import User
from panel.audit import chain
from panel.audit.exporting import note_export
from panel.throttle import few_exports
from panel.ui.csvfile import csv_response
from panel.ui.http import SignedInRequest
from panel.ui.live import live

PAGE_ROWS = 25
LINES = 200
"""Of our entries and of the provider's lines that one gap's page shows."""
MONTHS = 12
SHOWS = (("unexplained", "Unexplained"), ("explained", "Explained"), ("closed", "Closed"), ("all", "All"))
_STATES = {
    "unexplained": Discrepancy.UNEXPLAINED,
    "explained": (Discrepancy.State.EXPLAINED,),
    "closed": (Discrepancy.State.CLOSED,),
}
HEADER = (
    "day", "account", "provider", "machine", "provider_id", "reason", "metered_usd", "charged_usd", "gap_usd", "state",
    "owner", "explanation",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Filters:
    """What the list shows. `month` is its first day; empty texts: everything."""

    month: date
    show: str
    account: UUID | None
    reason: str

    @property
    def active(self) -> bool:
        return bool(self.account or self.reason) or self.show != "unexplained"


@requires("billing.view_discrepancy")
def reconciliation(request: SignedInRequest) -> HttpResponse:
    """`?month=2026-11`, `?show=`, `?account=`, `?reason=`; `#accounts` polls."""
    now = timezone.now()
    filters = _filters(request, now=now)
    accounts = closing.accounts_of(filters.month, now=now)
    page = Paginator(_listed(filters), PAGE_ROWS).get_page(request.GET.get("page"))
    following = closing.next_month(now=now)
    context = {
        "now": now,
        "filters": filters,
        "accounts": accounts,
        "unexplained": reconcile.unexplained(now),
        "old": reconcile.unexplained(now, older_than=reconcile.OLD),
        "months": _months(now),
        "shows": SHOWS,
        "reasons": Discrepancy.Reason.choices,
        "page": page,
        "next_month": following,
        "closed": MonthClose.objects.select_related("closed_by").order_by("-month")[:MONTHS],
        "may_book": request.user.has_perm("billing.book_discrepancy"),
        "may_explain": request.user.has_perm("billing.explain_discrepancy"),
    }
    return live(request, "billing/reconciliation.html", context, fragments=("accounts",))


def _filters(request: SignedInRequest, *, now: datetime) -> Filters:
    """What the query string asks for; what it says that is not known is left out."""
    month = _month(request.GET.get("month", "")) or calendar_month(now).start.date()
    try:
        account = UUID(request.GET.get("account", ""))
    except ValueError:
        account = None
    show, reason = request.GET.get("show", ""), request.GET.get("reason", "")
    return Filters(
        month, show if show in dict(SHOWS) else "unexplained", account,
        reason if reason in Discrepancy.Reason.values else "",
    )  # fmt: skip


def _month(text: str) -> date | None:
    """The first day of "2026-11"; None for what is no month that anybody was billed in."""
    try:
        found = datetime.strptime(text, "%Y-%m").date()  # noqa: DTZ007 - a calendar's month
    except ValueError:
        return None
    return found if 2000 <= found.year < 2200 else None


def _listed(filters: Filters) -> QuerySet[Discrepancy]:
    """Unexplained money of any month; the rest of the month that is shown."""
    found = Discrepancy.objects.select_related("owner").order_by("-day", "account_label", "pk")
    if filters.show in _STATES:
        found = found.filter(state__in=_STATES[filters.show])
    if filters.show != "unexplained":
        end = calendar_month(midnight(filters.month)).end.date()
        found = found.filter(day__gte=filters.month, day__lt=end)
    if filters.account:
        found = found.filter(account=filters.account)
    return found.filter(reason=filters.reason) if filters.reason else found


def _months(now: datetime) -> list[date]:
    """This month and those before it, as far as a bill goes."""
    first = Bill.objects.order_by("since").values_list("since", flat=True).first() or now
    found: list[date] = []
    month = calendar_month(now).start
    while len(found) < MONTHS and (not found or month >= calendar_month(first).start):
        found.append(month.date())
        month = calendar_month(month - DAY).start
    return found


@requires("billing.view_discrepancy")
@require_safe
@few_exports
def export(request: SignedInRequest) -> HttpResponseBase:
    """The gaps that the page lists, all of them, as comma-separated values."""
    filters = _filters(request, now=timezone.now())
    rows = (_cells(d) for d in _listed(filters).iterator(chunk_size=1_000))
    note_export(
        request, "reconciliation", month=f"{filters.month:%Y-%m}", show=filters.show,
        account=str(filters.account or ""), reason=filters.reason,
    )  # fmt: skip
    return csv_response(f"reconciliation-{filters.month:%Y-%m}.csv", HEADER, rows)


def _cells(d: Discrepancy) -> list[object]:
    return [
        d.day, d.account_label, d.provider, d.label, d.remote_id, d.get_reason_display(), d.metered_usd, d.charged_usd,
        d.usd, d.state, str(d.owner or ""), d.explanation,
    ]  # fmt: skip


# -- one gap ---------------------------------------------------------------------------------------------


@requires("billing.view_discrepancy")
@require_safe
def discrepancy(request: SignedInRequest, pk: UUID) -> HttpResponse:
    """Our entries beside the provider's own lines, what was said, and what may be done."""
    return render(request, "billing/discrepancy.html", _one(request, _get(pk)))


def _get(pk: UUID) -> Discrepancy:
    return get_object_or_404(Discrepancy.objects.select_related("owner", "subject"), pk=pk)


def _one(request: SignedInRequest, d: Discrepancy) -> dict[str, Any]:
    entries, adjustments = _ours(d)
    lines = ProviderStatement.objects.none() if d.key == BALANCE else _theirs(d)
    may_explain = request.user.has_perm("billing.explain_discrepancy")
    return {
        "d": d,
        "now": timezone.now(),
        "entries": entries[:LINES],
        "adjustments": adjustments[:LINES],
        "lines": lines[:LINES],
        "corrections": [c for line in lines[:LINES] for c in line.changes.all()],
        "notes": d.notes.select_related("author").order_by("-at", "-pk"),
        "bill": Bill.objects.filter(pk=d.account).first(),
        "is_balance": d.key == BALANCE,
        "may_explain": may_explain,
        "may_book": request.user.has_perm("billing.book_discrepancy"),
        "owners": _owners() if may_explain else [],
        "reasons": Discrepancy.Reason.choices,
        "alike": _alike(d),
        "longest": gaps.LENGTH,
    }


def _alike(d: Discrepancy) -> int:
    found = Discrepancy.objects.filter(account=d.account, key=d.key, reason=d.reason)
    return found.filter(state__in=Discrepancy.UNEXPLAINED).exclude(pk=d.pk).count()


def _ours(d: Discrepancy) -> tuple[QuerySet[LedgerEntry], QuerySet[Adjustment]]:
    """What the ledger holds of the machine on that day."""
    start, end = midnight(d.day), midnight(d.day) + DAY
    subject = d.subject_id or unassigned_id(d.account, d.remote_id)
    if d.key == BALANCE:
        subject, end = unassigned_id(d.account, BALANCE), calendar_month(start).end
    entries = LedgerEntry.objects.filter(subject=subject, hour__gte=start, hour__lt=end)
    adjustments = Adjustment.objects.filter(subject=subject, hour__gte=start, hour__lt=end)
    return entries.order_by("hour", "component"), adjustments.order_by("hour", "pk")


def _theirs(d: Discrepancy) -> QuerySet[ProviderStatement]:
    start = midnight(d.day)
    found = ProviderStatement.objects.filter(account=d.account, start__gte=start, start__lt=start + DAY)
    mine = found.filter(remote_id=d.remote_id) if d.remote_id else found.filter(subject=d.subject)
    return mine.prefetch_related("changes").order_by("start", "component")


def _owners() -> list[User]:
    """Who may be given a gap."""
    people = User.objects.filter(is_active=True, groups__permissions__codename="explain_discrepancy")
    return list(people.distinct().order_by("name", "email"))


@requires("billing.explain_discrepancy")
@require_POST
def act(request: SignedInRequest, pk: UUID, action: str) -> HttpResponse:
    """Assign, comment, explain, close or book. What is refused comes back with its sentence and what was typed."""
    if action not in ACTIONS:
        raise Http404
    d = _get(pk)
    if action in {"close", "book"} and not request.user.has_perm("billing.book_discrepancy"):
        raise PermissionDenied(REFUSED)
    try:
        said = ACTIONS[action](request, d)
    except gaps.GapRefused as e:
        typed = {name: request.POST.get(name, "") for name in ("text", "comment", "reason")}
        context = _one(request, _get(pk)) | {"refused": {action: str(e)}, "typed": typed}
        return render(request, "billing/discrepancy.html", context, status=422)
    messages.success(request, said)
    return redirect(d)


def _assign(request: SignedInRequest, d: Discrepancy) -> str:
    chosen = request.POST.get("owner", "")
    owner = User.objects.filter(pk=chosen, is_active=True).first() if chosen.isdecimal() else None
    if chosen and owner is None:
        raise gaps.GapRefused("There is no such person. Choose one of the list.")
    gaps.assign(d, owner, actor=request.user, now=timezone.now())
    return f"{owner} looks after this gap." if owner else "Nobody looks after this gap now."


def _comment(request: SignedInRequest, d: Discrepancy) -> str:
    gaps.comment(d, request.POST.get("comment", ""), actor=request.user, now=timezone.now())
    return "Your comment stands in the gap’s story."


def _explain(request: SignedInRequest, d: Discrepancy) -> str:
    n = gaps.explain(
        d, request.POST.get("text", ""), reason=request.POST.get("reason", ""), actor=request.user,
        now=timezone.now(), alike=request.POST.get("alike") == "on",
    )  # fmt: skip
    return "The gap is explained." if n == 1 else f"{n} gaps are explained."


def _close(request: SignedInRequest, d: Discrepancy) -> str:
    gaps.close(d, actor=request.user, now=timezone.now())
    return "The gap is closed. Our ledger and the bill go on differing by it."


def _book(request: SignedInRequest, d: Discrepancy) -> str:
    booked = gaps.book(d, actor=request.user, now=timezone.now())
    if not booked:
        return "Nothing was booked: the two figures agree already."
    return f"{reconcile.signed(booked)} is booked, and the gap is closed."


ACTIONS = {"assign": _assign, "comment": _comment, "explain": _explain, "close": _close, "book": _book}


# -- the bill, and the month -------------------------------------------------------------------------------


@requires("billing.explain_discrepancy")
@require_POST
def ask_again(request: SignedInRequest, account: UUID) -> HttpResponse:
    """Have the account's bill read again from the month's first day: a worker asks, within a minute."""
    bill = get_object_or_404(Bill, pk=account)
    month = _filters(request, now=timezone.now()).month
    with transaction.atomic():
        again = statements.ask_again(account, since=midnight(month))
        if again:
            chain.record("bill.again", actor=request.user, target=bill, after={"since": str(month)})
    if again:
        messages.success(
            request, f"The bill of {bill.account_label} is read again from {month:%-d %B %Y} on."
        )
    else:
        messages.info(request, f"The bill of {bill.account_label} was not read beyond {month:%-d %B %Y} yet.")
    return redirect(f"{reverse('reconciliation')}?month={month:%Y-%m}")


@requires("billing.book_discrepancy")
def month_close(request: SignedInRequest) -> HttpResponse:
    """GET says what closing the oldest open month does; POST closes it."""
    now = timezone.now()
    month = closing.next_month(now=now)
    if month is None:
        messages.info(request, "No month waits to be closed: the oldest open one is not over yet.")
        return redirect("reconciliation")
    accounts = closing.accounts_of(month, now=now)
    typed = {a.account: request.POST.get(f"why-{a.account}", "") for a in accounts}
    refused = ""
    if request.method == "POST":
        try:
            if request.POST.get("month") != f"{month:%Y-%m}":
                raise closing.CloseRefused("Another month comes first by now. Look at it again.")
            made = closing.close_month(month, typed, actor=request.user, now=now)
        except closing.CloseRefused as e:
            refused = str(e)
        else:
            messages.success(request, f"{made} is closed at {_dollars(made.total_usd)}.")
            return redirect("reconciliation")
    context = {
        "month": month, "accounts": [(a, typed[a.account]) for a in accounts], "refused": refused, "now": now,
        "total": closing.total(calendar_month(midnight(month))), "longest": closing.LENGTH,
        "is_young": now - calendar_month(midnight(month)).end < timedelta(days=3),
    }  # fmt: skip
    return render(request, "billing/month_close.html", context, status=422 if refused else 200)


def _dollars(usd: Decimal) -> str:
    return f"${usd.quantize(Decimal('0.01')):,}"
