"""The end at the provider, against the emulators of both: with the machine's own key, and its own machine only."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from regia_machine import ending
from regia_machine.ending import Call, Outcome
from regia_machine.environment import Settings

from tests.emulators.common import Clock, Fault
from tests.emulators.common.server import Emulator
from tests.emulators.runpod import RunPodEmulator
from tests.emulators.vast import Vast
from tests.image.doors import settings_of

NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
NOBODY = "http://127.0.0.1:9"


@dataclass
class Rented:
    """A machine at an emulator, beside one that is somebody else's, and what it is told from outside."""

    cloud: Emulator
    id: str
    other: str
    environ: dict[str, str] = field(repr=False)
    settings: Settings
    said: list[str] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)

    def end(self, **environ: str) -> bool:
        """Time passes only where it waits."""
        return ending.end(
            self.settings, {**self.environ, **environ}, say=self.said.append, clock=lambda: sum(self.waited),
            sleep=self.waited.append,
        )  # fmt: skip

    def standing(self) -> set[str]:
        return {machine["id"] for machine in self.cloud.machines()}

    @property
    def key(self) -> str:
        return self.environ.get("CONTAINER_API_KEY") or self.environ["RUNPOD_API_KEY"]


def at_vast(cloud: Vast, folder: Path) -> Rented:
    machine, other = cloud.place("ours"), cloud.place("another")
    environ = {"CONTAINER_ID": machine, "CONTAINER_API_KEY": cloud.fleet.all[int(machine)].container_key}
    return Rented(cloud, machine, other, environ, settings_of(folder, 1, REGIA_VAST_URL=cloud.url))


def at_runpod(cloud: RunPodEmulator, folder: Path) -> Rented:
    machine, other = cloud.place("ours"), cloud.place("another")
    pod = cloud.find_pod(machine)
    assert pod is not None
    environ = {"RUNPOD_POD_ID": machine, "RUNPOD_API_KEY": pod.own_key}
    return Rented(cloud, machine, other, environ, settings_of(folder, 1, REGIA_RUNPOD_URL=cloud.url))


@pytest.fixture
def vast(tmp_path: Path) -> Iterator[Rented]:
    with Vast(clock=Clock(NOON)) as cloud:
        yield at_vast(cloud, tmp_path)
        assert cloud.violations == []


@pytest.fixture
def runpod(tmp_path: Path) -> Iterator[Rented]:
    with RunPodEmulator(clock=Clock(NOON)) as cloud:
        yield at_runpod(cloud, tmp_path)
        assert cloud.violations == []


@pytest.fixture(params=["vast", "runpod"])
def rented(request: pytest.FixtureRequest) -> Rented:
    found: Rented = request.getfixturevalue(request.param)
    return found


# -- it ends itself -----------------------------------------------------------------------------


def test_it_ends_itself_and_nothing_else(rented: Rented) -> None:
    assert rented.end()
    assert rented.standing() == {rented.other}
    assert (rented.waited, len(rented.said)) == ([], 1)


def test_vast_is_asked_as_its_contract_says(vast: Rented) -> None:
    vast.end()
    (seen,) = vast.cloud.seen("terminate")
    assert (seen.method, seen.path, seen.body) == ("DELETE", f"/api/v0/instances/{vast.id}/", {})
    assert seen.key == vast.key


def test_runpod_is_asked_as_its_contract_says(runpod: Rented) -> None:
    runpod.end()
    (seen,) = runpod.cloud.seen("terminate")
    assert (seen.method, seen.path) == ("POST", f"/v2/pods/{runpod.id}/action")
    assert seen.body == {"action": "terminate"}
    assert seen.key == runpod.key


def test_where_runpod_refuses_the_action_the_pod_is_deleted(runpod: Rented) -> None:
    runpod.cloud.faults_add("terminate", [Fault.FORBIDDEN])
    assert runpod.end()
    assert [seen.method for seen in runpod.cloud.seen("terminate")] == ["POST", "DELETE"]
    assert runpod.standing() == {runpod.other}
    assert runpod.waited == []


def test_with_its_own_key_it_cannot_end_another(rented: Rented) -> None:
    name = "CONTAINER_ID" if "CONTAINER_ID" in rented.environ else "RUNPOD_POD_ID"
    rented.end(**{name: rented.other})
    assert rented.standing() == {rented.id, rented.other}


# -- it goes on asking --------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Fault.ERROR_BEFORE, Fault.RATE_LIMITED, Fault.RATE_LIMITED_AFTER])
def test_a_provider_that_cannot_answer_now_is_asked_again_and_later_each_time(
    rented: Rented, fault: Fault
) -> None:
    rented.cloud.faults_add("terminate", [fault] * 4)
    assert rented.end()
    assert rented.standing() == {rented.other}
    assert rented.waited == [2, 4, 8, 16]


@pytest.mark.parametrize("fault", [Fault.ERROR_AFTER, Fault.GATEWAY_AFTER, Fault.LOST])
def test_an_end_without_a_clear_answer_is_asked_for_again(rented: Rented, fault: Fault) -> None:
    rented.cloud.faults_add("terminate", [fault])
    rented.end()
    assert rented.standing() == {rented.other}
    assert len(rented.cloud.seen("terminate")) > 1


def test_a_machine_that_is_gone_already_is_ended(vast: Rented, runpod: Rented) -> None:
    for rented in (vast, runpod):
        account = rented.cloud.keys[0]
        rented.cloud.destroy(rented.id)  # type: ignore[attr-defined]
        # Its own key has gone with it; the account's says what it is.
        name = "CONTAINER_API_KEY" if rented is vast else "RUNPOD_API_KEY"
        assert rented.end(**{name: account})
        assert rented.waited == []
        assert "404" in rented.said[0]


