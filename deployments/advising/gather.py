"""The facts that advice is made of: a fixed number of queries, however many deployments there are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from statistics import median
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.db.models import Exists, OuterRef, Q

from billing.money import from_nano
from billing.periods import midnight
from billing.totals import Window, rows
from deployments import history, offers, shelf
from deployments.advising import advise as rules
from deployments.advising.case import Advice, Billed, Boot, Case, Lack, Use
from deployments.advising.market import Market
from deployments.catalog import Model
from deployments.lifecycle import SERVING, Desired, State
from deployments.models import Deployment, DismissedAdvice, Instance, Launch
from deployments.models.deployment import DeploymentQuerySet
from deployments.monitoring import profiles
from deployments.monitoring.launches import SPAN
from deployments.monitoring.profiles import Load
from deployments.providers.base import Quote
from deployments.schedule import Schedule
from deployments.tiers import described

CAUTION = 900.0
"""Seconds that a start is taken to last where nobody measured or told any."""
LAUNCHES = 2000
"""The newest launches that are looked at."""


@dataclass(frozen=True, slots=True)
class Board:
    """All advice of now. `lacks`: whose load was not measured for long enough; `stale`: accounts without fresh offers."""

    shown: tuple[Advice, ...]
    dismissed: tuple[Advice, ...]
    lacks: tuple[Lack, ...]
    looked_at: int
    """How many deployments were looked at."""
    stale: tuple[str, ...]

    @property
    def saves(self) -> Decimal:
        """USD a month when the best advice of each deployment is followed: others of the same would count it twice."""
        best: dict[UUID, Decimal] = {}
        for advice in self.shown:
            best[advice.case.pk] = max(best.get(advice.case.pk, Decimal(0)), advice.saves)
        return sum(best.values(), Decimal(0))


def board(deployments: DeploymentQuerySet, *, now: datetime) -> Board:
    """The advice for these deployments, what saves most first."""
    cases, found, stale = _advised(deployments, now=now)
    told = _told(found, now=now)
    return Board(
        tuple(a for a in told if a.dismissed_until is None),
        tuple(a for a in told if a.dismissed_until),
        tuple(sorted((x for c in cases if (x := rules.lack(c))), key=lambda x: (-x.has, x.case.name))),
        len(cases),
        tuple(stale),
    )


def best_of(deployment: Deployment, *, now: datetime) -> Advice | None:
    """What saves most for one deployment, of what is not dismissed; None when nothing is advised.

    A page that stays open asks every few seconds: it may be some minutes old, a dismissal is not.
    """
    return next(
        (a for a in _told(_lately(deployment.pk, now=now), now=now) if a.dismissed_until is None), None
    )


HOLDS = timedelta(minutes=5)
"""How long a process keeps one deployment's advice. Offers are fetched as often."""
_KEPT = 1000
_known: dict[UUID, tuple[datetime, list[Advice]]] = {}


def _lately(pk: UUID, *, now: datetime) -> list[Advice]:
    # Inside a transaction rows may be seen that nobody else sees, or that are taken back.
    if connection.in_atomic_block:
        return _advised(Deployment.objects.filter(pk=pk), now=now)[1]
    at, found = _known.get(pk, (now, None))
    if found is None or not timedelta() <= now - at < HOLDS:
        found = _advised(Deployment.objects.filter(pk=pk), now=now)[1]
        if len(_known) >= _KEPT:
            _known.clear()
        _known[pk] = now, found
    return found


def _advised(deployments: DeploymentQuerySet, *, now: datetime) -> tuple[list[Case], list[Advice], list[str]]:
    """The deployments that were looked at, all that is advised for them, and the accounts without fresh offers."""
    standing = _standing(deployments)
    if not standing:
        return [], [], []
    boots = _boots(now=now)

    def boot(provider: str, quote: Quote) -> Boot:
        return _boot(boots, provider, quote)

    accounts, histories = offers.accounts(), history.recent(now)
    known = shelf.by_account()
    same = offers.made_of(known, histories, accounts.values())
    market = Market(known, accounts, histories, boot, now=now, made_of=same)
    # A model that is no longer in the catalogue can be judged by nobody.
    made = [
        _case(i, m, accounts[i.account_id].backend, boot, histories, now=now)
        for i in standing
        if (m := i.deployment.model)
    ]
    cases = _with_load(made, now=now)
    return cases, [a for case in cases for a in rules.advise(case, market, now=now)], market.stale


# -- what stands ---------------------------------------------------------------------------------------


_OF = (
    "name", "model_key", "context", "policy", "purpose", "allowed_countries", "time_zone", "allow_plaintext", "price_ceiling",
    "stop_at", "delete_at", "schedule_days", "schedule_from", "schedule_until",
)  # fmt: skip
_READ = (
    "quote", "usd_per_hour", "state", "state_since", "account_id", *(f"deployment__{name}" for name in _OF)
)  # fmt: skip
"""A look at hundreds of machines does without their other columns."""


