"""The emulator of Vast.ai, asked by Vast's own SDK: what it offers, rents, shows, logs and charges."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.emulators.common import Engines, RealEngines
from tests.emulators.vast import Vast
from tests.emulators.vast_asking import ENV, KEY, OTHER, raw, refusal, rent, row_of, sdk, sdk_of, search, vast

__all__ = ["sdk", "vast"]


# -- offers -----------------------------------------------------------------------------------------


def test_a_search_keeps_to_filters_order_and_limit(sdk: Any) -> None:
    found = search(
        sdk, reliability={"gte": 0.98}, direct_port_count={"gte": 1}, cuda_max_good={"gte": 12.8},
        disk_space={"gte": 40}, duration={"gte": 86_400},
    )  # fmt: skip
    assert [offer["geolocation"] for offer in found] == [
        "Warsaw, PL",
        "Madrid, ES",
        "Frankfurt, DE",
        "Helsinki, FI",
    ]
    assert search(sdk, datacenter={"eq": True})[0]["geolocation"] == "Frankfurt, DE"
    assert search(sdk, gpu_name={"in": ["RTX 3060"]})[0]["gpu_ram"] == 12_288
    assert len(sdk.search_offers({}, order="dph_total", limit=3)) == 3


def test_prices_follow_the_contracts_formula(sdk: Any) -> None:
    offer = search(sdk)[0]
    assert offer["dph_total"] == pytest.approx(offer["dph_base"] + offer["storage_cost"] * 40 / 720)
    bid = next(o for o in search(sdk, "bid") if o["id"] == offer["id"])
    assert bid["dph_base"] == bid["min_bid"] < offer["dph_base"]


def test_anybody_may_search_but_a_wrong_key_is_wrong(vast: Vast) -> None:
    query = {"geolocation": {"eq": "DE"}, "type": "on-demand"}
    assert search(sdk_of(vast, ""))
    with raw(vast, None) as nobody, raw(vast, "wrong") as stranger:
        assert nobody.post("/api/v0/bundles/", json=query).json()["offers"]
        assert stranger.post("/api/v0/bundles/", json=query).status_code == 404


def test_a_long_market_is_the_same_every_time() -> None:
    one, two = Vast(offers=5000).market, Vast(offers=5000).market
    assert len(one) == 5000
    assert one == two
    assert len({offer.country for offer in one.values()}) > 10


def test_a_wrong_key_is_404_and_none_is_403(vast: Vast) -> None:
    with raw(vast, "wrong") as stranger, raw(vast, None) as nobody:
        for path in ("/api/v1/instances/", "/api/v0/users/current", "/api/v0/charges/"):
            wrong, none = stranger.get(path), nobody.get(path)
            assert (wrong.status_code, wrong.json()["error"]) == (404, "auth_error")
            assert (none.status_code, none.json()["error"]) == (403, "auth_error")


# -- renting ----------------------------------------------------------------------------------------


def test_an_instance_boots_through_vasts_states(vast: Vast, sdk: Any) -> None:
    rent(sdk, search(sdk)[0]["id"])
    seen = []
    for seconds in (0, 7, 20, 40):
        vast.advance(seconds)
        row = row_of(sdk)
        seen.append((row["actual_status"], bool(row["ports"])))
    assert seen == [(None, False), ("created", False), ("loading", False), ("running", True)]
    assert list(row_of(sdk)["ports"]) == ["8000/tcp"]
    assert row_of(sdk)["public_ipaddr"].strip() == "127.0.0.1"


def test_a_row_carries_secrets_and_the_emulator_knows_them(vast: Vast, sdk: Any) -> None:
    rent(sdk, search(sdk)[0]["id"])
    row = row_of(sdk)
    assert ["REGIA_API_KEY", "sk-of-the-machine"] in row["extra_env"]
    assert {"sk-of-the-machine", row["jupyter_token"]} <= vast.secrets


def test_without_args_ssh_takes_the_place_of_the_images_entrypoint(vast: Vast, sdk: Any) -> None:
    offers = search(sdk)
    rent(sdk, offers[0]["id"], "bare", args=None)
    rent(sdk, offers[1]["id"], "args", args=None, runtype="args")
    vast.advance(60)
    assert row_of(sdk, "bare")["image_runtype"] == "ssh"
    rent(sdk, offers[2]["id"], "direct", args=None, ssh=True, direct=True)
    running = [call["key"] for call in vast.engines.running.values()]
    assert running == ["sk-of-the-machine"]


def test_stop_keeps_the_row_with_its_last_ports_and_start_brings_it_back(vast: Vast, sdk: Any) -> None:
    number = rent(sdk, search(sdk)[0]["id"])
    vast.advance(61)
    ports = row_of(sdk)["ports"]
    sdk.stop_instance(number)
    row = row_of(sdk)
    assert (row["actual_status"], row["intended_status"], row["ports"]) == ("stopped", "stopped", ports)
    sdk.start_instance(number)
    assert row_of(sdk)["ports"] is None
    vast.advance(61)
    assert row_of(sdk)["actual_status"] == "running"


def test_a_start_waits_while_somebody_else_has_the_gpu(vast: Vast, sdk: Any) -> None:
    number = rent(sdk, search(sdk)[0]["id"])
    vast.advance(61)
    sdk.stop_instance(number)
    theirs = vast.take_gpu(number)
    sdk.start_instance(number)
    vast.advance(600)
    row = row_of(sdk)
    assert (row["intended_status"], row["cur_state"]) == ("running", "stopped")
    vast.destroy(theirs)
    vast.advance(61)
    assert row_of(sdk)["actual_status"] == "running"


def test_label_reboot_and_show(vast: Vast, sdk: Any) -> None:
    number = rent(sdk, search(sdk)[0]["id"])
    vast.advance(61)
    sdk.label_instance(number, "another")
    sdk.reboot_instance(number)
    assert sdk.show_instance(number)["actual_status"] == "rebooting"
    vast.advance(61)
    assert row_of(sdk, "another")["actual_status"] == "running"


def test_what_is_destroyed_is_gone(vast: Vast, sdk: Any) -> None:
    number = rent(sdk, search(sdk)[0]["id"])
    assert sdk.destroy_instance(number)["success"] is True
    assert sdk.show_instances_v1({})["instances"] == []
    assert sdk.show_instance(number) is None
    for act in (sdk.destroy_instance, sdk.stop_instance, sdk.reboot_instance):
        answer = refusal(act, number)
        assert (answer.status_code, answer.json()["error"]) == (404, "no_such_instance")
    assert vast.ever("regia-1") == 1


def test_a_list_has_pages_of_25(vast: Vast, sdk: Any) -> None:
    numbers = [int(vast.place(f"foreign-{n % 2}")) for n in range(27)]
    first = sdk.show_instances_v1({"order_by": [{"col": "id", "dir": "asc"}]})
    assert (first["instances_found"], first["total_instances"]) == (25, 27)
    assert first["label_counts"] == {"foreign-0": 14, "foreign-1": 13}
    rest = sdk.show_instances_v1({"limit": 25, "after_token": first["next_token"]})
    assert rest["next_token"] is None
    assert [row["id"] for row in first["instances"] + rest["instances"]] == numbers


def test_a_list_refuses_what_cannot_be_filtered(sdk: Any) -> None:
    answer = refusal(sdk.show_instances_v1, {"select_filters": {"dph_total": {"gt": 1}}})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
    answer = refusal(sdk.show_instances_v1, {"after_token": "nonsense"})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_token")


def test_the_retired_list_says_so(vast: Vast) -> None:
    with raw(vast) as client:
        answer = client.get("/api/v0/instances/", params={"owner": "me"})
    assert (answer.status_code, answer.json()["error"]) == (410, "deprecated_endpoint")


def test_accounts_see_their_own_machines_only(vast: Vast, sdk: Any) -> None:
    other = sdk_of(vast, OTHER)
    number = rent(sdk, search(sdk)[0]["id"])
    assert other.show_instances_v1({})["instances"] == []
    assert refusal(other.destroy_instance, number).status_code == 404
    vast.revoke(KEY)
    assert refusal(sdk.show_instances_v1, {}).status_code == 404
    vast.restore(KEY)
    assert row_of(sdk)["id"] == number


def test_a_machines_own_key_may_end_it_and_nothing_else(vast: Vast, sdk: Any) -> None:
    answer = sdk.create_instance(search(sdk)[0]["id"], image="a/b", label="regia-1", cancel_unavail=True)
    other = rent(sdk, search(sdk)[1]["id"], "regia-2")
    inside = sdk_of(vast, answer["instance_api_key"])
    assert refusal(inside.show_instances_v1, {}).status_code == 403
    assert refusal(inside.reboot_instance, answer["new_contract"]).status_code == 403
    assert refusal(inside.destroy_instance, other).status_code == 404
    inside.stop_instance(answer["new_contract"])
    inside.destroy_instance(answer["new_contract"])
    assert [machine["label"] for machine in vast.machines()] == ["regia-2"]


# -- logs and money ---------------------------------------------------------------------------------


def test_logs_are_read_where_the_answer_says(vast: Vast, sdk: Any) -> None:
    number = rent(sdk, search(sdk)[0]["id"])
    vast.set(logs_ready_after=2)
    vast.say(number, "Model loaded.")
    text = sdk.logs(number, tail="2")
    assert text.splitlines()[-1] == "Model loaded."
    # Real engines print their arguments: whoever shows logs must mask them.
    assert "sk-of-the-machine" in sdk.logs(number)


def test_the_gpu_bills_while_running_and_the_disk_from_creation_to_destruction(vast: Vast, sdk: Any) -> None:
    number = rent(sdk, search(sdk)[0]["id"])
    vast.advance(60 + 3600)
    sdk.stop_instance(number)
    vast.advance(7200)
    sdk.destroy_instance(number)
    vast.advance(86_400)
    assert vast.bill("regia-1", component="gpu") == Decimal("0.16")
    disk = Decimal("0.15") * 40 / 720 * (60 + 3600 + 7200) / 3600
    assert vast.bill("regia-1", component="disk") == pytest.approx(disk, abs=Decimal("1e-20"))


def test_an_offline_machine_bills_nothing_and_a_frozen_one_its_gpu(vast: Vast, sdk: Any) -> None:
    number = rent(sdk, search(sdk)[0]["id"])
    vast.advance(60)
    vast.fail(number, status="offline")
    before = vast.bill()
    vast.advance(3600)
    assert vast.bill() == before
    vast.fail(number, status="frozen")
    vast.advance(3600)
    assert vast.bill(component="gpu") == Decimal("0.16")


def test_a_new_price_holds_from_then_on(vast: Vast, sdk: Any) -> None:
    number = rent(sdk, search(sdk)[0]["id"])
    vast.advance(60 + 1800)
    vast.set_price(number, "0.30")
    vast.advance(1800)
    assert vast.bill(component="gpu") == Decimal("0.08") + Decimal("0.15")
    assert row_of(sdk)["dph_base"] == 0.3


def test_charges_name_the_label_and_come_by_day_and_page(vast: Vast, sdk: Any) -> None:
    offers = search(sdk)
    first, _ = (rent(sdk, offers[n]["id"], f"regia-{n}") for n in range(2))
    vast.traffic(first, down_gb=10, up_gb=1)
    vast.advance(24 * 3600)
    got: list[dict[str, Any]] = []
    token = None
    while token is not None or not got:
        answer = sdk.show_invoices_v1(
            charges=True, start_date="2026-11-23", end_date="2026-11-27", limit=1, charge_type=["instance"],
            next_token=token,
        )  # fmt: skip
        assert (answer["count"], answer["total"]) == (1, 2)
        got += answer["results"]
        token = answer["next_token"]
    assert [charge["metadata"]["label"] for charge in got] == ["regia-0", "regia-1"]
    items = got[0]["items"]
    assert [item["type"] for item in items] == ["gpu", "disk", "bwd", "bwu", "gpu", "disk"]
    assert sum(item["amount"] for item in items) == pytest.approx(float(vast.bill("regia-0")), abs=1e-5)
    assert got[0]["amount"] == pytest.approx(float(vast.bill("regia-0")), abs=0.0006)
    assert datetime.fromtimestamp(items[0]["end"], UTC) == datetime(2026, 11, 25, tzinfo=UTC)


def test_charges_need_a_range_of_days(vast: Vast) -> None:
    with raw(vast) as client:
        answer = client.get("/api/v0/charges/", params={"select_filters": '{"type":{"in":["instance"]}}'})
    assert (answer.status_code, answer.json()["success"]) == (400, False)


def test_the_prepaid_money_is_the_credit_and_goes_down(vast: Vast, sdk: Any) -> None:
    vast.set_balance(10)
    rent(sdk, search(sdk)[0]["id"])
    vast.advance(60 + 36_000)
    user = sdk.show_user()
    assert user["balance"] == 0
    assert user["credit"] == pytest.approx(float(10 - vast.bill()))


# -- as the sandbox runs it -------------------------------------------------------------------------


def test_a_test_in_another_process_may_do_the_same_over_http(vast: Vast, sdk: Any) -> None:
    with httpx.Client(base_url=f"{vast.url}/_emulator") as handle:
        number = handle.post("/place", json={"label": "theirs", "where": "US"}).json()
        handle.post("/faults_add", json={"kind": "list", "faults": ["rate_limited"]})
        assert refusal(sdk.show_instances_v1, {}).status_code == 429
        assert handle.get("/machines").json()[0]["country"] == "US"
        assert row_of(sdk, "theirs")["id"] == int(number)
        assert handle.post("/nonsense").status_code == 404


def test_a_request_that_breaks_the_openapi_file_is_noted() -> None:
    with Vast(keys=(KEY,)) as emulator, raw(emulator) as client:
        client.get("/api/v1/instances/", params={"page": "2"})
        client.put("/api/v0/asks/21348645/", json={"image": "a/b", "disk": 20, "vm": "yes"})
    assert len(emulator.violations) == 2


def test_it_runs_as_a_process_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.emulators.vast", "--folder", str(tmp_path), "--key", KEY]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        answer = httpx.get(f"{url}/api/v0/users/current", headers={"Authorization": f"Bearer {KEY}"})
        assert answer.json()["credit"] == 100
    finally:
        process.terminate()
        assert process.wait(20) == 0


@pytest.mark.engine
def test_a_rented_machine_is_a_real_engine_that_ends_with_it(tmp_path: Path) -> None:
    engines: Engines = RealEngines(tmp_path)
    with Vast(keys=(KEY,), boot_seconds=0.5, engines=engines) as emulator:
        sdk = sdk_of(emulator)
        number = rent(sdk, search(sdk)[0]["id"], env={**ENV, "REGIA_CONTEXT": "2048"})
        row = _until(lambda: row_of(sdk), lambda row: bool(row["ports"]))
        assert row["actual_status"] == "running"
        url = f"http://{row['public_ipaddr'].strip()}:{row['ports']['8000/tcp'][0]['HostPort']}"
        key = {"Authorization": "Bearer sk-of-the-machine"}
        models = _until(lambda: httpx.get(f"{url}/v1/models", headers=key), lambda a: a.status_code == 200)
        assert models.json()["data"][0]["id"] == "qwen3-4b"
        assert httpx.get(f"{url}/v1/models").status_code == 401
        sdk.destroy_instance(number)
    # Closing waits for the engines' ends.
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/v1/models", headers=key)
    assert emulator.violations == []


def _until(look: Any, good: Any, patience: timedelta = timedelta(seconds=120)) -> Any:
    give_up = time.monotonic() + patience.total_seconds()
    while not good(seen := look()):
        assert time.monotonic() < give_up, seen
        time.sleep(0.1)
    return seen
