"""The door while answers run through it: as they come, to their end, and no longer than somebody listens."""

from __future__ import annotations

import json
import os
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.image.conftest import LONG
from tests.image.doors import OpenDoor, StandIn, Stream, ask, open_door, soon
from tests.image.running import KEY

pytestmark = pytest.mark.image
SECOND, THIRD = "another-key-0123456789", "a-third-key-0123456789"
LEAVING = 1.0
"""Seconds within which the engine is free after its client left."""


@pytest.fixture(params=["plain", "tls"])
def either(request: pytest.FixtureRequest, folder: Path, engine: StandIn) -> Iterator[OpenDoor]:
    with open_door(folder, engine, tls=request.param == "tls") as opened:
        yield opened


# -- streams ------------------------------------------------------------------------------------


def test_each_chunk_comes_when_it_is_written(either: OpenDoor) -> None:
    stream = either.stream(max_tokens=40, pause_seconds=0.02).read()
    assert [number for number, _, _ in stream.chunks] == list(range(40))
    assert statistics.median(came - written for _, written, came in stream.chunks) < 0.05
    assert stream.is_whole


def test_a_long_stream_with_long_pauses_lives(folder: Path, engine: StandIn) -> None:
    pause, seconds = (9.0, 180) if LONG else (4.0, 20)
    (folder / "tls").mkdir()
    with open_door(folder, engine) as plain, open_door(folder / "tls", engine, tls=True) as tls:
        began = time.monotonic()
        wish = {"max_tokens": 1 + round(seconds / pause), "pause_seconds": pause}
        streams = [door.stream(**wish) for door in (plain, tls)]
        readers = [threading.Thread(target=stream.read) for stream in streams]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        assert time.monotonic() - began >= seconds
    for stream in streams:
        assert stream.is_whole
        assert all(came - written < 0.5 for _, written, came in stream.chunks)


def test_a_client_that_leaves_frees_the_engine(either: OpenDoor, engine: StandIn) -> None:
    stream = either.stream(max_tokens=1000, pause_seconds=0.05).read(until=3)
    left_at = stream.leave()
    assert soon(lambda: engine.noted("left"), seconds=3)
    assert engine.noted("left")[0]["at"] - left_at < LEAVING


def test_a_client_that_leaves_before_the_first_word_frees_the_engine_too(
    either: OpenDoor, engine: StandIn
) -> None:
    stream = either.stream(max_tokens=1, first_seconds=30)
    assert soon(lambda: engine.noted("asked"))
    left_at = stream.leave()
    assert soon(lambda: engine.noted("left"), seconds=3)
    assert engine.noted("left")[0]["at"] - left_at < LEAVING


def test_a_client_that_leaves_without_waiting_for_a_whole_answer_frees_the_engine(
    either: OpenDoor, engine: StandIn
) -> None:
    body = json.dumps({"max_tokens": 10, "pause_seconds": 3}).encode()
    waiting = Stream(either.port, KEY, body, pin=either.pin)
    assert soon(lambda: engine.noted("asked"))
    left_at = waiting.leave()
    assert soon(lambda: engine.noted("left"), seconds=3)
    assert engine.noted("left")[0]["at"] - left_at < LEAVING


def test_a_client_that_reads_slowly_loses_nothing(either: OpenDoor) -> None:
    stream = either.stream(max_tokens=3000)
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    time.sleep(2)
    stream.read()
    assert [number for number, _, _ in stream.chunks] == list(range(3000))


# -- other keys, while it runs ------------------------------------------------------------------


def test_keys_change_without_cutting_a_stream(either: OpenDoor, engine: StandIn) -> None:
    streams = [either.stream(max_tokens=60, pause_seconds=0.05).read(until=2)]
    either.door.set_keys((KEY, SECOND))
    streams.append(either.stream(key=SECOND, max_tokens=60, pause_seconds=0.05).read(until=2))
    assert either.chat(key=KEY).status == 200
    either.door.set_keys((THIRD,))
    # From the very moment at which the change returns.
    assert [either.chat(key=k).status for k in (KEY, SECOND, THIRD)] == [401, 401, 200]
    assert all(stream.read().is_whole for stream in streams)
    assert engine.noted("left") == []


