"""Who is told what of a notice, and when: pure, over rows that are in no database."""

from __future__ import annotations

import uuid
from datetime import datetime, time, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from panel.alerts.models import Rule, Window
from panel.alerts.rules import Route, Told, plan
from panel.notices.models import Notice
from tests.conftest import NOW

CHAT, MAIL = 1, 2
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


def notice(severity="warning", **values) -> Notice:
    return Notice(
        **{"pk": 7, "key": "k", "severity": severity, "severity_since": NOW, "title": "chat is down", "raised_at": NOW,
           "last_seen_at": NOW, "routed_at": NOW, **values}
    )  # fmt: skip


def route(*channels: int, pk=1, **values) -> Route:
    return Route(Rule(**{"pk": pk, "name": f"rule {pk}", "severity": "info", **values}), channels or (CHAT,))


def told(n, *routes, now=NOW, windows=(), known=()):
    """(channel, occasion) of what is wished for."""
    return [(t.channel, t.occasion) for t in plan(n, routes, windows, known, now=now).wishes]


def raised(channel=CHAT, rule=1, severity="warning", occasion="raised") -> Told:
    return Told(channel, rule, occasion, severity)


def test_an_open_notice_is_told_once_to_each_channel_whatever_rules_name_it():
    routes = [route(CHAT, MAIL), route(MAIL, pk=2)]
    assert told(notice(), *routes) == [(CHAT, "raised"), (MAIL, "raised")]
    assert told(notice(), *routes, known=[raised(CHAT), raised(MAIL)]) == []


@pytest.mark.parametrize(
    ("least", "severity", "heard"),
    [("warning", "info", False), ("warning", "warning", True), ("critical", "warning", False), ("info", "critical", True)],
)  # fmt: skip
def test_a_rule_tells_from_its_severity_on(least, severity, heard):
    assert bool(told(notice(severity), route(severity=least))) is heard


def test_a_rule_about_deployments_tells_of_them_alone():
    mine, other = uuid.uuid4(), uuid.uuid4()
    only = route(subjects=[str(mine)])
    assert told(notice(subject=mine), only)
    assert not told(notice(subject=other), only)
    assert not told(notice(subject=None), only)


def test_a_rule_that_is_off_tells_nothing():
    assert not told(notice(), route(enabled=False))


def test_what_gets_worse_is_told_again_and_what_gets_better_is_not():
    assert told(notice("critical"), route(), known=[raised()]) == [(CHAT, "worsened")]
    assert told(notice("warning"), route(), known=[raised(severity="critical")]) == []
    worse = [raised(), raised(severity="critical", occasion="worsened")]
    assert told(notice("critical"), route(), known=worse) == []


@pytest.mark.parametrize(
    ("start", "end", "zone", "at", "quiet"),
    [
        (time(22), time(7), "UTC", "2026-11-24T23:00:00+00:00", True),
        (time(22), time(7), "UTC", "2026-11-24T06:59:59+00:00", True),
        (time(22), time(7), "UTC", "2026-11-24T07:00:00+00:00", False),
        (time(9), time(17), "UTC", "2026-11-24T12:00:00+00:00", True),
        (time(9), time(17), "UTC", "2026-11-24T17:00:00+00:00", False),
        # Wall clock: 21:30 UTC is 22:30 in winter and 23:30 in summer there.
        (time(22), time(7), "Europe/Berlin", "2026-11-24T21:30:00+00:00", True),
        (time(23), time(7), "Europe/Berlin", "2026-11-24T21:30:00+00:00", False),
        (time(23), time(7), "Europe/Berlin", "2026-07-24T21:30:00+00:00", True),
    ],
)
def test_quiet_hours_are_of_the_wall_clock_and_may_cross_midnight(start, end, zone, at, quiet):
    now = datetime.fromisoformat(at)
    held = route(quiet_from=start, quiet_until=end, time_zone=zone)
    assert bool(told(notice(raised_at=now), held, now=now)) is not quiet


def test_critical_ones_pass_in_quiet_hours_unless_the_rule_says_otherwise():
    night = {"quiet_from": time(0), "quiet_until": time(23, 59)}
    assert told(notice("critical"), route(**night)) == [(CHAT, "raised")]
    assert told(notice("critical"), route(**night, critical_passes=False)) == []


def test_what_quiet_hours_held_back_is_told_when_they_end_if_it_is_still_open():
    night = route(quiet_from=time(11), quiet_until=time(13))
    assert told(notice(), night, now=NOW) == []
    assert told(notice(), night, now=NOW + HOUR) == [(CHAT, "raised")]
    gone = plan(notice(cleared_at=NOW + 30 * MINUTE), [night], [], [], now=NOW + HOUR)
    assert (gone.wishes, gone.settled) == ([], True)


