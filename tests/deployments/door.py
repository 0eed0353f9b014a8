"""A real server that stands for the door of our image: keys, a lease, a stream; by TLS or in the clear."""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from django.utils import timezone

from deployments import acts, certificates, services
from deployments.lifecycle import Desired, State
from deployments.models import Deployment, Instance, Offer, ProviderAccount
from deployments.models.offer import freeze_quote, quote_values
from deployments.providers.base import Order, Quote
from tests.providers.fakecloud import fake_quote

BIRTH = "sk-the-key-that-it-was-born-with"
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"w"},"finish_reason":null}]}\n\n'
LAST = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


class Door:
    """`leases` are the bodies that were taken, `refused` how many requests had another key."""

    def __init__(self, context: ssl.SSLContext | None = None, *, key: str = BIRTH) -> None:
        self.birth = key
        self.keys = [key]
        self.state = "serving"
        self.failed: dict[str, Any] | None = None
        """What it tells of its failure, once it has failed."""
        self.leases: list[dict[str, Any]] = []
        self.refused = self.asked = 0
        self.answer: tuple[int, bytes] | None = None
        """Instead of the truth, to PUT /lease."""
        self.pause = 0.0
        self.may_answer = threading.Event()
        """Until it is set, a lease's answer is held back, for four seconds at the most."""
        self.may_answer.set()
        self.taken = threading.Event()
        """A lease was asked for."""
        self.tokens = 3
        self.server = _Server(("127.0.0.1", 0), _handler(self))
        if context is not None:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"http{'s' if context else ''}://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def restart(self) -> None:
        """Its container starts again: it knows what it was ordered with, and nothing else."""
        self.keys = [self.birth]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Whoever refuses the certificate breaks off: that is what is tested."""


def _handler(door: Door) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            door.asked += 1
            if door.failed is not None:
                failed = self.path == "/health"
                self._say(503 if failed else 404, b'{"state":"failed"}' if failed else b"{}")
            elif self.path == "/health" or self._opens():
                self._say(200, b"{}")

        def do_PUT(self) -> None:
            door.asked += 1
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            door.taken.set()
            time.sleep(door.pause)
            door.may_answer.wait(4)
            if self.path != "/lease" or door.answer:
                self._say(*(door.answer or (404, b"")))
            elif not self._opens():
                pass
            elif door.failed is not None:
                self._say(200, json.dumps({"state": "failed", **door.failed}).encode())
            else:
                door.leases.append(body)
                door.keys = body.get("keys", door.keys)
                told = {"expires_in": body["seconds"], "state": door.state, "keys": len(door.keys)}
                self._say(200, json.dumps(told).encode())

        def do_POST(self) -> None:
            door.asked += 1
            self.rfile.read(int(self.headers["Content-Length"]))
            if not self._opens():
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            for _ in range(door.tokens):
                self.wfile.write(TOKEN)
                self.wfile.flush()
                time.sleep(0.05)
            self.wfile.write(LAST)

        def _opens(self) -> bool:
            if self.headers.get("Authorization", "").removeprefix("Bearer ") in door.keys:
                return True
            door.refused += 1
            self._say(401, b'{"error":"Unauthorized"}')
            return False

        def _say(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    return Handler


@contextmanager
def opened(context: ssl.SSLContext | None = None) -> Iterator[Door]:
    door = Door(context)
    try:
        yield door
    finally:
        door.close()


def server_context(folder: Path, pair: certificates.Pair) -> ssl.SSLContext:
    """As the image's door does it: the key and the certificate out of what it is told."""
    key = base64.b64encode(base64.b64decode(pair.key)).decode()
    path = folder / f"{uuid4()}.pem"
    path.write_text(f"-----BEGIN PRIVATE KEY-----\n{key}\n-----END PRIVATE KEY-----\n{pair.certificate}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


def machine(
    door: Door, *, state: State = State.READY, quote: Quote | None = None, lease_seconds: int = 7200,
    name: str = "chat", **columns: Any,
) -> Instance:  # fmt: skip
    """A deployment's one machine, with our image behind `door`."""
    now, quote = timezone.now(), quote or fake_quote()
    account, _made = ProviderAccount.objects.get_or_create(
        name="Cloud", defaults={"backend": "vast", "credentials": "key-of-a-test"}
    )
    deployment = Deployment.objects.create(
        name=name, model_key="qwen3-4b-awq", context=4096, desired=Desired.RUNNING, created_at=now,
        launch_key=uuid4().hex,
    )  # fmt: skip
    values: dict[str, Any] = {
        "deployment": deployment, "account": account, "attempt": 1, "label": f"test-{deployment.id.hex}-1",
        "quote": freeze_quote(quote), "usd_per_hour": quote.usd_per_hour, "state": state.value,
        "state_since": now - timedelta(minutes=5), "created_at": now - timedelta(minutes=9), "remote_id": uuid4().hex,
        "endpoint_url": door.url, "api_key": door.birth, "lease_seconds": lease_seconds, "country": "DE",
        "observed": "running", "observed_at": now, **columns,
    }  # fmt: skip
    return Instance.objects.create(**values)


def ordered(backend: str, **quote) -> tuple[Instance, Order]:
    """The first attempt on such an offer, and what is ordered for it."""
    account = ProviderAccount.objects.create(name=backend, backend=backend, credentials="key-of-a-test")
    offered = {"key": "vast-ask-123", **quote}
    offer = Offer.objects.create(
        account=account, fetched_at=timezone.now(), **{"key": offered["key"], **quote_values(fake_quote(**offered))}
    )  # fmt: skip
    deployment = Deployment.objects.create(
        name="chat", model_key="qwen3-4b-awq", context=4096, desired=Desired.RUNNING, created_at=timezone.now(),
        launch_key=uuid4().hex,
    )  # fmt: skip
    made = services.add_attempt(deployment, offer, now=timezone.now())
    return fresh(made), acts._order(SimpleNamespace(deployment=deployment), fresh(made))  # type: ignore[arg-type]


def fresh(i: Instance) -> Instance:
    return Instance.objects.select_related("deployment", "account").get(pk=i.pk)
