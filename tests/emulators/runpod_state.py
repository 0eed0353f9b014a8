"""What an account at RunPod holds: pods, endpoints, their workers, its money."""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from tests.emulators.common import Ledger
from tests.emulators.runpod_catalogue import country_of

_LETTERS = string.ascii_lowercase + string.digits


def new_id() -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(14))


def rfc3339(moment: datetime | None) -> str | None:
    return None if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass(slots=True)
class Log:
    """Lines of a container and of the system around it: (when, source, text)."""

    lines: list[tuple[datetime, str, str]] = field(default_factory=list)

    def say(self, at: datetime, text: str, source: str = "system") -> None:
        self.lines.append((at, source, text))


@dataclass(slots=True)
class Pod:
    id: str
    order: dict[str, Any]
    created_at: datetime
    visible_at: datetime
    cloud: str
    gpu_id: str
    gpu_count: int
    data_center: str | None
    usd_per_hour: Decimal
    status: str = "PROVISIONING"
    begun_at: datetime | None = None
    """When this boot began: the creation or the last start."""
    started_at: datetime | None = None
    locked: bool = False
    hidden: bool = False
    host_full: bool = False
    log: Log = field(default_factory=Log)
    own_key: str = field(default_factory=lambda: f"rpa_{secrets.token_hex(24)}", repr=False)
    """RUNPOD_API_KEY inside of it: for this pod alone."""

    @property
    def name(self) -> str:
        return str(self.order["name"])

    @property
    def env(self) -> dict[str, str]:
        return dict(self.order.get("env") or {})

    @property
    def disk_gb(self) -> int:
        return int(self.order.get("disk") or 20)

    @property
    def volume_gb(self) -> int:
        return int(((self.order.get("mounts") or {}).get("persistent") or {}).get("size") or 0)

    @property
    def bills(self) -> bool:
        """Its GPU and its container disk do."""
        return self.status not in {"EXITED", "TERMINATED"}

    @property
    def http_ports(self) -> list[int]:
        ports = (str(p).partition("/") for p in self.order.get("ports") or [])
        return [int(number) for number, _, kind in ports if kind == "http"]

    def actions(self) -> list[str]:
        if self.locked:
            return []
        return {
            "EXITED": ["start", "terminate"],
            "RUNNING": ["stop", "restart", "terminate"],
            "ERROR": ["start", "terminate"],
        }.get(self.status, ["stop", "terminate"])

    def row(self, now: datetime) -> dict[str, Any]:
        order = self.order
        return {
            "id": self.id, "name": self.name, "status": self.status, "actions": self.actions(),
            "image": order.get("image", ""), "args": order.get("args", ""), "disk": self.disk_gb,
            "mounts": order.get("mounts") or {}, "ports": order.get("ports") or [],
            # In clear, as RunPod does.
            "env": self.env, "registry": order.get("registry"), "cloud": self.cloud,
            "gpu": {"id": self.gpu_id, "count": self.gpu_count}, "dataCenterId": self.data_center,
            "cudaVersion": "13.0" if self.status != "PROVISIONING" else None,
            "ssh": {"proxy": None, "direct": None}, "template": None,
            "cost": float(self.usd_per_hour * self.gpu_count) if self.bills else 0.0,
            "locked": self.locked, "runtime": self._runtime(now), "createdAt": rfc3339(self.created_at),
            "startedAt": rfc3339(self.started_at), "globalNetworking": {"enabled": False},
        }  # fmt: skip

    def _runtime(self, now: datetime) -> dict[str, Any] | None:
        if self.status != "RUNNING":
            return None
        ports = [{"private": p, "public": None, "type": "http", "ip": None} for p in self.http_ports]
        return {
            "uptime": int((now - (self.started_at or now)).total_seconds()),
            "gpus": [{"util": 12, "memoryUtil": 71}] * self.gpu_count,
            "cpu": {"util": 4}, "memory": {"util": 9}, "ports": ports,
        }  # fmt: skip

    def truth(self) -> dict[str, Any]:
        return {
            "id": self.id, "label": self.name, "status": self.status, "country": country_of(self.data_center),
            "data_center": self.data_center, "kind": "pod", "usd_per_hour": self.usd_per_hour * self.gpu_count,
            "created_at": self.created_at, "locked": self.locked, "hidden": self.hidden,
        }  # fmt: skip


@dataclass(slots=True)
class Worker:
    id: str
    started_at: datetime
    ready_at: datetime
    gpu_id: str
    data_center: str | None
    version: int
    active: bool
    """One of the always-on."""
    status: str = "INITIALIZING"
    idle_since: datetime | None = None
    jobs: int = 0

    def row(self, now: datetime, *, endpoint_version: int, image: str, gpu_count: int) -> dict[str, Any]:
        return {
            "id": self.id, "status": self.status, "isStale": self.version != endpoint_version,
            "version": self.version, "gpuCount": gpu_count, "image": image, "gpuTypeId": self.gpu_id,
            "dataCenterId": self.data_center, "startedAt": rfc3339(self.started_at),
            "uptimeSeconds": max(0, int((now - self.started_at).total_seconds())),
        }  # fmt: skip


