"""What the header of every page tells of the loops, the providers and the alerts: a dead clock, rounds and calls that
fail, messages that do not arrive."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from django.conf import settings
from django.db.models import CharField, Count, DateTimeField, IntegerField, Q, QuerySet, Value
from django.db.models.functions import Cast, Concat

from deployments import calls
from deployments.lifecycle import MAY_EXIST
from deployments.models import Breaker, Heartbeat, Instance, ProviderAccount
from panel import health
from panel.alerts.delivering import undelivered
from panel.health import Problem, age_of

_WORDS = {
    Breaker.Call.CREATE: "nothing can be rented there",
    Breaker.Call.END: "machines there cannot be given back",
    Breaker.Call.CHANGE: "machines there cannot be stopped, started or changed",
    Breaker.Call.OFFERS: "its offers are old",
    Breaker.Call.READ: "its balance and logs cannot be read",
}
_STOPPED = "What the pages show is that old. Machines bill on; see whether the worker runs."


class _Fact(NamedTuple):
    """A row of any of the four kinds."""

    kind: str
    """beat, list, call, or lost: how many alerts have not arrived."""
    key: str
    name: str
    """The loop's, or the account's."""
    at: datetime | None
    failures: int
    error: str


def problems(now: datetime) -> list[Problem]:
    """One query, for it is asked with every page."""
    facts = _facts(now)
    beats = {fact.name: fact for fact in facts if fact.kind == "beat"}
    return [
        *_loops(beats, now=now),
        *(_unlisted(fact) for fact in facts if fact.kind == "list"),
        *(_failing(fact) for fact in facts if fact.kind == "call"),
        *(_lost(fact.failures) for fact in facts if fact.kind == "lost" and fact.failures),
    ]


def _facts(now: datetime) -> list[_Fact]:
    beats = Heartbeat.objects.values_list(
        _text("beat"), _text(""), "name", "at", Cast("failures", IntegerField()), "error"
    )
    lists = unlisted(now).values_list(
        _text("list"), Cast("pk", CharField()), "name", "listed_at", Value(0), "list_error"
    )
    held = failing().values_list(
        _text("call"), Concat("call", Value(":"), Cast("account", CharField())), "account__name", "failed_at",
        Cast("failures", IntegerField()), "error",
    )  # fmt: skip
    nothing, never = _text(""), Cast(Value(None), DateTimeField())
    counted = undelivered().order_by().annotate(kind=_text("lost")).values("kind").annotate(n=Count("pk"))
    lost = counted.values_list("kind", nothing, nothing, never, Cast("n", IntegerField()), nothing)
    rows = beats.order_by().union(lists.order_by(), held.order_by(), lost, all=True)
    return sorted((_Fact(*row) for row in rows), key=lambda fact: (fact.name, fact.key))


def _text(text: str) -> Cast:
    # PostgreSQL wants to know what a column of a union is before it has read it.
    return Cast(Value(text), CharField())


def unlisted(now: datetime) -> QuerySet[ProviderAccount]:
    """Accounts whose lists fail, and whose last good one is older than READY_MAX_AGE."""
    old = Q(listed_at=None) | Q(listed_at__lt=now - timedelta(seconds=settings.READY_MAX_AGE))
    occupied = Instance.objects.filter(state__in=[s.value for s in MAY_EXIST]).values("account")
    return ProviderAccount.objects.filter(old, Q(enabled=True) | Q(pk__in=occupied)).exclude(list_error="")


def failing() -> QuerySet[Breaker]:
    """Kinds of call that failed so often in a row that they are held back, lists apart."""
    often = Breaker.objects.filter(failures__gte=calls.FAILURES, account__enabled=True)
    return often.exclude(call=Breaker.Call.LIST)


def _loops(beats: Mapping[str, _Fact], *, now: datetime) -> Iterator[Problem]:
    beat, loop, start = (_age(beats, name, now=now) for name in ("beat", "reconcile", "start"))
    limit = settings.READY_MAX_AGE
    if beat is None and start is not None and start > limit:
        yield Problem("beat", "The clock has not been seen since the panel started", _STOPPED)
    elif beat is not None and beat > limit:
        # Nothing else goes round without it: one cause is told once.
        yield Problem("beat", "The clock was last seen", _STOPPED, since=beats["beat"].at)
    else:
        if loop is not None and loop > limit:
            yield Problem(
                "reconcile", "The control loop was last seen", _STOPPED, since=beats["reconcile"].at
            )
        yield from _rounds(beats, now=now)


def _age(beats: Mapping[str, _Fact], name: str, *, now: datetime) -> float | None:
    fact = beats.get(name)
    return age_of(fact.at, now=now) if fact and fact.at else None


def _rounds(beats: Mapping[str, _Fact], *, now: datetime) -> Iterator[Problem]:
    for one in health.rounds():
        age = _age(beats, one.name, now=now)
        if age is not None and age > one.max_age:
            fact = beats[one.name]
            yield Problem(
                one.name,
                f"The panel’s round “{one.name.removeprefix('round:')}” last went well",
                "Its log says why.",
                detail=f"It failed {fact.failures} times in a row: {fact.error}." if fact.failures else "",
                since=fact.at,
            )


def _unlisted(fact: _Fact) -> Problem:
    return Problem(
        f"list:{fact.key}",
        f"{fact.name} last gave a good list of its machines"
        if fact.at
        else f"{fact.name} has given no list of its machines yet",
        "What they do now is not known, and they go on accruing.",
        detail=fact.error,
        since=fact.at,
        url_name="provider_accounts",
    )


def _failing(fact: _Fact) -> Problem:
    call = Breaker.Call(fact.key.partition(":")[0])
    return Problem(
        f"call:{fact.key}",
        f"{fact.name} has failed {fact.failures} times in a row: {_WORDS[call]}",
        detail=fact.error,
        # To be rid of a machine that bills is worse to be without than a price list.
        critical=call == Breaker.Call.END,
        url_name="provider_accounts",
    )


def _lost(count: int) -> Problem:
    return Problem(
        "undelivered",
        f"{count} alert{'s' if count != 1 else ''} could not be delivered",
        "Nobody was told of what they say. An administrator can see why, and send them again.",
        url_name="alerts",
        query="?tab=log&state=undelivered",
    )
