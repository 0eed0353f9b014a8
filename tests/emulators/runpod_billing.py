"""RunPod's bills, from the emulator's own ledger: buckets by pod, by endpoint and for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from tests.emulators.common import Answer, Call, Route
from tests.emulators.runpod_problems import problem
from tests.emulators.runpod_state import Account, rfc3339
from tests.emulators.runpod_volumes import COMPONENTS

if TYPE_CHECKING:
    from tests.emulators.runpod import RunPodEmulator

_CHARGE_SECONDS = 300
"""Charges run every 5 minutes: what came since is not billed yet."""
_POD_PARTS = ("gpuAmount", "cpuAmount", "diskAmount")
_VOLUME_PARTS = ("standardAmount", "highPerformanceAmount")
_SERVERLESS_PARTS = (*_POD_PARTS, "feeAmount")
_TOTAL_PARTS = (
    "podGpuAmount", "podCpuAmount", "podDiskAmount", "serverlessGpuAmount", "serverlessCpuAmount",
    "serverlessDiskAmount", "serverlessFeeAmount", "storageStandardAmount", "storageHighPerformanceAmount",
    "endpointAmount", "clusterGpuAmount", "clusterDiskAmount", "clusterNetworkingAmount",
)  # fmt: skip

Amounts = dict[str, Decimal]


class Billing:
    def __init__(self, emulator: RunPodEmulator) -> None:
        self.emulator = emulator

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/v2/billing", "charges", self.totals, "totals"),
            Route("GET", "/v2/billing/pods", "charges", self.pods, "pods"),
            Route("GET", "/v2/billing/serverless", "charges", self.serverless, "serverless"),
            Route("GET", "/v2/billing/network-volumes", "charges", self.volumes, "volumes"),
        ]

    def pods(self, call: Call) -> Answer:
        return self._by_machine(call, "podId", "uniquePodCount", _POD_PARTS, kind="pod")

    def serverless(self, call: Call) -> Answer:
        return self._by_machine(
            call, "serverlessId", "uniqueServerlessCount", _SERVERLESS_PARTS, kind="serverless"
        )

    def volumes(self, call: Call) -> Answer:
        return self._by_machine(
            call, "networkVolumeId", "uniqueNetworkVolumeCount", _VOLUME_PARTS, kind="volume"
        )

    def totals(self, call: Call) -> Answer:
        def read(account: Account, start: datetime, end: datetime) -> Iterator[tuple[str, Amounts]]:
            yield "", self._total_amounts(account, start, end)

        return self._answer(call, "", "", _TOTAL_PARTS, read)

    def _by_machine(self, call: Call, name: str, count: str, parts: tuple[str, ...], *, kind: str) -> Answer:
        wanted = call.query.get(name)

        def read(account: Account, start: datetime, end: datetime) -> Iterator[tuple[str, Amounts]]:
            for machine in account.ledger.machines():
                if self._kind(account, machine) == kind and wanted in {None, machine}:
                    yield machine, self._amounts(account, machine, start, end, parts)

        return self._answer(call, name, count, parts, read)

    def _answer(
        self, call: Call, name: str, count: str, parts: tuple[str, ...],
        read: Callable[[Account, datetime, datetime], Iterator[tuple[str, Amounts]]],
    ) -> Answer:  # fmt: skip
        with self.emulator.lock:
            try:
                size, since, until = self._span(call)
            except ValueError as e:
                return problem(400, str(e))
            account, records = self.emulator.account(call), []
            for start, end in _buckets(size, since, until):
                for machine, amounts in read(account, start, min(end, self._billed_until())):
                    if sum(amounts.values()) or call.query.get(name):
                        records.append(_record(start, end, name, machine, amounts))
        query = {"startTime": rfc3339(since), "endTime": rfc3339(until), "bucketSize": size}
        metadata: dict[str, Any] = {
            "query": query,
            "recordCount": len(records),
            "totals": _sum(records, parts),
        }
        if name:
            query[name] = call.query.get(name)
            metadata[count] = len({record[name] for record in records})
        return Answer({"records": records, "metadata": metadata})

    def _amounts(
        self, account: Account, machine: str, start: datetime, end: datetime, parts: tuple[str, ...]
    ) -> Amounts:
        made = dict.fromkeys(parts, Decimal(0))
        for component in account.ledger.components(machine):
            usd = account.ledger.bill(machine, start, end, component=component) if start < end else Decimal(0)
            made[f"{component.partition(':')[0]}Amount"] += usd
        return made

    def _total_amounts(self, account: Account, start: datetime, end: datetime) -> Amounts:
        made = dict.fromkeys(_TOTAL_PARTS, Decimal(0))
        for machine in account.ledger.machines():
            kind = self._kind(account, machine)
            prefix = "storage" if kind == "volume" else kind
            parts = _VOLUME_PARTS if kind == "volume" else _POD_PARTS
            for part, usd in self._amounts(account, machine, start, end, parts).items():
                made[f"{prefix}{part[0].upper()}{part[1:]}"] += usd
        return made

    def _kind(self, account: Account, machine: str) -> str:
        parts = account.ledger.components(machine)
        if set(parts) & set(COMPONENTS.values()):
            return "volume"
        is_endpoint = any(part.startswith("gpu:") for part in parts)
        return "serverless" if is_endpoint else "pod"

    def _billed_until(self) -> datetime:
        seconds = int(self.emulator.clock.now.timestamp())
        return datetime.fromtimestamp(seconds - seconds % _CHARGE_SECONDS, UTC)

    def _span(self, call: Call) -> tuple[str, datetime, datetime]:
        """The bucket's size and the window, snapped to whole buckets. Raises ValueError."""
        size, now = call.query.get("bucketSize", "day"), self.emulator.clock.now
        start, end, last = (call.query.get(name) for name in ("startTime", "endTime", "lastN"))
        if last and (start or end):
            raise ValueError("lastN excludes startTime and endTime.")
        if bool(start) != bool(end):
            raise ValueError("startTime and endTime go together.")
        until = _ceil(size, _read(end) if end else now)
        if last:
            since = until
            for _ in range(int(last)):
                since = _floor(size, since - timedelta(microseconds=1))
            return size, since, until
        return size, _floor(size, _read(start) if start else now - timedelta(days=30)), until


def _read(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _record(start: datetime, end: datetime, name: str, machine: str, amounts: Amounts) -> dict[str, Any]:
    made: dict[str, Any] = {"startTime": rfc3339(start), "endTime": rfc3339(end)}
    if name:
        made[name] = machine
    return {**made, "totalAmount": float(sum(amounts.values())), **{k: float(v) for k, v in amounts.items()}}


def _sum(records: list[dict[str, Any]], parts: tuple[str, ...]) -> dict[str, float]:
    return {part: sum(record[part] for record in records) for part in ("totalAmount", *parts)}


def _buckets(size: str, since: datetime, until: datetime) -> Iterator[tuple[datetime, datetime]]:
    start = since
    while start < until:
        end = _ceil(size, start + timedelta(microseconds=1))
        yield start, end
        start = end


def _floor(size: str, moment: datetime) -> datetime:
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if size == "hour":
        return moment.replace(minute=0, second=0, microsecond=0)
    if size == "week":
        return day - timedelta(days=day.weekday())
    if size == "month":
        return day.replace(day=1)
    return day.replace(month=1, day=1) if size == "year" else day


def _ceil(size: str, moment: datetime) -> datetime:
    floor = _floor(size, moment)
    if floor == moment:
        return moment
    longest = {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7)}
    if size in longest:
        return floor + longest[size]
    return _floor(size, floor + timedelta(days=32 if size == "month" else 367))
