"""The lease: who renews it keeps the machine, and time alone ends it."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from regia_machine import watchdog
from regia_machine.exits import Ending, Exit
from regia_machine.watchdog import BadRequest, Renewal, Watchdog, read

from tests.image.doors import settings_of, soon
from tests.image.running import IMAGE, KEY

LEASE, DRAIN = 300, 60
SECOND = "another-key-0123456789"


class World:
    """A watchdog, a clock that a test moves, and what the watchdog did."""

    def __init__(self, folder: Path, *, drain: int = DRAIN) -> None:
        self.at = 1000.0
        self.did: list[Any] = []
        self.failure: Exception | None = None
        settings = settings_of(folder, 1, REGIA_LEASE_SECONDS=str(LEASE), REGIA_DRAIN_SECONDS=str(drain))
        self.port = settings.lease_port
        self.dog = Watchdog(
            settings,
            on_keys=self.keys,
            on_draining=self.draining,
            on_lapse=lambda: self.did.append("lapse"),
            began=self.at,
            clock=lambda: self.at,
        )

    def keys(self, keys: Sequence[str]) -> None:
        self._fail()
        self.did.append(("keys", *keys))

    def draining(self, on: bool) -> None:
        self._fail()
        self.did.append("drain" if on else "serve")

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure

    def wait(self, seconds: float) -> None:
        self.at += seconds
        self.dog.tick()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# -- time ---------------------------------------------------------------------------------------


def test_a_lease_that_nobody_renews_drains_and_then_lapses_once(world: World) -> None:
    world.wait(LEASE - 0.1)
    assert world.did == []
    world.wait(0.1)
    assert (world.did, world.dog.state) == (["drain"], "draining")
    world.wait(DRAIN - 0.1)
    assert world.did == ["drain"]
    world.wait(0.1)
    world.wait(1000)
    assert world.did == ["drain", "lapse"]


def test_the_first_period_begins_with_the_machine_not_with_the_door(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, 1, REGIA_LEASE_SECONDS="300", REGIA_DRAIN_SECONDS="0")
    did: list[str] = []
    dog = Watchdog(
        settings, on_keys=lambda keys: None, on_draining=lambda on: None, on_lapse=lambda: did.append("lapse"),
        began=watchdog.now() - 301,
    )  # fmt: skip
    dog.tick()
    assert did == ["lapse"]


def test_a_renewal_counts_from_when_it_came(world: World) -> None:
    world.wait(LEASE - 1)
    assert world.dog.renew(Renewal(60, None)) == {"expires_in": 60, "state": "starting", "keys": 1}
    world.wait(59)
    assert world.did == []
    world.wait(1)
    assert world.did == ["drain"]


def test_a_panel_that_is_back_in_time_saves_the_machine(world: World) -> None:
    world.dog.serving()
    world.wait(LEASE + DRAIN - 1)
    assert world.dog.state == "draining"
    assert world.dog.renew(Renewal(7200, None)) == {"expires_in": 7200, "state": "serving", "keys": 1}
    world.wait(7199)
    assert world.did == ["drain", "serve"]
    world.wait(1 + DRAIN)
    assert world.did == ["drain", "serve", "drain", "lapse"]


def test_a_panel_that_is_back_too_late_is_told_so(world: World) -> None:
    world.wait(LEASE + DRAIN)
    assert world.dog.renew(Renewal(7200, (SECOND,))) is None
    assert world.did == ["drain", "lapse"]


def test_a_machine_that_is_told_to_stop_is_left_alone(world: World) -> None:
    world.dog.leaving()
    world.wait(LEASE + DRAIN)
    assert world.did == []
    assert world.dog.renew(Renewal(60, None)) is None


@given(
    steps=st.lists(st.tuples(st.floats(0, 400), st.integers(60, 500)), max_size=12), drain=st.integers(0, 200)
)
def test_it_lapses_when_nobody_renewed_for_the_lease_and_the_drain_and_never_before(
    steps: list[tuple[float, int]], drain: int
) -> None:
    world = World(Path("/nonexistent"), drain=drain)
    expires_at, over = world.at + LEASE, False
    for pause, seconds in steps:
        world.wait(pause)
        over = over or world.at - expires_at >= drain
        assert ("lapse" in world.did) == over
        if not over:
            assert world.dog.renew(Renewal(seconds, None)) is not None
            expires_at = world.at + seconds
            assert world.dog.state == "starting"
        else:
            assert world.dog.renew(Renewal(seconds, None)) is None
    assert world.did.count("lapse") == over


def test_the_time_of_day_is_never_asked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: object) -> float:
        raise AssertionError("Somebody may set the time of day.")

    real, wall_clock = time.clock_gettime, (time.CLOCK_REALTIME, time.CLOCK_TAI)
    for name in ("time", "time_ns", "gmtime", "localtime"):
        monkeypatch.setattr(time, name, forbidden)
    monkeypatch.setattr(
        time, "clock_gettime", lambda clock: forbidden() if clock in wall_clock else real(clock)
    )
    assert watchdog.now() > 0
    world.wait(LEASE)
    world.dog.renew(Renewal(60, None))
    world.wait(60 + DRAIN)
    assert world.did == ["drain", "serve", "drain", "lapse"]


def test_its_clock_is_the_kernels_since_its_start() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    found = watchdog.now()
    assert before <= found <= time.clock_gettime(time.CLOCK_BOOTTIME)


ASLEEP = 7200


def test_what_the_machine_sleeps_through_counts() -> None:
    """In a time namespace whose machine has slept for two hours: only the boot clock is ahead."""
    unshare = ["unshare", "--time", "--boottime", str(ASLEEP)]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("no time namespace can be made here")
    program = "import time; from regia_machine.watchdog import now; print(now() - time.monotonic())"
    command = [sys.executable, "-c", program]
    here = _slept(command)
    assert _slept([*unshare, *command]) - here == pytest.approx(ASLEEP, abs=1)


def _slept(command: list[str]) -> float:
    done = subprocess.run(command, env={"PYTHONPATH": str(IMAGE)}, capture_output=True, text=True, check=True)
    return float(done.stdout)


def test_it_looks_at_the_clock_often_so_a_waking_machine_ends_soon(world: World) -> None:
    world.dog.start()
    try:
        world.at += LEASE + DRAIN
        assert soon(lambda: world.did == ["drain", "lapse"], seconds=4 * watchdog.TICK + 2)
    finally:
        world.dog.close()


# -- a door that fails --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failure", [Ending(Exit.DOOR, "It does not reload."), OSError(28, "full"), ValueError()]
)
def test_a_door_that_cannot_be_told_keeps_no_machine_alive(world: World, failure: Exception) -> None:
    world.failure = failure
    world.wait(LEASE)
    assert world.dog.state == "draining"
    world.wait(DRAIN)
    assert world.did == ["lapse"]


def test_a_renewal_holds_even_when_the_keys_could_not_be_changed(world: World) -> None:
    world.failure = Ending(Exit.DOOR, "It does not reload.")
    with pytest.raises(Ending):
        world.dog.renew(Renewal(7200, (SECOND,)))
    world.wait(7199)
    assert world.dog.state == "starting"


# -- what is asked of it ------------------------------------------------------------------------

GOOD = {
    b'{"seconds": 60}': Renewal(60, None),
    b'{"seconds": 604800}': Renewal(604_800, None),
    b'{"seconds": 7200, "from_a_newer_panel": true}': Renewal(7200, None),
    json.dumps({"seconds": 60, "keys": [KEY]}).encode(): Renewal(60, (KEY,)),
    json.dumps({"seconds": 60, "keys": [KEY, SECOND]}).encode(): Renewal(60, (KEY, SECOND)),
    json.dumps({"seconds": 60, "keys": [KEY, KEY]}).encode(): Renewal(60, (KEY,)),
}
BAD_SECONDS = ("59", "604801", "0", "-60", "60.0", "7.2e3", '"7200"', "true", "null", "NaN", "1" * 30, "[60]")
BAD_KEYS = (
    "[]", "null", "{}", '"key-of-16-letters"', '["short"]', '["' + "x" * 201 + '"]', '["key with a space in"]',
    '["key-with-a-\\n-in-it"]', '["key-of-16-letters\\n"]', '[".*..............."]', "[1234567890123456]",
    '["key-of-16-letter1", "key-of-16-letter2", "key-of-16-letter3"]', '["kéy-of-16-letters"]',
)  # fmt: skip
BAD = (
    b"", b"{", b"[]", b"7200", b"null", b'"x"', b"{}", b'{"keys": ["key-of-16-letters"]}', b"\xff\xfe", b"[" * 4000,
    *(f'{{"seconds": {value}}}'.encode() for value in BAD_SECONDS),
    *(f'{{"seconds": 60, "keys": {value}}}'.encode() for value in BAD_KEYS),
)  # fmt: skip


@pytest.mark.parametrize("body", GOOD, ids=lambda body: body.decode()[:60])
def test_what_is_asked_rightly_is_understood(body: bytes) -> None:
    assert read(body) == GOOD[body]


@pytest.mark.parametrize("body", BAD, ids=lambda body: repr(body)[:60])
def test_what_is_asked_wrongly_changes_nothing_and_is_told_in_a_sentence(world: World, body: bytes) -> None:
    with pytest.raises(BadRequest) as refused:
        read(body)
    said = str(refused.value)
    assert said.endswith(".")
    assert len(said) < 120
    # It may have been a key.
    assert "key-of-16" not in said


@pytest.fixture
def listening(world: World) -> Iterator[World]:
    world.dog.start()
    yield world
    world.dog.close()


def put(
    world: World, body: bytes, *, path: str = "/lease", method: str = "PUT", **headers: str
) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", world.port, timeout=10)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        text = response.read()
        is_json = response.getheader("Content-Type") == "application/json"
        return response.status, json.loads(text) if is_json else text
    finally:
        connection.close()


def test_the_panel_renews_by_http(listening: World) -> None:
    assert put(listening, b'{"seconds": 7200}') == (200, {"expires_in": 7200, "state": "starting", "keys": 1})
    listening.dog.serving()
    body = json.dumps({"seconds": 60, "keys": [KEY, SECOND]}).encode()
    assert put(listening, body) == (200, {"expires_in": 60, "state": "serving", "keys": 2})
    assert put(listening, b'{"seconds": 60}') == (200, {"expires_in": 60, "state": "serving", "keys": 2})
    assert listening.did == [("keys", KEY, SECOND)]


def test_a_bad_request_is_400_and_renews_nothing(listening: World) -> None:
    status, body = put(listening, b'{"seconds": 5}')
    assert (status, list(body)) == (400, ["error"])
    assert put(listening, b"x" * 5000)[0] == 400
    assert put(listening, b"{}", **{"Content-Length": "-1"})[0] == 400
    assert put(listening, b'{"seconds": 60}', path="/lease/")[0] == 404
    assert put(listening, b"", method="GET")[0] == 501
    listening.at += LEASE
    assert soon(lambda: listening.did == ["drain"])


def test_too_late_is_409_and_a_failing_door_500(listening: World) -> None:
    listening.failure = Ending(Exit.DOOR, "nginx has ended.")
    body = json.dumps({"seconds": 600, "keys": [SECOND]}).encode()
    assert put(listening, body) == (500, {"error": "nginx has ended."})
    listening.failure = None
    listening.at += 600 + DRAIN
    assert soon(lambda: "lapse" in listening.did)
    assert put(listening, body)[0] == 409


def test_many_renew_at_once(listening: World) -> None:
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(put(listening, b'{"seconds": 60}')[0]))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 20


def test_a_taken_port_is_said(listening: World, tmp_path: Path) -> None:
    other = World(tmp_path)
    other.dog._port = listening.port
    with pytest.raises(Ending, match="cannot be used") as failed:
        other.dog.start()
    assert failed.value.code == Exit.DOOR
