"""What the panel tells Prometheus of itself, read from rows at each scrape: nothing is counted in a process.

So any web process answers alike, and a restart resets no counter. A label holds an id, a state or a kind, never a
name, an address or a person, and there is a bound on how many series there can be (`MOST_DEPLOYMENTS`,
`MOST_ACCOUNTS`, `MOST_BUDGETS`). docs/monitoring.md describes each metric.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path

from django.conf import settings
from django.db import DatabaseError, InterfaceError
from django.db.models import Count, Exists, OuterRef
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from billing import budgets, ledger
from billing.models import Budget
from deployments.lifecycle import MAY_EXIST, Desired, State
from deployments.models import Breaker, Deployment, Drill, Heartbeat, Instance, ProviderAccount
from deployments.models.drill import DETECTION_GOAL
from panel import health
from panel.notices.notify import shown_notices

logger = logging.getLogger(__name__)

MOST_DEPLOYMENTS = 1000
MOST_ACCOUNTS = 100
MOST_BUDGETS = 100
Families = Iterator[Metric]


def registry(*, now: datetime) -> CollectorRegistry:
    """A registry of its own: what libraries count in the default one is not told."""
    made = CollectorRegistry(auto_describe=False)
    made.register(Panel(now=now))
    return made


class Panel(Collector):
    """Everything at one moment. A database that fails leaves out what it holds and says so."""

    def __init__(self, *, now: datetime) -> None:
        self.now = now

    def collect(self) -> Families:
        yield _gauge("regia_broker_up", "Whether the broker takes bells.", health.broker() == "ok")
        yield _gauge(
            "regia_audit_spool_bytes",
            "Audit rows of stops and terminates that the database could not take yet.",
            _spooled(),
        )
        try:
            told = [metric for section in _SECTIONS for metric in section(self.now)]
        except (DatabaseError, InterfaceError):
            logger.exception("/metrics: the database does not answer")
            told = []
        yield _gauge("regia_database_up", "Whether the database answers.", bool(told))
        yield from told


def _gauge(name: str, words: str, value: float | Decimal) -> Metric:
    return GaugeMetricFamily(name, words, value=float(value))


def _spooled() -> int:
    try:
        return (Path(settings.DATA_DIR) / "audit-spool.jsonl").stat().st_size
    except OSError:
        return 0


# -- the loops -------------------------------------------------------------------------------------------


def _loops(now: datetime) -> Families:
    """The clock, the control loop, and each task of the schedule, by the thresholds of the pages' header."""
    rows = {row.name: row for row in Heartbeat.objects.all()}
    age = GaugeMetricFamily("regia_loop_age_seconds", "Since the loop was last seen.", labels=["loop"])
    limit = GaugeMetricFamily("regia_loop_max_age_seconds", "From this age on it is stale.", labels=["loop"])
    for name in health.LOOPS:
        limit.add_metric([name], settings.READY_MAX_AGE)
        if row := rows.get(name):
            age.add_metric([name], health.age_of(row.at, now=now))
    yield from (age, limit, *_rounds(rows, now))


def _rounds(rows: dict[str, Heartbeat], now: datetime) -> Families:
    age = GaugeMetricFamily("regia_round_age_seconds", "Since the round last went well.", labels=["round"])
    limit = GaugeMetricFamily(
        "regia_round_max_age_seconds", "From this age on it is stale.", labels=["round"]
    )
    failing = GaugeMetricFamily("regia_round_failing", "Failures in a row.", labels=["round"])
    failures = CounterMetricFamily("regia_round_failures", "Failures ever.", labels=["round"])
    for one in health.rounds():
        label = [one.name.removeprefix("round:")]
        limit.add_metric(label, one.max_age)
        if row := rows.get(one.name):
            age.add_metric(label, health.age_of(row.at, now=now))
            failing.add_metric(label, row.failures)
            failures.add_metric(label, row.failures_total)
    yield from (age, limit, failing, failures)


# -- what runs -------------------------------------------------------------------------------------------


def _machines(now: datetime) -> Families:
    counted = GaugeMetricFamily(
        "regia_instances", "Machines that may stand at a provider.", labels=["state", "provider"]
    )
    found = Instance.objects.may_exist().order_by().values_list("state", "account__backend")
    counts = {(state, backend): n for state, backend, n in found.annotate(n=Count("pk"))}
    # A state that nothing is in is 0, not absent: an alert must be able to see it end.
    for state in State:
        for backend in ProviderAccount.Backend.values if state in MAY_EXIST else ():
            counted.add_metric([state.value, backend], counts.get((state.value, backend), 0))
    yield counted
    wanted = GaugeMetricFamily("regia_deployments", "Deployments, by what is wanted.", labels=["desired"])
    desired = dict(Deployment.objects.order_by().values_list("desired").annotate(n=Count("pk")))
    for wish in Desired:
        wanted.add_metric([wish.value], desired.get(wish.value, 0))
    yield wanted


_LATER = Instance.objects.filter(deployment=OuterRef("deployment"), attempt__gt=OuterRef("attempt"))


