"""The audit's one door: `record` appends an act, `verify` finds whoever changed one.

The chain has a head row that an append locks until its transaction ends: acts stand in one order without
gaps, and an act and its audit event commit or vanish together. So call `record` last in a transaction.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.base_user import AbstractBaseUser
from django.db import DatabaseError, InterfaceError, connection, transaction
from django.db.models import Model
from django.utils import timezone

from panel.audit import spool
from panel.audit.anchors import anchor_head
from panel.audit.link import GENESIS, SecretInAudit, digest, payload_of, text_of
from panel.audit.models import AuditEvent, Head, Origin, Pseudonym
from panel.audit.verification import Verification, verify
from panel.context import request_context

__all__ = [
    "AuditUnavailable",
    "SecretInAudit",
    "Verification",
    "anchor_head",
    "drain_spool",
    "name_of",
    "names_of",
    "pseudonym_of",
    "record",
    "verify",
]

logger = logging.getLogger(__name__)

SYSTEM = "system"
ERASED = "erased person"
# Milliseconds that an append waits for the head (PostgreSQL; SQLite has its `timeout`). A stop waits less.
_WAIT_MS, _WAIT_MS_STOP = 20_000, 3_000


class AuditUnavailable(Exception):
    """The act could not be audited, so it must not happen. The caller's transaction rolls back."""


@dataclass(frozen=True, slots=True)
class _Act:
    """One act before it has a place in the chain. JSON throughout: this is also a line of the spool."""

    at: str
    user: int | None
    action: str
    target_type: str
    target_id: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    reason: str
    request_id: str
    address: str
    user_agent: str


def record(
    action: str,
    *,
    actor: AbstractBaseUser | None,
    target: Model | None = None,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
    reason: str = "",
    now: datetime | None = None,
    may_spool: bool = False,
) -> AuditEvent | None:
    """Append what `actor` (None: the system) did, in the caller's transaction.

    Raises AuditUnavailable when it cannot be written. With `may_spool` (stop, terminate) it goes to the
    spool instead, outside any transaction, and None is returned: giving a machine back never waits for the
    audit, and one line too many is better than one too few. Raises SecretInAudit for a payload with a
    secret's name in it.
    """
    here = request_context.get()
    act = _Act(
        at=(now or timezone.now()).isoformat(),
        user=actor.pk if actor else None,
        action=action,
        target_type=target._meta.label_lower if target else "",
        target_id=str(target.pk) if target else "",
        before=payload_of(before),
        after=payload_of(after),
        reason=text_of(reason)[:500],
        request_id=here.request_id if here else "",
        address=here.address if here else "",
        user_agent=text_of(here.user_agent)[:200] if here else "",
    )
    try:
        return _append(act, wait_ms=_WAIT_MS_STOP if may_spool else _WAIT_MS)
    except (DatabaseError, InterfaceError) as e:
        if not may_spool:
            raise AuditUnavailable(f"{action} cannot be audited, so it was not done.") from e
        _spool(act)
    return None


def drain_spool() -> int:
    """Append what the spool holds, in its order; how many lines. Safe to interrupt and to repeat.

    Raises AuditUnavailable when the database still cannot take them: they stay.
    """
    try:
        return spool.drain(_append_spooled)
    except (DatabaseError, InterfaceError) as e:
        raise AuditUnavailable("The audit's spool cannot be appended yet; it stays.") from e


def pseudonym_of(user: AbstractBaseUser) -> str:
    """The name under which the audit knows `user`: a UUID that says nothing by itself."""
    return str(Pseudonym.objects.get_or_create(user_id=user.pk, defaults={"name": str(user)[:254]})[0].pk)


def name_of(actor: str) -> str:
    """Who an event's actor is now; "erased person" when nobody can tell any more."""
    return names_of([actor])[actor]


def names_of(actors: Iterable[str]) -> dict[str, str]:
    """`name_of` for many, in one query."""
    wanted = {actor: _uuid(actor) for actor in actors}
    known = Pseudonym.objects.select_related("user").in_bulk([key for key in wanted.values() if key])
    return {actor: _name(known.get(key)) if key else actor for actor, key in wanted.items()}


def _uuid(actor: str) -> uuid.UUID | None:
    # "system" and "unknown" are names already.
    try:
        return uuid.UUID(actor)
    except ValueError:
        return None


def _name(pseudonym: Pseudonym | None) -> str:
    return str(pseudonym.user or pseudonym.name or ERASED) if pseudonym else ERASED


def _append(act: _Act, *, wait_ms: int, spooled: str | None = None) -> AuditEvent:
    with transaction.atomic(), _bounded_wait(wait_ms):
        head = Head.objects.select_for_update().get_or_create(pk=1, defaults={"hash": GENESIS})[0]
        event = AuditEvent(
            sequence=head.sequence + 1,
            at=datetime.fromisoformat(act.at),
            actor=_pseudonym_of_key(act.user),
            action=act.action,
            target_type=act.target_type,
            target_id=act.target_id,
            before=act.before,
            after=act.after,
            reason=act.reason,
            request_id=act.request_id,
            spooled=uuid.UUID(spooled) if spooled else None,
            previous=head.hash,
        )
        event.hash = digest(event)
        event.save()
        Head.objects.filter(pk=head.pk).update(sequence=event.sequence, hash=event.hash)
        if act.address or act.user_agent:
            Origin.objects.create(event=event, address=act.address or None, user_agent=act.user_agent)
    return event


@contextmanager
def _bounded_wait(milliseconds: int) -> Iterator[None]:
    """On PostgreSQL, wait no longer than this for the head, and leave the setting as it was."""
    if connection.vendor != "postgresql":
        yield
        return
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT current_setting('lock_timeout'), set_config('lock_timeout', %s, true)",
            [str(milliseconds)],
        )
        before, _ = cursor.fetchone() or ("0", "")
        yield
        cursor.execute("SELECT set_config('lock_timeout', %s, true)", [before])


def _pseudonym_of_key(user_id: int | None) -> str:
    if user_id is None:
        return SYSTEM
    if known := Pseudonym.objects.filter(user_id=user_id).values_list("pk", flat=True).first():
        return str(known)
    user = get_user_model().objects.filter(pk=user_id).first()
    # Spooled by somebody whose row has been deleted since.
    return pseudonym_of(user) if user else "unknown"


def _append_spooled(line: spool.Line) -> None:
    known = {name: line.get(name) for name in _Act.__dataclass_fields__}
    with transaction.atomic():
        if not AuditEvent.objects.filter(spooled=line["id"]).exists():
            _append(_Act(**known), wait_ms=_WAIT_MS, spooled=line["id"])  # type: ignore[arg-type]


def _spool(act: _Act) -> None:
    try:
        spool.add({"id": str(uuid.uuid4()), **asdict(act)})
    except OSError:
        # The last resort: the log. A machine that bills is given back whatever happens.
        logger.exception(
            "Neither the database nor the spool took %s of %s %s", act.action, act.target_type, act.target_id
        )
