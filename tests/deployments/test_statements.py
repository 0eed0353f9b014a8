"""Bills are read without a gap, repeats and faults included, and each line finds its machine."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from billing.models import Bill, ProviderStatement
from deployments import money, statements
from deployments.models import Deployment, Instance, ProviderAccount
from deployments.models.account import ADAPTERS
from deployments.models.offer import freeze_quote
from deployments.providers.base import Charge, Machine, MachineStatus, RateLimited, Unavailable
from tests.conftest import NOW
from tests.providers.fakecloud import TRAITS, fake_quote

pytestmark = pytest.mark.django_db

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
BORN = NOW.replace(hour=0)


class Cloud:
    """A provider that bills $1 an hour for each of its machines, whole hours."""

    def __init__(self) -> None:
        self.traits = TRAITS
        self.asked: list[tuple] = []
        self.errors: list[Exception] = []
        self.machines = {"m-1": ""}

    def charges(self, since, until):
        self.asked.append((since, until))
        if self.errors:
            raise self.errors.pop(0)
        hours = (until - since) // HOUR
        return [
            Charge(r, label, "compute", since, until, Decimal(hours)) for r, label in self.machines.items()
        ]


@pytest.fixture
def cloud(monkeypatch) -> Cloud:
    made = Cloud()
    monkeypatch.setitem(ADAPTERS, "runpod", lambda account: made)
    return made


@pytest.fixture
def account(cloud) -> ProviderAccount:
    return ProviderAccount.objects.create(name="Cloud", backend="runpod", credentials="sk-secret")


def an_instance(account, *, label="ours-1", remote_id="m-1") -> Instance:
    deployment = Deployment.objects.create(
        name="chat", model_key="qwen3-4b-awq", context=4096, created_at=BORN, launch_key=label
    )
    made = Instance.objects.create(
        deployment=deployment, account=account, attempt=1, label=label, quote=freeze_quote(fake_quote()), state="ready",
        usd_per_hour=1, state_since=BORN, created_at=BORN, create_sent_at=BORN, remote_id=remote_id,
    )  # fmt: skip
    money.open_subject(made, now=BORN)
    return made


def test_an_account_without_a_machine_is_not_asked(account, cloud):
    assert not statements.fetch(account, now=NOW)
    assert cloud.asked == []


def test_it_is_asked_once_an_hour_with_two_days_again(account, cloud):
    an_instance(account)
    assert statements.fetch(account, now=NOW)
    assert not statements.fetch(account, now=NOW + timedelta(minutes=59))
    assert statements.fetch(account, now=NOW + 5 * DAY)
    assert statements.fetch(account, now=NOW + 5 * DAY + HOUR)
    assert cloud.asked == [
        (BORN, BORN + DAY), (BORN, BORN + 6 * DAY), (BORN + 3 * DAY, BORN + 6 * DAY)
    ]  # fmt: skip
    assert [r.start for r in ProviderStatement.objects.order_by("start")] == [
        BORN + n * DAY for n in range(6)
    ]


def test_after_weeks_down_it_catches_up_a_week_at_a_time_and_leaves_no_gap(account, cloud):
    an_instance(account)
    statements.fetch(account, now=NOW)
    now = NOW + 90 * DAY
    for n in range(5):
        statements.fetch(account, now=now + n * timedelta(minutes=2))
    assert max(until - since for since, until in cloud.asked) == 7 * DAY
    assert ProviderStatement.objects.count() == 91
    assert Bill.objects.get().told_until >= now


@pytest.mark.parametrize(
    "error",
    [Unavailable("sk-secret is not answered"), RateLimited("slow down", retry_after=60), KeyError("data")],
)
def test_an_error_stands_still_with_its_reason_and_goes_on_from_there(account, cloud, error):
    an_instance(account)
    statements.fetch(account, now=NOW)
    cloud.errors = [error]
    assert not statements.fetch(account, now=NOW + 3 * DAY)
    bill = Bill.objects.get()
    assert bill.error
    assert "sk-secret" not in bill.error
    assert (bill.told_until, bill.error_at) == (NOW, NOW + 3 * DAY)
    assert statements.fetch(account, now=NOW + 3 * DAY + HOUR)
    bill.refresh_from_db()
    assert (bill.error, bill.error_at, bill.told_until) == ("", None, NOW + 3 * DAY + HOUR)


def test_a_worker_that_dies_between_two_windows_loses_none(account, cloud):
    an_instance(account)
    statements.fetch(account, now=NOW)
    cloud.errors = []
    asked = cloud.charges

    def dies(since, until):
        if len(cloud.asked) == 2:
            raise SystemExit
        return asked(since, until)

    cloud.charges = dies
    with pytest.raises(SystemExit):
        statements.fetch(account, now=NOW + 20 * DAY)
    cloud.charges = asked
    statements.fetch(account, now=NOW + 20 * DAY + HOUR)
    assert ProviderStatement.objects.count() == 21


def test_each_line_finds_its_machine_a_double_its_own_and_a_stranger_none(account, cloud):
    one, unseen = an_instance(account), an_instance(account, label="ours-2", remote_id="")
    money.begin_duplicate(one, Machine("m-2", one.label, MachineStatus.RUNNING), now=BORN)
    cloud.machines = {"m-1": "", "m-2": one.label, "m-3": unseen.label, "m-4": "ours-1", "m-5": "somebody"}
    statements.fetch(account, now=NOW)
    found = dict(ProviderStatement.objects.values_list("remote_id", "subject_id"))
    assert found == {
        "m-1": one.pk, "m-2": money.duplicate_id(one, "m-2"), "m-3": unseen.pk, "m-4": None, "m-5": None
    }  # fmt: skip


def test_a_charge_over_two_days_is_cut_by_time_and_loses_nothing():
    charge = Charge("m", "", "compute", BORN + 20 * HOUR, BORN + 30 * HOUR, Decimal(10))
    cut = list(statements._cut(charge, DAY))
    assert [(start, usd, seconds) for start, _, usd, seconds in cut] == [
        (BORN, Decimal(4), 4 * 3600), (BORN + DAY, Decimal(6), 6 * 3600)
    ]  # fmt: skip