def test_a_maintenance_window_mutes_what_it_names_and_what_outlives_it_is_told():
    mine = uuid.uuid4()
    window = Window(starts_at=NOW - HOUR, ends_at=NOW + HOUR, subjects=[str(mine)], reason="a new driver")
    assert told(notice("critical", subject=mine), route(), windows=[window]) == []
    assert told(notice("critical", subject=uuid.uuid4()), route(), windows=[window]) == [(CHAT, "raised")]
    assert told(notice("critical"), route(), windows=[window]) == [(CHAT, "raised")]
    assert told(notice("critical", subject=mine), route(), windows=[window], now=NOW + HOUR) == [
        (CHAT, "raised")
    ]


def test_nobody_acknowledges_and_it_is_escalated_once():
    boss = route(MAIL, pk=2, after_minutes=15)
    known = [raised()]
    assert told(notice(), route(), boss, known=known, now=NOW + 14 * MINUTE) == []
    assert told(notice(), route(), boss, known=known, now=NOW + 15 * MINUTE) == [(MAIL, "escalated")]
    known.append(raised(MAIL, 2, occasion="escalated"))
    assert told(notice(), route(), boss, known=known, now=NOW + HOUR) == []


def test_an_acknowledged_one_is_not_escalated():
    boss = route(MAIL, after_minutes=15)
    assert told(notice(acknowledged_at=NOW + MINUTE), boss, now=NOW + HOUR) == []


def test_the_escalation_counts_from_when_it_got_worse():
    boss = route(MAIL, after_minutes=15)
    worse = notice("critical", severity_since=NOW + HOUR)
    assert told(worse, boss, now=NOW + HOUR + 14 * MINUTE) == []
    assert told(worse, boss, now=NOW + HOUR + 15 * MINUTE) == [(MAIL, "escalated")]


def test_that_it_is_over_is_told_to_those_who_heard_of_it_and_to_nobody_else():
    over = notice(cleared_at=NOW + MINUTE)
    found = plan(over, [route(CHAT), route(MAIL, pk=2)], [], [raised(CHAT)], now=NOW + MINUTE)
    assert [(t.channel, t.occasion) for t in found.wishes] == [(CHAT, "resolved")]
    assert found.settled
    assert told(over, route(CHAT, tells_end=False), known=[raised()]) == []


def test_the_good_news_of_a_warning_waits_for_the_morning_too():
    night = route(quiet_from=time(11), quiet_until=time(13))
    over = notice(cleared_at=NOW)
    held = plan(over, [night], [], [raised()], now=NOW)
    assert (held.wishes, held.settled) == ([], False)
    later = plan(over, [night], [], [raised()], now=NOW + HOUR)
    assert ([t.occasion for t in later.wishes], later.settled) == (["resolved"], True)


def test_the_end_is_told_though_the_rule_is_gone():
    assert told(notice(cleared_at=NOW), known=[raised(rule=None)]) == [(CHAT, "resolved")]
    assert told(notice(cleared_at=NOW), route(pk=2), known=[raised(rule=1)]) == [(CHAT, "resolved")]


def test_what_was_over_before_anybody_looked_is_told_with_its_end():
    missed = notice(cleared_at=NOW + MINUTE, routed_at=None)
    assert told(missed, route(), now=NOW + HOUR) == [(CHAT, "raised"), (CHAT, "resolved")]
    assert told(missed, route(after_minutes=5), now=NOW + HOUR) == []


_RULES = st.lists(
    st.builds(
        lambda pk, channels, after, night, ends: route(
            *channels, pk=pk, after_minutes=after, tells_end=ends,
            quiet_from=time(11) if night else None, quiet_until=time(14) if night else None,
        ),
        st.integers(1, 3), st.lists(st.integers(1, 3), min_size=1, unique=True), st.sampled_from([0, 15]), st.booleans(),
        st.booleans(),
    ),
    max_size=3, unique_by=lambda r: r.rule.pk,
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    _RULES,
    st.lists(st.tuples(st.integers(0, 300), st.sampled_from(["worse", "ack", "clear", "look"])), max_size=12),
)
def test_however_often_it_is_asked_nothing_is_told_twice_and_no_end_before_its_beginning(rules, acts):
    n, known, told_so_far = notice(routed_at=None), [], set()
    for minutes, act in sorted(acts):
        now = NOW + timedelta(minutes=minutes)
        if act == "worse" and n.cleared_at is None:
            n.severity, n.severity_since, n.acknowledged_at = "critical", now, None
        elif act == "ack":
            n.acknowledged_at = now
        elif act == "clear":
            n.cleared_at = n.cleared_at or now
        found = plan(n, rules, [], known, now=now)
        n.routed_at = n.routed_at or now
        for wish in found.wishes:
            turn = (wish.channel, wish.occasion, wish.severity)
            assert turn not in told_so_far
            assert wish.occasion != "resolved" or any(c == wish.channel for c, *_ in told_so_far)
            assert (wish.channel, "resolved", wish.severity) not in told_so_far
            told_so_far.add(turn)
            known.append(wish)
        assert plan(n, rules, [], known, now=now).wishes == []
        if found.settled:
            assert plan(n, rules, [], known, now=now + HOUR).settled