def test_keys_that_change_under_load_refuse_nobody_who_has_one(door: OpenDoor) -> None:
    answers: list[int] = []
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            answers.append(door.ask("GET", "/v1/models", key=KEY).status)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for n in range(10):
        door.door.set_keys((KEY, f"{SECOND}-{n}"))
    over.set()
    for worker in workers:
        worker.join()
    assert len(answers) > 20
    assert set(answers) == {200}


def test_old_workers_go_when_their_streams_have_ended(door: OpenDoor) -> None:
    assert door.door.process is not None
    master = psutil.Process(door.door.process.pid)
    stream = door.stream(max_tokens=20, pause_seconds=0.05).read(until=1)
    before = {p.pid for p in master.children()}
    door.door.set_keys((SECOND,))
    stream.read()
    assert soon(lambda: not before & {p.pid for p in master.children()})


def test_while_it_drains_it_takes_no_new_work_and_finishes_the_old(either: OpenDoor, engine: StandIn) -> None:
    stream = either.stream(max_tokens=60, pause_seconds=0.05).read(until=2)
    either.door.set_draining(True)
    refused = either.chat()
    assert (refused.status, refused.headers["retry-after"]) == (503, "30")
    assert either.ask("POST", "/v1/completions", key=KEY, body=b"{}").status == 503
    assert either.chat(key=SECOND).status == 401
    assert either.ask("GET", "/v1/models", key=KEY).status == 200
    assert either.ask("GET", "/health").status == 200
    # Nothing listens behind it here, but the door lets it through.
    assert either.ask("PUT", "/lease", key=KEY, body=b"{}").status == 502
    either.door.set_draining(False)
    assert either.chat().status == 200
    assert stream.read().is_whole
    assert engine.noted("left") == []


def test_stopped_gently_it_lets_what_runs_come_to_its_end(either: OpenDoor, engine: StandIn) -> None:
    stream = either.stream(max_tokens=40, pause_seconds=0.05).read(until=2)
    ender = threading.Thread(target=either.door.stop, args=(20.0,))
    ender.start()
    assert stream.read().is_whole
    ender.join(5)
    assert not ender.is_alive()
    assert engine.noted("left") == []


def test_stopped_gently_it_does_not_wait_for_ever(either: OpenDoor, engine: StandIn) -> None:
    stream = either.stream(max_tokens=1000, pause_seconds=0.05).read(until=2)
    began = time.monotonic()
    either.door.stop(1.0)
    assert 0.9 < time.monotonic() - began < 4
    assert not stream.read().is_whole
    assert soon(lambda: engine.noted("left"))


# -- what people say ----------------------------------------------------------------------------

MARKER = "marker-7c1e-of-a-prompt"


def test_nothing_of_what_is_asked_is_printed(
    folder: Path, engine: StandIn, capfd: pytest.CaptureFixture
) -> None:
    with open_door(folder, engine) as door:
        body = json.dumps({"max_tokens": 2, "text": MARKER}).encode()
        for path in (
            "/v1/chat/completions",
            f"/v1/chat/completions?q={MARKER}",
            f"/{MARKER}",
            f"/{MARKER}%00",
        ):
            for key in (KEY, None, "wrong-key-0123456789"):
                door.ask("POST", path, key=key, body=body)
        door.ask("POST", "/v1/chat/completions", key=KEY, body=b"x" * 9_000_000)
        door.ask("GET", f"/v1/models?{MARKER * 500}", key=KEY)
        door.ask("GET", "/v1/models", key=KEY, headers={MARKER: MARKER * 500})
        door.stream(max_tokens=100, pause_seconds=0.05, text=MARKER).read(until=2).leave()
        door.door.set_keys((SECOND,))
        door.door.process.send_signal(15)  # type: ignore[union-attr]
        assert soon(lambda: door.door.process.poll() is not None)  # type: ignore[union-attr]
        said = "\n".join(door.lines) + "".join(capfd.readouterr())
    assert MARKER not in said
    assert KEY not in said
    assert SECOND not in said


