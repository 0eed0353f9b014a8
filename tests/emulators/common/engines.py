"""What a rented machine runs: a real local engine, a fixed address, or nothing."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from deployments.providers.local import LocalProvider

MODEL = "smollm2-135m"
LONGEST_CONTEXT = 8192


class Engines(Protocol):
    """Engines by label, unique in the emulator's life. None of these waits, but for `close`."""

    def start(self, label: str, key: str, served_name: str, context: int) -> None: ...

    def started(self, label: str) -> bool:
        """Its process runs; it may still be loading."""

    def url(self, label: str) -> str | None:
        """Where it listens; None until it does."""

    def stop(self, label: str) -> None:
        """End its process; `start` brings it back, at another address."""

    def end(self, label: str) -> None: ...

    def logs(self, label: str) -> list[str]: ...

    def close(self) -> None:
        """End all of them and wait for that."""


class NoEngines:
    """Machines that run, with nothing inside."""

    def __init__(self) -> None:
        self.running: dict[str, dict[str, Any]] = {}

    def start(self, label: str, key: str, served_name: str, context: int) -> None:
        self.running[label] = {"key": key, "served_name": served_name, "context": context}

    def started(self, label: str) -> bool:
        return label in self.running

    def url(self, label: str) -> str | None:
        return None

    def stop(self, label: str) -> None:
        self.running.pop(label, None)

    def end(self, label: str) -> None:
        self.running.pop(label, None)

    def logs(self, label: str) -> list[str]:
        return ["The container was started."] if label in self.running else []

    def close(self) -> None:
        self.running.clear()


class FixedEngine(NoEngines):
    """Every machine has this address."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._address = address.rstrip("/")

    def url(self, label: str) -> str | None:
        return self._address if label in self.running else None


class RealEngines:
    """A real small model for each machine, whatever was ordered, under the ordered name and key."""

    def __init__(self, folder: Path) -> None:
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._provider: LocalProvider | None = None
        # One engine starts at a time, and a machine's acts keep their order.
        self._acts = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engines")
        self._ordered: dict[str, tuple[str, str, int]] = {}
        self._seen: dict[str, str | None] = {}
        self._waiting: Counter[str] = Counter()
        self._looked = 0.0
        self._look: Future[None] | None = None
        self.failures: dict[str, str] = {}
        self._acts.submit(self._clear)

    def start(self, label: str, key: str, served_name: str, context: int) -> None:
        self._ordered[label] = (key, served_name, context)
        self._waiting[label] += 1
        self._acts.submit(self._start, label)

    def started(self, label: str) -> bool:
        self._refresh()
        # While a start waits for its turn, what runs is the process before it.
        return not self._waiting[label] and label in self._seen

    def url(self, label: str) -> str | None:
        self._refresh()
        return None if self._waiting[label] else self._seen.get(label)

    def stop(self, label: str) -> None:
        self._seen.pop(label, None)
        self._acts.submit(self._try, label, "stop")

    def end(self, label: str) -> None:
        self._seen.pop(label, None)
        self._ordered.pop(label, None)
        self._acts.submit(self._try, label, "terminate")

    def logs(self, label: str) -> list[str]:
        from deployments.providers.base import ProviderError

        with suppress(ProviderError):
            return [line.text for line in self._local().logs(label, tail=500)]
        return []

    def close(self) -> None:
        for label in list(self._ordered):
            self.end(label)
        self._acts.shutdown(wait=True)

    def _clear(self) -> None:
        """End what an emulator that was killed has left here: nobody knows these machines any more."""
        from deployments.providers.base import ProviderError

        with suppress(ProviderError):
            for machine in self._local().list_machines().machines:
                self._try(machine.label, "terminate")

    def _local(self) -> LocalProvider:
        from deployments.providers.local import LocalProvider

        if self._provider is None:
            self._provider = LocalProvider(self._folder, usd_per_hour=Decimal(0))
        return self._provider

    def _start(self, label: str) -> None:
        from deployments.providers.base import ProviderError

        try:
            if label in self._ordered:  # Else it was ended before its turn came.
                self._create_or_start(label)
        except ProviderError as e:
            self.failures[label] = str(e)
        self._read()
        self._waiting[label] -= 1

    def _create_or_start(self, label: str) -> None:
        from deployments.providers.base import Gone

        try:
            self._local().start(label)
        except Gone:
            self._local().create(self._order(label), deadline=time.monotonic() + 30)

    def _order(self, label: str) -> Any:
        from deployments.catalog import get_model
        from deployments.providers.base import Order, Secret

        key, served_name, context = self._ordered[label]
        model = get_model(MODEL)
        if model is None:
            raise LookupError(f"The catalogue has no {MODEL}.")
        quote = next(iter(self._local().quotes()))
        return Order(
            label=label, quote=quote, model_key=MODEL, repository=model.repository, revision=None,
            served_name=served_name or model.served_name, context=min(context, LONGEST_CONTEXT),
            api_key=Secret(key),
        )  # fmt: skip

    def _try(self, label: str, act: str) -> None:
        from deployments.providers.base import ProviderError

        with suppress(ProviderError):
            getattr(self._local(), act)(label)
        self._seen.pop(label, None)

    def _refresh(self) -> None:
        """Look at the engines at most every 0.2 s, and never in the caller's thread."""
        if time.monotonic() - self._looked < 0.2 or (self._look and not self._look.done()):
            return
        self._looked = time.monotonic()
        with suppress(RuntimeError):  # It has been closed.
            self._look = self._acts.submit(self._read)

    def _read(self) -> None:
        from deployments.providers.base import MachineStatus, ProviderError

        try:
            machines = self._local().list_machines().machines
        except ProviderError:
            return
        alive = {MachineStatus.RUNNING, MachineStatus.PULLING, MachineStatus.PENDING}
        self._seen = {m.label: m.endpoint_url for m in machines if m.status in alive}
