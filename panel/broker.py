"""The one-machine broker: kombu's filesystem transport, made safe for a reader that is quick.

kombu writes a message into its final file, so that a worker that polls just then reads half of it, and dies
of the broken JSON. Here a message appears whole or not at all, a broken one is dropped (the next round of
the clock rings again), and a folder that was removed is made anew.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from pathlib import Path
from time import monotonic_ns
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, filesystem
from kombu.transport.virtual import Empty

logger = logging.getLogger(__name__)


class Channel(filesystem.Channel):
    # Celery names a queue, its exchange and its routing key alike, so the table of bindings is known. kombu
    # keeps it in files that it rewrites in place, and that a removed folder would take along.
    def get_table(self, exchange: str) -> list[Any]:
        return [filesystem.exchange_queue_t(exchange, "", exchange)]

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        pass

    def _put(self, queue: str, payload: Any, **kwargs: Any) -> None:  # type: ignore[override]
        folder = Path(self.data_folder_out)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        name = f"{monotonic_ns():020d}_{uuid.uuid4()}.{queue}"
        draft = folder / f"{name}.draft"
        draft.write_text(json.dumps(payload))
        draft.rename(folder / f"{name}.msg")

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        for name in sorted(self._waiting()):
            if name.partition(".")[2] != f"{queue}.msg":
                continue
            path = Path(self.data_folder_in) / name
            try:
                text = path.read_bytes()
                # Of two readers that read the same message only the one that removes it has it.
                path.unlink()
            except FileNotFoundError:
                continue
            try:
                return json.loads(text)
            except ValueError:
                logger.warning("A broken message was dropped from the queue %s.", queue)
        raise Empty

    def _size(self, queue: str) -> int:
        return sum(name.partition(".")[2] == f"{queue}.msg" for name in self._waiting())

    def _waiting(self) -> list[str]:
        try:
            return os.listdir(self.data_folder_in)
        except FileNotFoundError:
            return []


class Transport(filesystem.Transport):
    Channel = Channel


def install() -> None:
    """Let `filesystem://` mean this transport."""
    TRANSPORT_ALIASES["filesystem"] = "panel.broker:Transport"
