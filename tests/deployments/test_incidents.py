"""Incidents: they open from facts, close once those are gone, and one cause makes one of them."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from billing import ledger
from billing.models import Component
from deployments import calls, money, services
from deployments.lifecycle import Desired, State
from deployments.models import (
    Breaker,
    Deployment,
    Event,
    Incident,
    IncidentEntry,
    Instance,
    ProviderAccount,
    ResidencyEvidence,
)
from deployments.models.offer import freeze_quote
from deployments.monitoring import causes, incidents, measured, samples
from panel.audit.models import AuditEvent
from panel.notices.notify import clear_notice, open_notices, raise_notice
from tests import factories
from tests.conftest import NOW
from tests.deployments.world import MINUTE, run_threads
from tests.providers.fakecloud import fake_quote

pytestmark = pytest.mark.django_db
Kind = Incident.Kind


@pytest.fixture
def account() -> ProviderAccount:
    return ProviderAccount.objects.create(name="Cloud", backend="runpod", credentials="a-key")


def serving(account: ProviderAccount, n: int = 0, *, state: State = State.READY, since=NOW) -> Instance:
    """A deployment whose machine has been Ready for an hour and is now in `state` since `since`, at $1.20/h."""
    born = NOW - timedelta(hours=1)
    made = Deployment.objects.create(
        name=f"chat-{n}", model_key="qwen3-4b-awq", context=4096, desired=Desired.RUNNING, created_at=born,
        launch_key=f"key-{n}-{account.pk}",
    )  # fmt: skip
    quote = fake_quote()
    i = Instance.objects.create(
        deployment=made, account=account, attempt=1, label=f"label-{n}-{account.pk}", quote=freeze_quote(quote),
        usd_per_hour=Decimal("1.2"), state=State.READY, state_since=born, created_at=born, ready_at=born, remote_id=f"r{n}",
        endpoint_url="http://127.0.0.1:9",
    )  # fmt: skip
    Event.objects.create(deployment=made, at=born, kind="launch")
    Event.objects.create(deployment=made, instance=i, at=born, kind="state", to_state="ready")
    money.open_subject(i, now=born)
    ledger.set_price(i.pk, Component.COMPUTE, Decimal("1.2"), at=born)
    if state is not State.READY:
        i.advance(state, reason="2 probes in a row failed", now=since)
    return i


def watch(minutes: float = 0) -> list[Incident]:
    """One look, so many minutes after noon; the open incidents."""
    incidents.watch(now=NOW + MINUTE * minutes)
    return list(Incident.objects.open().order_by("pk"))


def move(i: Instance, state: State, minutes: float, reason: str = "it answers again") -> None:
    i.advance(state, reason=reason, now=NOW + MINUTE * minutes)


# -- it opens and closes ------------------------------------------------------------------------------


def test_a_dead_endpoint_is_an_incident_that_says_since_when_and_why(account):
    i = serving(account, state=State.DEGRADED, since=NOW - MINUTE)
    Instance.objects.filter(pk=i.pk).update(probe_detail="the connection was refused")
    (found,) = watch()
    assert (found.kind, found.title, found.opened_at) == (Kind.DOWN, "chat-0 is down", NOW - MINUTE)
    assert "Nothing listens at its address" in found.guess
    assert found.deployment_id == i.deployment_id
    notice = open_notices().get(key=f"incident:{found.pk}")
    assert (notice.severity, notice.url) == ("critical", f"/incidents/{found.pk}/")


def test_it_closes_two_minutes_after_its_cause_is_gone_with_its_downtime_and_cost(account):
    i = serving(account, state=State.DEGRADED)
    watch(1)
    move(i, State.READY, 5)
    assert watch(5)[0].clear_since == NOW + 5 * MINUTE
    assert watch(6.9), "not yet: it may come back"
    assert not watch(7)
    found = Incident.objects.get()
    assert (found.over_at, found.closed_at) == (NOW + 5 * MINUTE, NOW + 7 * MINUTE)
    assert found.downtime == 5 * MINUTE
    assert found.cost_usd == pytest.approx(Decimal("0.1"), abs=Decimal("0.02")), "5 of 60 minutes at $1.20"
    assert not open_notices().filter(key__startswith="incident:").exists()
    assert [e.kind for e in found.entries.order_by("pk")] == ["opened", "touches", "over", "closed"]


def test_what_comes_and_goes_is_one_incident(account):
    i = serving(account, state=State.DEGRADED)
    for minute in (1, 2.5, 4, 5.5):
        watch(minute)
        move(i, State.READY, minute)
        watch(minute + 0.5)
        move(i, State.DEGRADED, minute + 1, "2 probes in a row failed")
    assert len(watch(7)) == 1
    assert Incident.objects.count() == 1


def test_what_was_down_between_two_looks_is_told_once(account):
    i = serving(account)
    assert not watch()
    move(i, State.DEGRADED, 0.1, "2 probes in a row failed")
    move(i, State.READY, 0.3)
    (found,) = watch(0.5)
    assert (found.title, found.opened_at) == ("chat-0 was down", NOW + MINUTE * 0.1)
    watch(0.6)
    assert not watch(2.7)
    watch(0.9)
    assert Incident.objects.count() == 1
    assert Incident.objects.get().downtime == timedelta(seconds=12)


def test_a_blink_is_no_incident(account):
    i = serving(account)
    move(i, State.DEGRADED, 0.1, "2 probes in a row failed")
    i.advance(State.READY, reason="it answers again", now=NOW + timedelta(seconds=7))
    assert not watch(0.5)


def test_a_look_twice_at_once_or_over_and_over_writes_one(account):
    serving(account, state=State.DEGRADED)
    for _ in range(3):
        watch(1)
    assert Incident.objects.count() == 1
    assert IncidentEntry.objects.count() == 2
    assert open_notices().filter(key__startswith="incident:").count() == 1


def test_a_stop_ends_it_and_makes_none(account):
    i = serving(account, state=State.DEGRADED)
    watch(1)
    services.stop(i.deployment, actor=None, now=NOW + 2 * MINUTE)
    watch(2)
    assert not watch(4)
    j = serving(account, 1)
    services.stop(j.deployment, actor=None, now=NOW)
    move(j, State.STOPPING, 1, "stop was asked for")
    assert not watch(4)


def test_a_drill_and_a_wished_replacement_are_no_incident(account):
    i, j = serving(account), serving(account, 1)
    Event.objects.create(deployment=i.deployment, instance=i, at=NOW, kind="drill")
    move(i, State.DEGRADED, 1, "the engine ended by itself")
    move(j, State.TERMINATING, 1, "its settings changed")
    assert not watch(2)


def test_it_lasts_through_the_relaunch_until_the_next_machine_answers(account):
    i = serving(account, state=State.DEGRADED)
    watch(1)
    move(i, State.TERMINATING, 3, "its endpoint was dead for 3 minutes")
    move(i, State.FAILED, 4, "its endpoint was dead for 3 minutes")
    j = Instance.objects.create(
        deployment=i.deployment, account=account, attempt=2, label="again", quote=i.quote, usd_per_hour=Decimal(1),
        state=State.LOADING, state_since=NOW + 4 * MINUTE, created_at=NOW + 4 * MINUTE,
    )  # fmt: skip
    assert len(watch(5)) == 1
    move(j, State.READY, 9, "it serves the model")
    watch(9)
    assert not watch(12)
    found = Incident.objects.get()
    assert found.downtime == 9 * MINUTE, "from Degraded to the next Ready"


@pytest.mark.parametrize(
    ("state", "minutes", "kind"),
    [
        (State.PROVISIONING, 9, Kind.STUCK),
        (State.LOADING, 13, Kind.STUCK),
        (State.REQUESTED, 6, Kind.STUCK),
        (State.FAILED, 2, Kind.DOWN),
        (State.LOADING, 5, None),
    ],
)
def test_a_launch_that_does_not_come_up_is_told(account, state, minutes, kind):
    i = serving(account)
    Event.objects.filter(instance=i).delete()
    Instance.objects.filter(pk=i.pk).update(state=state, state_since=NOW, ready_at=None)
    found = watch(minutes)
    assert [f.kind for f in found] == ([kind] if kind else [])


def test_a_machine_that_cannot_be_ended_is_told_apart_and_goes_on_billing(account):
    i = serving(account)
    Deployment.objects.update(desired=Desired.TERMINATED)
    move(i, State.TERMINATING, 0, "terminate was asked for")
    assert not watch(4)
    (found,) = watch(6)
    assert (found.kind, found.severity) == (Kind.STUCK, "critical")
    assert "cannot be ended" in found.title
    assert "goes on billing" in found.guess


# -- every other cause --------------------------------------------------------------------------------


def test_outbid_residency_key_orphan_and_budget_each_have_their_own(account):
    outbid, abroad, orphan = serving(account, 0), serving(account, 1), serving(account, 2)
    move(outbid, State.OUTBID, 0, "a higher bid holds its GPU")
    ResidencyEvidence.objects.create(
        instance=abroad, at=NOW, asked=["DE"], promised="DE", found=[["", "US"]], source="its list", allowed=False,
        reason="It stands in the United States.",
    )  # fmt: skip
    Deployment.objects.filter(pk=orphan.deployment_id).update(
        launch_key=f"{services.ADOPTABLE}1", desired=Desired.TERMINATED
    )
    other = ProviderAccount.objects.create(name="Other", backend="vast", credentials="k")
    raise_notice(f"account-key:{other.pk}", "critical", "Other refused its key", now=NOW)
    stopped = serving(other, 3)
    Deployment.objects.filter(pk=stopped.deployment_id).update(
        desired=Desired.STOPPED, desired_reason="$9 of the budget of $9 a month is spent"
    )
    found = {f.kind: f for f in watch(1)}
    assert set(found) == {Kind.OUTBID, Kind.RESIDENCY, Kind.ORPHAN, Kind.KEY, Kind.BUDGET}
    assert found[Kind.ORPHAN].account == account
    assert orphan.label in found[Kind.ORPHAN].guess
    assert "United States" in found[Kind.RESIDENCY].guess
    touched = IncidentEntry.objects.filter(incident=found[Kind.BUDGET], deployment=stopped.deployment)
    assert touched.exists()
    # And each goes with its fact.
    clear_notice(f"account-key:{other.pk}", now=NOW)
    Deployment.objects.filter(pk=stopped.deployment_id).update(desired=Desired.TERMINATED)
    Deployment.objects.filter(pk=orphan.deployment_id).update(desired=Desired.RUNNING)
    move(outbid, State.PROVISIONING, 2, "it is back")
    move(outbid, State.READY, 2, "it serves the model")
    for state in (State.TERMINATING, State.TERMINATED):
        move(abroad, state, 2, "It stands in the United States.")
    Deployment.objects.filter(pk=abroad.deployment_id).update(desired=Desired.TERMINATED)
    watch(12)
    assert not watch(15)


def test_the_engines_errors_its_full_cache_and_its_slowness_are_read_from_samples(account):
    rows = [serving(account, n) for n in range(4)]
    usual = {"ttft_p95": 0.4, "kv_use": 0.5, "waiting": 0, "finished_stop": 30, "finished_error": 0}
    odd = [{"ttft_p95": 4.0}, {"finished_error": 3}, {"kv_use": 0.99, "waiting": 7}, {}]
    for hour in range(1, 6):
        samples.record_many([(i.pk, NOW - timedelta(hours=hour), usual) for i in rows])
    for minute in range(5):
        at = NOW - MINUTE * minute - timedelta(seconds=10)
        samples.record_many(
            [(i.pk, at, usual | more) for i, more in zip(rows, odd, strict=True)],
        )
    samples.roll_up(NOW)
    found = {(f.kind, f.deployment_id): f for f in watch()}
    assert set(found) == {
        (kind, i.deployment_id) for kind, i in zip((Kind.SLOW, Kind.ERRORS, Kind.KV_FULL), rows, strict=False)
    }
    slow = found[Kind.SLOW, rows[0].deployment_id]
    assert "4.0 s" in slow.guess
    assert "usual is 0.4 s" in slow.guess
    assert slow.severity == "warning"
    # Seconds later nothing is measured anew, and what stands goes on standing.
    assert len(watch(0.1)) == 3
    for minute in range(6, 12):
        samples.record_many([(i.pk, NOW + MINUTE * minute, usual) for i in rows])
    watch(12)
    assert not watch(14.5)


def test_a_machine_without_a_history_is_not_slow(account):
    i = serving(account)
    for minute in range(5):
        samples.record(i.pk, NOW - MINUTE * minute - timedelta(seconds=10), {"ttft_p95": 30.0})
    assert not measured.find(now=NOW)


# -- one cause, one incident --------------------------------------------------------------------------


def fail_lists(account: ProviderAccount, *, at=NOW) -> None:
    Breaker.objects.update_or_create(
        account=account, call=Breaker.Call.LIST,
        defaults={"failures": calls.FAILURES, "failed_at": at, "error": "503 Service Unavailable"},
    )  # fmt: skip


def test_an_outage_that_takes_forty_deployments_down_is_one_incident(account, django_assert_max_num_queries):
    other = serving(ProviderAccount.objects.create(name="Mine", backend="local"), 99)
    rows = [serving(account, n, state=State.DEGRADED) for n in range(40)]
    fail_lists(account)
    (found,) = watch(1)
    assert (found.kind, found.title) == (Kind.PROVIDER, "Cloud does not answer")
    assert "503 Service Unavailable" in found.guess
    assert IncidentEntry.objects.filter(incident=found, kind="touches").count() == 40
    assert open_notices().filter(key__startswith="incident:").count() == 1
    with django_assert_max_num_queries(40):
        watch(1.1)
    # It is not over before what it took down is back, and then counts everybody's downtime.
    Breaker.objects.update(failures=0, error="")
    for i in rows[1:]:
        move(i, State.READY, 10)
    assert [f.pk for f in watch(10)] == [found.pk]
    move(rows[0], State.READY, 20)
    watch(20)
    assert not watch(22)
    found.refresh_from_db()
    assert Incident.objects.count() == 1
    assert found.over_at == NOW + 20 * MINUTE
    assert found.downtime == (39 * 10 + 20) * MINUTE
    assert not IncidentEntry.objects.filter(deployment=other.deployment).exists()


def test_an_outage_that_takes_nothing_down_is_a_warning_until_it_does(account):
    i = serving(account)
    fail_lists(account)
    assert [f.severity for f in watch(1)] == ["warning"]
    move(i, State.DEGRADED, 2, "2 probes in a row failed")
    (found,) = watch(2)
    assert found.severity == "critical"
    assert open_notices().get(key=found.notice_key).severity == "critical"
    move(i, State.READY, 3)
    assert [f.severity for f in watch(3)] == ["critical"], "what it did is not undone"


def test_a_budget_that_stops_what_was_down_is_an_incident_of_its_own(account):
    i = serving(account, state=State.DEGRADED)
    (down,) = watch(1)
    Deployment.objects.filter(pk=i.deployment_id).update(
        desired=Desired.STOPPED, desired_reason="$9 of the budget of $9 a month is spent"
    )
    assert {f.kind for f in watch(2)} == {Kind.DOWN, Kind.BUDGET}
    assert [f.kind for f in watch(5)] == [Kind.BUDGET]
    down.refresh_from_db()
    assert (down.kind, down.merged_into) == (Kind.DOWN, None)


def test_those_that_went_down_before_the_outage_was_known_become_one(account):
    rows = [serving(account, n) for n in range(40)]
    for n, i in enumerate(rows):
        move(i, State.DEGRADED, n / 60, "2 probes in a row failed")
        if n % 3 == 0:
            watch(n / 60)
    (found,) = watch(1)
    assert found.kind == Kind.PROVIDER
    assert found.opened_at == NOW
    assert IncidentEntry.objects.filter(incident=found, deployment__isnull=False).count() == 40
    # The share of the account decides, so some went by themselves until more than half were down.
    assert Incident.objects.exclude(merged_into=None).count() < 21
    assert open_notices().filter(key__startswith="incident:").count() == 1


def test_a_few_of_many_that_are_down_are_each_their_own(account):
    rows = [serving(account, n) for n in range(8)]
    for i in rows[:3]:
        move(i, State.DEGRADED, 0, "2 probes in a row failed")
    assert [f.kind for f in watch(1)] == [Kind.DOWN] * 3


def test_a_refused_key_swallows_what_fails_under_it(account):
    i = serving(account, state=State.DEGRADED)
    assert [f.kind for f in watch(1)] == [Kind.DOWN]
    raise_notice(f"account-key:{account.pk}", "critical", "Cloud refused its key", now=NOW + MINUTE)
    fail_lists(account, at=NOW + MINUTE)
    (found,) = watch(2)
    assert found.kind == Kind.KEY
    assert found.entries.filter(deployment=i.deployment).count() == 1
    assert found.entries.filter(kind="grew").count() == 1


def test_what_comes_back_at_another_provider_still_counts_to_the_outage(account):
    other = ProviderAccount.objects.create(name="Elsewhere", backend="vast", credentials="k")
    i = serving(account, state=State.DEGRADED)
    fail_lists(account)
    (outage,) = watch(1)
    move(i, State.TERMINATING, 3, "its endpoint was dead for 3 minutes")
    move(i, State.FAILED, 4, "its endpoint was dead for 3 minutes")
    j = Instance.objects.create(
        deployment=i.deployment, account=other, attempt=2, label="again", quote=i.quote, usd_per_hour=Decimal(1),
        state=State.LOADING, state_since=NOW + 4 * MINUTE, created_at=NOW + 4 * MINUTE,
    )  # fmt: skip
    assert [f.pk for f in watch(5)] == [outage.pk]
    Breaker.objects.update(failures=0)
    assert [f.pk for f in watch(8)] == [outage.pk], "not over before it is back"
    move(j, State.READY, 9, "it serves the model")
    watch(9)
    assert not watch(11.5)
    assert Incident.objects.get().downtime == 9 * MINUTE


def test_what_stays_down_long_after_the_outage_has_its_own(account):
    rows = [serving(account, n, state=State.DEGRADED) for n in range(3)]
    fail_lists(account)
    watch(1)
    Breaker.objects.update(failures=0)
    for i in rows[1:]:
        move(i, State.READY, 5)
    assert [f.kind for f in watch(10)] == [Kind.PROVIDER]
    minutes = 10 + causes.LINGER / MINUTE
    watch(minutes)
    assert [f.kind for f in watch(minutes + 3)] == [Kind.DOWN]
    first = Incident.objects.order_by("pk").first()
    assert first.closed_at is not None


def test_one_that_cannot_be_looked_after_keeps_no_other_from_being_told(account, monkeypatch, caplog):
    for n in range(2):
        serving(account, n, state=State.DEGRADED)
    tell = incidents._tell

    def fail_for_the_first(incident, *, now):
        if incident.title.startswith("chat-0"):
            raise ValueError("an odd row")
        tell(incident, now=now)

    monkeypatch.setattr(incidents, "_tell", fail_for_the_first)
    assert [f.title for f in watch(1)] == ["chat-1 is down"]
    assert "could not be looked after" in caplog.text
    monkeypatch.undo()
    assert len(watch(1.1)) == 2


# -- by people ----------------------------------------------------------------------------------------


def test_acknowledge_comment_and_close_are_audited_and_each_is_done_once(account):
    serving(account, state=State.DEGRADED)
    (found,) = watch(1)
    who = factories.operator()
    incidents.acknowledge(found, actor=who, now=NOW + 2 * MINUTE)
    incidents.comment(found, "  The host is hot.  ", actor=who, now=NOW + 3 * MINUTE)
    incidents.close(found, actor=who, now=NOW + 4 * MINUTE)
    for again in (incidents.acknowledge, incidents.close):
        with pytest.raises(incidents.IncidentRefused):
            again(found, actor=who, now=NOW + 5 * MINUTE)
    told = AuditEvent.objects.filter(action__startswith="incident.").order_by("sequence")
    assert [e.action for e in told] == ["incident.acknowledge", "incident.comment", "incident.close"]
    assert "hot" not in str([(e.after, e.reason) for e in told])
    assert found.entries.get(kind="comment").text == "The host is hot."
    assert not open_notices().filter(key=found.notice_key).exists()


def test_one_that_was_closed_by_hand_is_not_opened_again_while_its_cause_stands(account):
    i = serving(account, state=State.DEGRADED)
    (found,) = watch(1)
    incidents.close(found, actor=factories.operator(), now=NOW + 2 * MINUTE)
    assert not watch(3)
    move(i, State.READY, 4)
    watch(4)
    watch(7)
    move(i, State.DEGRADED, 8, "2 probes in a row failed")
    (second,) = watch(9)
    assert second.pk != found.pk
    assert second.opened_at == NOW + 8 * MINUTE


@pytest.mark.parametrize("text", ["", " \n", "\0", "x" * (incidents.COMMENT_LENGTH + 1)])
def test_a_comment_without_words_or_without_end_is_refused(account, text):
    serving(account, state=State.DEGRADED)
    (found,) = watch(1)
    with pytest.raises(incidents.IncidentRefused):
        incidents.comment(found, text, actor=factories.operator(), now=NOW)


def test_a_clock_that_was_put_back_closes_nothing_early(account):
    i = serving(account, state=State.DEGRADED)
    watch(1)
    move(i, State.READY, 60)
    watch(60)
    watch(2)
    assert watch(2.5), "it waits anew"
    assert not watch(4.5)


@pytest.mark.django_db(transaction=True)
def test_workers_that_look_at_once_open_one_and_close_it_once(account):
    rows = [serving(account, n, state=State.DEGRADED) for n in range(6)]
    fail_lists(account)
    run_threads(*[lambda: incidents.watch(now=NOW + MINUTE)] * 4)
    found = Incident.objects.get()
    assert found.entries.filter(kind="touches").count() == 6
    assert found.entries.filter(kind="opened").count() == 1
    Breaker.objects.update(failures=0)
    for i in rows:
        move(i, State.READY, 2)
    incidents.watch(now=NOW + 2 * MINUTE)
    run_threads(*[lambda: incidents.watch(now=NOW + 5 * MINUTE)] * 4)
    assert found.entries.filter(kind="closed").count() == 1
    assert not open_notices().filter(key=found.notice_key).exists()
