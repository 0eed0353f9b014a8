"""RunPod's rows as machines. Pure. Any field may be missing, null or of another type: no row is dropped.

Source: RunPod's REST v2 (`Pod`, `Endpoint`, `Worker`). A pod's remote id is RunPod's; an endpoint's begins with
`serverless-`, so that an id alone says which of the two it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from deployments.providers.base import Inspection, Machine, MachineStatus, Unavailable, Volume
from deployments.providers.runpod_orders import LOAD_BALANCER, STOPPED_JOB_MS, Workers, ordered_workers
from deployments.providers.runpod_prices import (
    STOPPED_VOLUME_USD,
    disk_price,
    network_volume_price,
    pod_price,
)
from deployments.providers.runpod_sites import country_of
from deployments.providers.values import share, text, whole

Row = Mapping[str, Any]

ENDPOINT = "serverless-"
VOLUME = "volume-"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_POD_STATUS = {
    "PROVISIONING": MachineStatus.PENDING,
    # The image is pulled and the container made.
    "STARTING": MachineStatus.PULLING,
    "RUNNING": MachineStatus.RUNNING,
    "EXITED": MachineStatus.STOPPED,
    "ERROR": MachineStatus.EXITED,
}
_FLASHBOOT_SUFFIXES = (" -fb", "-fb")
_TO_ZERO = (
    "Its workers were set to none outside this panel: RunPod does so when an endpoint is idle for a week."
)


def is_endpoint(remote_id: str) -> bool:
    return remote_id.startswith(ENDPOINT)


def valid_id(value: object) -> str:
    """RunPod's own id, empty for what cannot be one."""
    return value if isinstance(value, str) and _ID.fullmatch(value) else ""


def pods(rows: Sequence[Any], address: Callable[[str, int | None], str]) -> Iterator[Machine]:
    """`address(id, port)` is a running pod's door, its port None when RunPod does not say.

    What RunPod calls TERMINATED has been deleted.
    """
    for row in rows:
        known = row if isinstance(row, Mapping) else {}
        if known.get("status") != "TERMINATED":
            yield _pod(known, address)


def endpoints(
    rows: Sequence[Any], queue: Callable[[str], str], balancer: Callable[[str], str]
) -> Iterator[Machine]:
    """`queue(id)` and `balancer(id)` are the OpenAI door of an endpoint of that type."""
    for row in rows:
        known = row if isinstance(row, Mapping) else {}
        yield _endpoint(known, balancer if is_balanced(known) else queue)


def is_balanced(row: Row) -> bool:
    """Whether its requests go straight to its workers."""
    return row.get("type") == LOAD_BALANCER


def _pod(row: Row, address: Callable[[str, int | None], str]) -> Machine:
    remote_id, said = valid_id(row.get("id")), text(row.get("status"))
    status = _POD_STATUS.get(said, MachineStatus.UNKNOWN)
    site, running = text(row.get("dataCenterId")), status is MachineStatus.RUNNING and remote_id
    gpu, mounts = _mapping(row.get("gpu")), _mapping(row.get("mounts"))
    return Machine(
        remote_id=remote_id, label=text(row.get("name"), most=200), status=status,
        created_at=moment(row.get("createdAt")), country=country_of(site), data_center=site, detail=said, gpu_name=text(gpu.get("id"), most=120),
        endpoint_url=address(remote_id, _http_port(row.get("ports"))) if running else None,
        locked=row.get("locked") is True,
        usd_per_hour=pod_price(
            row.get("cost"), disk=row.get("disk"), volume=_mapping(mounts.get("persistent")).get("size"),
            stopped=status is MachineStatus.STOPPED,
        ),
        gpu_use=_gpu_use(row),
        kept_usd_per_hour=disk_price(whole(_mapping(mounts.get("persistent")).get("size")) or 0, STOPPED_VOLUME_USD),
    )  # fmt: skip


def volumes(rows: Sequence[Any]) -> Iterator[Volume]:
    """Network volumes. Raises Unavailable for a row that cannot be read: a volume that is left out would count as gone."""
    for row in rows:
        known = row if isinstance(row, Mapping) else {}
        remote_id, gb = valid_id(known.get("id")), whole(known.get("size"), most=1_000_000)
        if not remote_id or gb is None:
            raise Unavailable("The list of network volumes cannot be read.")
        site = text(known.get("dataCenter"))
        yield Volume(
            f"{VOLUME}{remote_id}", text(known.get("name"), most=120) or remote_id, gb,
            network_volume_price(gb, fast=known.get("type") == "HIGH_PERFORMANCE"), site, country_of(site),
        )  # fmt: skip


def _gpu_use(row: Row) -> float | None:
    gpus = _mapping(row.get("runtime")).get("gpus")
    return share([_mapping(gpu).get("util") for gpu in gpus]) if isinstance(gpus, list) else None


