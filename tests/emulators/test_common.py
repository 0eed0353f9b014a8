"""The ground of the emulators: faults, clock, ledger, engines, the checks against an OpenAPI file."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.emulators.common import (
    Allowed,
    Answer,
    Call,
    Clock,
    Conformance,
    Emulator,
    Fault,
    Ledger,
    RealEngines,
    Route,
)
from tests.emulators.conftest import NOON, wait_until

ROOT = Path(__file__).resolve().parents[2]


class Counter(Emulator):
    """Counts its creates."""

    done = 0
    closed_early = False

    def routes(self) -> list[Route]:
        return [
            Route(
                "GET", "/things", "list", lambda call: Answer({"things": list(range(self.done))}), "things"
            ),
            Route("POST", "/things", "create", self.create),
        ]

    def create(self, call: Call) -> Answer:
        self.done += 1
        return Answer({"id": self.done}, 201)

    def refuse(self, fault: Fault, call: Call, kind: str) -> Answer:
        status = {
            Fault.GATEWAY_AFTER: 504, Fault.UNAUTHORIZED: 401, Fault.FORBIDDEN: 403, Fault.NO_CAPACITY: 400,
            Fault.REJECTED: 400, Fault.RATE_LIMITED: 429, Fault.RATE_LIMITED_AFTER: 429,
        }  # fmt: skip
        return Answer({"error": fault}, status.get(fault, 500))

    def spoil(self, fault: Fault, kind: str, payload: Any) -> Any:
        return {"spoilt": fault}

    def machines(self) -> list[dict[str, Any]]:
        return [{"id": n, "at": self.clock.now, "usd": Decimal("0.1")} for n in range(self.done)]


@pytest.fixture
def counter() -> Iterator[Counter]:
    with Counter(clock=Clock(NOON)) as emulator:
        yield emulator


@pytest.fixture
def client(counter: Counter) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {counter.keys[0]}"}
    with httpx.Client(base_url=counter.url, headers=headers, timeout=0.5) as made:
        yield made


REFUSED = {
    Fault.ERROR_BEFORE: 500, Fault.UNAUTHORIZED: 401, Fault.FORBIDDEN: 403, Fault.NO_CAPACITY: 400,
    Fault.REJECTED: 400, Fault.RATE_LIMITED: 429, Fault.RATE_LIMITED_AFTER: 429,
}  # fmt: skip


@pytest.mark.parametrize(("fault", "status"), REFUSED.items())
def test_a_refusal_does_nothing(counter, client, fault, status):
    counter.faults.add("create", fault)
    assert client.post("/things").status_code == status
    assert counter.done == 0


@pytest.mark.parametrize(("fault", "status"), [(Fault.ERROR_AFTER, 500), (Fault.GATEWAY_AFTER, 504)])
def test_an_error_after_the_act_has_done_it(counter, client, fault, status):
    counter.faults.add("create", fault)
    assert client.post("/things").status_code == status
    assert counter.done == 1


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.LOST_LATE])
def test_a_lost_answer_is_a_closed_connection_after_the_act(counter, client, fault):
    counter.faults.add("create", fault)
    with pytest.raises(httpx.RemoteProtocolError):
        client.post("/things")
    assert counter.done == 1


@pytest.mark.parametrize(("fault", "done"), [(Fault.HANG_BEFORE, 0), (Fault.HANG_AFTER, 1)])
def test_a_hang_ends_when_the_client_gives_up(counter, client, fault, done):
    counter.faults.add("create", fault)
    with pytest.raises(httpx.ReadTimeout):
        client.post("/things")
    assert counter.done == done
    assert client.get("/things").status_code == 200


@pytest.mark.parametrize("fault", [Fault.OK, Fault.DELAY, Fault.LATE])
def test_a_clean_yes(counter, client, fault):
    counter.faults.add("create", fault)
    assert client.post("/things").json() == {"id": 1}


@pytest.mark.parametrize(
    ("fault", "text"), [(Fault.HTML, "<!DOCTYPE html>"), (Fault.EMPTY_BODY, ""), (Fault.NULLS, '{"spoilt":')]
)
def test_a_spoilt_answer_is_a_200_after_the_act(counter, client, fault, text):
    counter.faults.add("create", fault)
    answer = client.post("/things")
    assert answer.status_code in {200, 201}
    assert answer.text.startswith(text)
    assert counter.done == 1


def test_only_one_of_the_two_rate_limits_says_when_to_come_back(counter, client):
    counter.faults.add("list", Fault.RATE_LIMITED, Fault.RATE_LIMITED_AFTER)
    assert "Retry-After" not in client.get("/things").headers
    assert client.get("/things").headers["Retry-After"] == "2"


def test_faults_come_in_order_then_what_always_holds(counter, client):
    counter.faults.always("list", Fault.ERROR_BEFORE)
    counter.faults.add("list", Fault.OK)
    counter.faults.add("list/things", Fault.FORBIDDEN)
    assert [client.get("/things").status_code for _ in range(3)] == [403, 200, 500]
    counter.faults.clear()
    assert client.get("/things").status_code == 200


def test_every_request_is_seen_once_with_its_kind(counter, client):
    client.post("/things?a=1", json={"name": "x"})
    client.get("/nothing/here")
    first, second = counter.log()
    assert (first.kind, first.method, first.path, first.query, first.body) == (
        "create", "POST", "/things", {"a": "1"}, {"name": "x"},
    )  # fmt: skip
    assert second.kind == "other"
    assert counter.keys[0] not in repr(first)


def test_a_wait_ends_with_the_request_it_waits_for(counter, client):
    threading.Timer(0.1, lambda: client.get("/things")).start()
    assert len(counter.wait_for("list", timeout=5)) == 1
    with pytest.raises(TimeoutError):
        counter.wait_for("list", 2, timeout=0.01)


def test_another_key_is_refused_and_so_is_a_revoked_one(counter, client):
    assert httpx.get(f"{counter.url}/things").status_code == 401
    counter.revoke()
    assert client.get("/things").status_code == 401
    counter.restore()
    assert client.get("/things").status_code == 200


def test_the_handle_works_over_http(counter, client):
    client.post("/_emulator/faults_add", json={"kind": "list", "faults": ["html"]})
    assert client.get("/things").headers["Content-Type"].startswith("text/html")
    client.post("/_emulator/advance", json={"seconds": 60})
    client.post("/things")
    machine = client.get("/_emulator/machines").json()[0]
    assert machine == {"id": 0, "at": "2026-11-24T12:01:00+00:00", "usd": 0.1}
    assert client.post("/_emulator/close").status_code == 404
    assert (
        client.post("/_emulator/faults_add", json={"kind": "list", "faults": ["nonsense"]}).status_code == 400
    )


def test_a_closing_emulator_does_not_wait_for_those_who_hang():
    with Counter() as emulator:
        emulator.faults.add("list", Fault.HANG_BEFORE)
        headers = {"Authorization": f"Bearer {emulator.keys[0]}"}
        outcome: list[Exception] = []

        def ask() -> None:
            try:
                httpx.get(f"{emulator.url}/things", headers=headers, timeout=30)
            except httpx.TransportError as e:
                outcome.append(e)

        asking = threading.Thread(target=ask)
        asking.start()
        emulator.wait_for("list")
    asking.join(5)
    assert len(outcome) == 1


# -- clock and ledger ----------------------------------------------------------------------------


def test_a_held_clock_moves_only_when_told():
    clock = Clock(NOON)
    clock.advance(90)
    assert clock.now == NOON + timedelta(seconds=90)
    clock.run()
    assert clock.now >= NOON + timedelta(seconds=90)


def test_a_running_clock_keeps_what_it_was_advanced():
    clock = Clock()
    before = clock.now
    clock.advance(3600)
    assert clock.now - before >= timedelta(hours=1)


def test_the_bill_is_rate_by_time_to_the_microsecond():
    ledger, hour = Ledger(), timedelta(hours=1)
    ledger.rate("a", "gpu", NOON, Decimal("0.36"))
    ledger.rate("a", "disk", NOON, Decimal("0.01"))
    ledger.rate("a", "gpu", NOON + timedelta(minutes=10), Decimal("0.72"))
    ledger.end("a", NOON + timedelta(minutes=15, microseconds=500_000))
    # 10 min at 0.36, then 300.5 s at 0.72; the disk for 900.5 s.
    assert ledger.bill("a", NOON, NOON + hour, component="gpu") == Decimal("0.06") + Decimal("0.0601")
    assert ledger.bill("a", NOON, NOON + hour) == Decimal("0.1201") + Decimal("9.005") / 3600
    assert ledger.bill(None, NOON + timedelta(minutes=5), NOON + timedelta(minutes=6)) == Decimal("0.37") / 60
    assert ledger.bill("b", NOON, NOON + hour) == 0


def test_single_charges_count_once_and_ends_are_exclusive():
    ledger = Ledger()
    ledger.once("a", "traffic", NOON, Decimal("0.5"))
    assert ledger.bill("a", NOON, NOON + timedelta(seconds=1)) == Decimal("0.5")
    assert ledger.bill("a", NOON - timedelta(hours=1), NOON) == 0


# -- conformance ---------------------------------------------------------------------------------

SPEC = {
    "openapi": "3.0.0",
    "paths": {
        "/things/{id}": {
            "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}],
            "post": {
                "parameters": [
                    {"name": "n", "in": "query", "required": True, "schema": {"type": "integer", "minimum": 1}},
                    {"name": "of", "in": "query", "explode": False,
                     "schema": {"type": "array", "items": {"type": "string", "enum": ["A", "B"]}}},
                ],
                "requestBody": {"required": True, "content": {"application/json": {
                    "schema": {"$ref": "#/components/schemas/Thing"}}}},
                "responses": {"200": {"content": {"application/json": {
                    "schema": {"$ref": "#/components/schemas/Thing"}}}}, "204": {}},
            },
        }
    },
    "components": {"schemas": {"Thing": {
        "type": "object", "required": ["name"], "additionalProperties": False,
        "properties": {"name": {"type": "string"}, "note": {"type": "string", "nullable": True}},
    }}},
}  # fmt: skip


def ask(path="/things/1/", query="n=1&of=A,B", body: Any = None) -> list[str]:
    body = {"name": "x", "note": None} if body is None else body
    return Conformance(SPEC).request("POST", path, query, body, has_body=True)


def test_a_right_request_breaks_nothing():
    assert ask() == []


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"path": "/elsewhere"}, "no such operation"),
        ({"query": "of=A"}, "query n: is missing"),
        ({"query": "n=0"}, "query n: .: minimum 1"),
        ({"query": "n=1&of=C"}, "query of: 0: enum"),
        ({"query": "n=1&m=2"}, "query m: is not known"),
        ({"body": {"note": "only"}}, "required name"),
        ({"body": {"name": "x", "bogus": "s3cret"}}, "additionalProperties bogus"),
        ({"body": {"name": None}}, "name: type string"),
    ],
)
def test_a_wrong_request_is_told_without_its_values(wrong, said):
    problems = ask(**wrong)
    assert len(problems) == 1
    assert said in problems[0]
    assert "s3cret" not in problems[0]


def test_answers_are_held_against_the_file_but_for_what_is_allowed():
    def answer(spec: Conformance, status: int, body: Any) -> list[str]:
        return spec.answer("POST", "/things/1", status, body, content_type="application/json")

    strict = Conformance(SPEC)
    assert answer(strict, 200, {"name": "x"}) == []
    assert "type string" in answer(strict, 200, {"name": 7})[0]
    assert "is not described" in answer(strict, 418, {})[0]
    assert "should be none" in answer(strict, 204, {})[0]
    allowed = Allowed("POST", "/things/{id}", "answer", "name: type", "the real API sends numbers")
    assert answer(Conformance(SPEC, [allowed]), 200, {"name": 7}) == []


# -- engines and processes -----------------------------------------------------------------------


@pytest.mark.engine
def test_a_real_engine_answers_with_the_ordered_key_and_name_until_its_end(tmp_path):
    engines = RealEngines(tmp_path)
    try:
        engines.start("m1", "its-own-key", "qwen3-4b", 2048)
        wait_until(lambda: engines.url("m1"))
        url = engines.url("m1")
        headers = {"Authorization": "Bearer its-own-key"}
        wait_until(lambda: httpx.get(f"{url}/health").status_code == 200)
        assert httpx.get(f"{url}/v1/models", headers=headers).json()["data"][0]["id"] == "qwen3-4b"
        assert httpx.get(f"{url}/v1/models").status_code == 401
        engines.stop("m1")
        engines.start("m1", "its-own-key", "qwen3-4b", 2048)
        assert not engines.started("m1")
        wait_until(lambda: engines.url("m1"))
    finally:
        engines.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


@pytest.mark.engine
def test_what_a_killed_emulator_left_is_ended_by_the_next_on_its_folder(tmp_path):
    killed = RealEngines(tmp_path)
    killed.start("m1", "its-own-key", "qwen3-4b", 2048)
    wait_until(lambda: killed.url("m1"))
    after = RealEngines(tmp_path)
    try:
        wait_until(lambda: not killed.started("m1"))
        assert not after.started("m1")
    finally:
        after.close()
        killed.close()


def test_as_a_process_it_says_where_it_listens_and_ends_when_told(tmp_path):
    command = [sys.executable, "-m", "tests.emulators.runpod", "--folder", str(tmp_path), "--key", "k"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert json.loads((tmp_path / "address.json").read_text()) == {"address": url, "pid": process.pid}
        assert httpx.get(f"{url}/v2/pods", headers={"Authorization": "Bearer k"}).json() == {"pods": []}
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()
