"""Rows of the alerts, and a receiver of webhooks that is a real server."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from panel.alerts import webhook
from panel.alerts.models import Channel, Delivery, Rule
from panel.notices.models import Notice
from panel.notices.notify import raise_notice
from tests.conftest import NOW

KEY = "whsec_" + "c2lnbmluZy1rZXktb2YtdGhlLXRlc3RzLTMy"


def channel(name: str = "hook", *, url: str = "", **values: Any) -> Channel:
    """A webhook, unless `kind` says otherwise."""
    return Channel.objects.create(
        **{"name": name, "kind": "webhook", "address": url or "https://alerts.example.com/in", "leads_to": "alerts.example.com",
           "signing_key": KEY, "created_at": NOW, **values}
    )  # fmt: skip


def rule(*channels: Channel, name: str = "all", **values: Any) -> Rule:
    made = Rule.objects.create(name=name, created_at=NOW, **values)
    made.channels.set(channels)
    return made


def notice(key: str = "k", severity: str = "critical", *, now: datetime = NOW, **values: Any) -> Notice:
    return raise_notice(key, severity, values.pop("title", "chat is down"), now=now, **values)


def waiting(to: Channel, *, now: datetime = NOW, notice: Notice | None = None, **values: Any) -> Delivery:
    message = {
        "notice": None, "key": "k", "occasion": "raised", "severity": "critical", "title": "chat is down", "detail": "It is.",
        "url": "/deployments/", "deployment": None, "raised_at": NOW.isoformat(), "resolved_at": None,
    }  # fmt: skip
    return Delivery.objects.create(
        **{"channel": to, "notice": notice, "occasion": "raised", "severity": "critical", "message": message,
           "created_at": now, "next_try_at": now, "message_id": uuid.uuid4(), **values}
    )  # fmt: skip


@dataclass
class Receiver:
    """What came in, and what is answered: statuses in their order, the last one for all that follow."""

    url: str = ""
    statuses: list[int] = field(default_factory=lambda: [204])
    headers: dict[str, str] = field(default_factory=dict)
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    then: Callable[[], object] = lambda: None
    """Done with what has come, before it is answered."""

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.got]


@contextmanager
def receiver() -> Iterator[Receiver]:
    """A real HTTP server on 127.0.0.1."""
    made = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            made.got.append(({k.lower(): v for k, v in self.headers.items()}, body))
            made.paths.append(self.path)
            made.then()
            status = made.statuses.pop(0) if len(made.statuses) > 1 else made.statuses[0]
            self.send_response(status)
            for name, value in made.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", "0")
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{server.server_address[1]}/in?token=in-the-address"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def signed(channel: Channel, delivery: Delivery, *, now: datetime) -> dict[str, str]:
    return webhook.request(channel, delivery, now=now)[1]