def _deployments(now: datetime) -> Families:
    """Each deployment that is to run, by its id: the newest MOST_DEPLOYMENTS of them."""
    up = GaugeMetricFamily("regia_deployment_up", "1: it is Ready.", labels=["deployment"])
    answered = GaugeMetricFamily(
        "regia_deployment_answer_age_seconds",
        "Since its endpoint last answered a probe well.",
        labels=["deployment"],
    )
    lease = GaugeMetricFamily(
        "regia_deployment_lease_seconds",
        "Until its machine ends itself, unless its lease is renewed.",
        labels=["deployment"],
    )
    newest = Instance.objects.filter(~Exists(_LATER), deployment__desired=Desired.RUNNING)
    rows = newest.order_by("-deployment__created_at").values_list(
        "deployment_id", "state", "probe_ok_at", "lease_expires_at"
    )
    told = list(rows[:MOST_DEPLOYMENTS])
    for pk, state, probe_ok_at, lease_expires_at in told:
        up.add_metric([str(pk)], state == State.READY)
        if probe_ok_at and state in MAY_EXIST:
            answered.add_metric([str(pk)], (now - probe_ok_at).total_seconds())
        if lease_expires_at and state in MAY_EXIST:
            lease.add_metric([str(pk)], (lease_expires_at - now).total_seconds())
    left = newest.count() - len(told) if len(told) == MOST_DEPLOYMENTS else 0
    yield from (up, answered, lease)
    yield _gauge(
        "regia_deployments_left_out", "Deployments beyond the bound, told of one by one no more.", left
    )


def _drills(now: datetime) -> Families:
    """The last drill of each deployment that killed something and is over; ended deployments are not told."""
    labels = ["deployment"]
    spans = [
        GaugeMetricFamily(f"regia_drill_{name}_seconds", words, labels=labels)
        for name, words in (
            ("detection", "Of the last drill: from the kill until it left Ready."),
            ("relaunch", "Of the last drill: from the kill until a replacement was asked for."),
            ("ready", "Of the last drill: from the kill until it was Ready again."),
        )
    ]
    well = GaugeMetricFamily("regia_drill_ok", "1: the last drill ended with Ready.", labels=labels)
    age = GaugeMetricFamily("regia_drill_age_seconds", "Since the last drill was over.", labels=labels)
    over = Drill.objects.filter(killed_at__isnull=False, over_at__isnull=False)
    later = over.filter(deployment=OuterRef("deployment"), asked_at__gt=OuterRef("asked_at"))
    last = over.filter(~Exists(later)).exclude(deployment__desired=Desired.TERMINATED)
    for drill in last.order_by("-asked_at")[:MOST_DEPLOYMENTS]:
        label = [str(drill.deployment_id)]
        for metric, span in zip(spans, (drill.detection, drill.relaunch, drill.outage), strict=True):
            if span is not None:
                metric.add_metric(label, span.total_seconds())
        well.add_metric(label, drill.outcome == Drill.Outcome.READY)
        if drill.over_at:
            age.add_metric(label, health.age_of(drill.over_at, now=now))
    goal = DETECTION_GOAL.total_seconds()
    yield from (
        *spans,
        well,
        age,
        _gauge("regia_drill_detection_goal_seconds", "To be detected within.", goal),
    )


# -- providers -------------------------------------------------------------------------------------------


def _accounts(now: datetime) -> Families:
    """Each enabled account that has a key, by its id."""
    labels = ["account", "provider"]
    age = GaugeMetricFamily("regia_account_list_age_seconds", "Since its last complete list.", labels=labels)
    well = GaugeMetricFamily("regia_account_list_ok", "1: its last list was good.", labels=labels)
    blocked = GaugeMetricFamily("regia_account_blocked", "1: nothing is rented there now.", labels=labels)
    money = GaugeMetricFamily("regia_account_balance_usd", "Prepaid money, as last read.", labels=labels)
    failing = GaugeMetricFamily(
        "regia_call_failing", "Failures in a row of a kind of call.", labels=[*labels, "call"]
    )
    accounts = [
        a for a in ProviderAccount.objects.filter(enabled=True).order_by("created_at") if not a.public_only
    ]
    for a in accounts[:MOST_ACCOUNTS]:
        label = [str(a.pk), a.backend]
        well.add_metric(label, not a.list_error)
        blocked.add_metric(label, bool(a.blocked))
        if a.listed_at:
            age.add_metric(label, health.age_of(a.listed_at, now=now))
        if a.balance_usd is not None:
            money.add_metric(label, float(a.balance_usd))
    told = {a.pk for a in accounts[:MOST_ACCOUNTS]}
    for row in Breaker.objects.filter(account__in=told).select_related("account"):
        failing.add_metric([str(row.account_id), row.account.backend, row.call], row.failures)
    yield from (age, well, blocked, money, failing)


# -- money and notices -----------------------------------------------------------------------------------


def _money(now: datetime) -> Families:
    found = budgets.statuses(now=now)
    of_everything = next((s.burn for s in found if s.budget.is_of_everything), None)
    burn = ledger.burn(now=now) if of_everything is None else of_everything
    yield _gauge("regia_burn_usd_per_hour", "What everything costs now.", burn)
    labels = ["budget", "scope", "period", "part"]
    usd = GaugeMetricFamily("regia_budget_usd", "The budgets of the periods that run.", labels=labels)
    for status in found[:MOST_BUDGETS]:
        for part in ("amount", "spent", "held", "free"):
            told = [str(status.budget.pk), _scope(status.budget), status.period, part]
            usd.add_metric(told, float(getattr(status, part)))
    yield usd


def _scope(budget: Budget) -> str:
    named = (("deployment", budget.scope), ("account", budget.account), ("provider", budget.provider))
    return next((kind for kind, of in named if of), "everything")


def _notices(now: datetime) -> Families:
    found = GaugeMetricFamily("regia_notices_open", "Notices that are not cleared.", labels=["severity"])
    rows = shown_notices().order_by().values_list("severity").annotate(n=Count("pk"))
    counts = dict(rows)
    for severity in ("info", "warning", "critical"):
        found.add_metric([severity], counts.get(severity, 0))
    yield found


_SECTIONS = (_loops, _machines, _deployments, _drills, _accounts, _money, _notices)