@dataclass(slots=True)
class Endpoint:
    id: str
    order: dict[str, Any]
    created_at: datetime
    visible_at: datetime
    usd_per_hour: Decimal
    """Flex, of one worker."""
    gpu_id: str
    engine_key: str
    suffix: str = ""
    version: int = 1
    workers: dict[str, Worker] = field(default_factory=dict)
    hidden: bool = False
    unhealthy: bool = False
    throttled: bool = False
    moved_to: str | None = None
    jobs: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("completed", "failed", "inProgress", "inQueue", "retried"), 0)
    )
    log: Log = field(default_factory=Log)

    @property
    def name(self) -> str:
        return str(self.order["name"])

    @property
    def env(self) -> dict[str, str]:
        return dict(self.order.get("env") or {})

    @property
    def min(self) -> int:
        return int((self.order.get("workers") or {}).get("min", 0))

    @property
    def max(self) -> int:
        return int((self.order.get("workers") or {}).get("max", 3))

    @property
    def idle_seconds(self) -> int:
        return int((self.order.get("workers") or {}).get("idleTimeout", 5))

    @property
    def gpu_count(self) -> int:
        return int((self.order.get("gpu") or {}).get("count") or 1)

    @property
    def balanced(self) -> bool:
        """Its requests go straight to its workers, without a queue."""
        return bool(self.order["type"] == "LOAD_BALANCER")

    def _urls(self) -> dict[str, str]:
        if self.balanced:
            base = f"https://{self.id}.api.runpod.ai"
            return {"base": base, "health": base + self.env.get("HEALTH_CHECK_PATH", "/ping")}
        return {name: f"https://api.runpod.ai/v2/{self.id}/{path}" for name, path in _URLS.items()}

    def row(self) -> dict[str, Any]:
        order, gpu = self.order, self.order.get("gpu") or {}
        return {
            "id": self.id, "name": f"{self.name}{self.suffix}", "type": order["type"], "requestUrls": self._urls(),
            "image": order.get("image", ""), "args": order.get("args", ""), "disk": int(order.get("disk") or 5),
            "ports": order.get("ports") or [], "env": self.env, "registry": order.get("registry"),
            "gpu": {
                "pools": gpu.get("pools", []), "excludedTypes": gpu.get("excludedTypes", []),
                "count": self.gpu_count, "allowedCudaVersions": gpu.get("allowedCudaVersions", []),
                "minCudaVersion": gpu.get("minCudaVersion"),
            },
            "workers": {"min": self.min, "max": self.max, "idleTimeout": self.idle_seconds},
            "scaling": order["scaling"], "dataCenterIds": order.get("dataCenterIds") or [],
            "networkVolumes": order.get("networkVolumes") or [],
            # The file's default is 300000; a create that omits it comes back with 0.
            "timeout": order.get("timeout", 0), "flashboot": order.get("flashboot", "OFF"),
            "createdAt": rfc3339(self.created_at),
        }  # fmt: skip

    def truth(self) -> dict[str, Any]:
        places = sorted({w.data_center or "" for w in self.workers.values()})
        country = country_of(places[0]) if len(places) == 1 else None
        status = "STOPPED" if self.max == 0 else "RUNNING" if self.workers else "IDLE"
        return {
            "id": self.id, "label": self.name, "status": status, "country": country, "data_centers": places,
            "kind": "endpoint", "usd_per_hour": self.usd_per_hour * len(self.workers),
            "workers": len(self.workers), "created_at": self.created_at, "hidden": self.hidden,
        }  # fmt: skip


_URLS = {
    "run": "run", "runSync": "runsync", "status": "status/$job_id", "stream": "stream/$job_id",
    "cancel": "cancel/$job_id", "retry": "retry/$job_id", "purgeQueue": "purge-queue", "health": "health",
}  # fmt: skip


@dataclass(slots=True)
class Volume:
    """A network volume: it bills from its creation to its end, whatever runs."""

    id: str
    name: str
    gb: int
    data_center: str
    type: str = "STANDARD"

    def row(self) -> dict[str, Any]:
        return {
            "id": self.id, "name": self.name, "size": self.gb, "dataCenter": self.data_center, "type": self.type,
        }  # fmt: skip


@dataclass(slots=True)
class Account:
    key: str
    pods: dict[str, Pod] = field(default_factory=dict)
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    volumes: dict[str, Volume] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    made: dict[str, str] = field(default_factory=dict)
    """Everything ever made: id -> label."""
    balance: Decimal = Decimal(250)
    """At `balance_at`; what was burned since is not in it."""
    balance_at: datetime = datetime(1970, 1, 1, tzinfo=UTC)

    def balance_now(self, now: datetime) -> Decimal:
        return self.balance - self.ledger.bill(None, self.balance_at, now)

    def burn(self) -> Decimal:
        """USD per hour now."""
        return sum(self.ledger.rates.values(), Decimal(0))
