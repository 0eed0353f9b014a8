"""Where machines stand: evidence of it, what stands where it may not, and what serverless endpoints tell."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from billing import ledger
from billing.models import Reservation
from deployments import services
from deployments.lifecycle import State
from deployments.models import Event, ResidencyEvidence
from panel.audit.models import AuditEvent
from panel.notices.notify import open_notices
from tests.conftest import NOW
from tests.deployments.world import MINUTE, CloudWorld, fresh, settled
from tests.providers.fakecloud import TRAITS, fake_quote
from tests.providers.faulty import Fault

WORKER = Decimal("1.00")
FLEX = fake_quote(
    "flex", usd_per_hour=WORKER, tier="serverless-flex", serverless=True, workers_min=0, gpu_pool="ADA_24",
    stopped_usd_per_hour=Decimal(0),
)  # fmt: skip


@pytest.fixture
def serverless(world: CloudWorld) -> CloudWorld:
    world.cloud.traits = replace(TRAITS, list_interval=2.0, inspect_interval=15.0)
    world.offer(FLEX)
    return world


def _ready(world: CloudWorld, **wishes):
    deployment = world.launch(**wishes)
    world.run(2 * MINUTE, until=lambda: settled(deployment) == State.READY)
    assert settled(deployment) == State.READY
    return deployment


def test_where_it_stands_is_written_down_once_and_again_when_it_changes(world: CloudWorld) -> None:
    deployment = world.launch(allowed_countries=("DE", "FR"))
    assert deployment.instances.get().country is None, "what was promised is not what was found"
    world.run(2 * MINUTE)
    row = ResidencyEvidence.objects.get()
    assert (row.asked, row.found, row.allowed) == (["DE", "FR"], [["EU-DE-1", "DE"]], True)
    assert row.promised == "DE EU-DE-1"
    assert "RunPod" in row.source
    world.cloud.set(deployment.instances.get().label, country="FR")
    world.run(MINUTE / 2)
    assert [e.found[0][1] for e in ResidencyEvidence.objects.order_by("at")] == ["DE", "FR"]
    assert settled(deployment) == State.READY, "France is allowed too"


def test_a_machine_elsewhere_is_given_back_told_and_audited(world: CloudWorld) -> None:
    deployment = _ready(world)
    i = deployment.instances.get()
    world.cloud.set(i.label, country="US")
    world.run(MINUTE / 3, check=world.check)
    i.refresh_from_db()
    assert i.state in {State.TERMINATING, State.FAILED}
    assert "US is outside the EEA" in i.failure
    audit = AuditEvent.objects.get(action="residency.violation")
    assert "US" in audit.reason
    assert open_notices().get(key=f"residency:{deployment.pk}").severity == "critical"
    assert not i.evidence.order_by("at").last().allowed


def test_a_running_machine_whose_country_is_never_told_is_given_back(world: CloudWorld) -> None:
    deployment = world.launch()
    world.run(until=lambda: bool(world.cloud.ids_of(deployment.instances.get().label)))
    world.cloud.set(deployment.instances.get().label, country=None)
    world.run(MINUTE / 2, check=world.check)
    i = deployment.instances.get(attempt=1)
    assert "does not say in which country" in i.failure
    row = ResidencyEvidence.objects.get(instance=i)
    assert (row.allowed, row.found) == (False, [["", None]])


def test_a_machine_that_turns_up_at_a_site_of_no_known_country_is_given_back(world: CloudWorld) -> None:
    i = _ready(world).instances.get()
    world.cloud.set(i.label, country=None, data_center="EU-DE-1")
    world.run(MINUTE / 3)
    i.refresh_from_db()
    assert (i.country, i.state) == ("DE", State.READY), (
        "the same site, and a list that is silent on its country"
    )
    world.cloud.set(i.label, data_center="XX-NEW-9")
    world.run(MINUTE / 3, check=world.check)
    i.refresh_from_db()
    assert "does not say in which country" in i.failure
    assert not i.evidence.order_by("at").last().allowed


def test_an_endpoint_that_may_place_its_workers_elsewhere_is_given_back_before_one_stands_there(
    serverless: CloudWorld,
) -> None:
    i = _ready(serverless).instances.get()
    serverless.cloud.set(i.label, country="US", data_center="US-DE-1")
    serverless.run(MINUTE / 2, check=serverless.check)
    i.refresh_from_db()
    assert "US is outside the EEA" in i.failure


def test_a_serverless_endpoint_is_inspected_and_never_asked_itself(serverless: CloudWorld, endpoint) -> None:
    endpoint.alive = False  # whoever asked it would see it dead
    deployment = _ready(serverless)
    i = deployment.instances.get()
    assert i.bearer == "key-of-a-test"
    serverless.run(2 * MINUTE, check=serverless.check)
    assert settled(deployment) == State.READY
    inspected = serverless.provider.count("inspect")
    assert 2 <= inspected <= 12, "at most one in each interval"
    assert ledger.burn(now=serverless.now) == 0, "scaled to zero costs nothing"
    assert Reservation.objects.get(subject_id=i.pk).usd_per_hour == WORKER
    endpoint.alive = True


def test_serverless_bills_its_workers_and_says_nothing_of_each(serverless: CloudWorld) -> None:
    deployment = _ready(serverless)
    i = deployment.instances.get()
    serverless.cloud.set(i.label, workers=["DE", "DE"])
    serverless.run(MINUTE / 2)
    i.refresh_from_db()
    assert (i.usd_per_hour, i.places) == (2 * WORKER, [["EU-DE-1", "DE"], ["EU-DE-1", "DE"]])
    assert ledger.burn(now=serverless.now) == 2 * WORKER
    serverless.run(3 * MINUTE)
    serverless.cloud.set(i.label, workers=[])
    serverless.run(MINUTE)
    assert ledger.burn(now=serverless.now) == 0
    assert not Event.objects.filter(kind="price").exists()
    assert Reservation.objects.get(subject_id=i.pk).usd_per_hour == WORKER
    charged = sum(c.usd for c in serverless.cloud.charges(NOW, serverless.now) if c.label == i.label)
    counted = ledger.cost_of(deployment.pk, now=serverless.now)
    assert charged <= counted <= charged + 2 * WORKER / 60, "no less than is charged, and soon no more"


@pytest.mark.parametrize(
    ("where", "says"), [("US", "US is outside"), (None, "does not say in which country")]
)
def test_one_worker_elsewhere_gives_the_endpoint_back(serverless: CloudWorld, where, says) -> None:
    deployment = _ready(serverless)
    i = deployment.instances.get()
    serverless.cloud.set(i.label, workers=["DE", where])
    serverless.run(MINUTE, check=serverless.check)
    i.refresh_from_db()
    assert says in i.failure
    assert AuditEvent.objects.filter(action="residency.violation").count() == 1
    row = ResidencyEvidence.objects.filter(instance=i).order_by("at").last()
    assert (row.allowed, len(row.found)) == (False, 2)
    assert "each worker" in row.source


def test_an_endpoint_that_does_not_serve_is_degraded(serverless: CloudWorld) -> None:
    deployment = _ready(serverless)
    serverless.cloud.set(deployment.instances.get().label, serves=False)
    serverless.run(MINUTE, until=lambda: settled(deployment) == State.DEGRADED)
    assert settled(deployment) == State.DEGRADED


def test_an_inspection_that_fails_changes_nothing(serverless: CloudWorld) -> None:
    deployment = _ready(serverless)
    i = deployment.instances.get()
    serverless.cloud.set(i.label, workers=["DE"])
    serverless.run(MINUTE / 2)
    serverless.fail("inspect", *[Fault.ERROR_BEFORE] * 3)
    serverless.run(MINUTE / 2, check=serverless.check)
    i.refresh_from_db()
    assert (settled(deployment), i.usd_per_hour) == (State.READY, WORKER), "it goes on accruing"


def test_a_stopped_endpoint_costs_nothing_and_starts_at_one_workers_price(serverless: CloudWorld) -> None:
    deployment = _ready(serverless)
    services.stop(fresh(deployment), actor=serverless.owner, now=serverless.now)
    serverless.run(MINUTE, until=lambda: settled(deployment) == State.STOPPED)
    serverless.run(10 * MINUTE)
    assert ledger.burn(now=serverless.now) == 0
    before = ledger.cost_of(deployment.pk, now=serverless.now)
    services.start(fresh(deployment), actor=serverless.owner, now=serverless.now)
    assert Reservation.objects.get().usd_per_hour == WORKER
    serverless.run(2 * MINUTE, until=lambda: settled(deployment) == State.READY)
    assert settled(deployment) == State.READY
    spent = ledger.cost_of(deployment.pk, now=serverless.now) - before
    assert spent <= WORKER * 2 / 60, "the time it was stopped is not billed afterwards"
