"""Chat services, through Apprise in a process of its own.

Apprise opens its connections itself and takes 30 MB: in a child of its own every connection can be guarded,
no proxy or file of this machine is used, and one that hangs is ended.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from django.conf import settings

from panel.alerts import message
from panel.alerts.failure import Undelivered
from panel.alerts.models import Channel, Delivery

TIMEOUT = 30.0
"""Seconds for the child, of which it takes one to start."""
HOSTED = frozenset(
    {"discord", "feishu", "flock", "gchat", "guilded", "lark", "opsgenie", "pagerduty", "pover", "slack", "tgram",
     "twist", "webex", "workflows", "zulip"}
)  # fmt: skip
OWN_HOST = frozenset({"gotifys", "matrixs", "mmosts", "nctalks", "ntfys", "rockets"})
PLAIN = frozenset({"gotify", "matrix", "mmost", "nctalk", "ntfy", "rocket"})
"""The same without TLS: in one's own network alone."""
_NEVER = frozenset({"template", "verify", "redirect", "retry", "wait"})
"""Parameters that read a file of this machine, switch off the check of certificates, or undo our limits."""


class BadAddress(ValueError):
    """Not an address that is sent to. The text is a sentence without the address."""


def check_address(url: str, *, private: bool) -> str:
    """The service's name, and the host where it is one's own. Raises BadAddress."""
    try:
        parts = urlsplit(url)
        keys = {key.lower() for key, _ in parse_qsl(parts.query, keep_blank_values=True)}
    except ValueError:
        raise BadAddress("This address cannot be read.") from None
    if parts.scheme in PLAIN and not private:
        raise BadAddress(f"Write {parts.scheme}s: messages go over TLS.")
    if parts.scheme not in HOSTED | OWN_HOST | PLAIN:
        raise BadAddress("This is none of the chat services: " + ", ".join(sorted(HOSTED | OWN_HOST)) + ".")
    if bad := sorted(keys & _NEVER):
        raise BadAddress(f"The parameter {bad[0]} is not allowed here.")
    answer = _child({"url": url, "only": "check", "private": private})
    if not answer.get("ok"):
        raise BadAddress(
            "Apprise does not understand this address: look at its documentation of the service."
        )
    host = f" at {parts.hostname}" if parts.scheme in OWN_HOST | PLAIN and parts.hostname else ""
    return f"{answer['service']}{host}"[:200]


def send(channel: Channel, delivery: Delivery, *, now: datetime) -> None:
    """Post it in the room. Raises Undelivered."""
    values = delivery.message
    answer = _child(
        {
            "url": channel.address,
            "title": message.subject_of(values),
            "body": message.text_of(values),
            "type": _TYPES.get(values["occasion"], _TYPES.get(values["severity"], "info")),
            "private": settings.ALERTS_ALLOW_PRIVATE,
        }
    )
    if not answer.get("ok"):
        status = int(answer.get("status") or 0)
        raise Undelivered(
            answer.get("why") or "The service did not take it.", down=not 400 <= status < 500 or status == 429
        )


_TYPES = {"resolved": "success", "test": "info", "critical": "failure", "warning": "warning"}


def _child(order: dict[str, Any]) -> dict[str, Any]:
    """What the child answers. The order goes through its input: an argument could be read by others."""
    with tempfile.TemporaryDirectory(prefix="regia-chat-") as home:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "panel.alerts.chat_child"], cwd=settings.BASE_DIR, timeout=TIMEOUT,
                input=json.dumps(order), capture_output=True, text=True, check=False,
                env={"PATH": os.environ.get("PATH", ""), "HOME": home, "PYTHONDONTWRITEBYTECODE": "1"},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return {"ok": False, "why": f"The service did not answer within {TIMEOUT:.0f} s."}
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        return {"ok": False, "why": "Apprise failed."}
    return answer if isinstance(answer, dict) else {"ok": False, "why": "Apprise failed."}
