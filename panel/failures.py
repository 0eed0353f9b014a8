"""What goes wrong with the ground under the panel, as sentences for the person at the terminal."""

from __future__ import annotations

from django.conf import settings
from django.db import DatabaseError


def database_sentence(error: DatabaseError) -> str:
    """One sentence on why the database could not be used. Never holds the connection's password."""
    text = str(error).strip()
    low = text.lower()
    where = _where()
    if "readonly" in low or "read-only" in low:
        return f"The database {where} is read-only: make it writable and start again."
    if "disk is full" in low or "no space left" in low:
        return f"The disk of the database {where} is full: make room and start again."
    if "unable to open" in low:
        return f"The database {where} cannot be opened: look at its path and permissions."
    if "not a database" in low or "malformed" in low:
        return f"The database {where} is damaged: restore it from a backup."
    if "locked" in low:
        return f"The database {where} is locked by another process: end that one and start again."
    first = text.splitlines()[0] if text else type(error).__name__
    return f"The database {where} cannot be used: {first}"


def _where() -> str:
    database = settings.DATABASES["default"]
    host = database.get("HOST")
    return f"{database['NAME']} on {host}" if host else str(database["NAME"])
