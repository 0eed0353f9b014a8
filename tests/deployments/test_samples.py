"""Samples: what is written is read again, in every resolution, and it stays small."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import uuid4

import pytest

from deployments import observe
from deployments.models import Heartbeat, Instance, Sample
from deployments.monitoring import samples
from deployments.monitoring.samples import HOUR, METRICS, MINUTE, QUARTER, RAW
from deployments.providers.base import Machine, MachineStatus
from tests.conftest import NOW
from tests.playground.rows import attempt, chatting_deployment

pytestmark = pytest.mark.django_db
SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)


def machine() -> Instance:
    return chatting_deployment("http://127.0.0.1:9", now=NOW).instances.get()


def values(i: Instance, key: str, since: datetime, until: datetime, **options) -> list[float | None]:
    return [p.values[key] for p in samples.read([i.pk], [key], since, until, now=NOW, **options)]


def count(resolution: int) -> int:
    return Sample.objects.filter(resolution=resolution).count()


def test_what_is_recorded_is_read_again() -> None:
    i = machine()
    samples.record(i.pk, NOW, {"running": 3, "kv_use": 0.25})
    (point,) = samples.read([i.pk], ["running", "kv_use", "waiting"], NOW - DAY / 24, NOW + SECOND, now=NOW)
    assert (point.at, point.instance_id) == (NOW, i.pk)
    assert point.values == {"running": 3.0, "kv_use": 0.25, "waiting": None}


def test_every_metric_has_a_column_and_a_unit() -> None:
    i = machine()
    samples.record(i.pk, NOW, dict.fromkeys(METRICS, 0.5))
    (point,) = samples.read([i.pk], list(METRICS), NOW, NOW + SECOND, now=NOW)
    assert set(point.values.values()) == {0.5}
    assert {m.unit for m in METRICS.values()} == {"requests", "s", "tokens/s", "requests/min", "share"}


def test_writing_twice_is_writing_once() -> None:
    i = machine()
    for _ in range(2):
        samples.record(i.pk, NOW, {"running": 3})
        samples.record(i.pk, NOW + 2 * SECOND, {"waiting": 1})
    samples.roll_up(NOW)
    before = list(Sample.objects.order_by("pk").values())
    samples.roll_up(NOW)
    assert list(Sample.objects.order_by("pk").values()) == before
    assert (count(RAW), count(MINUTE), count(HOUR)) == (1, 1, 1)
    assert Sample.objects.get(resolution=RAW).running == 3.0
    assert Sample.objects.get(resolution=RAW).waiting == 1.0


def test_a_later_value_replaces_one_but_a_failed_probe_is_not_hidden_by_a_good_one() -> None:
    i = machine()
    for up, running in ((1, 1), (0, 2), (1, 3)):
        samples.record(i.pk, NOW, {"up": up, "running": running})
    row = Sample.objects.get(resolution=RAW)
    assert (row.up, row.running) == (0.0, 3.0)


def test_nothing_observed_writes_nothing_and_takes_nothing_away() -> None:
    i = machine()
    samples.record(i.pk, NOW, {"running": None, "waiting": float("nan"), "kv_use": float("inf")})
    assert not Sample.objects.exists()
    samples.record(i.pk, NOW, {"running": 2})
    samples.record(i.pk, NOW, {"running": None, "waiting": 1})
    assert values(i, "running", NOW, NOW + SECOND) == [2.0]


def test_a_name_that_is_no_metric_is_refused() -> None:
    i = machine()
    with pytest.raises(KeyError):
        samples.record(i.pk, NOW, {"1; DROP TABLE": 1})
    with pytest.raises(KeyError):
        samples.read([i.pk], ["bucket FROM x; --"], NOW, NOW + SECOND)


def test_what_a_list_says_of_a_gpu_is_a_sample_of_what_serves() -> None:
    serving, starting = machine(), machine()
    serving.remote_id, starting.remote_id, starting.state = "a", "b", "loading"
    listed = {n: Machine(n, "", MachineStatus.RUNNING, gpu_use=0.5) for n in "abc"}
    observe._note_gpus([serving, starting, machine()], listed, now=NOW)
    assert [(s.monitor.instance_id, s.gpu_use) for s in Sample.objects.all()] == [(serving.pk, 0.5)]


def test_an_instance_that_is_gone_is_passed_over() -> None:
    i = machine()
    samples.record_many([(uuid4(), NOW, {"running": 1}), (i.pk, NOW, {"running": 2})])
    assert [s.running for s in Sample.objects.all()] == [2.0]
    assert samples.read([uuid4()], ["running"], NOW, NOW + SECOND, now=NOW) == []


def test_minutes_and_hours_are_means_of_what_was_observed() -> None:
    i = machine()
    begin = NOW - timedelta(hours=1)
    for n in range(240):  # an hour of samples, the last half of each minute twice the first
        samples.record(i.pk, begin + n * RAW * SECOND, {"running": 1 if n % 4 < 2 else 2})
    samples.roll_up(NOW)
    assert count(MINUTE) == 60
    assert set(Sample.objects.filter(resolution=MINUTE).values_list("running", flat=True)) == {1.5}
    assert list(Sample.objects.filter(resolution=HOUR).values_list("running", "waiting")) == [(1.5, None)]


def test_a_quantile_over_a_minute_has_the_weight_of_what_was_observed() -> None:
    i = machine()
    samples.record(i.pk, NOW, {"ttft_p95": 0.1, "ttft_count": 99})
    samples.record(i.pk, NOW + RAW * SECOND, {"ttft_p95": 10.1, "ttft_count": 1})
    samples.record(i.pk, NOW + 2 * RAW * SECOND, {"running": 1})
    samples.roll_up(NOW + timedelta(minutes=1))
    minute = Sample.objects.get(resolution=MINUTE)
    assert minute.ttft_p95 == pytest.approx(0.2)
    assert minute.ttft_count == 100


def test_quarters_of_days_are_made_of_the_hours_that_stand_and_are_kept_for_ever() -> None:
    i = machine()
    monitor = samples.monitors([i.pk])[i.pk]
    day = samples._bucket(NOW - 400 * DAY, 86_400)
    Sample.objects.bulk_create(
        Sample(monitor_id=monitor, resolution=HOUR, bucket=day + 3600 * n, running=n, itl_p95=n, itl_count=n)
        for n in range(12)
    )
    samples.roll_up(NOW)
    found = Sample.objects.filter(resolution=QUARTER).order_by("bucket")
    assert list(found.values_list("bucket", "running")) == [(day, 2.5), (day + QUARTER, 8.5)]
    assert found[0].itl_p95 == pytest.approx(55 / 15)
    samples.purge(NOW)
    assert count(QUARTER) == 2


def test_months_of_many_machines_are_read_from_quarters_of_days() -> None:
    many = {"instances": 100, "now": NOW}
    assert samples.step(NOW - 90 * DAY, NOW, points=60, **many) == 7 * QUARTER
    # Who wants each hour gets it.
    assert samples.step(NOW - 7 * DAY, NOW, points=168, **many) % HOUR == 0
    assert samples._resolution_and_step(NOW - 30 * DAY, NOW, points=1000, folded=True, **many) == (
        QUARTER,
        QUARTER,
    )
    one = samples._resolution_and_step(NOW - 30 * DAY, NOW, points=1000, folded=True, instances=1, now=NOW)
    assert one == (HOUR, HOUR)


def test_a_query_for_machines_stands_for_their_ids() -> None:
    i = machine()
    samples.record(i.pk, NOW, {"running": 3})
    ask = {"since": NOW, "until": NOW + SECOND, "now": NOW}
    machines = Instance.objects.all()
    assert samples.read_together(machines, {"running": "sum"}, count=1, **ask).columns == {"running": [3.0]}
    assert samples.read_together(machines.none(), {"running": "sum"}, count=1, **ask).at == []
    with pytest.raises(ValueError, match="how many"):
        samples.read_together(machines, {"running": "sum"}, **ask)


def test_roll_up_goes_on_where_it_stopped() -> None:
    i = machine()
    samples.roll_up(NOW - timedelta(hours=5))
    for hours in (4, 3, 1):
        samples.record(i.pk, NOW - timedelta(hours=hours), {"running": hours})
    samples.roll_up(NOW)
    assert list(Sample.objects.filter(resolution=HOUR).order_by("bucket").values_list("running", flat=True)) == [
        4.0, 3.0, 1.0,
    ]  # fmt: skip


def test_roll_up_goes_on_although_the_clock_was_put_back() -> None:
    i = machine()
    samples.roll_up(NOW + 2 * DAY)
    samples.record(i.pk, NOW, {"running": 1})
    samples.roll_up(NOW + SECOND)
    assert count(MINUTE) == 1
    assert Heartbeat.objects.get(name="samples-60").at == NOW + SECOND


def test_only_what_is_old_is_purged_and_hours_are_kept_for_ever() -> None:
    i = machine()
    for at in (NOW - timedelta(hours=49), NOW - timedelta(hours=47)):
        samples.record(i.pk, at, {"running": 1})
    samples.roll_up(NOW - timedelta(hours=46))
    monitor = i.monitor.pk
    Sample.objects.create(monitor_id=monitor, resolution=MINUTE, bucket=samples._bucket(NOW - 31 * DAY, 60))
    Sample.objects.create(monitor_id=monitor, resolution=HOUR, bucket=samples._bucket(NOW - 900 * DAY, 3600))
    assert samples.purge(NOW) == 2
    assert (count(RAW), count(MINUTE), count(HOUR)) == (1, 2, 3)
    assert samples.purge(NOW) == 0


def test_a_purge_of_much_goes_in_slices(monkeypatch) -> None:
    monkeypatch.setattr(samples, "_PURGED_BUCKETS", 3)
    i = machine()
    for n in range(8):
        samples.record(i.pk, NOW - 3 * DAY + n * RAW * SECOND, {"running": 1})
    assert samples.purge(NOW) == 8


@pytest.mark.parametrize(
    ("span", "step"),
    [
        (timedelta(hours=1), 15), (timedelta(hours=6), 15), (timedelta(hours=24), 60),
        (timedelta(days=7), 360), (timedelta(days=30), 3600), (timedelta(days=365), 21600),
    ],
)  # fmt: skip
def test_a_range_never_has_more_buckets_than_asked_for(span: timedelta, step: int) -> None:
    assert samples.step(NOW - span, NOW, now=NOW) == step
    assert span.total_seconds() / step < 2000


def test_what_is_read_comes_from_the_resolution_that_is_still_kept() -> None:
    long_ago = NOW - 5 * DAY
    assert samples.step(long_ago, long_ago + timedelta(minutes=5), now=NOW) == MINUTE
    assert samples.step(NOW - 60 * DAY, NOW - 59 * DAY, now=NOW) == HOUR
    # Many instances: rather coarse than slow.
    assert samples.step(NOW - 7 * DAY, NOW, instances=100, now=NOW) == HOUR


def test_many_buckets_become_few_and_no_gap_is_filled() -> None:
    i = machine()
    for n in (*range(20), *range(40, 50)):
        samples.record(i.pk, NOW + timedelta(minutes=n - 60), {"running": n, "itl_p95": n, "itl_count": n})
    samples.roll_up(NOW)
    hour = (NOW - timedelta(hours=1), NOW)
    assert samples.step(*hour, points=7, now=NOW) == 600
    assert values(i, "running", *hour, points=7) == [4.5, 14.5, 44.5]
    # The heavier minutes count for more.
    assert values(i, "itl_p95", *hour, points=7)[0] == pytest.approx(sum(n * n for n in range(10)) / 45)


def test_a_range_ends_before_its_end() -> None:
    i = machine()
    for n in range(4):
        samples.record(i.pk, NOW + n * RAW * SECOND, {"running": n})
    assert values(i, "running", NOW + 15 * SECOND, NOW + 45 * SECOND) == [1.0, 2.0]
    assert values(i, "running", NOW, NOW) == []


def test_instances_are_kept_apart() -> None:
    i = machine()
    other = attempt(i.deployment, "http://127.0.0.1:9", now=NOW)
    for n, one in enumerate((i, other)):
        for seconds in (0, 15):
            samples.record(one.pk, NOW + seconds * SECOND, {"running": n})
    found = samples.read([i.pk, other.pk], ["running"], NOW, NOW + DAY / 24, now=NOW)
    assert [(p.instance_id, p.values["running"]) for p in found] == [
        (i.pk, 0.0), (other.pk, 1.0), (i.pk, 0.0), (other.pk, 1.0),
    ]  # fmt: skip


def test_many_instances_are_read_in_one_query(django_assert_num_queries) -> None:
    i = machine()
    ids = [i.pk, *(attempt(i.deployment, "http://127.0.0.1:9", now=NOW).pk for _ in range(40))]
    samples.record_many((pk, NOW, {"running": 1}) for pk in ids)
    with django_assert_num_queries(1):
        assert len(samples.read(ids, ["running"], NOW, NOW + SECOND, now=NOW)) == 41
