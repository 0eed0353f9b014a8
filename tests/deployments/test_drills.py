"""A drill kills a machine once, on purpose and by permission, and measures what the panel then does by itself."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.urls import reverse

from deployments import choice, drills, services
from deployments.lifecycle import State
from deployments.models import Deployment, Drill, Event, Instance, ProviderAccount
from deployments.models.drill import DETECTION_GOAL
from deployments.services import ActionRefused
from panel.audit.models import AuditEvent
from panel.notices.notify import open_notices
from tests import factories
from tests.browser import scene
from tests.conftest import NOW
from tests.deployments.world import FOREIGN, MINUTE, CloudWorld, fresh, run_threads, settled
from tests.providers.fakecloud import fake_quote
from tests.providers.faulty import Fault, Point

SECOND = timedelta(seconds=1)


@pytest.fixture
def ready(world: CloudWorld, endpoint) -> Deployment:
    """A deployment with a machine that is Ready, without the way there."""
    deployment = world.launch()
    i = deployment.instances.get()
    Instance.objects.filter(pk=i.pk).update(
        state=State.READY, state_since=NOW, ready_at=NOW, remote_id=world.cloud.place(i.label), observed="running",
        endpoint_url=endpoint.url, probe_ok_at=NOW, next_probe_at=NOW, create_sent_at=NOW, country="DE",
    )  # fmt: skip
    world.cloud.set(i.label, boot_lists=0)
    ProviderAccount.objects.update(listed_at=NOW, next_list_at=NOW)
    world.bells.take(NOW)
    return fresh(deployment)


@pytest.fixture
def go(world: CloudWorld, endpoint):
    """Let time pass as in the product: an endpoint answers while its machine stands, and drills have their round."""

    def run(span: timedelta = 10 * MINUTE, *, until=None) -> None:
        def each() -> None:
            drills.due(clock=world.clock)
            endpoint.alive = any(label != FOREIGN for label in world.standing())
            world.check()

        world.run(span, check=each, until=until)

    return run


def begin(world: CloudWorld, deployment: Deployment) -> Drill:
    return drills.begin(fresh(deployment), actor=factories.administrator(), now=world.now)


def kills(world: CloudWorld) -> int:
    return world.provider.count("kill")


# -- what happens ------------------------------------------------------------------------------------


def test_a_drill_measures_detection_relaunch_and_readiness(world, go):
    ready = world.launch()
    world.run(until=lambda: settled(ready) == State.READY)
    drill, told = begin(world, ready), open_notices().get(key=f"drill:{ready.pk}")
    asked, killed = world.now, ready.instances.get()
    go(until=lambda: Drill.objects.get().is_over)
    drill.refresh_from_db()
    second = ready.instances.get(attempt=2)
    assert (drill.outcome, drill.instance, drill.replacement) == ("ready", killed, second)
    assert kills(world) == 1
    left = Event.objects.filter(instance=killed, at__gte=drill.killed_at, kind="state").order_by("at").first()
    came = Event.objects.get(instance=second, to_state=State.READY)
    assert (drill.detected_at, drill.relaunched_at, drill.ready_at) == (left.at, second.created_at, came.at)
    assert asked <= drill.killed_at < drill.detected_at < drill.relaunched_at < drill.ready_at
    assert drill.detection <= DETECTION_GOAL, "the goal of the product, by the test's own clock"
    assert drill.relaunch + drill.startup == drill.outage
    assert settled(ready) == State.READY
    world.check_books(ready, slack=4 * MINUTE)
    # It was announced, audited, and told when it was over; what befell it meanwhile was planned.
    assert told.severity == "info"
    assert not open_notices().filter(key=told.key).exists()
    audited = AuditEvent.objects.get(action="deployment.drill")
    assert (audited.target_id, audited.reason) == (str(ready.pk), killed.label)
    kinds = Event.objects.filter(deployment=ready, kind__startswith="drill").order_by("at", "pk")
    assert [e.kind for e in kinds] == ["drill", "drill-killed", "drill-over"]
    assert "detected after" in kinds.last().reason
    moments = (asked - SECOND, drill.detected_at, world.now + MINUTE)
    assert [Drill.objects.covers(ready.pk, at) for at in moments] == [False, True, False]


def test_the_button_rings_and_a_lost_bell_costs_a_round(world, ready):
    begin(world, ready)
    assert [drills.BELL] in world.bells.take(world.now)
    assert kills(world) == 0, "a page kills nothing"
    drills.due(clock=world.clock)
    assert kills(world) == 1


def test_the_relaunch_counts_among_the_attempts_and_the_host_is_not_to_blame(world, ready, go):
    Instance.objects.update(host="host-1")
    begin(world, ready)
    go(until=lambda: Drill.objects.get().is_over)
    assert choice.counted(fresh(ready), now=world.now)[0] == 2
    Instance.objects.filter(attempt=1).update(failure="the engine ended by itself")
    assert choice._failed_hosts(fresh(ready), now=world.now) == set()
    Drill.objects.update(killed_at=None)
    assert choice._failed_hosts(fresh(ready), now=world.now) == {"host-1"}


def test_a_machine_that_comes_back_by_itself_is_no_relaunch(world, ready, endpoint):
    begin(world, ready)
    world.fail("kill", Fault.ERROR_BEFORE)  # unclear, and the machine stands
    drills.due(clock=world.clock)
    endpoint.alive = False
    world.run(MINUTE // 2)
    endpoint.alive = True
    world.run(MINUTE // 2, check=lambda: drills.due(clock=world.clock))
    drill = Drill.objects.get()
    assert (drill.outcome, drill.replacement, drill.relaunched_at) == ("ready", None, None)
    assert "back by itself" in drill.detail


# -- what goes wrong ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "outcome", "words"),
    [(Fault.REJECTED, "aborted", "refused"), (Fault.UNAUTHORIZED, "aborted", "key"), (Fault.GONE, "aborted", "gone already")],
)  # fmt: skip
def test_a_definite_no_calls_it_off(world, ready, fault, outcome, words):
    world.fail("kill", fault)
    begin(world, ready)
    for _ in range(2):
        drills.due(clock=world.clock)
    drill = Drill.objects.get()
    assert (drill.outcome, drill.killed_at) == (outcome, None)
    assert words in drill.detail
    assert kills(world) == 1
    assert settled(ready) == State.READY


def test_what_was_not_sent_is_sent_again(world, ready):
    world.fail("kill", Fault.UNAVAILABLE)
    begin(world, ready)
    drills.due(clock=world.clock)
    assert Drill.objects.get().killed_at is None
    world.now += 5 * SECOND
    drills.due(clock=world.clock)
    assert Drill.objects.get().killed_at == world.now
    assert kills(world) == 2


def test_an_unclear_answer_is_followed_not_repeated(world, ready):
    world.fail("kill", Fault.ERROR_AFTER)
    begin(world, ready)
    for _ in range(3):
        drills.due(clock=world.clock)
        world.now += MINUTE
    assert Drill.objects.get().killed_at == NOW
    assert kills(world) == 1


def test_a_kill_that_changed_nothing_fails_and_says_so(world, ready, go, monkeypatch):
    monkeypatch.setattr(drills, "UNSEEN", 2 * MINUTE)
    world.fail("kill", Fault.TIMEOUT_BEFORE)
    begin(world, ready)
    go(3 * MINUTE)
    drill = Drill.objects.get()
    assert (drill.outcome, drill.detected_at) == ("failed", None)
    assert "still taken for Ready" in drill.detail
    assert settled(ready) == State.READY


def test_a_worker_that_dies_before_it_asks_is_followed_by_another(world, ready):
    begin(world, ready)
    world.die_at((Point.BEFORE_REQUEST, "kill"))
    world.deliver(lambda: drills.due(clock=world.clock))
    assert world.deaths == 1
    drills.due(clock=world.clock)
    assert kills(world) == 0, "whoever claimed it may still be at it"
    world.now += drills.ASK_AGAIN
    drills.due(clock=world.clock)
    assert Drill.objects.get().killed_at == world.now
    assert kills(world) == 1


@pytest.mark.parametrize(
    ("seen", "after"), [(True, drills.ASK_AGAIN), (True, 2 * drills.GIVE_UP), (False, drills.ASK_AGAIN)]
)
def test_a_worker_that_dies_after_it_asked_does_no_harm(world, ready, seen, after):
    begin(world, ready)
    world.die_at((Point.AFTER_ANSWER, "kill"))
    world.deliver(lambda: drills.due(clock=world.clock))
    if seen:
        Instance.objects.update(state=State.DEGRADED)
    world.now += after
    drills.due(clock=world.clock)
    drill = Drill.objects.get()
    assert (drill.killed_at, drill.is_over) == (NOW, False), "it was killed when it was sent"


def test_two_workers_kill_once(world, ready):
    begin(world, ready)
    world.provider.latency = 0.2
    run_threads(*[lambda: drills.due(clock=world.clock)] * 2)
    assert kills(world) == 1
    assert Event.objects.filter(kind="drill-killed").count() == 1


def test_what_waited_for_too_long_is_called_off(world, ready):
    begin(world, ready)
    world.now += drills.GIVE_UP + SECOND
    drills.due(clock=world.clock)
    assert Drill.objects.get().outcome == "aborted"
    assert kills(world) == 0


@pytest.mark.parametrize("how", ["protect", "stop", "degrade"])
def test_what_changed_before_the_kill_calls_it_off(world, ready, how):
    begin(world, ready)
    if how == "protect":
        Deployment.objects.update(protected=True)
    elif how == "stop":
        services.stop(fresh(ready), actor=world.owner, now=world.now)
    else:
        Instance.objects.update(state=State.DEGRADED)
    drills.due(clock=world.clock)
    drill = Drill.objects.get()
    assert (drill.outcome, drill.killed_at) == ("aborted", None)
    assert kills(world) == 0


def test_a_stop_after_the_kill_ends_it_with_what_is_known(world, ready, go):
    begin(world, ready)
    go(until=lambda: Drill.objects.get().detected_at is not None)
    services.stop(fresh(ready), actor=world.owner, now=world.now)
    go(MINUTE)
    drill = Drill.objects.get()
    assert drill.outcome == "aborted"
    assert drill.detection is not None
    assert "stopped" in drill.detail


def test_one_that_is_not_ready_again_in_its_time_has_failed(world, ready, go, monkeypatch):
    monkeypatch.setattr(drills, "LONGEST", 4 * MINUTE)
    begin(world, ready)
    drills.due(clock=world.clock)
    world.offer()
    go(6 * MINUTE)
    drill = Drill.objects.get()
    assert (drill.outcome, drill.ready_at) == ("failed", None)
    assert drill.detection is not None


# -- who may, and when not ---------------------------------------------------------------------------


def spoil(world, ready, how, settings) -> None:
    i = ready.instances.get()
    match how:
        case "protected":
            Deployment.objects.update(protected=True)
        case "stopped":
            services.stop(fresh(ready), actor=world.owner, now=world.now)
        case "adopted":
            Deployment.objects.update(launch_key=f"{services.ADOPTABLE}1")
        case "not ready":
            Instance.objects.update(state=State.LOADING)
        case "serverless":
            Instance.objects.update(quote=i.quote | {"serverless": True})
        case "locked":
            Instance.objects.update(locked=True)
        case "attempts":
            settings.MAX_ATTEMPTS_PER_HOUR = 1
        case "no offer":
            world.offer(fake_quote("us", country="US"))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("protected", "protected"), ("stopped", "not meant to run"), ("adopted", "never replaced"),
        ("not ready", "that is Ready"), ("serverless", "no machine of its own"), ("locked", "locked"),
        ("attempts", "within the hour"), ("no offer", "No offer suits"),
    ],
)  # fmt: skip
def test_it_is_refused_with_the_reason(world, ready, settings, how, words):
    spoil(world, ready, how, settings)
    with pytest.raises(ActionRefused, match=words):
        begin(world, ready)
    assert not Drill.objects.exists()
    assert not AuditEvent.objects.filter(action="deployment.drill").exists()


def test_one_at_a_time(world, ready):
    begin(world, ready)
    with pytest.raises(ActionRefused, match="under way"):
        begin(world, ready)


def test_the_usual_time_is_the_median_of_past_launches_of_that_provider_and_tier(world, ready):
    mine = ready.instances.get()
    for n, seconds in enumerate((100, 200, 900), start=2):
        mine.pk, mine.attempt, mine.label, mine.remote_id = None, n, f"past-{n}", f"past-{n}"
        mine.created_at, mine.ready_at = NOW - MINUTE, NOW - MINUTE + seconds * SECOND
        mine.save(force_insert=True)
    first = ready.instances.get(attempt=1)
    Instance.objects.filter(pk=first.pk).update(ready_at=None)
    assert drills.usual_seconds(first, now=world.now) == 200
    Instance.objects.filter(attempt=3).update(quote=first.quote | {"tier": "community"})
    assert drills.usual_seconds(first, now=world.now) == 500
    assert drills.usual_seconds(first, now=world.now + timedelta(days=200)) is None


# -- the pages ---------------------------------------------------------------------------------------


@pytest.fixture
def made(db):
    from django.utils import timezone

    return scene.build(now=timezone.now())


def test_only_an_administrator_finds_the_button(client, made):
    page = reverse("deployment", args=[made.ready.pk])
    for who, sees in ((factories.viewer(), False), (factories.operator(), False), (made.administrator, True)):
        client.force_login(who)
        assert ("Run a drill" in client.get(page).text) is sees


def test_the_page_says_what_it_kills_before_it_kills_it(client, made):
    client.force_login(made.administrator)
    asked = client.get(reverse("deployment_drill", args=[made.ready.pk])).text
    assert "Kill the machine of support-assistant?" in asked
    assert "goal: 30 s" in asked
    assert not made.ready.drills.exists()


def test_the_button_begins_it_and_the_page_tells(client, made, rung, django_capture_on_commit_callbacks):
    client.force_login(made.administrator)
    with django_capture_on_commit_callbacks(execute=True):
        told = client.post(reverse("deployment_drill", args=[made.ready.pk]), follow=True).text
    assert "The drill of support-assistant has begun" in told
    assert "A drill is under way" in told
    assert (drills.BELL, ()) in rung
    again = client.post(reverse("deployment_drill", args=[made.ready.pk]), follow=True).text
    assert "A drill of it is under way" in again
    assert made.ready.drills.count() == 1


def test_a_protected_one_says_so(client, made):
    Deployment.objects.filter(pk=made.ready.pk).update(protected=True)
    client.force_login(made.administrator)
    assert "No drill now" in client.get(reverse("deployment_drill", args=[made.ready.pk])).text
    client.post(reverse("deployment_drill", args=[made.ready.pk]))
    assert not made.ready.drills.exists()


def test_protection_is_a_setting_that_takes_effect_at_once(client, made):
    from urllib.parse import parse_qs

    from tests.browser.scene_providers import typed

    client.force_login(factories.operator())
    form = parse_qs(typed(fresh(made.ready), protected=True), keep_blank_values=True)
    answer = client.post(reverse("deployment_settings", args=[made.ready.pk]), form)
    assert answer.status_code == 302
    assert fresh(made.ready).protected
    assert fresh(made.ready).generation == made.ready.generation
    told = AuditEvent.objects.filter(action="deployment.settings").latest("sequence")
    assert (told.before["protected"], told.after["protected"]) == ("no", "yes")


def test_the_figures_stand_beside_their_goals(client, made):
    i = made.ready.instances.get()
    at = i.created_at
    Drill.objects.create(
        deployment=made.ready, instance=i, replacement=i, actor="system", asked_at=at, killed_at=at,
        detected_at=at + 41 * SECOND, relaunched_at=at + 130 * SECOND, ready_at=at + 310 * SECOND,
        over_at=at + 311 * SECOND, usual_seconds=174.0, outcome="ready",
    )  # fmt: skip
    client.force_login(factories.viewer())
    page = client.get(reverse("deployment", args=[made.ready.pk])).text
    for words in ("41 s", "over the goal of 30 s", "2 min 10 s", "3 min", "usual 2 min 54 s", "5 min 10 s"):
        assert words in page


# -- a real engine -----------------------------------------------------------------------------------


@pytest.mark.engine
def test_a_real_engine_is_killed_seen_dead_and_replaced(local_world):
    deployment = local_world.launch()
    local_world.run(until=lambda: settled(deployment) == State.READY)
    first = fresh(deployment).current
    drills.begin(fresh(deployment), actor=factories.administrator(), now=local_world.now)
    local_world.run(
        timedelta(minutes=3),
        check=lambda: drills.due(clock=local_world.clock),
        until=lambda: Drill.objects.get().is_over,
    )
    drill = Drill.objects.get()
    assert (drill.outcome, drill.detail) == ("ready", drill.detail)
    assert drill.was_quick
    assert any("SIGKILL" in line.text for line in local_world.local.logs(first.label))
    assert local_world.standing() == [fresh(deployment).current.label]
    local_world.check_books(deployment)
