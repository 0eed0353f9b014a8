"""What the emulator of Vast.ai does with `PUT /asks/{id}/`: its checks, in order, and its ways to say no."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from tests.emulators.common import Answer, Call
from tests.emulators.vast_instances import Instance, Phase
from tests.emulators.vast_market import Offer

if TYPE_CHECKING:
    from tests.emulators.vast import Vast

LABEL, ARGS, ENV_VALUE, ENV_TOTAL, SMALLEST_DISK = 256, 4096, 256, 32_768, 8
CHEAPEST_BID, DEAREST_BID = Decimal("0.001"), Decimal(128)
MOST_PORTS = 64


class No(Exception):
    """The API's no to a create."""

    def __init__(self, status: int, error: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.answer = Answer({"success": False, "error": error, "msg": message, **more}, status)


def create(emulator: Vast, call: Call) -> Answer:
    """Accept an ask. The caller holds the emulator's lock."""
    try:
        return _create(emulator, call)
    except No as no:
        return no.answer


def _create(emulator: Vast, call: Call) -> Answer:
    ask, body = call.path("id"), call.body
    if not isinstance(body, dict) or not ask.isdigit():
        raise No(
            400, "invalid_args", "error 400/3467: Invalid args: 'id' is required and must be a valid offer ID"
        )
    _check(body)
    offer = emulator.market.get(int(ask))
    if offer is None or not offer.listed:
        raise gone(emulator, int(ask), 404)
    if emulator.credit(call.key) <= 0:
        raise No(403, "missing_billing", "error 403/3531: Your account has no credit.", ask_id=offer.id)
    if Decimal(str(body.get("disk", 10))) > Decimal(str(offer.disk_space)):
        raise No(400, "invalid_args", "error 400/3570: The host has not that much disk.", ask_id=offer.id)
    phase = _phase(emulator, call, offer, body)
    instance = build(emulator, call.key, offer, body, phase=phase, late=call.late_seconds)
    emulator.secrets |= {instance.jupyter_token, instance.container_key}
    return Answer({"success": True, "new_contract": instance.id, "instance_api_key": instance.container_key})


def _phase(emulator: Vast, call: Call, offer: Offer, body: Mapping[str, Any]) -> Phase:
    """In which phase the instance begins, or No."""
    fleet, price = emulator.fleet, body.get("price")
    holder = fleet.holder(offer)
    if price is not None:
        return _bid_phase(emulator, call, offer, body)
    if holder is None or holder.is_bid:
        return Phase.BOOTING
    if (emulator.clock.now - holder.created_at).total_seconds() < emulator.clash_seconds:
        # The market has not seen the first create yet, so both are accepted, and the host runs one.
        return Phase.CLASHED
    if body.get("cancel_unavail", True):
        raise gone(emulator, offer.id, 410)
    return Phase.WAITING


def _bid_phase(emulator: Vast, call: Call, offer: Offer, body: Mapping[str, Any]) -> Phase:
    price = Decimal(str(body["price"]))
    if not CHEAPEST_BID <= price <= DEAREST_BID:
        message = f"error 400/3471: Please set a bid price >= {CHEAPEST_BID}."
        raise No(400, "invalid_price", message, ask_id=offer.id)
    holder = emulator.fleet.holder(offer)
    taken = holder is not None and not holder.is_bid
    if not taken and price >= emulator.fleet.min_bid(offer):
        return Phase.BOOTING
    message = f"error 400/3545: The bid {price} is below the minimum of {emulator.fleet.min_bid(offer)}."
    if not emulator.low_bid_leaves_instance:
        raise No(400, "invalid_price", message, ask_id=offer.id)
    left = build(emulator, call.key, offer, body, phase=Phase.STOPPED, late=call.late_seconds)
    emulator.secrets |= {left.jupyter_token, left.container_key}
    raise No(400, "invalid_price", message, ask_id=offer.id, new_contract=left.id)


def build(
    emulator: Vast, key: str, offer: Offer, body: Mapping[str, Any], *, phase: Phase, late: float = 0.0,
    ago: float = 0.0,
) -> Instance:  # fmt: skip
    """The instance that the body orders, born `ago` seconds ago, in lists after `late` seconds."""
    now = emulator.clock.now
    env = {str(name): str(value) for name, value in (body.get("env") or {}).items()}
    emulator.secrets |= {value for name, value in env.items() if value and not name.startswith("-p ")}
    price = body.get("price")
    return emulator.fleet.create(
        phase=phase, account=key, label=body.get("label"), offer=offer, image=str(body.get("image") or "template"),
        env=env, args=[str(arg) for arg in body.get("args") or []], onstart=body.get("onstart") or "",
        runtype=body.get("runtype") or ("args" if body.get("args") else "ssh"),
        disk_gb=Decimal(str(body.get("disk", 10))), is_bid=price is not None,
        usd_per_hour=offer.usd_per_hour if price is None else Decimal(str(price)),
        created_at=now - timedelta(seconds=ago),
        visible_at=now + timedelta(seconds=max(late, emulator.read_lag)),
        ends_at=emulator.started_at + timedelta(days=offer.days), place=offer.place,
    )  # fmt: skip


def gone(emulator: Vast, ask: int, status: int) -> No:
    """The offer cannot be had, in one of the four ways in which Vast says it."""
    status = emulator.gone_as or status
    if status in {400, 404}:
        message = f"error {status}/3603: no_such_ask Instance type by id {ask} is not available."
        return No(status, "invalid_args", message, ask_id=ask)
    message = f"error {status}/3907: no_such_ask Instance type {ask} is no longer available."
    return No(status, "no_such_ask", message, ask_id=ask)


def _check(body: Mapping[str, Any]) -> None:
    """The limits of the contract, section 1."""
    env, args = body.get("env") or {}, body.get("args") or []
    if not isinstance(env, dict):
        _refuse("env must be an object")
    if not (body.get("image") or body.get("template_hash_id")):
        _refuse("image is required")
    if len(body.get("label") or "") > LABEL:
        _refuse(f"label has more than {LABEL} characters")
    if sum(len(str(arg)) for arg in args) + len(body.get("onstart") or "") > ARGS:
        _refuse(f"args and onstart have more than {ARGS} characters")
    if any(len(str(value)) > ENV_VALUE for value in env.values()):
        _refuse(f"a value of env has more than {ENV_VALUE} characters")
    if sum(len(str(k)) + len(str(v)) for k, v in env.items()) > ENV_TOTAL:
        _refuse(f"env has more than {ENV_TOTAL} characters")
    if sum(str(name).startswith("-p ") for name in env) > MOST_PORTS:
        _refuse(f"more than {MOST_PORTS} ports")
    if Decimal(str(body.get("disk", 10))) < SMALLEST_DISK:
        _refuse(f"disk must be at least {SMALLEST_DISK} GB")


def _refuse(message: str) -> None:
    raise No(400, "invalid_args", f"error 400/3467: Invalid args: {message}")


def moved(place: str) -> str:
    """Where an instance says that it stands: "US" becomes "Moved, US"."""
    return place if "," in place else f"Moved, {place}"


def changed(offer: Offer, fields: Mapping[str, Any]) -> Offer:
    money = {"usd_per_hour", "min_bid", "storage_cost", "inet_cost"}
    return replace(offer, **{n: Decimal(str(v)) if n in money else v for n, v in fields.items()})