def _endpoint(row: Row, address: Callable[[str], str]) -> Machine:
    remote_id, workers = valid_id(row.get("id")), workers_of(row)
    status = MachineStatus.UNKNOWN
    if workers is not None:
        status = MachineStatus.RUNNING if workers.max else MachineStatus.STOPPED
    sites = (
        [text(site) for site in row["dataCenterIds"]] if isinstance(row.get("dataCenterIds"), list) else []
    )
    countries = {country_of(site) for site in sites}
    running = status is MachineStatus.RUNNING and remote_id
    return Machine(
        remote_id=f"{ENDPOINT}{remote_id}" if remote_id else "", label=endpoint_label(row.get("name")), status=status,
        created_at=moment(row.get("createdAt")), endpoint_url=address(remote_id) if running else None,
        country=countries.pop() if len(countries) == 1 else None, data_center=",".join(sites)[:80],
        detail=f"{workers.min} to {workers.max} workers" if workers else "", drift=drift(row),
        gpu_name=",".join(_texts(_mapping(row.get("gpu")).get("pools")))[:120], serverless=True,
    )  # fmt: skip


def endpoint_label(name: object) -> str:
    """RunPod may mark an endpoint with FlashBoot in its name: exactly that is cut."""
    label = text(name, most=200)
    for suffix in _FLASHBOOT_SUFFIXES:
        if label.endswith(suffix):
            return label.removesuffix(suffix)
    return label


def workers_of(row: Row) -> Workers | None:
    """The endpoint's limits now; None when they cannot be read."""
    limits = _mapping(row.get("workers"))
    least, most = whole(limits.get("min")), whole(limits.get("max"))
    return None if least is None or most is None else Workers(least, most)


def stopped_by_us(row: Row) -> bool:
    workers = workers_of(row)
    return workers is not None and workers.max == 0 and row.get("timeout") == STOPPED_JOB_MS


def drift(row: Row) -> str:
    """What of the workers is no longer as ordered, in a sentence; empty for nothing and for what is not ours."""
    now, ordered = workers_of(row), ordered_workers(row.get("env"))
    if now is None or ordered is None or now == ordered or stopped_by_us(row):
        return ""
    if now.max == 0:
        return _TO_ZERO
    return (
        f"Its workers were set to {now.min} to {now.max} outside this panel; {ordered.min} to {ordered.max} "
        "were ordered."
    )


def inspection(row: Row, workers: Sequence[Any], health: Row, *, note: str = "") -> Inspection:
    """From the endpoint's row, its list of workers and the runtime's health (empty: it did not answer).

    Raises Unavailable for what cannot be read: a worker of which nothing is known would count as one abroad.
    """
    limits = workers_of(row)
    known = [w for w in workers if isinstance(w, Mapping) and isinstance(w.get("status"), str)]
    if limits is None or len(known) < len(workers):
        raise Unavailable("The endpoint's workers cannot be read.")
    placed = [text(w.get("dataCenterId")) for w in known if not _is_on_its_way(w)]
    billed = sum(_bills(w) for w in known)
    counts = ", ".join(f"{n} {word}" for word, n in _counted(known).items()) or "no workers"
    queued = whole(_mapping(health.get("jobs")).get("inQueue"))
    return Inspection(
        data_centers=tuple(placed), countries=tuple(country_of(site) for site in placed),
        billed_workers=max(limits.min, billed), serves=_serves(limits, known, health),
        detail=". ".join(p for p in (counts, f"{queued} waiting" if queued else "", note) if p),
    )  # fmt: skip


def _is_on_its_way(worker: Row) -> bool:
    """Not placed yet: it stands nowhere."""
    return not text(worker.get("dataCenterId")) and worker.get("status") in ("INITIALIZING", "THROTTLED")


def _bills(worker: Row) -> bool:
    """From its start to its full stop, whatever it does meanwhile. A word we do not know bills."""
    if worker.get("status") == "THROTTLED" or _is_on_its_way(worker):
        return False  # It waits for a machine.
    if worker.get("status") == "IDLE":
        return "uptimeSeconds" not in worker or worker["uptimeSeconds"] is not None
    return True


def _serves(limits: Workers, workers: Sequence[Row], health: Row) -> bool:
    if limits.max == 0:
        return False
    ready = any(w.get("status") in ("IDLE", "RUNNING") for w in workers)
    if ready or (whole(_mapping(health.get("workers")).get("ready")) or 0) > 0:
        return True
    # At rest: the next request wakes a worker. With workers of which none is ready, it would only wait.
    return limits.min == 0 and not workers


def _counted(workers: Sequence[Row]) -> dict[str, int]:
    words: dict[str, int] = {}
    for worker in workers:
        word = text(worker.get("status")).lower() or "unknown"
        words[word] = words.get(word, 0) + 1
    return words


def moment(value: object) -> datetime | None:
    """RFC 3339 as UTC."""
    try:
        at = datetime.fromisoformat(text(value, most=40))
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _http_port(ports: object) -> int | None:
    """The first port that RunPod's proxy serves."""
    for port in _texts(ports):
        number, _, kind = port.partition("/")
        if kind == "http" and number.isdecimal() and len(number) < 6:
            return int(number)
    return None


def _mapping(value: object) -> Row:
    return value if isinstance(value, Mapping) else {}


def _texts(value: object) -> list[str]:
    return [text(item) for item in value if isinstance(item, str)] if isinstance(value, list) else []