def test_a_line_of_nginx_is_passed_on_without_who_asked_for_what(folder: Path, engine: StandIn) -> None:
    with open_door(folder, engine) as door:
        # The one way to make nginx write a body to a file is to cut it into crumbs; here it cannot, and says so.
        assert in_crumbs(door, b"x" * 3_500_000) == 500
        assert not any("request:" in line or "client:" in line for line in door.lines)
        assert any("[crit]" in line for line in door.lines)


@pytest.mark.parametrize("way", ["whole", "chunked"])
def test_no_file_ever_holds_a_prompt(folder: Path, engine: StandIn, way: str) -> None:
    since = time.time() - 1
    with open_door(folder, engine) as door:
        text = (MARKER + "x" * 1000) * 5000
        body = json.dumps({"max_tokens": 1, "first_seconds": 4, "text": text}).encode()
        pieces = (body[n : n + 50_000] for n in range(0, len(body), 50_000))
        answers: list[int] = []

        def work() -> None:
            sent = body if way == "whole" else pieces
            found = ask(door.port, "POST", "/v1/chat/completions", key=KEY, body=sent)
            answers.append(found.status)

        worker = threading.Thread(target=work)
        worker.start()
        assert soon(lambda: engine.noted("asked"), seconds=20)
        during = [*files_with(MARKER, folder, since), *open_files_with(MARKER, door)]
        worker.join()
        assert answers == [200]
        assert during == []
        assert [*files_with(MARKER, folder, since), *open_files_with(MARKER, door)] == []


def test_the_search_finds_what_it_looks_for(folder: Path) -> None:
    (folder / "found").write_text(f"a {MARKER} here")
    assert files_with(MARKER, folder, 0) == [folder / "found"]


# -- helpers ------------------------------------------------------------------------------------

_LARGEST = 64 * 1024 * 1024


def files_with(marker: str, folder: Path, since: float) -> list[Path]:
    """Files of the machine and of the temporary folders that hold it, written since then."""
    roots = {folder, Path(tempfile.gettempdir()), Path("/var/lib/nginx"), Path("/var/log/nginx")}
    return [path for root in roots for path in _fresh(root, since) if marker.encode() in _read(path)]


def _fresh(root: Path, since: float) -> Iterator[Path]:
    for place, folders, names in os.walk(root):
        # Other tests' folders, and this very test as its tools keep it.
        folders[:] = [n for n in folders if not n.startswith(("pytest-", "bash_jobs", "__pycache__", "."))]
        for path in (Path(place) / name for name in names):
            try:
                found = path.lstat()
            except OSError:
                continue
            is_file = path.is_file() and not path.is_symlink()
            if (
                is_file
                and found.st_mtime >= since
                and found.st_size < _LARGEST
                and path.suffix not in {".py", ".pyc"}
            ):
                yield path


def open_files_with(marker: str, door: OpenDoor) -> list[str]:
    """Also those that have no name any more."""
    assert door.door.process is not None
    master = psutil.Process(door.door.process.pid)
    found = []
    for process in (master, *master.children(recursive=True)):
        for entry in Path(f"/proc/{process.pid}/fd").iterdir():
            try:
                target = os.readlink(entry)
            except OSError:
                continue
            if (
                target.startswith("/")
                and not target.startswith("/dev/null")
                and marker.encode() in _read(entry)
            ):
                found.append(target)
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.is_file() else b""
    except OSError:
        return b""


def in_crumbs(door: OpenDoor, body: bytes) -> int:
    """Each byte a chunk of its own, six times its size on the way."""
    with socket.create_connection(("127.0.0.1", door.port), timeout=60) as connection:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: door\r\nAuthorization: Bearer {KEY}\r\n"
        try:
            connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
            for start in range(0, len(body), 10_000):
                connection.sendall(b"".join(b"1\r\n%c\r\n" % byte for byte in body[start : start + 10_000]))
            connection.sendall(b"0\r\n\r\n")
        except ConnectionError:
            pass
        return int(connection.recv(4096).split(b" ", 2)[1])
