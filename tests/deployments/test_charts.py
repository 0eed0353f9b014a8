"""What the charts show: samples of many machines as one line, events on the time axis, and the pages around them."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from deployments.lifecycle import State
from deployments.models import Deployment, Event, Heartbeat, Incident, Instance
from deployments.monitoring import samples
from deployments.views import boards, glance, markers, timerange
from deployments.views.boards import CANARY_TTFT, REQUESTS, TTFT, UP, value
from tests import factories
from tests.browser import scene, scene_samples

T0 = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


def row(seconds, **values):
    return T0 + timedelta(seconds=seconds), values


def grid(rows, *charts):
    keys = [s.key for chart in charts for s in chart.series]
    at = [int(moment.timestamp()) for moment, _ in rows]
    columns = {key: [values.get(key) for _, values in rows] for key in keys}
    return boards.grid_of(samples.Together(15, at, columns))


def hour(now):
    return timerange.read({}, now=now)[0]


# -- one line ---------------------------------------------------------------------------------------------


def test_a_pause_separates_a_line_and_one_missed_reading_does_not():
    found = grid([row(0, up=1.0), row(30, up=1.0), row(300, up=1.0)], UP)
    assert found.columns["up"] == [1.0, 1.0, None, 1.0]
    assert [at - found.at[0] for at in found.at] == [0, 30, 45, 300]


def test_a_chart_without_any_value_says_so_and_has_no_row():
    chart = boards.draw(TTFT, grid([row(0, up=1.0)], TTFT, UP), hour(T0))
    assert not chart.known
    assert not chart.rows
    assert {line.latest for line in chart.lines} == {"n/a"}


def test_a_row_of_the_table_tells_the_slowest_of_its_time_and_the_mean_count():
    shown = hour(T0 + timedelta(minutes=1))
    told = [row(s, running=n, ttft_p95=t) for s, n, t in ((0, 1, 0.2), (15, 3, 0.8), (30, 5, 0.4))]
    found = grid(told, REQUESTS, TTFT)
    (at, texts), *more = boards.draw(TTFT, found, shown).rows
    assert (at, texts, more) == (T0, ("n/a", "800 ms", "n/a"), [])
    assert boards.draw(REQUESTS, found, shown).rows[0][1] == ("3", "n/a")


def test_what_was_told_long_ago_is_not_called_the_present():
    told = [row(0, running=9, up=1.0), *(row(15 * n, up=1.0) for n in range(1, 20))]
    drawn = boards.draw(REQUESTS, grid(told, REQUESTS, UP), hour(T0 + timedelta(minutes=5)))
    assert drawn.lines[0].latest == "n/a"
    assert drawn.known


def test_canaries_minutes_apart_are_one_line():
    told = [row(15 * n, canary_ttft=0.5 if n % 20 == 0 else None) for n in range(100)]
    drawn = boards.draw(CANARY_TTFT, grid(told, CANARY_TTFT), hour(T0 + timedelta(minutes=25)))
    assert drawn.lines[0].line.path.count("M") == 1
    assert drawn.lines[0].line.path.count("L") == 4


@pytest.mark.parametrize(
    ("number", "unit", "text"),
    [
        (None, "s", "n/a"), (0.0, "s", "0 ms"), (0.4123, "s", "412 ms"), (0.0121, "s", "12.1 ms"), (4.2, "s", "4.2 s"),
        (0.05, "share", "5 %"), (0.999, "share", "99.9 %"), (1.0, "share", "100 %"), (12345.6, "tokens/s", "12,346 tok/s"),
        (2.0, "requests", "2"), (0.333, "requests/min", "0.33/min"),
    ],
)  # fmt: skip
def test_a_value_is_written_with_its_unit(number, unit, text):
    assert value(number, unit) == text


# -- the pages --------------------------------------------------------------------------------------------


@pytest.fixture
def now():
    return timezone.now()


@pytest.fixture
def made(db, now):
    built = scene.build(now=now)
    scene_samples.tell(built.ready, now=now)
    return built


@pytest.fixture
def admin(client, made):
    client.force_login(made.administrator)
    return client


def numbers(client, path):
    response = client.get(path)
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"
    return json.loads(response.content)


def test_the_page_has_every_chart_as_a_picture_with_its_table_and_no_inline_style(admin, made):
    page = admin.get(f"/deployments/{made.ready.pk}/metrics/").text
    assert page.count('class="lines"') == len(boards.DEPLOYMENT)
    assert page.count("As a table") == len(boards.DEPLOYMENT)
    assert re.search(r'<path class="k2" d="M[\d.]+ [\d.]+L', page)
    assert "style=" not in page
    assert "hx-get" not in page.split('id="panel"')[1].split(">")[0]


def test_the_numbers_are_those_that_were_told(admin, made, now):
    samples.record(made.ready.instances.get().pk, now, {"running": 77.0})
    told = numbers(admin, f"/deployments/{made.ready.pk}/series/")
    assert told["series"]["running"][-1] == 77
    assert told["until"] - told["since"] == 3600
    assert len(told["at"]) == len(told["series"]["ttft_p95"]) > 200
    assert None in told["series"]["ttft_p95"]
    assert set(told["html"]) == {
        "board-bar", "board-marks", "board-silence", *(f"legend-{c.key}" for c in boards.DEPLOYMENT),
        *(f"table-{c.key}-rows" for c in boards.DEPLOYMENT),
    }  # fmt: skip


def test_a_months_numbers_are_at_most_2000_and_a_minute_of_them_is_shown_too(admin, made, now):
    assert len(numbers(admin, f"/deployments/{made.ready.pk}/series/?range=30d")["at"]) <= 2000
    begin = now - timedelta(minutes=20)
    one = f"?from={begin:%Y-%m-%dT%H:%M:%S}Z&to={begin + timedelta(seconds=59):%Y-%m-%dT%H:%M:%S}Z"
    assert 3 <= len(numbers(admin, f"/deployments/{made.ready.pk}/series/{one}")["at"]) <= 5


def another(machine):
    """The deployment's next attempt."""
    values = {
        f.attname: getattr(machine, f.attname) for f in Instance._meta.concrete_fields if not f.primary_key
    }
    more = {"attempt": machine.attempt + 1, "label": uuid4().hex, "remote_id": uuid4().hex}
    return Instance.objects.create(**values | more)


