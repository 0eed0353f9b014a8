"""Vast.ai's instances as machines. Pure.

Source: the contract's section 2. Any field may be null, missing or of another type: such a row is a machine
of unknown state, never none. Rows hold secrets (`extra_env`, `jupyter_token`); none of them goes on.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from dataclasses import replace
from decimal import Decimal

from deployments.providers.base import Bills, Machine, MachineStatus
from deployments.providers.values import Row, mask, moment, number, share, text, usd
from deployments.providers.vast_countries import CODES
from deployments.providers.vast_offers import country_of
from deployments.providers.vast_values import disk_usd_per_hour, identity

_STARTING = {None: MachineStatus.PENDING, "created": MachineStatus.PENDING, "rebooting": MachineStatus.PENDING,
             "loading": MachineStatus.PULLING}  # fmt: skip
_HELD = {MachineStatus.STOPPED, MachineStatus.OUTBID}
"""Only the disk bills."""
_BOOTS = {MachineStatus.PENDING, MachineStatus.PULLING}
"""The GPU bills from the moment in which the container runs (contract, 3)."""
_KB_IN_GB = 1024 * 1024
_MOST_GB = 1_000_000
_DETAIL = 300
_PUBLIC = ("REGIA_MODEL", "REGIA_SERVED_NAME", "REGIA_REVISION", "REGIA_CONTEXT", "REGIA_PORT")
"""Variables that logs may show."""
_SHORTEST_SECRET = 6


def machine(row: Row, *, port: int, asked_to_stop: Collection[str] = ()) -> Machine | None:
    """One row of the list; None only without an id, when it cannot be named at all.

    `asked_to_stop` holds the ids that we stopped ourselves. A row does not tell a bid that was stopped from
    one that was outbid: whoever else knows that a stop was wanted reads OUTBID as stopped.
    """
    remote_id = identity(row.get("id"))
    if not remote_id:
        return None
    label = row.get("label")
    bare = Machine(remote_id, label if isinstance(label, str) else "", MachineStatus.UNKNOWN)
    status = status_of(row, asked_to_stop=remote_id in asked_to_stop)
    return replace(
        bare,
        status=status,
        created_at=moment(row.get("start_date")),
        endpoint_url=_address(row, port=port) if status is MachineStatus.RUNNING else None,
        own_door=True,
        country=_country(row),
        data_center=text(row.get("geolocation")),
        usd_per_hour=_usd_per_hour(row, status),
        detail=mask(text(row.get("status_msg"), most=_DETAIL), secrets_of(row)),
        gpu_name=text(row.get("gpu_name")),
        min_bid=usd(row.get("min_bid"), up=True) if row.get("is_bid") is True else None,
        ends_at=moment(row.get("end_date")),
        gpu_use=share([row.get("gpu_util")]) if status is MachineStatus.RUNNING else None,
        bills=_bills(row, status),
        kept_usd_per_hour=_disk_usd_per_hour(row),
        traffic_in_gb=_traffic_gb(row.get("inet_down_billed")),
        traffic_out_gb=_traffic_gb(row.get("inet_up_billed")),
    )


def status_of(row: Row, *, asked_to_stop: bool = False) -> MachineStatus:
    actual, current = row.get("actual_status"), row.get("cur_state")
    intended, following = row.get("intended_status"), row.get("next_state")
    if actual is not None and not isinstance(actual, str):
        return MachineStatus.UNKNOWN
    if row.get("is_bid") is True and current == intended == following == "stopped" and not asked_to_stop:
        return MachineStatus.OUTBID
    if intended == "stopped":
        return _while_stopping(actual, current)
    if actual == "running":
        return MachineStatus.RUNNING
    if actual == "created" and _cannot_start(row):
        return MachineStatus.EXITED
    if actual in _STARTING and (actual or intended == "running"):
        return _STARTING[actual]
    if actual in {"stopped", "exited"}:
        return _at_rest(actual, current, intended, following)
    # Frozen bills its GPU; offline and unknown have no heartbeat; and words we have never seen.
    return MachineStatus.UNKNOWN


def _while_stopping(actual: str | None, current: object) -> MachineStatus:
    """A stop was asked for, by us or by Vast.ai (no credit, the rental's end)."""
    if actual in {"stopped", "exited"} or (current == "stopped" and actual not in {"running", "frozen"}):
        return MachineStatus.STOPPED
    if actual == "running" or actual in _STARTING:
        return MachineStatus.STOPPING
    return MachineStatus.UNKNOWN


def _at_rest(actual: str, current: object, intended: object, following: object) -> MachineStatus:
    """It stands still and nobody asked for that, or a start was asked for and its GPU is taken."""
    if current == "stopped" and "running" in (intended, following):
        return MachineStatus.PENDING
    if current == "stopped" or actual == "stopped":
        return MachineStatus.STOPPED
    # Without a word of what was intended, an end and a stop look the same.
    return MachineStatus.EXITED if intended == "running" else MachineStatus.UNKNOWN


def _cannot_start(row: Row) -> bool:
    said = text(row.get("status_msg"), most=2000).lower()
    return "oci runtime create failed" in said or ("docker" in said and "error" in said)


def _address(row: Row, *, port: int) -> str | None:
    """Where the host maps our port: only a running machine's mapping is alive."""
    ports = row.get("ports")
    bindings = ports.get(f"{port}/tcp") if isinstance(ports, dict) else None
    try:
        host = ipaddress.ip_address(text(row.get("public_ipaddr")))
    except ValueError:
        return None
    for binding in bindings if isinstance(bindings, list) else ():
        mapped = identity(binding.get("HostPort")) if isinstance(binding, dict) else ""
        if mapped and 0 < int(mapped) < 65536:
            name = f"[{host}]" if host.version == 6 else str(host)
            return f"https://{name}:{int(mapped)}"
    return None


def _country(row: Row) -> str | None:
    """By what the row says last of its place; None when that is not sure."""
    place = row.get("geolocation")
    code = country_of(place)
    if code is None and isinstance(place, str):
        code = CODES.get(place.rpartition(",")[2].strip().lower())
    said = row.get("country_code")
    if code is None and isinstance(said, str) and len(said) == 2 and said.isascii() and said.isalpha():
        code = said.upper()
    return code


def _bills(row: Row, status: MachineStatus) -> Bills:
    """By the contract's section 3: no storage while offline, no GPU before the container runs."""
    if row.get("actual_status") == "offline" and status is MachineStatus.UNKNOWN:
        return Bills.NOTHING
    return Bills.DISK if status in _HELD | _BOOTS else Bills.ALL


def _traffic_gb(kilobytes: object) -> Decimal | None:
    """What was billed one way since the creation. The contract has no such field, and the rows of the real API had:
    in kilobytes, as others measured. Prices are for 1024 x 1024 of those (`$/TB = 1024 x $/GB`)."""
    told = number(kilobytes)
    if told is None or not 0 <= told <= _MOST_GB * _KB_IN_GB:
        return None
    return Decimal(str(kilobytes)) / _KB_IN_GB


def _disk_usd_per_hour(row: Row) -> Decimal | None:
    disk = disk_usd_per_hour(row.get("storage_cost"), row.get("disk_space"))
    return usd(row.get("storage_total_cost")) if disk is None else disk


def _usd_per_hour(row: Row, status: MachineStatus) -> Decimal | None:
    """What it bills now: the disk alone while it is held, else all of it. None when the row does not say."""
    disk = _disk_usd_per_hour(row)
    if status in _HELD:
        return disk
    total, base = usd(row.get("dph_total")), usd(row.get("dph_base"))
    if total is None and base is not None and disk is not None:
        return base + disk
    return total


def secrets_of(row: Row) -> set[str]:
    """Everything in the row that must not be shown, to mask it elsewhere. Never kept."""
    environment = row.get("extra_env")
    pairs = list(environment.items()) if isinstance(environment, dict) else environment
    found: list[object] = [row.get("jupyter_token")]
    found += [value for name, value in _pairs(pairs) if name not in _PUBLIC]
    return {s for s in found if isinstance(s, str) and len(s) >= _SHORTEST_SECRET}


def _pairs(environment: object) -> list[tuple[object, object]]:
    pairs = environment if isinstance(environment, list) else []
    return [(p[0], p[1]) for p in pairs if isinstance(p, (list, tuple)) and len(p) == 2]
