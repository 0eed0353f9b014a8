"""What the emulator of Vast.ai shows: instances, charges and pages, with Vast's names and words."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from tests.emulators.vast_instances import Fleet, Instance, Phase

FILTERABLE = {
    "id", "label", "actual_status", "intended_status", "cur_state", "next_state", "gpu_name", "verification",
    "machine_id", "host_id", "image_uuid", "start_date", "end_date", "is_bid", "template_hash_id",
}  # fmt: skip
"""Columns of the contract record; computed ones, `dph_total` and `num_gpus` among them, answer 400."""


def status_of(fleet: Fleet, instance: Instance) -> dict[str, str | None]:
    """The four words: what the container does, what was asked, what the contract does and will do."""
    phase = instance.phase
    if phase is Phase.BOOTING:
        return _booting(fleet.progress(instance), rebooting=instance.message == "rebooting")
    if phase in {Phase.STOPPED, Phase.OUTBID}:
        # An interruptible instance that was outbid looks stopped three times over, as if somebody had asked.
        return _words("stopped", "stopped", "stopped", "stopped")
    if phase is Phase.WAITING:
        return _words("stopped" if instance.has_run else None, "running", "stopped", "running")
    if phase is Phase.CLASHED:
        return _words("created", "running", "running", "running")
    intended = "frozen" if phase is Phase.FROZEN else "running"
    return _words(phase.value, intended, "running", "running")


def _booting(progress: float, *, rebooting: bool) -> dict[str, str | None]:
    if rebooting:
        return _words("rebooting", "running", "running", "running")
    if progress < 0.1:
        return _words(None, "running", "unloaded", "running")
    return _words("created" if progress < 0.2 else "loading", "running", "running", "running")


def _words(actual: str | None, intended: str, cur: str, following: str) -> dict[str, str | None]:
    return {"actual_status": actual, "intended_status": intended, "cur_state": cur, "next_state": following}


def message_of(instance: Instance) -> str | None:
    if instance.message:
        return instance.message
    said = {
        Phase.BOOTING: f"loading {instance.image}", Phase.RUNNING: f"success, running {instance.image}/{instance.runtype}",
        Phase.CLASHED: "Error response from daemon: failed to create task for container: "
        "OCI runtime create failed: the GPU is in use",
        Phase.EXITED: "The container exited with code 1.",
    }  # fmt: skip
    return said.get(instance.phase)


def ports_of(fleet: Fleet, instance: Instance) -> dict[str, list[dict[str, str]]] | None:
    """Null until it runs; a stopped row keeps its last mapping."""
    if instance.phase is Phase.RUNNING:
        instance.last_port = fleet.port(instance)
    elif instance.phase not in {Phase.STOPPED, Phase.OUTBID}:
        return None
    if instance.last_port is None:
        return None
    host = [{"HostIp": "0.0.0.0", "HostPort": instance.last_port}]  # noqa: S104
    return dict.fromkeys(instance.asked_ports(), host)


def instance_row(fleet: Fleet, instance: Instance) -> dict[str, Any]:
    """As the lists show it. It holds secrets: `extra_env` and `jupyter_token`."""
    offer = instance.offer
    gpu, disk = float(instance.usd_per_hour), float(instance.disk_usd_per_hour)
    words = status_of(fleet, instance)
    return _instance_constants() | words | {
        "id": instance.id, "label": instance.label, "image_uuid": instance.image, "image_args": instance.args,
        "image_runtype": instance.runtype, "extra_env": [[k, v] for k, v in instance.env.items()] or None,
        "onstart": instance.onstart, "jupyter_token": instance.jupyter_token, "status_msg": message_of(instance),
        # The real one ends in a line feed now and then.
        "public_ipaddr": "127.0.0.1\n" if words["actual_status"] else None,
        "ports": ports_of(fleet, instance),
        "machine_id": offer.machine_id, "host_id": offer.host_id, "hosting_type": int(offer.datacenter),
        "start_date": instance.created_at.timestamp() if words["actual_status"] else None,
        "end_date": instance.ends_at.timestamp(),
        "duration": (instance.ends_at - instance.created_at).total_seconds(),
        "gpu_name": offer.gpu.name, "gpu_totalram": offer.gpu.ram_mb * offer.num_gpus, "gpu_ram": offer.gpu.ram_mb,
        "num_gpus": offer.num_gpus, "disk_space": float(instance.disk_gb), "geolocation": instance.place,
        "verification": offer.verification, "reliability2": offer.reliability, "total_flops": offer.gpu.flops,
        "min_bid": float(instance.min_bid), "is_bid": instance.is_bid, "dph_base": gpu, "dph_total": gpu + disk,
        "direct_port_count": offer.direct_port_count, "storage_cost": float(offer.storage_cost),
        "storage_total_cost": disk, "credit_balance": None,
        "search": _costs(gpu, disk), "instance": _costs(gpu, disk),
    }  # fmt: skip


def traffic_of(instance: Instance) -> dict[str, float]:
    """Counters since the creation, in kilobytes."""
    return {f"inet_{way}_billed": float(gb * 1024 * 1024) for way, gb in instance.traffic_gb.items()}


def columns(fleet: Fleet, instance: Instance) -> dict[str, Any]:
    """What a list can be filtered and ordered by."""
    return status_of(fleet, instance) | {
        "id": instance.id, "label": instance.label, "gpu_name": instance.offer.gpu.name,
        "verification": instance.offer.verification, "machine_id": instance.offer.machine_id,
        "host_id": instance.offer.host_id, "image_uuid": instance.image, "is_bid": instance.is_bid,
        "start_date": instance.created_at.timestamp(),
        "end_date": instance.ends_at.timestamp(), "template_hash_id": None,
    }  # fmt: skip


def _costs(gpu: float, disk: float) -> dict[str, float]:
    total = gpu + disk
    return {
        "gpuCostPerHour": gpu, "diskHour": disk, "totalHour": total, "discountTotalHour": 0,
        "discountedTotalPerHour": total,
    }  # fmt: skip


def _instance_constants() -> dict[str, Any]:
    return {
        "template_id": None, "template_hash_id": None, "template_name": None,
        "local_ipaddrs": "10.0.0.5 172.17.0.2 \n", "ssh_host": "ssh123.vast.ai", "ssh_idx": "6", "ssh_port": 10_600,
        "machine_dir_ssh_port": 21_000, "uptime_mins": None, "cpu_arch": "amd64", "cpu_cores": 24,
        "cpu_cores_effective": 24.0, "cpu_name": "Core™ Ultra 9 285K", "cpu_ram": 63_745, "cpu_util": 0.0,
        "mem_limit": 15.7, "mem_usage": 0.01, "vmem_usage": 0.5, "gpu_arch": "nvidia", "gpu_util": 0.0,
        "gpu_temp": 39.0, "gpu_frac": 1.0, "gpu_lanes": 16, "gpu_mem_bw": 1008.0, "bw_nvlink": 0.0,
        "disk_name": "Samsung SSD 870", "disk_bw": 500.0, "disk_util": 0.05, "disk_usage": 0.05,
        "direct_port_start": 20_000, "direct_port_end": 20_002, "static_ip": False, "rentable": True,
        "dlperf": None, "dlperf_per_dphtotal": None, "flops_per_dphtotal": 15.41, "score": None, "os_version": None,
        "mobo_name": "Z790 Gaming", "pci_gen": 4.0, "pcie_bw": 28.0, "webpage": None, "vram_costperhour": 4.94e-05,
        "credit_discount": None, "credit_discount_max": 0.4, "client_run_time": 1.0, "host_run_time": 1.0,
        "external": False, "time_remaining": "", "time_remaining_isbid": "", "country_code": None,
        "volume_info": [],
    }  # fmt: skip


# -- pages ----------------------------------------------------------------------------------------


class BadToken(ValueError):
    """The API answers 400."""


def to_token(last: int) -> str:
    return base64.b64encode(json.dumps({"values": {"id": last}}).encode()).decode()


def from_token(token: str) -> int:
    try:
        return int(json.loads(base64.b64decode(token, validate=True))["values"]["id"])
    except (ValueError, KeyError, TypeError):
        raise BadToken("Invalid pagination token") from None


def page(
    rows: Sequence[Any], ids: Sequence[int], limit: int, token: str | None
) -> tuple[list[Any], str | None]:
    """The rows after the token's id and the token of the next page."""
    first = 0
    if token:
        last = from_token(token)
        first = ids.index(last) + 1 if last in ids else len(ids)
    cut = list(rows[first : first + limit])
    more = first + limit < len(rows)
    return cut, to_token(ids[first + limit - 1]) if more else None


