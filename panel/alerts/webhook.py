"""An alert as a signed webhook: its body, and whose keys sign it. The sending is `panel.webhooks`."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings

from panel import webhooks
from panel.alerts import message
from panel.alerts.failure import Undelivered
from panel.alerts.models import Channel, Delivery
from panel.webhooks import TIMEOUT, check_address, check_key, new_key

__all__ = ["TIMEOUT", "check_address", "check_key", "new_key", "request", "send"]

OLD_KEY_FOR = timedelta(hours=24)
"""How long messages carry the former key's signature too, so that a receiver can change its own."""


def send(channel: Channel, delivery: Delivery, *, now: datetime) -> None:
    """POST the message. Raises Undelivered unless the receiver answers 2xx within 10 s; follows no redirect."""
    body, headers = request(channel, delivery, now=now)
    try:
        webhooks.post(channel.address, body, headers, private=settings.ALERTS_ALLOW_PRIVATE)
    except webhooks.NotTaken as e:
        raise Undelivered(str(e), down=e.down, after=e.after) from None


def request(channel: Channel, delivery: Delivery, *, now: datetime) -> tuple[bytes, dict[str, str]]:
    """The body and the headers. The id is the delivery's in every try; the time and so the signature are new."""
    values: dict[str, Any] = {**delivery.message, "link": message.link_of(delivery.message)}
    body = json.dumps(
        {
            "type": f"notice.{values['occasion']}",
            "timestamp": delivery.created_at.astimezone(UTC).isoformat(timespec="seconds"),
            "data": values,
        },
        ensure_ascii=False, separators=(",", ":"),
    )  # fmt: skip
    keys = [channel.signing_key]
    if channel.old_signing_key and channel.key_changed_at and now - channel.key_changed_at < OLD_KEY_FOR:
        keys.append(channel.old_signing_key)
    return body.encode(), webhooks.signed(f"msg_{delivery.message_id.hex}", body, keys, now=now)
