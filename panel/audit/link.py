"""What one link of the chain is made of: the canonical bytes, their hash, and what never enters them."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from datetime import UTC
from typing import Any

from django.core.serializers.json import DjangoJSONEncoder

from panel.audit.models import AuditEvent

GENESIS = "0" * 64
"""What the first event names as the hash before it."""

_SECRET_WORDS = frozenset(
    {"password", "passwd", "passphrase", "secret", "secrets", "token", "credential", "credentials",
     "authorization", "cookie", "apikey"}
)  # fmt: skip
_SECRET_KEYS = frozenset({"api", "private", "secret", "access", "encryption", "field", "signing"})
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
_WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+")


class SecretInAudit(ValueError):
    """A payload names a secret. Nothing is written: not even masked does it belong here."""


def digest(event: AuditEvent) -> str:
    """The SHA-256 (hex) of every field of the event but its hash, as canonical JSON in UTF-8."""
    payload = {
        "sequence": event.sequence,
        "at": event.at.astimezone(UTC).isoformat(timespec="microseconds"),
        "actor": event.actor,
        "action": event.action,
        "target_type": event.target_type,
        "target_id": event.target_id,
        "before": event.before,
        "after": event.after,
        "reason": event.reason,
        "request_id": event.request_id,
        "spooled": str(event.spooled) if event.spooled else None,
        "previous": event.previous,
    }
    text = _CANONICAL.encode(payload)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def payload_of(values: dict[str, Any] | None) -> dict[str, Any] | None:
    """The values as every database gives them back: plain JSON, fractions as text, no NUL.

    Raises SecretInAudit for a key that names a secret.
    """
    if values is None:
        return None
    # SQLite and PostgreSQL write the same float differently; as text it stays what it was.
    plain = json.loads(json.dumps(values, cls=DjangoJSONEncoder), parse_float=str, parse_constant=str)
    cleaned: dict[str, Any] = _clean(plain)
    return cleaned


_ADDRESS = re.compile(r"[^\s@<>()\[\]\"',;:]{1,64}@[^\s@<>()\[\]\"',;:]{1,253}\.[A-Za-z]{2,24}\b")


def text_of(text: str) -> str:
    """The text without what PostgreSQL cannot store (NUL and lone surrogates), and without e-mail addresses.

    What is hashed stays for ever, and a person may ask to be erased.
    """
    return _ADDRESS.sub("[address]", text.replace("\0", "").encode("utf-8", "replace").decode())


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        return {_public(text_of(key)): _clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return text_of(value) if isinstance(value, str) else value


def names_a_secret(key: str) -> bool:
    """Whether a value under this name is taken for a secret."""
    words = [word.lower() for word in _WORD.findall(key)]
    pairs = itertools.pairwise(words)
    return bool(_SECRET_WORDS & set(words)) or any(
        a in _SECRET_KEYS and b in {"key", "keys"} for a, b in pairs
    )


def _public(key: str) -> str:
    if names_a_secret(key):
        raise SecretInAudit(f"The audit was handed {key!r}: secrets never enter it, not even masked.")
    return key
