"""What lists show beyond our own machines: the radar's rows, machines found, doubled, locked or drifted."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from billing import ledger
from deployments import accounts, money, observe, services
from deployments.lifecycle import Desired, State
from deployments.models import Instance, ListedMachine, ProviderAccount
from deployments.providers.base import Listing, Machine, MachineStatus
from panel.audit.models import AuditEvent
from panel.notices.models import Notice
from panel.notices.notify import open_notices
from tests.deployments.world import FOREIGN, MINUTE, CloudWorld, fresh, live, settled
from tests.providers.faulty import Fault


def _ready(world: CloudWorld, **wishes):
    deployment = world.launch(**wishes)
    world.run(2 * MINUTE, until=lambda: settled(deployment) == State.READY)
    assert settled(deployment) == State.READY
    return deployment


def _found(world: CloudWorld) -> Instance:
    deployment = _ready(world)
    stray = deployment.instances.get().label.rsplit("-", 1)[0] + "-77"
    world.cloud.place(stray)
    world.run(MINUTE, until=lambda: Instance.objects.filter(label=stray).exists())
    return Instance.objects.get(label=stray)


def test_every_machine_of_a_list_has_its_row_and_only_changes_are_written(world: CloudWorld) -> None:
    deployment = _ready(world)
    label = deployment.instances.get().label
    rows = {m.label: m for m in ListedMachine.objects.all()}
    assert set(rows) == {label, FOREIGN}
    ListedMachine.objects.filter(label=FOREIGN).update(hidden=True)
    written = ListedMachine.objects.get(label=label).seen_at
    world.run(MINUTE)
    assert ListedMachine.objects.get(label=label).seen_at == written
    world.cloud.set_price(FOREIGN, Decimal("0.90"))
    world.run(MINUTE / 2)
    foreign = ListedMachine.objects.get(label=FOREIGN)
    assert (foreign.usd_per_hour, foreign.hidden) == (Decimal("0.90"), True), "what is hidden stays hidden"


def test_a_row_goes_only_with_a_complete_list_that_is_believed(world: CloudWorld) -> None:
    _ready(world)
    world.cloud.place("another")
    world.run(MINUTE / 2)
    assert ListedMachine.objects.filter(label="another").exists()
    world.fail("list_machines", *[Fault.INCOMPLETE] * 3)
    world.run(MINUTE / 6)
    assert ListedMachine.objects.filter(label="another").exists()
    world.cloud.remove("another")
    world.run(MINUTE)
    assert not ListedMachine.objects.filter(label="another").exists()


def test_a_second_machine_under_a_label_costs_until_no_list_shows_it(world: CloudWorld) -> None:
    deployment = _ready(world)
    i = deployment.instances.get()
    world.fail("terminate", *[Fault.ERROR_BEFORE] * 70)
    second = world.cloud.place(i.label, usd_per_hour=Decimal("3.00"))
    world.run(5 * MINUTE)
    assert ledger.cost_of([money.duplicate_id(i, second)], now=world.now) > Decimal("0.15")
    assert settled(deployment) == State.READY
    world.run(5 * MINUTE, until=lambda: world.cloud.ids_of(i.label) == [i.remote_id])
    world.run(MINUTE / 2)
    assert ledger.burn(now=world.now) == Decimal("0.40")
    world.check_books(deployment, slack=4 * MINUTE)


def test_a_found_machine_that_is_adopted_is_kept_and_ended_by_a_person_alone(
    world: CloudWorld, monkeypatch
) -> None:
    found = _found(world)
    world.calm(monkeypatch)
    deployment = found.deployment
    services.adopt_found(deployment, actor=world.owner, now=world.now)
    assert not open_notices().filter(key=f"found:{found.label}").exists()
    world.run(45 * MINUTE, check=world.check)
    assert found.label in world.standing(), "longer than any start may last"
    assert fresh(deployment).desired == Desired.RUNNING
    assert ledger.cost_of([found.pk], now=world.now) > Decimal("0.25"), "it accrues"
    assert AuditEvent.objects.filter(action="deployment.adopt").count() == 1
    with pytest.raises(services.ActionRefused):
        services.adopt_found(fresh(deployment), actor=world.owner, now=world.now)
    services.terminate(fresh(deployment), actor=world.owner, now=world.now)
    world.run(3 * MINUTE, until=lambda: settled(deployment) == State.TERMINATED)
    assert found.label not in world.standing()


def test_a_found_machine_at_rest_bills_its_disk_before_and_after_it_is_adopted(world: CloudWorld) -> None:
    label = _ready(world).instances.get().label.rsplit("-", 1)[0] + "-78"
    before = ledger.burn(now=world.now)
    world.cloud.place(label, usd_per_hour=Decimal("0.02"))
    world.cloud.set_status(label, MachineStatus.STOPPED)
    world.run(MINUTE / 2)
    assert ledger.burn(now=world.now) - before == Decimal("0.02")
    services.adopt_found(Instance.objects.get(label=label).deployment, actor=world.owner, now=world.now)
    world.run(MINUTE)
    assert ledger.burn(now=world.now) - before == Decimal("0.02")


def test_an_adopted_machine_that_goes_is_not_replaced(world: CloudWorld) -> None:
    found = _found(world)
    services.adopt_found(found.deployment, actor=world.owner, now=world.now)
    world.run(MINUTE)
    world.cloud.remove(found.label)
    world.run(6 * MINUTE, check=world.check)
    assert settled(found.deployment) == State.TERMINATED
    assert found.deployment.instances.count() == 1


def test_a_found_machine_is_ended_at_once_when_somebody_says_so(world: CloudWorld) -> None:
    found = _found(world)
    services.terminate(found.deployment, actor=world.owner, now=world.now)
    world.run(MINUTE, until=lambda: found.label not in world.standing())
    assert found.label not in world.standing(), "not after ten minutes"
    assert AuditEvent.objects.filter(action="deployment.terminate").count() == 1


def test_a_locked_machine_is_told_asked_again_and_accrues(world: CloudWorld) -> None:
    deployment = _ready(world)
    i = deployment.instances.get()
    world.cloud.set(i.label, locked=True)
    world.run(MINUTE / 2)
    services.terminate(fresh(deployment), actor=world.owner, now=world.now)
    world.run(4 * MINUTE)
    i.refresh_from_db()
    assert (i.locked, i.state) == (True, State.TERMINATING)
    assert "Unlock" in open_notices().get(key=f"locked:{i.pk}").detail
    assert i.end_tries >= 4
    assert ledger.burn(now=world.now) == Decimal("0.40")
    world.cloud.set(i.label, locked=False)
    world.run(5 * MINUTE, until=lambda: settled(deployment) == State.TERMINATED)
    assert settled(deployment) == State.TERMINATED
    assert not open_notices().filter(key=f"locked:{i.pk}").exists()
    world.check_books(deployment)


def test_drift_is_shown_and_mended_by_a_click(world: CloudWorld) -> None:
    deployment = _ready(world)
    i = deployment.instances.get()
    with pytest.raises(services.ActionRefused):
        services.mend(fresh(deployment), actor=world.owner, now=world.now)
    world.cloud.set(i.label, drift="Idle for a week, it was scaled to no workers.")
    world.run(MINUTE)
    assert open_notices().filter(key=f"drift:{i.pk}").exists()
    assert "mend" in services.valid_actions(fresh(deployment))
    assert world.provider.count("mend") == 0, "nobody asked for it yet"
    world.fail("mend", Fault.UNAVAILABLE)
    services.mend(fresh(deployment), actor=world.owner, now=world.now)
    world.run(MINUTE)
    assert world.provider.count("mend") == 2, "asked again until it is answered, then no more"
    i.refresh_from_db()
    assert i.drift == ""
    assert "mend" not in services.valid_actions(fresh(deployment))
    assert not open_notices().filter(key=f"drift:{i.pk}").exists()
    assert AuditEvent.objects.filter(action="deployment.mend").count() == 1


def test_a_mass_disappearance_is_believed_only_after_half_an_hour_without_a_gap(
    world: CloudWorld, monkeypatch
) -> None:
    world.calm(monkeypatch)
    deployments = [_ready(world) for _ in range(3)]
    world.fail("list_machines", *[Fault.EMPTY] * 20, *[Fault.UNAVAILABLE], *[Fault.EMPTY] * 200)
    world.run(35 * MINUTE)
    assert all(d.instances.count() == 1 for d in deployments), "a list failed in between"
    account = ProviderAccount.objects.get(pk=world.account.pk)
    assert account.creates_blocked


def test_the_guards_half_hour_begins_anew_after_hours_without_lists(world: CloudWorld, monkeypatch) -> None:
    world.calm(monkeypatch)
    deployments = [_ready(world) for _ in range(3)]
    world.fail("list_machines", *[Fault.EMPTY] * 300)
    world.run(2 * MINUTE)
    world.now += timedelta(hours=2)  # the panel was down
    world.run(3 * MINUTE)
    assert all(settled(d) == State.READY for d in deployments)
    notice = Notice.objects.get(key=f"mass-disappearance:{world.account.pk}")
    assert notice.raised_at > world.now - 10 * MINUTE


def test_an_account_without_a_key_is_never_listed(world: CloudWorld) -> None:
    ProviderAccount.objects.update(credentials="")
    world.run(5 * MINUTE)
    assert world.provider.count("list_machines") == 0
    assert not observe.observe(world.account.pk, now=world.now)


def test_an_odd_list_marks_the_account_and_keeps_no_other_from_its_list(
    world: CloudWorld, monkeypatch
) -> None:
    deployment = _ready(world)
    i = deployment.instances.get()
    odd = Machine(i.remote_id, i.label, "no word of ours")
    monkeypatch.setattr(world.cloud, "list_machines", lambda: Listing((odd,), complete=True))
    world.run(MINUTE / 3)
    account = ProviderAccount.objects.get(pk=world.account.pk)
    assert "could not be applied" in account.list_error
    assert settled(deployment) == State.READY


def test_the_key_that_may_read_and_not_rent_stays_blocked_whatever_lists_say(world: CloudWorld) -> None:
    deployment = world.launch()
    world.fail("create", Fault.UNAUTHORIZED)
    world.run(3 * MINUTE)
    account = ProviderAccount.objects.get(pk=world.account.pk)
    assert account.create_refused
    assert not account.creates_blocked
    assert account.blocked
    assert world.provider.count("create") == 1
    assert not live(deployment)
    ProviderAccount.objects.update(create_refused="")  # a new key, or a test of the old one
    world.run(10 * MINUTE, until=lambda: settled(deployment) == State.READY)
    assert settled(deployment) == State.READY


def test_a_new_key_that_shows_none_of_our_machines_proves_nothing(world: CloudWorld) -> None:
    deployment = _ready(world)
    accounts.rotate(world.account, "a-key-of-another-team", actor=world.owner, now=world.now)
    world.fail("list_machines", *[Fault.EMPTY] * 400)
    world.run(5 * MINUTE)
    assert settled(deployment) == State.READY
    account = ProviderAccount.objects.get(pk=world.account.pk)
    assert "another team" in account.blocked
    assert open_notices().filter(key=f"account-stranger:{account.pk}").exists()

    services.terminate(fresh(deployment), actor=world.owner, now=world.now)
    world.fail("terminate", *[Fault.GONE] * 400)
    world.run(2 * MINUTE)
    assert settled(deployment) == State.TERMINATING, "a stranger's 404 was believed"

    world.fail("list_machines")
    world.fail("terminate")
    world.run(5 * MINUTE, until=lambda: settled(deployment) == State.TERMINATED)
    assert settled(deployment) == State.TERMINATED
    assert world.standing() == [FOREIGN]
    assert ProviderAccount.objects.get(pk=world.account.pk).blocked == ""
    assert not open_notices().filter(key=f"account-stranger:{account.pk}").exists()


def test_a_machine_that_was_renamed_in_the_console_stays_one_machine_and_breaks_no_list(
    world: CloudWorld,
) -> None:
    deployment = _ready(world)
    i = deployment.instances.get()
    with world.cloud._machines() as machines:
        machines[i.remote_id]["label"] += "-renamed"
    world.run(MINUTE)
    account = ProviderAccount.objects.get(pk=world.account.pk)
    assert account.list_error == ""
    assert world.now - account.listed_at < MINUTE
    assert list(Instance.objects.all()) == [i], "known by its id, whatever its label"
    services.terminate(fresh(deployment), actor=world.owner, now=world.now)
    world.run(3 * MINUTE)
    assert settled(deployment) == State.TERMINATED
    assert world.standing() == [FOREIGN]


def test_a_label_longer_than_any_of_ours_breaks_no_list(world: CloudWorld) -> None:
    i = _ready(world).instances.get()
    world.cloud.place(i.label.rsplit("-", 1)[0] + "-" + "7" * 150)
    world.run(MINUTE)
    assert ProviderAccount.objects.get(pk=world.account.pk).list_error == ""
    assert Instance.objects.count() == 2


def test_a_running_machine_that_is_said_to_cost_nothing_goes_on_accruing(world: CloudWorld) -> None:
    deployment = _ready(world)
    before = ledger.burn(now=world.now)
    with world.cloud._machines() as machines:
        machines[deployment.instances.get().remote_id]["usd_per_hour"] = "0"
    world.run(MINUTE / 2)
    assert ledger.burn(now=world.now) == before


def test_a_creation_before_there_was_such_a_provider_is_no_time_to_charge_from(world: CloudWorld) -> None:
    i = _found(world)
    Instance.objects.filter(pk=i.pk).update(remote_created_at="1970-01-02T00:00:00Z", create_sent_at=None)
    i.refresh_from_db()
    assert money._born(i, now=world.now) == world.now


def test_a_label_that_no_database_stores_breaks_no_list(world: CloudWorld) -> None:
    _ready(world)
    world.cloud.place("half a character \ud800 and a zero \0")
    world.run(MINUTE / 2)
    assert ProviderAccount.objects.get(pk=world.account.pk).list_error == ""
    assert ListedMachine.objects.filter(label__startswith="half a character").exists()
