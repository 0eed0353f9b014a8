"""The emulator of Vast.ai when things go wrong: bids, lost offers, empty accounts, and every fault once."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
import requests

from tests.emulators.common import Fault
from tests.emulators.vast import Vast
from tests.emulators.vast_asking import (
    KEY,
    refusal,
    rent,
    row_of,
    sdk,
    sdk_of,
    search,
    vast,
)

__all__ = ["sdk", "vast"]


def states(row: dict[str, Any]) -> list[str | None]:
    return [row[name] for name in ("actual_status", "cur_state", "intended_status", "next_state")]


# -- offers that cannot be had ------------------------------------------------------------------------


@pytest.mark.parametrize("status", [404, 410, 400, 200])
def test_an_offer_that_is_gone_says_so_in_four_ways(vast: Vast, sdk: Any, status: int) -> None:
    offer = search(sdk)[0]["id"]
    vast.withdraw(offer)
    vast.set(gone_as=status)
    order = {"image": "a/b", "label": "regia-1", "cancel_unavail": True}
    if status == 200:
        answer = sdk.create_instance(offer, **order)
        assert (answer["success"], answer["error"]) == (False, "no_such_ask")
    else:
        said = refusal(sdk.create_instance, offer, **order)
        assert said.status_code == status
        assert "no_such_ask" in said.text
    assert vast.ever("regia-1") == 0


def test_a_taken_offer_is_410_with_cancel_and_a_waiting_instance_without(vast: Vast, sdk: Any) -> None:
    offer = search(sdk)[0]["id"]
    rent(sdk, offer)
    order = {"image": "a/b", "label": "regia-2"}
    assert refusal(sdk.create_instance, offer, **order, cancel_unavail=True).status_code == 410
    assert vast.ever("regia-2") == 0
    # The SDK's own default leaves an instance that does not run, and its disk bills.
    sdk.create_instance(offer, **order)
    vast.advance(3600)
    assert row_of(sdk, "regia-2")["cur_state"] == "stopped"
    assert vast.bill("regia-2") > 0


def test_two_creates_on_one_offer_are_both_accepted_and_clash(vast: Vast, sdk: Any) -> None:
    vast.set(clash_seconds=5)
    offer = search(sdk)[0]["id"]
    rent(sdk, offer, "regia-1")
    rent(sdk, offer, "regia-2")
    vast.advance(600)
    row = row_of(sdk, "regia-2")
    assert row["actual_status"] == "created"
    assert "OCI runtime create failed" in row["status_msg"]
    assert row_of(sdk, "regia-1")["actual_status"] == "running"
    assert refusal(sdk.create_instance, offer, image="a/b", cancel_unavail=True).status_code == 410


@pytest.mark.parametrize(
    "fields",
    [
        {"disk": 7}, {"label": "x" * 257}, {"env": {"CERTIFICATE": "x" * 257}}, {"args": ["x" * 4097]},
        {"disk": 100_000}, {"image": ""},
    ],
)  # fmt: skip
def test_the_limits_of_a_create_are_kept(vast: Vast, sdk: Any, fields: dict[str, Any]) -> None:
    answer = refusal(rent, sdk, search(sdk)[0]["id"], **fields)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_args")
    assert vast.machines() == []


# -- bids -------------------------------------------------------------------------------------------


def bid(sdk: Any, **fields: Any) -> int:
    offer = search(sdk, "bid")[0]
    return rent(sdk, offer["id"], bid_price=offer["min_bid"] * 1.1, **fields)


def test_a_bid_search_without_a_bid_rents_on_demand(vast: Vast, sdk: Any) -> None:
    offer = search(sdk, "bid")[0]
    rent(sdk, offer["id"])
    row = row_of(sdk)
    assert row["is_bid"] is False
    assert row["dph_base"] > offer["min_bid"]


def test_a_bid_that_is_too_low_leaves_an_instance_that_bills(vast: Vast, sdk: Any) -> None:
    offer = search(sdk, "bid")[0]
    answer = refusal(rent, sdk, offer["id"], bid_price=offer["min_bid"] * 0.5)
    assert answer.status_code == 400
    left = answer.json()["new_contract"]
    vast.advance(3600)
    assert states(row_of(sdk)) == ["stopped"] * 4
    assert vast.bill(left, component="disk") > 0
    sdk.destroy_instance(left)
    vast.set(low_bid_leaves_instance=False)
    assert "new_contract" not in refusal(rent, sdk, offer["id"], bid_price=offer["min_bid"] * 0.5).json()


def test_an_outbid_instance_is_stopped_three_times_over_and_comes_back_by_itself(
    vast: Vast, sdk: Any
) -> None:
    number = bid(sdk)
    vast.advance(60 + 3600)
    gpu = vast.bill(component="gpu")
    vast.outbid(number)
    row = row_of(sdk)
    assert states(row) == ["stopped"] * 4
    assert row["is_bid"] is True
    assert row["min_bid"] > row["dph_base"]
    vast.advance(3600)
    assert vast.bill(component="gpu") == gpu
    assert vast.bill(component="disk") == pytest.approx(
        Decimal("0.15") * 40 / 720 * 7260 / 3600, abs=Decimal("1e-9")
    )
    vast.resume(number)
    vast.advance(60)
    assert row_of(sdk)["actual_status"] == "running"


def test_a_higher_bid_wins_the_gpu_back(vast: Vast, sdk: Any) -> None:
    number = bid(sdk)
    vast.advance(60)
    vast.outbid(number, usd="0.20")
    sdk.change_bid(number, price=0.20)
    assert states(row_of(sdk)) == ["stopped"] * 4
    sdk.change_bid(number, price=0.21)
    vast.advance(60)
    assert (row_of(sdk)["actual_status"], row_of(sdk)["dph_base"]) == ("running", 0.21)
    vast.advance(3600)
    assert vast.bill(component="gpu") == Decimal("0.21")


def test_a_renter_on_demand_always_wins(vast: Vast, sdk: Any) -> None:
    number = bid(sdk)
    vast.advance(60)
    theirs = rent(sdk_of(vast, vast.keys[1]), vast.machines()[0]["offer"], "theirs")
    assert states(row_of(sdk)) == ["stopped"] * 4
    sdk.change_bid(number, price=5)
    vast.advance(60)
    assert row_of(sdk)["actual_status"] == "stopped"
    vast.destroy(theirs)
    vast.advance(60)
    assert row_of(sdk)["actual_status"] == "running"


def test_bids_have_limits_and_on_demand_takes_none(vast: Vast, sdk: Any) -> None:
    number = bid(sdk)
    for price in (0.0001, 32.5):
        assert refusal(sdk.change_bid, number, price=price).status_code == 400
    other = rent(sdk, search(sdk)[1]["id"], "regia-2")
    assert refusal(sdk.change_bid, other, price=1).status_code == 400
    assert refusal(sdk.change_bid, 1, price=1).json()["error"] == "no_such_instance"


def test_the_highest_bid_grows_with_the_gpus(vast: Vast, sdk: Any) -> None:
    vast.set_offer(search(sdk, "bid")[0]["id"], num_gpus=2)
    number = bid(sdk)
    sdk.change_bid(number, price=64)
    assert row_of(sdk)["dph_base"] == 64
    assert refusal(sdk.change_bid, number, price=65).status_code == 400


# -- money, time and hosts --------------------------------------------------------------------------


def test_without_credit_everything_stops_and_nothing_starts(vast: Vast, sdk: Any) -> None:
    number = rent(sdk, search(sdk)[0]["id"])
    vast.set_balance("0.10")
    vast.advance(60)
    vast.advance(3600)
    row = row_of(sdk)
    assert (states(row), row["is_bid"]) == (["stopped"] * 4, False)
    assert sdk.show_user()["credit"] <= 0
    assert refusal(sdk.start_instance, number).status_code == 400
    assert refusal(rent, sdk, search(sdk)[1]["id"]).json()["error"] == "missing_billing"


def test_a_rental_ends_at_its_end_date(vast: Vast, sdk: Any) -> None:
    number = rent(sdk, search(sdk)[0]["id"])
    vast.advance(60)
    vast.expire(number)
    row = row_of(sdk)
    assert states(row) == ["stopped"] * 4
    assert row["end_date"] <= vast.clock.now.timestamp()
    assert refusal(sdk.start_instance, number).status_code == 400


@pytest.mark.parametrize("status", ["exited", "unknown", "offline", "frozen"])
def test_a_host_can_fail_in_every_way_that_vast_names(vast: Vast, sdk: Any, status: str) -> None:
    number = rent(sdk, search(sdk)[0]["id"])
    vast.advance(60)
    vast.fail(number, status=status)
    assert row_of(sdk)["actual_status"] == status


def test_what_vanished_bills_on_and_can_come_back(vast: Vast, sdk: Any) -> None:
    number = rent(sdk, search(sdk)[0]["id"])
    vast.advance(60)
    vast.vanish(number)
    before = vast.bill()
    vast.advance(60)
    assert sdk.show_instances_v1({})["total_instances"] == 0
    assert vast.bill() > before
    assert [machine["label"] for machine in vast.machines()] == ["regia-1"]
    vast.vanish(number, back=True)
    assert row_of(sdk)["id"] == number


def test_a_machine_can_stand_elsewhere_than_its_offer_said(vast: Vast, sdk: Any) -> None:
    number = rent(sdk, search(sdk)[0]["id"])
    vast.move(number, "US")
    assert row_of(sdk)["geolocation"] == "Moved, US"
    vast.move(number, None)
    assert row_of(sdk)["geolocation"] is None


def test_a_yes_to_destroy_may_be_empty(vast: Vast, sdk: Any) -> None:
    number = rent(sdk, search(sdk)[0]["id"])
    vast.stick(number)
    assert sdk.destroy_instance(number)["success"] is True
    assert row_of(sdk)["id"] == number


def test_strict_mode_keeps_to_the_minimum_seconds(vast: Vast, sdk: Any) -> None:
    vast.set(strict=True)
    sdk.show_instances_v1({})
    answer = refusal(sdk.show_instances_v1, {})
    assert (answer.status_code, answer.headers["Content-Type"].split(";")[0]) == (429, "text/plain")
    vast.advance(1)
    sdk.show_instances_v1({})
    for _ in range(10):
        search(sdk)
    assert refusal(search, sdk).status_code == 429
    vast.advance(60)
    assert search(sdk)


# -- every fault once ---------------------------------------------------------------------------------

DONE = {Fault.ERROR_AFTER, Fault.GATEWAY_AFTER, Fault.LOST, Fault.HTML, Fault.EMPTY_BODY, Fault.HANG_AFTER}
CREATES = [
    *DONE, Fault.ERROR_BEFORE, Fault.HANG_BEFORE, Fault.LOST_LATE, Fault.RATE_LIMITED, Fault.RATE_LIMITED_AFTER,
    Fault.UNAUTHORIZED, Fault.FORBIDDEN, Fault.NO_CAPACITY, Fault.REJECTED,
]  # fmt: skip


@pytest.mark.parametrize("fault", sorted(CREATES))
def test_a_create_goes_wrong_in_every_way(vast: Vast, sdk: Any, fault: Fault) -> None:
    offer = search(sdk)[0]["id"]
    sdk.client.timeout = 0.5
    vast.faults.add("create", fault)
    with pytest.raises((requests.RequestException, ValueError)):
        rent(sdk, offer)
    made = fault in DONE or fault is Fault.LOST_LATE
    assert (vast.ever("regia-1"), len(vast.seen("create"))) == (int(made), 1)
    shown = sdk.show_instances_v1({})["total_instances"]
    assert shown == int(fault in DONE)
    vast.advance(90)
    assert sdk.show_instances_v1({})["total_instances"] == int(made)


@pytest.mark.parametrize("fault", [Fault.WRONG_TYPE, Fault.NULLS])
def test_a_create_is_done_and_its_answer_is_nonsense(vast: Vast, sdk: Any, fault: Fault) -> None:
    offer = search(sdk)[0]["id"]
    vast.faults.add("create", fault)
    answer = sdk.create_instance(offer, image="a/b", label="regia-1", cancel_unavail=True)
    assert not isinstance(answer, dict) or answer["new_contract"] is None
    assert vast.ever("regia-1") == 1


def test_a_late_create_shows_in_lists_after_90_seconds(vast: Vast, sdk: Any) -> None:
    vast.faults.add("create", Fault.LATE)
    number = rent(sdk, search(sdk)[0]["id"])
    vast.advance(89)
    assert sdk.show_instances_v1({})["total_instances"] == 0
    assert refusal(sdk.show_instance, number).json()["error"] == "no_such_instance"
    vast.advance(1)
    assert row_of(sdk)["id"] == number


def test_a_list_cut_short_is_betrayed_by_its_total(vast: Vast, sdk: Any) -> None:
    for number in range(30):
        vast.place(f"foreign-{number}")
    vast.faults.add("list", Fault.TRUNCATED, Fault.OK)
    first = sdk.show_instances_v1({"limit": 25})
    second = sdk.show_instances_v1({"limit": 25, "after_token": first["next_token"]})
    assert len(first["instances"]) + len(second["instances"]) < first["total_instances"] == 30
    assert second["next_token"] is None


@pytest.mark.parametrize(
    ("fault", "looks_wrong"),
    [
        (Fault.EMPTY, lambda answer: answer["instances"] == [] and answer["success"] is True),
        (Fault.WRONG_TYPE, lambda answer: not isinstance(answer, dict)),
        (Fault.UNKNOWN_FIELDS, lambda answer: "brandNewField" in answer["instances"][0]),
        (Fault.NULLS, lambda answer: answer["instances"][0]["extra_env"] is None),
        (Fault.UNKNOWN_STATE, lambda answer: answer["instances"][0]["actual_status"] == "hibernating"),
    ],
)  # fmt: skip
def test_a_list_goes_wrong_in_every_way(vast: Vast, sdk: Any, fault: Fault, looks_wrong: Any) -> None:
    rent(sdk, search(sdk)[0]["id"])
    vast.faults.add("list", fault)
    assert looks_wrong(sdk.show_instances_v1({}))
    assert row_of(sdk)["gpu_name"] == "RTX 4090"


def test_limits_come_as_plain_text_with_and_without_retry_after(vast: Vast, sdk: Any) -> None:
    vast.faults.add("terminate", Fault.RATE_LIMITED, Fault.RATE_LIMITED_AFTER)
    number = rent(sdk, search(sdk)[0]["id"])
    first, second = refusal(sdk.destroy_instance, number), refusal(sdk.destroy_instance, number)
    assert [(a.status_code, a.headers.get("Retry-After")) for a in (first, second)] == [
        (429, None),
        (429, "2"),
    ]
    assert "too frequent" in first.text
    sdk.destroy_instance(number)


def test_a_user_may_have_no_balance_to_show(vast: Vast, sdk: Any) -> None:
    vast.faults.add("balance", Fault.MISSING_BALANCE)
    assert {"credit", "balance"}.isdisjoint(sdk.show_user())
    assert sdk.show_user()["credit"] == 100


def test_a_slow_answer_is_still_an_answer(vast: Vast, sdk: Any) -> None:
    vast.faults.delay_seconds = 0.05
    vast.faults.add("quotes", Fault.DELAY)
    assert search(sdk)


def test_the_clock_of_the_bills_is_the_emulators() -> None:
    with Vast(keys=(KEY,)) as emulator:
        number = emulator.place("theirs", ago=3600, where="Paris, FR")
        assert emulator.bill(number, component="gpu") >= emulator.machines()[0]["usd_per_hour"]
        assert emulator.machines()[0]["created_at"] < datetime.now(UTC)