def _standing(deployments: DeploymentQuerySet) -> list[Instance]:
    """The newest machine of each deployment that is wanted, where it serves or was stopped."""
    later = Instance.objects.filter(deployment=OuterRef("deployment"), attempt__gt=OuterRef("attempt"))
    serves = Q(state__in=[s.value for s in SERVING], deployment__desired=Desired.RUNNING)
    stopped = Q(state=State.STOPPED, deployment__desired=Desired.STOPPED)
    found = (
        Instance.objects.filter(serves | stopped, ~Exists(later), deployment__in=deployments.wanted())
        .select_related("deployment")
        .only(*_READ)
    )
    return list(found)


def _case(
    i: Instance, model: Model, provider: str, boot: Callable[[str, Quote], Boot], histories: history.Histories, *, now: datetime
) -> Case:  # fmt: skip
    d, quote = i.deployment, i.offer
    hour = i.usd_per_hour if i.status is not State.STOPPED and not quote.serverless else quote.usd_per_hour
    return Case(
        pk=d.pk, name=d.name, model=model, context=d.context, policy=d.policy, purpose=d.purpose,
        allowed=tuple(sorted(d.allowed_countries)), zone=d.time_zone, allow_plaintext=d.allow_plaintext,
        price_ceiling=d.price_ceiling, ends=d.stop_at is not None or d.delete_at is not None,
        week_hours=_week_hours(d.schedule), provider=provider, account=i.account_id, quote=quote, hour=hour,
        traffic=quote.traffic_usd_per_gb * settings.EXPECTED_TRAFFIC_GB / 730, boot=boot(provider, quote),
        history=histories.of(quote), stopped_for=max(timedelta(), now - i.state_since) if i.status is State.STOPPED else None,
    )  # fmt: skip


def _week_hours(schedule: Schedule | None) -> Decimal:
    if schedule is None:
        return Decimal(168)
    minutes = (schedule.end.hour * 60 + schedule.end.minute) - (
        schedule.start.hour * 60 + schedule.start.minute
    )
    return Decimal((minutes if minutes > 0 else minutes + 1440) * len(schedule.days)) / 60


# -- what was measured -----------------------------------------------------------------------------------


def _with_load(cases: list[Case], *, now: datetime) -> list[Case]:
    loads = profiles.loads([c.pk for c in cases if not c.quote.serverless], now=now)
    billed = _billed([c.pk for c in cases if c.scales_to_zero], now=now)
    return [replace(c, use=_use(loads.get(c.pk)), billed=billed.get(c.pk)) for c in cases]


def _use(load: Load | None) -> Use | None:
    if load is None:
        return None
    return Use(
        load.first, load.hours, load.seen, load.busy, profiles.crowded_share(load), load.waited.bit_count(), load.kv_p95
    )  # fmt: skip


def _billed(scopes: Collection[UUID], *, now: datetime) -> dict[UUID, Billed]:
    """What the ledger counted in the last 14 whole days, for those that are as old; one query."""
    if not scopes:
        return {}
    end = midnight(now.date())
    start = end - timedelta(days=rules.BILLED_DAYS)
    born = dict(Deployment.objects.filter(pk__in=scopes).values_list("pk", "created_at"))
    window = Window.of(start, end, now)
    nano = dict.fromkeys(scopes, 0)
    for row in rows(window, Q(subject__scope__in=list(scopes)), by=("subject__scope",)):
        nano[row.key[0]] += window.cost(row)
    return {
        scope: Billed(from_nano(amount), max(0, min(rules.BILLED_DAYS, (end - born[scope]).days)))
        for scope, amount in nano.items()
    }


def _boots(*, now: datetime) -> dict[tuple[str, str], tuple[float, int]]:
    """How long the launches of the last 90 days took, by provider and tier: the median in seconds, and how many."""
    came = Launch.objects.filter(total__isnull=False, began_at__gt=now - SPAN).order_by("-began_at")
    found: dict[tuple[str, str], list[float]] = {}
    for provider, tier, total in came.values_list("provider", "tier", "total")[:LAUNCHES]:
        if total is None:
            continue
        found.setdefault((provider, tier), []).append(total)
    return {place: (median(took), len(took)) for place, took in found.items()}


def _boot(boots: Mapping[tuple[str, str], tuple[float, int]], provider: str, quote: Quote) -> Boot:
    name = described(provider, quote.tier).name
    if measured := boots.get((provider, quote.tier)):
        took, count = measured
        plural = "es" if count > 1 else ""
        return Boot(took, count, f"the median of {count} launch{plural} at {name} in 90 days")
    if quote.usual_seconds_to_ready:
        return Boot(
            quote.usual_seconds_to_ready, 0, f"as is usual at {name}; none of ours was measured there"
        )
    return Boot(CAUTION, 0, f"nobody has measured one at {name}, so 15 minutes are taken")


def _told(found: Iterable[Advice], *, now: datetime) -> list[Advice]:
    """The advice with what was dismissed of it, what saves most first."""
    advised = list(found)
    rows = DismissedAdvice.objects.filter(deployment__in={a.case.pk for a in advised}, until__gt=now)
    hidden = {(row.deployment_id, row.kind): row for row in rows} if advised else {}
    told = [_with(a, hidden.get((a.case.pk, a.kind.value))) for a in advised]
    return sorted(told, key=lambda a: (-a.saves, a.case.name, a.kind))


def _with(advice: Advice, hidden: DismissedAdvice | None) -> Advice:
    return replace(advice, dismissed_until=hidden.until, why=hidden.reason) if hidden else advice
