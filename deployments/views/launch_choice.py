"""What the Launch page's values mean: the offers that are shown, the one chosen, and its consequence."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from django.conf import settings

from billing import budgets
from billing.periods import calendar_month
from deployments import bids, catalog, offers
from deployments.fit import in_words, memory
from deployments.models import Deployment
from deployments.offers import Feed, OfferView, Wish
from deployments.pricing import HOURS_PER_MONTH, Price, all_in
from deployments.schedule import Edge, Schedule
from deployments.services import LaunchRequest
from deployments.views.form_fields import DAYS
from deployments.views.launch_filters import Filters, Options, options
from deployments.views.launch_form import LaunchForm

WEEK_HOURS = 168


@dataclass(frozen=True, slots=True)
class Times:
    """When it stops, is deleted and runs, in the zone in which it was typed."""

    zone: str
    stop_at: datetime | None
    delete_at: datetime | None
    schedule: Schedule | None
    next_edge: Edge | None

    @property
    def stop_local(self) -> str:
        return _local(self.stop_at, self.zone)

    @property
    def delete_local(self) -> str:
        return _local(self.delete_at, self.zone)

    @property
    def next_local(self) -> str:
        return _local(self.next_edge.at, self.zone) if self.next_edge else ""

    @property
    def days(self) -> str:
        """ "Mon–Fri", "Mon, Wed"."""
        chosen = self.schedule.days if self.schedule else ""
        names = [name for day, name in DAYS if day in chosen]
        return f"{names[0]}–{names[-1]}" if len(names) > 2 and chosen in "1234567" else ", ".join(names)

    @property
    def week_hours(self) -> Decimal:
        """How many hours of a week the schedule lets it run; all of them without one."""
        if self.schedule is None:
            return Decimal(WEEK_HOURS)
        s = self.schedule
        minutes = (s.end.hour * 60 + s.end.minute) - (s.start.hour * 60 + s.start.minute)
        return Decimal((minutes if minutes > 0 else minutes + 1440) * len(s.days)) / 60


def _local(at: datetime | None, zone: str) -> str:
    if at is None:
        return ""
    local = at.astimezone(ZoneInfo(zone))
    return f"{local.day} {local:%b, %H:%M} {zone}"


@dataclass(frozen=True, slots=True)
class Choice:
    """All that `#choice` shows. Amounts USD."""

    model: catalog.Model
    wish: LaunchRequest
    filters: Filters
    options: Options
    feeds: list[Feed]
    shown: list[OfferView]
    """The page of offers; the chosen one is always among them."""
    found: int
    """How many the filters keep."""
    total: int
    suitable: int
    """How many of the found ones suit."""
    chosen: OfferView | None
    usual: OfferView | None
    """What would be chosen if nobody had chosen."""
    price: Price | None
    """Of the chosen one, with the bid that is typed."""
    worst: Price | None
    """The same at the ceiling up to which the bid may be raised."""
    following: list[OfferView]
    """What is tried if it fails, in order."""
    budget: budgets.BudgetStatus | None
    """The one that is nearest to refuse it; without a chosen offer the main one."""
    admission: budgets.Admission | None
    after: list[budgets.After]
    """What the launch makes of each budget that covers it."""
    until: datetime
    """The stop date or the budget period's end, whichever comes first."""
    times: Times
    needed: str
    """The sum of memory that the model needs, in words."""

    @property
    def as_of(self) -> datetime | None:
        """When the oldest of the live prices was confirmed; None without any."""
        return min((f.at for f in self.feeds if f.at and f.offers and not f.dated), default=None)

    @property
    def may_launch(self) -> bool:
        return bool(self.chosen and self.chosen.suitable and self.admission and self.admission.allowed)

    @property
    def most(self) -> Decimal | None:
        """What it costs at most by `until`: all the time, a bid at its ceiling."""
        if self.admission is None or self.price is None or self.worst is None or not self.price.hour:
            return self.admission.needed if self.admission else None
        return self.admission.needed * self.worst.hour / self.price.hour

    @property
    def left(self) -> Decimal | None:
        """What is free after this launch; None without a budget."""
        admission = self.admission
        return None if admission is None or admission.free is None else admission.free - admission.needed

    @property
    def hits(self) -> list[budgets.After]:
        """The budgets whose money would be gone before their period ends."""
        return [a for a in self.after if a.exhausted_at]

    @property
    def until_local(self) -> str:
        """The stop date in its own zone; empty when UTC says it already, or when the period ends before."""
        t = self.times
        return t.stop_local if t.stop_at == self.until and t.zone != "UTC" else ""

    @property
    def scheduled_month(self) -> Decimal | None:
        """What a month of the schedule costs, stopped hours at their own price."""
        if self.price is None or self.times.schedule is None:
            return None
        share = self.times.week_hours / WEEK_HOURS
        return (self.price.hour * share + self.price.held * (1 - share)) * HOURS_PER_MONTH

    @property
    def more(self) -> int:
        """How many offers the list has left out."""
        return max(0, self.found - len(self.shown))

    @property
    def plaintext(self) -> bool:
        """The chosen one would have an unencrypted endpoint."""
        return bool(self.chosen and offers.is_plaintext(self.chosen.account, self.chosen.quote))


