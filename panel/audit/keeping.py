"""The audit's housekeeping, once a minute: append the spool, anchor the head, verify.

Verified is what is new every hour, and the whole chain every night at two (UTC).
"""

from __future__ import annotations

from datetime import datetime, timedelta

from panel.audit import chain, receiver
from panel.audit.anchors import anchor_head, last_anchor
from panel.audit.models import Head
from panel.audit.verification import Verification, last_verified, only_one, verify_and_keep
from panel.notices.models import Notice
from panel.notices.notify import clear_notice, raise_notice

VERIFY_EVERY = timedelta(hours=1)
NIGHT_HOUR = 2

_KEY = "audit:chain"
_FILE = "audit:anchor-file"
_RECEIVER = "audit:anchor-receiver"


def keep(*, now: datetime) -> None:
    """Raises AuditUnavailable when the spool cannot be appended yet; the next round tries again."""
    chain.drain_spool()
    _anchor(now=now)
    _tell_receiver(now=now)
    with only_one() as ours:
        if ours and (whole := verification_due(now=now)) is not None:
            tell(verify_and_keep(now=now, whole=whole), now=now)


def verification_due(*, now: datetime) -> bool | None:
    """True: of the whole chain. False: of what is new. None: not yet."""
    last = last_verified()
    night = now.replace(hour=NIGHT_HOUR, minute=0, second=0, microsecond=0)
    night -= timedelta(days=1) if night > now else timedelta()
    # A time in the future was written by a clock that has been set back since.
    if last is None or not night <= last.whole_at <= now:
        return True
    return False if not timedelta(0) <= now - last.at < VERIFY_EVERY else None


def tell(found: Verification, *, now: datetime) -> None:
    """Raise or clear the notice of a chain that does not hold."""
    if found.ok:
        # What is new cannot excuse what was found in the rest.
        if not found.since:
            clear_notice(_KEY, now=now)
        return
    raise_notice(
        _KEY,
        Notice.Severity.CRITICAL,
        "The audit has been tampered with",
        now=now,
        detail=f"Verification found: {found.problem}",
    )


def _anchor(*, now: datetime) -> None:
    try:
        head, last = Head.objects.filter(pk=1).first(), last_anchor()
        if head and (last is None or last.is_old(head, now=now)):
            anchor_head(now=now)
    except OSError as e:
        raise_notice(
            _FILE, Notice.Severity.WARNING, "The audit's anchor file cannot be used", now=now,
            detail=f"{e.strerror}. Until it can be written, a rebuilt chain is not noticed from here on.",
        )  # fmt: skip
        return
    clear_notice(_FILE, now=now)


def _tell_receiver(*, now: datetime) -> None:
    receiver.note(now=now)
    if not (error := receiver.deliver(now=now)):
        clear_notice(_RECEIVER, now=now)
        return
    raise_notice(
        _RECEIVER, Notice.Severity.WARNING, "The audit's anchors do not arrive", now=now,
        detail=f"The receiver of REGIA_AUDIT_ANCHOR_URL has not taken the last one. {error} It is tried again.",
    )  # fmt: skip
