"""Chat services, through Apprise in a process of its own (`chat_processes`).

Apprise opens its connections itself and takes 80 MB: in a child of its own every connection can be guarded,
no proxy or file of this machine is used, and one that hangs is ended.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from django.conf import settings

from panel.alerts import chat_processes, message
from panel.alerts.failure import Undelivered
from panel.alerts.models import Channel, Delivery

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
    answer = _ask({"url": url, "only": "check", "private": private})
    if not answer.get("ok"):
        raise BadAddress(
            "Apprise does not understand this address: look at its documentation of the service."
        )
    host = f" at {parts.hostname}" if parts.scheme in OWN_HOST | PLAIN and parts.hostname else ""
    return f"{answer['service']}{host}"[:200]


def send(channel: Channel, delivery: Delivery, *, now: datetime) -> None:
    """Post it in the room. Raises Undelivered."""
    values = delivery.message
    answer = _ask(
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


def _ask(order: dict[str, Any]) -> dict[str, Any]:
    try:
        return chat_processes.ask(order)
    except chat_processes.Failed as e:
        return {"ok": False, "why": str(e)}
