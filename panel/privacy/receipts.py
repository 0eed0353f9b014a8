"""Receipts of erasures: in the database, and in a file outside of it that a restored backup does not set back.

`erasures.jsonl` in the data folder, one JSON object a line. It names nobody: whom it is about is known by two
keyed hashes (HMAC-SHA256 under a field key), so whoever restores keeps the file and the field keys as they are.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.template.loader import render_to_string

from panel import fields
from panel.accounts.models import User
from panel.privacy.models import ErasureReceipt

logger = logging.getLogger(__name__)

_IN_LINE = ("by", "reason", "person_key", "email_key", "document", "document_sha256", "page", "page_sha256")


# -- whom it is about ---------------------------------------------------------------------------------


def person_key(user: User, key: str) -> str:
    """Of the account: its number alone may be given again after a restore, so its first moment counts too."""
    joined = user.date_joined.astimezone(UTC).isoformat(timespec="seconds")
    return _hash(f"account:{user.pk}:{joined}", key)


def email_key(email: str, key: str) -> str:
    return _hash(f"email:{email.strip().lower()}", key)


def keys_now() -> list[str]:
    """The field keys, the present one first, retired ones too: older hashes were made with older ones."""
    return list(fields.keys_ever())


def of_email(email: str) -> list[ErasureReceipt]:
    """The receipts of whoever had this address."""
    wanted = [email_key(email, key) for key in keys_now()]
    return list(ErasureReceipt.objects.filter(email_key__in=wanted).order_by("-at"))


def _hash(text: str, key: str) -> str:
    return hmac.new(key.encode(), f"regia-erasure:{text}".encode(), hashlib.sha256).hexdigest()


# -- the receipt --------------------------------------------------------------------------------------


def make(user: User, told: dict[str, Any], *, by: str, reason: str, now: datetime) -> ErasureReceipt:
    """Write the receipt of what `told` says, in the erasure's transaction. It is in the file only after `keep_outside`."""
    receipt = ErasureReceipt(at=now, by=by, reason=reason)
    content = {"receipt": str(receipt.pk), "at": now.isoformat(), "reason": reason, **told}
    receipt.person_key = person_key(user, keys_now()[0])
    receipt.email_key = email_key(user.email, keys_now()[0])
    receipt.document = json.dumps(content, indent=2, ensure_ascii=False)
    receipt.document_sha256 = sha256(receipt.document)
    receipt.page = render_to_string(
        "privacy/receipt_file.html", {"r": content, "sha256": receipt.document_sha256, "at": now}
    )
    receipt.page_sha256 = sha256(receipt.page)
    receipt.save(force_insert=True)
    return receipt


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# -- the file -----------------------------------------------------------------------------------------


def keep_outside() -> int:
    """Append to the file each receipt that is not in it, and put it on the disk; how many. Safe to repeat."""
    with _locked():
        known = {line["id"] for line in lines()}
        new = [r for r in ErasureReceipt.objects.order_by("at") if str(r.pk) not in known]
        if new:
            _append([_line(receipt) for receipt in new])
    return len(new)


def lines() -> list[dict[str, Any]]:
    """What the file holds. A damaged line is told in the log and holds nothing."""
    try:
        text = _path().read_text()
    except FileNotFoundError:
        return []
    return [line for raw in text.split("\n") if raw and (line := _parsed(raw))]


def restored(line: dict[str, Any]) -> ErasureReceipt:
    """The line's receipt, written anew when the database has lost it."""
    values = {name: line[name] for name in _IN_LINE} | {"at": datetime.fromisoformat(line["at"])}
    return ErasureReceipt.objects.get_or_create(pk=line["id"], defaults=values)[0]


def _line(receipt: ErasureReceipt) -> dict[str, Any]:
    values = {name: getattr(receipt, name) for name in _IN_LINE}
    return {"id": str(receipt.pk), "at": receipt.at.isoformat(), **values}


def _parsed(raw: str) -> dict[str, Any] | None:
    try:
        line = json.loads(raw)
    except ValueError:
        line = None
    if isinstance(line, dict) and {"id", "at", *_IN_LINE} <= line.keys():
        return line
    logger.error("A line of erasures.jsonl is damaged: restore the file from a copy.")
    return None


def _path() -> Path:
    return Path(settings.DATA_DIR) / "erasures.jsonl"


@contextmanager
def _locked() -> Iterator[None]:
    fd = os.open(_path().with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _append(new: list[dict[str, Any]]) -> None:
    fd = os.open(_path(), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(fd, "w") as f:
        # The leading newline ends a line that a dying process left half-written.
        f.write("".join(f"\n{json.dumps(line)}\n" for line in new))
        f.flush()
        os.fsync(f.fileno())
    folder = os.open(settings.DATA_DIR, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
