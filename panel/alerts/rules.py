"""What of a notice is to be told to whom now. Pure: rows in, wishes out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from panel.alerts.models import Delivery, Rule, Window
from panel.notices.models import Notice

Occasion = Delivery.Occasion
BEGUN = frozenset({Occasion.RAISED, Occasion.WORSENED, Occasion.ESCALATED})


@dataclass(frozen=True, slots=True)
class Told:
    """One message that a channel has had, or is to have. `rule` None: of a rule that is gone."""

    channel: int
    rule: int | None
    occasion: str
    severity: str


@dataclass(frozen=True, slots=True)
class Route:
    """A rule with its enabled channels."""

    rule: Rule
    channels: tuple[int, ...]


@dataclass
class Plan:
    wishes: list[Told] = field(default_factory=list)
    settled: bool = False
    """The notice is over and its end is told to everybody who is to hear it: nothing is left to do."""


def plan(
    notice: Notice, routes: Sequence[Route], windows: Collection[Window], told: Collection[Told], *, now: datetime
) -> Plan:  # fmt: skip
    """Who is to be told what of `notice`, given what was `told` already. Asked again, it wishes nothing twice.

    What is held back by quiet hours or a window is wished for by a later call, if the notice is still open.
    One that was over before anybody looked is told nevertheless: the panel was down, not the trouble unreal.
    """
    found = Plan()
    known = set(told)
    if notice.cleared_at is None or notice.routed_at is None:
        for wish in _begun(notice, routes, windows, known, now=now):
            found.wishes.append(wish)
            known.add(wish)
    if notice.cleared_at is not None:
        ends, held = _ended(notice, routes, known, now=now)
        found.wishes.extend(ends)
        found.settled = not held
    return found


def _begun(
    notice: Notice, routes: Sequence[Route], windows: Collection[Window], known: set[Told], *, now: datetime
) -> list[Told]:  # fmt: skip
    if any(window.mutes(notice, now=now) for window in windows):
        return []
    wishes: dict[tuple[int, str], Told] = {}
    for route in routes:
        rule = route.rule
        if not rule.matches(notice) or rule.is_quiet(notice, now=now):
            continue
        for channel in route.channels:
            occasion = _occasion(notice, rule, [t for t in known if t.channel == channel], now=now)
            if occasion:
                wishes.setdefault((channel, occasion), Told(channel, rule.pk, occasion, notice.severity))
    return list(wishes.values())


def _occasion(notice: Notice, rule: Rule, told: Collection[Told], *, now: datetime) -> str | None:
    """As what the channel hears of the notice now by this rule; None: not (yet), or it has."""
    rank = Notice.Severity(notice.severity).rank
    if rule.after_minutes:
        since = notice.severity_since or notice.raised_at
        waits = notice.cleared_at is not None or notice.acknowledged_at is not None
        if waits or now - since < timedelta(minutes=rule.after_minutes):
            return None
        escalated = [t for t in told if t.occasion == Occasion.ESCALATED]
        return Occasion.ESCALATED if all(_rank(t) < rank for t in escalated) else None
    begun = [t for t in told if t.occasion in BEGUN]
    if not begun:
        return Occasion.RAISED
    return Occasion.WORSENED if all(_rank(t) < rank for t in begun) else None


def _ended(
    notice: Notice, routes: Sequence[Route], known: set[Told], *, now: datetime
) -> tuple[list[Told], bool]:
    """The messages that it is over, and whether quiet hours hold one back: a good word wakes nobody either."""
    by_key = {route.rule.pk: route.rule for route in routes}
    wishes, held = [], False
    for channel in sorted({t.channel for t in known if t.occasion in BEGUN}):
        mine = [t for t in known if t.channel == channel]
        if any(t.occasion == Occasion.RESOLVED for t in mine):
            continue
        # A rule that is gone or off by now cannot say otherwise: who was alarmed is told that it is over.
        rules = [by_key.get(t.rule) if t.rule else None for t in mine]
        wanting = [rule for rule in rules if rule is None or rule.tells_end]
        if not wanting:
            continue
        if all(rule is not None and rule.is_quiet(notice, now=now) for rule in wanting):
            held = True
            continue
        wishes.append(Told(channel, mine[0].rule, Occasion.RESOLVED, notice.severity))
    return wishes, held


def _rank(told: Told) -> int:
    return Notice.Severity(told.severity).rank