def test_the_machine_before_is_shown_as_well(admin, made, now):
    old = made.ready.instances.get()
    another(old)
    Instance.objects.filter(pk=old.pk).update(state=State.TERMINATED, ended_at=now - timedelta(minutes=10))
    assert any(v for v in numbers(admin, f"/deployments/{made.ready.pk}/series/")["series"]["running"])


def test_the_fleets_line_is_the_sum_of_its_machines_or_the_slowest_of_them(admin, made, now):
    at = now - timedelta(minutes=50)
    serving = Instance.objects.filter(created_at__lt=at, state__in=["ready", "degraded"])
    for n, machine in enumerate(serving, 1):
        samples.record(machine.pk, at, {"running": 10.0, "ttft_p95": n / 1.0, "up": n % 2})
    assert len(serving) > 1
    told = numbers(admin, "/series/")
    place = told["at"].index(int(at.timestamp()) // 15 * 15)
    assert told["series"]["running"][place] == 10 * len(serving)
    assert told["series"]["ttft_p95"][place] == len(serving)
    assert 0 < told["series"]["up"][place] < 1


def test_several_buckets_of_several_machines_are_the_mean_of_their_sums(made, now):
    machines = list(Instance.objects.filter(state__in=["ready", "degraded"])[:2])
    begin = now - timedelta(hours=5)
    begin -= timedelta(seconds=begin.timestamp() % 120)
    until = begin + timedelta(minutes=10)
    for minute in range(10):
        for machine in machines:
            samples.record(machine.pk, begin + timedelta(minutes=minute), {"running": float(minute)})
    Heartbeat.objects.filter(name__startswith="samples").delete()
    samples.roll_up(now)
    ids = [m.pk for m in machines]
    told = samples.read_together(ids, {"running": "sum"}, begin, until, points=6, now=now)
    assert told.step == 120
    assert told.columns == {"running": [1, 5, 9, 13, 17]}
    assert told.at == [int(begin.timestamp()) + 120 * n for n in range(5)]
    with pytest.raises(KeyError):
        samples.read_together([machines[0].pk], {"nonsense": "sum"}, begin, until)
    with pytest.raises(KeyError):
        samples.read_together([machines[0].pk], {"running": "nonsense"}, begin, until)


def test_the_overview_still_draws_what_machines_told_that_are_gone(admin, made, now):
    Instance.objects.update(state=State.TERMINATED, ended_at=now - timedelta(minutes=10))
    assert re.search(r'<path class="k1" d="M[\d.]+ [\d.]+L', admin.get("/").text)


def test_an_unreadable_range_is_said_on_the_page(admin, made):
    page = admin.get(f"/deployments/{made.ready.pk}/metrics/?from=x&to=%00").text
    assert "That time range cannot be read. Shown is the last hour." in page


def test_a_stranger_gets_404_and_somebody_without_a_role_nothing(client, made):
    client.force_login(factories.user())
    for path in (
        f"/deployments/{made.ready.pk}/series/",
        f"/deployments/{made.ready.pk}/metrics/",
        "/series/",
    ):
        assert client.get(path).status_code in (403, 404)
    client.force_login(factories.viewer())
    assert client.get(f"/deployments/{uuid4()}/series/").status_code == 404
    assert client.get(f"/deployments/{made.ready.pk}/series/").status_code == 200


def test_the_first_page_and_the_list_show_the_last_hour_small(admin, made):
    assert "First token, p95" in admin.get(f"/deployments/{made.ready.pk}/").text
    assert "First token, p95" not in admin.get(f"/deployments/{made.starting.pk}/").text
    for path in ("/", "/deployments/"):
        assert re.search(r"Tokens out, the last hour: [\d.]+ tok/s on average, at most", admin.get(path).text)


def test_a_silent_machines_last_value_is_not_called_the_present(made, now):
    later = now + timedelta(minutes=10)
    spark = glance.rows([_with_machine(made.ready)], now=later)[made.ready.pk]
    assert spark.latest == "n/a"
    assert "on average" in spark.label


def _with_machine(d):
    return Deployment.objects.get(pk=d.pk)


def asked(client, path, part=""):
    headers = {"HX-Request": "true", "HX-Target": part} if part else {}
    with CaptureQueriesContext(connection) as captured:
        assert client.get(path, headers=headers).status_code == 200
    return len(captured)


def test_a_page_asks_a_bounded_number_of_queries_and_its_polls_fewer(admin, made):
    one = f"/deployments/{made.ready.pk}/"
    bounds = {
        # Two of them for the scene's several budgets.
        ("/", ""): 17, ("/", "fleet"): 15, (one, ""): 13, (one, "status"): 7, (one, "panel"): 11,
        (f"{one}metrics/", ""): 11, (f"{one}series/", ""): 7, ("/series/", ""): 6,
    }  # fmt: skip
    told = {(path, part): asked(admin, path, part) for path, part in bounds}
    assert not {key: n for key, n in told.items() if n > bounds[key]}


# -- events on the time axis --------------------------------------------------------------------------------


def marks(d, now):
    return [(m.word, m.tone) for m in markers.of([d.pk], hour(now))]


def test_a_trouble_and_its_end_stand_on_the_axis(made, now):
    assert marks(made.ready, now) == [("Degraded", "warn"), ("Recovered", "ok")]


def test_a_launch_a_restart_and_an_end_each_stand_there_once(made, now):
    d = made.starting
    machine = another(d.instances.get())
    Event.objects.create(
        deployment=d, instance=machine, at=now, kind="state", from_state="", to_state=State.REQUESTED
    )
    Event.objects.create(deployment=d, instance=machine, at=now, kind="state", from_state=State.LOADING, to_state=State.FAILED, reason="No room.")  # fmt: skip
    found = marks(d, now)
    assert found[0] == ("Launch", "")
    assert ("Restart, attempt 2", "warn") in found
    assert ("Failed", "critical") in found
    assert [m.detail for m in markers.of([d.pk], hour(now)) if m.word == "Failed"] == ["No room."]


def test_markers_outside_the_range_and_of_other_deployments_are_not_shown(made, now):
    shown = timerange.read({"range": "1h"}, now=now - timedelta(hours=2))[0]
    assert not markers.of([made.ready.pk], shown)
    assert "Failed" not in [word for word, _ in marks(made.ready, now)]


def test_overlapping_incidents_are_one_band_as_grave_as_the_gravest():
    def lasts(begin, end, tone):
        at = T0 + timedelta(minutes=begin)
        return markers.Marker(at, tone, "", "", "", "", "", "", until=end and T0 + timedelta(minutes=end))

    shown = hour(T0 + timedelta(minutes=60))
    marks = [lasts(-30, 6, "warn"), lasts(3, 12, "critical"), lasts(4, None, "ok"), lasts(30, 60, "warn")]
    found = [(b.tone, b.x, b.width) for b in markers.bands(marks, shown)]
    assert found == [("critical", "0.00%", "20.00%"), ("warn", "50.00%", "50.00%")]


def test_an_incident_stands_for_the_state_that_it_is_about(made, now):
    incident = Incident.objects.create(
        cause="x", kind="down", severity="critical", title="It is down", deployment=made.ready,
        opened_at=now - timedelta(minutes=38) + timedelta(seconds=20), over_at=now - timedelta(minutes=34),
    )  # fmt: skip
    first, second = markers.of([made.ready.pk], hour(now))
    assert (first.word, first.tone, first.url) == ("Incident: Down", "critical", incident.get_absolute_url())
    assert first.until == incident.over_at
    assert second.word == "Recovered"