def choose(form: LaunchForm, filters: Filters, *, usual: str, now: datetime) -> Choice:
    """Rank the offers for what the form says, as far as it can be read, and price the chosen one.

    `usual` is the offer that the page had chosen by itself: it gives way when another one is the best now.
    """
    wish = form.readable()
    model = catalog.get_model(wish.model_key) or catalog.MODELS[0]
    views = offers.ranked(_wish(wish, model, now=now), now=now)
    found = filters.ordered(views)
    best = _best(views, filters)
    chosen = _chosen(views, best, filters, wish, form, usual=usual)
    times = _times(wish, form.zone.key, now=now)
    price, worst = _prices(chosen, wish)
    budget, admission, after = _money(chosen, price, times, now=now)
    end = budget.period_end if budget else calendar_month(now).end
    return Choice(
        model=model, wish=wish, filters=filters, options=options(views), feeds=offers.feeds(views, now=now),
        shown=_page(found, chosen, filters.show), found=len(found), total=len(views),
        suitable=sum(not v.reasons for v in found), chosen=chosen, usual=best, price=price, worst=worst,
        following=_following(views, chosen, wish.plan_b), budget=budget, admission=admission, after=after,
        until=min(times.stop_at, end) if times.stop_at else end, times=times,
        needed=in_words(*memory(model, context=wish.context, concurrency=wish.concurrency)),
    )  # fmt: skip


def _money(
    chosen: OfferView | None, price: Price | None, times: Times, *, now: datetime
) -> tuple[budgets.BudgetStatus | None, budgets.Admission | None, list[budgets.After]]:
    if price is None or chosen is None:
        return budgets.status(now=now), None, []
    whom = budgets.Whom(None, chosen.account.backend, chosen.account.pk)
    after, admission = budgets.weighed(price.hour, until=times.stop_at, now=now, whom=whom)
    nearest = next((a.status for a in after if a.admission is admission), None)
    return nearest, admission, after


def _wish(wish: LaunchRequest, model: catalog.Model, *, now: datetime) -> Wish:
    return Wish(
        model, wish.context, wish.allowed_countries, wish.policy, wish.purpose, wish.price_ceiling,
        allow_plaintext=wish.allow_plaintext, hours=offers.wished_hours(wish.stop_at, now=now), concurrency=wish.concurrency,
    )  # fmt: skip


def _best(views: list[OfferView], filters: Filters) -> OfferView | None:
    return next((v for v in views if v.suitable and filters.keeps(v)), None)


def _chosen(
    views: list[OfferView], best: OfferView | None, filters: Filters, wish: LaunchRequest, form: LaunchForm, *, usual: str
) -> OfferView | None:  # fmt: skip
    wanted = next((v for v in views if v.known.pk == wish.offer_id), None)
    # What was sent is shown as it was sent.
    if wanted is None or form.is_bound:
        return wanted or best
    by_hand = str(wanted.known.pk) != usual
    # Another model may not fit the offer chosen for the last one, and a filter may leave it out.
    return wanted if by_hand and wanted.suitable and filters.keeps(wanted) else best


def _page(found: list[OfferView], chosen: OfferView | None, size: int) -> list[OfferView]:
    page = found[:size]
    there = chosen is None or any(v is chosen for v in page)
    return page if there or chosen is None else [chosen, *page]


def _prices(chosen: OfferView | None, wish: LaunchRequest) -> tuple[Price | None, Price | None]:
    """All-in with the first bid, and with the highest that the policy may come to."""
    if chosen is None:
        return None, None
    quote = chosen.quote
    if not quote.interruptible:
        return chosen.price, chosen.price
    ceiling = bids.ceiling(wish.bid_ceiling, wish.price_ceiling, quote.disk_usd_per_hour)
    bid = bids.first(quote.compute_usd_per_hour, wish.bid_usd_per_hour, ceiling)
    raised = wish.bid_policy == Deployment.BidPolicy.RAISE and ceiling is not None
    highest = max(bid, ceiling or bid) if raised else bid
    traffic = settings.EXPECTED_TRAFFIC_GB
    return all_in(quote, traffic_gb=traffic, bid=bid), all_in(quote, traffic_gb=traffic, bid=highest)


def _following(views: list[OfferView], chosen: OfferView | None, count: int) -> list[OfferView]:
    others = (v for v in views if v.suitable and v is not chosen)
    return [v for v, _ in zip(others, range(count), strict=False)]


def _times(wish: LaunchRequest, zone: str, *, now: datetime) -> Times:
    stop = wish.stop_at if wish.stop_at and wish.stop_at > now else None
    delete = wish.delete_at if wish.delete_at and wish.delete_at > now else None
    return Times(zone, stop, delete, wish.schedule, wish.schedule.next_edge(now) if wish.schedule else None)
