"""The fault-injecting wrapper and the fake cloud keep their own promises; others' tests stand on them."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from deployments.providers.base import (
    MachineStatus,
    NoCapacity,
    Order,
    RateLimited,
    Secret,
    Unauthorized,
    Unknown,
)
from tests.providers.contract import ProviderContract, found, soon
from tests.providers.faulty import Crash, FakeCloud, Fault, Faulty, Point, exit_at, raise_at


class TestFakeCloud(ProviderContract):
    @pytest.fixture
    def provider(self) -> FakeCloud:
        return FakeCloud()


class TestFakeCloudInAFile(ProviderContract):
    @pytest.fixture
    def provider(self, tmp_path: Path) -> FakeCloud:
        return FakeCloud(path=tmp_path / "cloud.json")


class TestFaultyWithoutFaults(ProviderContract):
    @pytest.fixture
    def provider(self) -> Faulty:
        return Faulty(FakeCloud())


def an_order(cloud: FakeCloud, label: str = "regia-a-1") -> Order:
    return Order(
        label, cloud.offers[0], "qwen3-4b-awq", "Qwen/Qwen3-4B-AWQ", None, "qwen3-4b", 4096, Secret("k")
    )


@pytest.mark.parametrize("fault", [Fault.ERROR_AFTER, Fault.TIMEOUT_AFTER, Fault.LOST_RESPONSE])
def test_an_unclear_answer_leaves_a_machine(fault: Fault) -> None:
    cloud = FakeCloud()
    provider = Faulty(cloud, {"create": [fault]})
    with pytest.raises(Unknown):
        provider.create(an_order(cloud), deadline=soon())
    assert len(found(provider, "regia-a-1")) == 1
    assert provider.count("create", "regia-a-1") == 1


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.NO_CAPACITY, NoCapacity),
        (Fault.UNAUTHORIZED, Unauthorized),
        (Fault.RATE_LIMITED, RateLimited),
        (Fault.TIMEOUT_BEFORE, Unknown),
    ],
)
def test_a_refused_create_leaves_none(fault: Fault, error: type[Exception]) -> None:
    cloud = FakeCloud()
    provider = Faulty(cloud, {"create": [fault]})
    with pytest.raises(error):
        provider.create(an_order(cloud), deadline=soon())
    assert cloud.labels() == []


@pytest.mark.parametrize("fault", [Fault.LATE, Fault.OK_LATE])
def test_a_late_machine_is_listed_after_so_many_lists(fault: Fault) -> None:
    cloud = FakeCloud()
    provider = Faulty(cloud, {"create": [fault]}, late_lists=3)
    if fault is Fault.LATE:
        with pytest.raises(Unknown):
            provider.create(an_order(cloud), deadline=soon())
    else:
        assert provider.create(an_order(cloud), deadline=soon())
    assert [len(found(provider, "regia-a-1")) for _ in range(5)] == [0, 0, 0, 1, 1]
    assert cloud.labels() == ["regia-a-1"]


def test_a_late_machine_waits_for_its_moment() -> None:
    cloud = FakeCloud()
    may_show: list[bool] = []
    provider = Faulty(cloud, {"create": [Fault.OK_LATE]}, late_lists=0, late_until=lambda: bool(may_show))
    provider.create(an_order(cloud), deadline=soon())
    assert [len(found(provider, "regia-a-1")) for _ in range(3)] == [0, 0, 0]
    may_show.append(True)
    assert len(found(provider, "regia-a-1")) == 1


def test_lists_go_wrong_as_planned_and_come_back() -> None:
    cloud = FakeCloud()
    cloud.place("somebody-else")
    provider = Faulty(cloud, {"list_machines": [Fault.EMPTY, Fault.INCOMPLETE, Fault.MISSING]})
    provider.create(an_order(cloud), deadline=soon())
    empty, cut, missing, whole = (provider.list_machines() for _ in range(4))
    assert (empty.machines, empty.complete) == ((), True)
    assert (len(cut.machines), cut.complete) == (1, False)
    assert [m.label for m in missing.machines] == ["somebody-else"]
    assert missing.complete
    assert len(whole.machines) == 2


def test_terminate_fails_as_often_as_planned() -> None:
    cloud = FakeCloud()
    remote_id = cloud.place("regia-a-1")
    provider = Faulty(cloud, {"terminate": [Fault.ERROR_BEFORE] * 3})
    for _ in range(3):
        with pytest.raises(Unknown):
            provider.terminate(remote_id)
        assert cloud.labels() == ["regia-a-1"]
    provider.terminate(remote_id)
    assert cloud.labels() == []
    assert provider.count("terminate", remote_id) == 4


@pytest.mark.parametrize(
    ("point", "machines"), [(Point.BEFORE_REQUEST, 0), (Point.BEFORE_ANSWER, 1), (Point.AFTER_ANSWER, 1)]
)
def test_a_process_that_ends_at_a_point_leaves_what_was_sent(
    tmp_path: Path, point: Point, machines: int
) -> None:
    cloud = FakeCloud(path=tmp_path / "cloud.json")
    memory = tmp_path / "memory.jsonl"
    child = os.fork()
    if child == 0:
        Faulty(cloud, crash=exit_at(point), memory=memory).create(an_order(cloud), deadline=soon())
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 137
    assert len(cloud.labels()) == machines
    assert Faulty(cloud, memory=memory).count("create") == machines


def test_a_crash_in_process_happens_once() -> None:
    cloud = FakeCloud()
    provider = Faulty(cloud, crash=raise_at(Point.BEFORE_ANSWER))
    with pytest.raises(Crash):
        provider.create(an_order(cloud), deadline=soon())
    provider.create(an_order(cloud, "regia-a-2"), deadline=soon())
    assert cloud.labels() == ["regia-a-1", "regia-a-2"]


def test_what_is_hidden_is_remembered_by_the_next_process(tmp_path: Path) -> None:
    cloud = FakeCloud(path=tmp_path / "cloud.json")
    memory = tmp_path / "memory.jsonl"
    before = Faulty(cloud, {"create": [Fault.OK_LATE]}, late_lists=2, memory=memory)
    before.create(an_order(cloud), deadline=soon())
    assert found(before, "regia-a-1") == []
    after = Faulty(cloud, memory=memory)
    assert [len(found(after, "regia-a-1")) for _ in range(3)] == [0, 1, 1]


def test_the_cloud_charges_by_its_clock_and_the_price_of_the_moment() -> None:
    now = [datetime(2026, 11, 24, 12, tzinfo=UTC)]
    cloud = FakeCloud(clock=lambda: now[0])
    cloud.place("regia-a-1", usd_per_hour=Decimal("0.40"))
    now[0] += timedelta(minutes=30)
    cloud.set_price("regia-a-1", Decimal("0.80"))
    now[0] += timedelta(minutes=30)
    cloud.set_status("regia-a-1", MachineStatus.EXITED, detail="killed")
    now[0] += timedelta(hours=5)
    charges = cloud.charges(datetime(2026, 11, 24, tzinfo=UTC), now[0])
    assert [c.usd for c in charges] == [Decimal("0.20"), Decimal("0.40")]


def test_latency_is_slept(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    FakeCloud(latency=0.2).list_machines()
    assert 0.2 in slept