# -- charges --------------------------------------------------------------------------------------

DAY = timedelta(days=1)


def charge_row(instance: Instance, since: float, until: float, now: datetime) -> dict[str, Any] | None:
    """What one contract cost on the days whose midnight lies between the two moments (unix seconds)."""
    items = [item for day in _days(instance, since, until, now) for item in _items(instance, day, now)]
    if not items:
        return None
    metadata = {"label": instance.label} if instance.label is not None else {}
    start, end = min(i["start"] for i in items), max(i["end"] for i in items)
    days = -(-(end - start) // 86_400)
    return {
        "start": start, "end": end, "type": "instance", "source": f"instance-{instance.id}",
        "description": f"Instance {instance.id} Charges - {days} days",
        "amount": round(sum(i["amount"] for i in items), 3), "metadata": metadata, "items": items,
    }  # fmt: skip


def _days(instance: Instance, since: float, until: float, now: datetime) -> Iterator[datetime]:
    day = datetime.combine(instance.created_at.date(), datetime.min.time(), UTC)
    while day < (instance.destroyed_at or now):
        if since <= day.timestamp() <= until:
            yield day
        day += DAY


def _items(instance: Instance, day: datetime, now: datetime) -> Iterator[dict[str, Any]]:
    start = max(day, instance.created_at)
    end = min(day + DAY, instance.destroyed_at or now)
    name = str(instance.id)
    for component in ("gpu", "disk", "bwd", "bwu"):
        usd = instance.ledger.bill(name, day, min(day + DAY, now), component=component)
        if usd:
            spans = list(instance.ledger.spans(day, end, machine=name, component=component))
            yield {
                "start": int((spans[0].start if spans else start).timestamp()),
                "end": int((spans[-1].end if spans else end).timestamp()), "type": component, "source": None,
                "description": _says(component, spans), "amount": float(usd.quantize(Decimal("0.000001"))),
                "metadata": {}, "items": [],
            }  # fmt: skip


def _says(component: str, spans: Sequence[Any]) -> str:
    if not spans:
        return "traffic"
    hours = sum((span.end - span.start).total_seconds() for span in spans) / 3600
    return f"{hours:.3f} hours at ${float(spans[-1].rate):.3f}/hour ({component})"
