"""The anchors as signed messages to a receiver outside (`REGIA_AUDIT_ANCHOR_URL`): what it has kept, nobody here edits.

Each waits in a row until the receiver has taken it; the oldest goes first, and a failure is tried again later and later.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta

from django.conf import settings

from panel import webhooks
from panel.audit import anchors
from panel.audit.models import AnchorMessage, Head

LONGEST = timedelta(hours=1)
AT_ONCE = 20
"""Messages in one round: a receiver that comes back after a month does not hold the housekeeping."""


def note(*, now: datetime) -> bool:
    """Write the message of the head when one is due; False when not, or when there is no receiver."""
    head = Head.objects.filter(pk=1).first()
    if not settings.AUDIT_ANCHOR_URL or head is None or not head.sequence:
        return False
    last = AnchorMessage.objects.order_by("-sequence").first()
    if last and not anchors.Anchor(last.sequence, last.hash, last.at.isoformat()).is_old(head, now=now):
        return False
    values = {"hash": head.hash, "at": now, "next_try_at": now}
    return AnchorMessage.objects.get_or_create(sequence=head.sequence, defaults=values)[1]


def deliver(*, now: datetime) -> str:
    """Send what waits, in order. Why the first of them has failed twice, a sentence; empty when all is well."""
    if not settings.AUDIT_ANCHOR_URL:
        return ""
    for message in AnchorMessage.objects.filter(sent_at=None).order_by("sequence")[:AT_ONCE]:
        if message.next_try_at > now or not _send(message, now=now):
            return message.error if message.tries > 1 else ""
    return ""


def _send(message: AnchorMessage, *, now: datetime) -> bool:
    message.tries += 1
    try:
        key = webhooks.check_key(settings.AUDIT_ANCHOR_KEY)
        text = body(message)
        headers = webhooks.signed(f"anchor_{message.sequence}_{message.hash[:16]}", text, [key], now=now)
        webhooks.post(
            settings.AUDIT_ANCHOR_URL, text.encode(), headers, private=settings.ALERTS_ALLOW_PRIVATE
        )
    except (webhooks.NotTaken, ValueError) as e:
        wait = min(timedelta(minutes=2 ** min(message.tries - 1, 10)), LONGEST)
        message.next_try_at = now + max(wait, getattr(e, "after", None) or timedelta())
        message.error = str(e)[:300]
        message.save(update_fields=["tries", "next_try_at", "error"])
        return False
    message.sent_at, message.error = now, ""
    message.save(update_fields=["tries", "sent_at", "error"])
    # The last one that arrived stays, to know when the next is due.
    AnchorMessage.objects.filter(sequence__lt=message.sequence).exclude(sent_at=None).delete()
    return True


def body(message: AnchorMessage) -> str:
    """`data` is a line of the anchor file."""
    at = message.at.isoformat()
    data = {
        "sequence": message.sequence, "hash": message.hash, "at": at, "installation": anchors.installation(),
    }  # fmt: skip
    return json.dumps({"type": "audit.anchor", "timestamp": at, "data": data}, separators=(",", ":"))
