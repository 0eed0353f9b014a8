"""The audit's housekeeping, once a minute: append the spool, anchor the head, verify once a day."""

from __future__ import annotations

from datetime import datetime, timedelta

from panel.audit.chain import drain_spool
from panel.audit.verification import Verification, anchor_head, last_verified, verify_and_keep
from panel.notices.models import Notice
from panel.notices.notify import clear_notice, raise_notice

VERIFY_EVERY = timedelta(days=1)

_KEY = "audit:chain"


def keep(*, now: datetime) -> None:
    """Raises AuditUnavailable when the spool cannot be appended yet; the next round tries again."""
    drain_spool()
    anchor_head(now=now)
    last = last_verified()
    if last is None or not timedelta(0) <= now - last.at < VERIFY_EVERY:
        tell(verify_and_keep(now=now), now=now)


def tell(found: Verification, *, now: datetime) -> None:
    """Raise or clear the notice of a chain that does not hold."""
    if found.ok:
        clear_notice(_KEY, now=now)
        return
    raise_notice(
        _KEY,
        Notice.Severity.CRITICAL,
        "The audit has been tampered with",
        now=now,
        detail=f"Verification found: {found.problem}",
    )