def test_it_gives_up_after_ten_minutes_and_says_what_is_left_to_do(rented: Rented) -> None:
    rented.cloud.faults_always("terminate", Fault.ERROR_BEFORE)
    assert not rented.end()
    assert 530 < sum(rented.waited) <= ending.PATIENCE
    assert max(rented.waited) == 60
    assert "by hand" in rented.said[-1]
    assert rented.standing() == {rented.id, rented.other}


def test_a_key_that_is_refused_is_no_end(rented: Rented) -> None:
    name = "CONTAINER_API_KEY" if "CONTAINER_ID" in rented.environ else "RUNPOD_API_KEY"
    # Vast tells a wrong key by 404, as it tells a machine that is gone.
    assert not rented.end(**{name: "a-wrong-key-0123456789"})
    assert rented.standing() == {rented.id, rented.other}


def test_a_provider_that_is_out_of_reach_is_asked_for_ten_minutes(rented: Rented, tmp_path: Path) -> None:
    rented.settings = settings_of(tmp_path, 1, REGIA_VAST_URL=NOBODY, REGIA_RUNPOD_URL=NOBODY)
    assert not rented.end()
    assert len(rented.waited) > 10


def test_no_key_is_ever_said(rented: Rented) -> None:
    rented.cloud.faults_add("terminate", [Fault.FORBIDDEN, Fault.FORBIDDEN, Fault.ERROR_BEFORE, Fault.LOST])
    rented.end()
    assert len(rented.said) >= 3
    assert not any(rented.key in sentence for sentence in rented.said)
    assert rented.key not in repr(ending.calls_of(rented.settings, rented.environ))


# -- who is asked -------------------------------------------------------------------------------

ELSEWHERE: tuple[dict[str, str], ...] = (
    {},
    {"CONTAINER_ID": "1"},
    {"CONTAINER_API_KEY": "key"},
    {"CONTAINER_ID": "", "CONTAINER_API_KEY": "key"},
    {"CONTAINER_ID": "1/../2", "CONTAINER_API_KEY": "key"},
    {"CONTAINER_ID": "1?x", "CONTAINER_API_KEY": "key"},
    {"CONTAINER_ID": "1\n", "CONTAINER_API_KEY": "key"},
    {"RUNPOD_POD_ID": "pod", "RUNPOD_API_KEY": ""},
    {"RUNPOD_POD_ID": "../secrets", "RUNPOD_API_KEY": "key"},
)


@pytest.mark.parametrize("environ", ELSEWHERE, ids=str)
def test_elsewhere_nobody_is_asked(tmp_path: Path, environ: dict[str, str]) -> None:
    settings = settings_of(tmp_path, 1, REGIA_VAST_URL=NOBODY, REGIA_RUNPOD_URL=NOBODY)
    said: list[str] = []
    assert ending.calls_of(settings, environ) == ()
    assert ending.end(settings, environ, say=said.append)
    assert len(said) == 1


@pytest.mark.parametrize(
    ("status", "reason", "outcome"),
    [
        (200, b"", Outcome.DONE), (204, b"", Outcome.DONE), (404, b"{}", Outcome.DONE), (410, b"", Outcome.DONE),
        (404, b'{"error": "auth_error"}', Outcome.REFUSED), (400, b"", Outcome.REFUSED), (401, b"", Outcome.REFUSED),
        (403, b"", Outcome.REFUSED), (405, b"", Outcome.REFUSED), (409, b"", Outcome.REFUSED),
        (408, b"", Outcome.UNCLEAR), (429, b"", Outcome.UNCLEAR), (302, b"", Outcome.UNCLEAR),
        (500, b"", Outcome.UNCLEAR), (503, b"", Outcome.UNCLEAR),
    ],
)  # fmt: skip
def test_what_an_answer_means(status: int, reason: bytes, outcome: Outcome) -> None:
    assert ending.judge(status, reason)[0] is outcome


def test_the_key_is_sent_to_nobody_else_whatever_the_answer_says() -> None:
    seen: list[tuple[str, str | None]] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_DELETE(self) -> None:
            seen.append((self.path, self.headers["Authorization"]))
            self.send_response(302 if self.path == "/first" else 200)
            self.send_header("Location", f"http://localhost:{self.server.server_port}/second")  # type: ignore[attr-defined]
            self.end_headers()

        do_GET = do_DELETE

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        call = Call("Somebody", "DELETE", f"http://127.0.0.1:{server.server_port}/first", b"{}", "the-key")
        assert ending.ask(call)[0] is Outcome.UNCLEAR
    finally:
        server.shutdown()
        server.server_close()
    assert seen == [("/first", "Bearer the-key")]


# -- the mark -----------------------------------------------------------------------------------


def test_the_mark_outlives_the_machine(tmp_path: Path) -> None:
    folder = tmp_path / "var" / "lib" / "regia"
    assert not ending.is_marked(folder)
    ending.mark(folder)
    ending.mark(folder)
    assert ending.is_marked(folder)


def test_the_mark_is_on_disk_before_anything_else_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    ending.mark(tmp_path)
    assert synced == [str(tmp_path / "ended"), str(tmp_path)]


def test_a_folder_that_cannot_be_written_is_an_error_to_be_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        ending.mark(tmp_path / "file" / "folder")
