"""What the door lets in: the listed paths, by the right method, with a key, within bounds."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import psutil
import pytest
from regia_machine.door import DoorFailed
from regia_machine.environment import Settings
from regia_machine.exits import Exit

from tests.image.conftest import LONG
from tests.image.doors import GUARDED, LISTED, OpenDoor, StandIn, ask, bearer, knock, open_door, soon
from tests.image.running import KEY, free_port

pytestmark = pytest.mark.image
SECOND = "another-key-0123456789"
OF_VLLM: dict[str, list[str]] = json.loads(Path(__file__).with_name("vllm_paths.json").read_text())
"""Every path that vLLM 0.32.0 serves, and how it is asked there."""
OF_OTHER_BUILDS = (
    "/", "/openapi.json", "/docs", "/redoc", "/pause", "/resume", "/update_weights", "/score", "/v1/score",
    "/rerank", "/v1/rerank", "/v2/rerank", "/classify", "/pooling", "/v1/embeddings", "/v1/audio/speech",
    "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/sleep", "/wake_up", "/is_sleeping", "/collective_rpc",
    "/reset_prefix_cache", "/server_info", "/start_profile", "/stop_profile", "/__models_seconds", "/slots",
    "/props", "/completion", "/infill", "/.env", "/.git/config", "/nginx_status", "/v1",
)  # fmt: skip
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW")


def closed_paths() -> list[str]:
    found = [path.replace("{response_id}", "resp_1") for path in OF_VLLM if path not in LISTED]
    return [*found, *OF_OTHER_BUILDS]


def odd_forms(path: str) -> list[str]:
    """Other ways to write a path; a lenient reader takes each for the path itself."""
    name = path.strip("/")
    tail = name.rpartition("/")[2] or "x"
    return [
        f"//{name}", f"///{name}", f"/{name}/", f"/{name}//", f"/./{name}", f"/{name}/.", f"/v1/../{name}",
        f"/{name}/../{tail}", f"/x/../{name}", f"/%2f{name}", f"/%2F{name}", f"/{name}%2f", f"/{name}%00",
        f"/{name}%20", f"/{name};x=1", f"/{name}%3f", f"/{name}%23", f"/{name}#x", f"/{name}.", f"/{name}.json",
        f"/{name.upper()}/" if name.upper() == name else f"/{name.upper()}", f"/{name}\\", f"/%2e/{name}",
        f"/%2e%2e/{name}", f"/{name}/%2e%2e/{tail}", f"/\\{name}", "/" + "".join(f"%{ord(c):02x}" for c in name),
        "/" + name.replace("/", "//"), "/" + name.replace("/", "%2f"), "/" + name.replace("/", "/./"),
        "/" + name.replace("/", "\\"),
    ]  # fmt: skip


# -- the list -----------------------------------------------------------------------------------


def test_what_is_not_listed_does_not_exist_with_or_without_a_key(door: OpenDoor, engine: StandIn) -> None:
    for path in closed_paths():
        for method in {"GET", "POST", *OF_VLLM.get(path, ())}:
            for key in (None, KEY):
                found = door.ask(method, path, key=key, body=b"{}" if method == "POST" else None)
                assert found.status == 404, (method, path)
                assert found.json == {"error": "Not Found"}
    assert engine.noted("asked") == []


def test_no_way_of_writing_a_closed_path_opens_it(door: OpenDoor, engine: StandIn) -> None:
    for path in closed_paths():
        for form in {*odd_forms(path), f"{path}?x=/v1/models", f"{path}?/health"} - set(LISTED):
            for key in (None, KEY):
                assert raw(door, "GET", form, key) in REFUSED, form
                assert raw(door, "POST", form, key) in REFUSED, form
    assert engine.noted("asked") == []


def test_a_listed_path_is_listed_only_as_it_is_written(door: OpenDoor, engine: StandIn) -> None:
    for path, method in LISTED.items():
        for form in {*odd_forms(path)} - {path}:
            for key in (None, KEY):
                assert raw(door, method, form, key) in REFUSED, form
    assert engine.noted("asked") == []


def test_a_path_above_the_root_is_no_path(door: OpenDoor, engine: StandIn) -> None:
    for path in (
        "/../tokenize",
        "/../v1/models",
        "/v1/../../v1/models",
        "/%2e%2e/v1/models",
        "*",
        "tokenize",
    ):
        assert raw(door, "GET", path, KEY) in REFUSED
    assert engine.noted("asked") == []


def test_an_absolute_address_is_judged_by_its_path(door: OpenDoor, engine: StandIn) -> None:
    for host in ("evil.example", "127.0.0.1:80", f"127.0.0.1:{door.port}"):
        assert raw(door, "GET", f"http://{host}/tokenize", KEY) == 404
        assert raw(door, "GET", f"http://{host}//v1/models", KEY) == 404
        assert raw(door, "GET", f"http://{host}/v1/models", None) == 401
    assert engine.noted("asked") == []
    assert raw(door, "GET", "http://evil.example/v1/models", KEY) == 200
    assert engine.noted("asked")[0]["headers"]["host"] == f"127.0.0.1:{engine.port}"


def test_a_listed_path_takes_its_own_method_only(door: OpenDoor, engine: StandIn) -> None:
    for path, right in LISTED.items():
        for method in set(METHODS) - {right}:
            for key in (None, KEY):
                assert raw(door, method, path, key) == 405, (method, path)
        assert door.ask("DELETE", path).headers["allow"] == right
    assert engine.noted("asked") == []


def test_the_listed_paths_work(door: OpenDoor, engine: StandIn) -> None:
    assert door.ask("GET", "/health").status == 200
    assert door.ask("GET", "/v1/models", key=KEY).json["data"][0]["id"] == "stand-in"
    assert door.ask("GET", "/metrics", key=KEY).status == 200
    assert door.chat(max_tokens=2).json["choices"][0]["message"]["content"]
    assert door.ask("POST", "/v1/completions", key=KEY, body=b"{}").status == 200
    asked = [(note["method"], note["path"]) for note in engine.noted("asked")]
    assert asked == [
        ("GET", "/health"), ("GET", "/v1/models"), ("GET", "/metrics"), ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
    ]  # fmt: skip


def test_without_a_lease_there_is_no_path_for_it(folder: Path, engine: StandIn) -> None:
    with open_door(folder, engine, REGIA_LEASE_SECONDS="0") as door:
        assert door.ask("PUT", "/lease", key=KEY, body=b"{}").status == 404
        assert door.ask("GET", "/v1/models", key=KEY).status == 200


def test_the_health_has_a_port_of_its_own_where_a_provider_wants_one(folder: Path, engine: StandIn) -> None:
    port = free_port()
    with open_door(folder, engine, PORT_HEALTH=str(port), HEALTH_CHECK_PATH="/alive") as door:
        assert ask(port, "GET", "/alive").status == 200
        assert ask(port, "GET", "/alive?x=1").status == 200
        assert ask(port, "POST", "/alive").status == 405
        for path in ("/v1/models", "/health", "/metrics", "/lease", "//alive", "/alive/"):
            assert ask(port, "GET", path, key=KEY).status == 404 or path == "//alive"
        assert {note["path"] for note in engine.noted("asked")} == {"/health"}
        assert door.ask("GET", "/alive", key=KEY).status == 404


# -- the key ------------------------------------------------------------------------------------

WRONG = (
    {}, bearer("wrong-key-0123456789"), bearer(""), bearer(KEY[:-1]), bearer(f"{KEY}x"), bearer(KEY.upper()),
    bearer(KEY.replace("k", "K")), bearer(f" {KEY}"), bearer(f"{KEY} {KEY}"), bearer(f"{KEY},{KEY}"), bearer(".*"),
    bearer("[A-Za-z0-9_-]+"), bearer("$has_key"), {"Authorization": KEY}, {"Authorization": f"Basic {KEY}"},
    {"Authorization": f"Bearer{KEY}"}, {"Authorization": f"Bearer\t{KEY}"}, {"Authorization": f"Bearer: {KEY}"},
    {"X-Api-Key": KEY}, {"Cookie": f"Authorization=Bearer {KEY}"}, {"Proxy-Authorization": f"Bearer {KEY}"},
)  # fmt: skip


def test_nothing_but_the_health_is_answered_without_the_very_key(door: OpenDoor, engine: StandIn) -> None:
    for path in GUARDED:
        for headers in WRONG:
            found = door.ask(LISTED[path], path, headers=headers)
            assert (found.status, found.json) == (401, {"error": "Unauthorized"}), (path, headers)
        assert door.ask(LISTED[path], f"{path}?api_key={KEY}&key={KEY}").status == 401
    assert engine.noted("asked") == []
    assert door.ask("GET", "/health").status == 200


def test_each_of_two_keys_opens_it(folder: Path, engine: StandIn) -> None:
    with open_door(folder, engine, keys=(KEY, SECOND)) as door:
        assert [door.ask("GET", "/v1/models", key=k).status for k in (KEY, SECOND, KEY + SECOND)] == [
            200,
            200,
            401,
        ]


def test_a_key_that_could_be_an_expression_is_refused(folder: Path, engine: StandIn) -> None:
    for bad in (
        ".*",
        "x" * 15,
        'a"; return 200; "aaaaaaaaaaaa',
        "key-with-a-$1-in-it",
        "x" * 201,
        f"{KEY}\n",
    ):
        with pytest.raises(DoorFailed) as failed, open_door(folder, engine, keys=(bad,)):
            pass
        assert bad not in str(failed.value)
    with open_door(folder, engine) as door:
        with pytest.raises(DoorFailed):
            door.door.set_keys((KEY, ".*............."))
        assert door.ask("GET", "/v1/models", key="anything-at-all-0123").status == 401
        assert door.ask("GET", "/v1/models", key=KEY).status == 200


def test_the_engine_learns_neither_the_key_nor_who_asks(door: OpenDoor, engine: StandIn) -> None:
    more = {
        "X-Forwarded-For": "192.0.2.1",
        "Cookie": "session=1",
        "User-Agent": "somebody/1",
        "X-Request-Id": "7",
    }
    body = json.dumps({"max_tokens": 1}).encode()
    kind = {"Content-Type": "application/json"}
    path = "/v1/chat/completions"
    assert door.ask("POST", f"{path}?who=me", key=KEY, headers={**more, **kind}, body=body).status == 200
    (asked,) = engine.noted("asked")
    assert asked["path"] == path
    assert asked["headers"] == {
        "host": f"127.0.0.1:{engine.port}", "connection": "close", "content-length": str(len(body)),
        "content-type": "application/json",
    }  # fmt: skip


# -- bounds -------------------------------------------------------------------------------------

MEGABYTE = 1024 * 1024


def chat_of(length: int) -> bytes:
    empty = json.dumps({"max_tokens": 1, "text": ""}).encode()
    return empty.replace(b'""', b'"' + b"x" * (length - len(empty)) + b'"')


def in_pieces(body: bytes, size: int = 60_000) -> Iterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


def test_a_body_of_8_megabytes_is_taken_and_a_larger_one_is_not(door: OpenDoor, engine: StandIn) -> None:
    path, whole, too_much = "/v1/chat/completions", chat_of(8 * MEGABYTE), chat_of(8 * MEGABYTE + 1)
    assert door.ask("POST", path, key=KEY, body=whole).status == 200
    assert door.ask("POST", path, key=KEY, body=in_pieces(whole)).status == 200
    assert [note["length"] for note in engine.noted("asked")] == [len(whole)] * 2
    # By what it announces, before it is sent.
    assert knock(door.port, head(path, f"Content-Length: {len(too_much)}")) == 413
    assert knock(door.port, head(path, "Content-Length: 99999999999999")) == 413
    # In chunks it announces nothing.
    assert sent_in_chunks(door, too_much) == 413
    assert len(engine.noted("asked")) == 2


def test_the_leases_body_is_small(door: OpenDoor) -> None:
    assert door.ask("PUT", "/lease", key=KEY, body=b"x" * 5000).status == 413


def test_headers_have_a_limit(door: OpenDoor, engine: StandIn) -> None:
    assert knock(door.port, head("/v1/models", "X-Long: " + "x" * 9000)) == 400
    assert knock(door.port, head("/v1/models", *(f"X-{n}: " + "x" * 4000 for n in range(10)))) == 400
    assert knock(door.port, head(f"/v1/models?{'x' * 9000}")) == 414
    assert engine.noted("asked") == []


def test_requests_that_two_readers_could_read_differently_are_refused(
    door: OpenDoor, engine: StandIn
) -> None:
    path = "/v1/chat/completions"
    assert (
        knock(door.port, head(path, "Content-Length: 4", "Transfer-Encoding: chunked") + b"0\r\n\r\n") == 400
    )
    assert knock(door.port, head(path, "Content-Length: 2", "Content-Length: 5") + b"{}abc") == 400
    assert knock(door.port, head(path, "Transfer-Encoding: chunked, identity") + b"0\r\n\r\n") in {400, 501}
    assert engine.noted("asked") == []


def test_who_sends_a_header_slowly_is_cut_off(door: OpenDoor) -> None:
    slow = socket.create_connection(("127.0.0.1", door.port), timeout=30)
    silent = socket.create_connection(("127.0.0.1", door.port), timeout=30)
    began = time.monotonic()
    with slow, silent:
        line = iter(head("/v1/models") * 2)
        slow.settimeout(0.5)
        while time.monotonic() - began < 25:
            try:
                slow.sendall(bytes([next(line)]))
                if slow.recv(4096) == b"":
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        assert 13 < time.monotonic() - began < 20
        silent.settimeout(10)
        assert silent.recv(4096) == b""


@pytest.mark.skipif(not LONG, reason="takes a minute: REGIA_LONG=1")
def test_who_sends_a_body_slowly_is_cut_off(door: OpenDoor, engine: StandIn) -> None:
    with socket.create_connection(("127.0.0.1", door.port), timeout=90) as slow:
        slow.sendall(head("/v1/chat/completions", "Content-Length: 100") + b"{")
        began = time.monotonic()
        assert slow.recv(4096) == b""
        assert 55 < time.monotonic() - began < 70
    assert engine.noted("asked") == []


def test_too_many_generations_a_second_are_told_to_wait(door: OpenDoor, engine: StandIn) -> None:
    async def rush() -> list[int]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=50)) as session:
            url = f"http://127.0.0.1:{door.port}/v1/chat/completions"

            async def one() -> int:
                async with session.post(url, json={"max_tokens": 1}, headers=bearer(KEY)) as answer:
                    assert answer.status == 200 or answer.headers["Retry-After"] == "1"
                    return answer.status

            return await asyncio.gather(*(one() for _ in range(600)))

    began = time.monotonic()
    statuses = asyncio.run(rush())
    allowed = 201 + 50 * (time.monotonic() - began + 0.5)
    assert set(statuses) == {200, 429}
    assert 200 <= statuses.count(200) <= allowed
    # Whoever watches over the machine is not counted with those who work on it.
    assert door.ask("GET", "/v1/models", key=KEY).status == 200
    assert door.ask("GET", "/health").status == 200


def test_more_requests_at_once_than_it_holds_are_told_to_wait(door: OpenDoor, engine: StandIn) -> None:
    engine.slow_models(3)

    async def crowd() -> list[int]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

            async def one() -> int:
                url = f"http://127.0.0.1:{door.port}/v1/models"
                async with session.get(url, headers=bearer(KEY)) as answer:
                    return answer.status

            return await asyncio.gather(*(one() for _ in range(540)))

    try:
        statuses = asyncio.run(crowd())
    finally:
        engine.slow_models(0)
    assert sorted(statuses) == [200] * 512 + [429] * 28
    assert door.ask("GET", "/v1/models", key=KEY).status == 200


def test_an_engine_that_is_gone_is_said_in_a_sentence(folder: Path) -> None:
    with open_door(folder, StandIn(free_port(), folder / "notes")) as door:
        found = door.ask("GET", "/v1/models", key=KEY)
        assert (found.status, found.json) == (502, {"error": "The engine does not answer."})
        assert door.ask("GET", "/health").status == 502


# -- the process --------------------------------------------------------------------------------


def test_a_port_that_is_taken_fails_with_a_reason(folder: Path, engine: StandIn) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(DoorFailed, match="Address already in use") as failed:  # noqa: SIM117
            with open_door(folder, engine, REGIA_PORT=port):
                pass
    assert failed.value.code == Exit.DOOR


def test_nothing_of_it_is_left_after_it_is_stopped(door: OpenDoor) -> None:
    tree = processes(door)
    assert len(tree) >= 3
    door.door.stop(0)
    assert soon(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in tree))
    assert knock_refused(door.settings)


def test_its_configuration_is_readable_to_nobody_else(folder: Path, engine: StandIn) -> None:
    with open_door(folder, engine, tls=True) as door:
        door.door.set_keys((SECOND,))
        files = [p for p in (folder / "run" / "door").iterdir() if p.is_file()]
        secret = {p.name for p in files if p.suffix != ".pid"}
        assert secret == {"nginx.conf", "door.key", "door.crt"}
        assert all(p.stat().st_mode & 0o777 == 0o600 for p in files if p.name in secret)
        assert (folder / "run" / "door").stat().st_mode & 0o777 == 0o700


def test_its_processes_carry_no_secret_and_its_workers_no_rights(door: OpenDoor) -> None:
    master, *workers = processes(door)
    for process in (master, *workers):
        assert KEY not in " ".join(process.cmdline())
        assert not any(name.startswith(("REGIA", "CONTAINER", "RUNPOD", "HF_")) for name in process.environ())
    if os.geteuid() == 0:
        assert all(worker.uids().real != 0 for worker in workers)


# -- helpers ------------------------------------------------------------------------------------

REFUSED = {400, 404}
"""400: what nginx cannot read as a request at all."""


def head(path: str, *lines: str, method: str = "") -> bytes:
    method = method or ("GET" if path.startswith("/v1/models") else "POST")
    every = [f"{method} {path} HTTP/1.1", "Host: door", f"Authorization: Bearer {KEY}", *lines]
    return ("\r\n".join(every) + "\r\n\r\n").encode("latin-1")


def raw(door: OpenDoor, method: str, target: str, key: str | None) -> int:
    """No client library between: the path arrives as it is written."""
    lines = [f"{method} {target} HTTP/1.1", "Host: door", "Connection: close", "Content-Length: 0"]
    lines += [f"{name}: {value}" for name, value in bearer(key).items()]
    return knock(door.port, ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))


def sent_in_chunks(door: OpenDoor, body: bytes) -> int:
    with socket.create_connection(("127.0.0.1", door.port), timeout=20) as connection:
        connection.sendall(head("/v1/chat/completions", "Transfer-Encoding: chunked"))
        try:
            for piece in in_pieces(body):
                connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
            connection.sendall(b"0\r\n\r\n")
        except ConnectionError:
            pass
        return int(connection.recv(4096).split(b" ", 2)[1])


def processes(door: OpenDoor) -> list[psutil.Process]:
    assert door.door.process is not None
    master = psutil.Process(door.door.process.pid)
    return [master, *master.children(recursive=True)]


def knock_refused(settings: Settings) -> bool:
    try:
        socket.create_connection(("127.0.0.1", settings.port), timeout=2).close()
    except OSError:
        return True
    return False
