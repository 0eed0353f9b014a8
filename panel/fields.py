"""Model fields that more than one app stands on."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import models
from django.db.models.functions import Cast

from panel import datadir

if TYPE_CHECKING:
    _Text = models.TextField[str, str]
else:
    _Text = models.TextField


@lru_cache(maxsize=4)
def _cipher(keys: tuple[str, ...]) -> MultiFernet:
    try:
        return MultiFernet([Fernet(key) for key in keys])
    except ValueError:
        raise ImproperlyConfigured("A field key is not 32 bytes in URL-safe base64.") from None


def cipher() -> MultiFernet:
    """The rotating cipher of the field keys: the first key encrypts, every key decrypts."""
    return _cipher(keys())


def keys() -> tuple[str, ...]:
    """The field keys as they are now, newest first.

    Their file is read again once it is another: a process that runs on through a rotation would else neither read
    what the new key wrote nor stop writing with the old one.
    """
    path = settings.FIELD_KEYS_FILE
    if not path:
        return tuple(settings.FIELD_KEYS)
    try:
        told = os.stat(path)
    except OSError:
        # The file went while we run: what we know still opens what is stored.
        return tuple(settings.FIELD_KEYS)
    return _keys_in(path, (told.st_ino, told.st_mtime_ns, told.st_size))


def retired_file(path: Path) -> Path:
    """Where the keys go that nothing stored needs any more: hashes under them, and old backups, still do."""
    return path.with_name(f"{path.name}.retired")


def keys_ever() -> tuple[str, ...]:
    """The field keys as they are now, newest first, and then those that were retired."""
    path = settings.FIELD_KEYS_FILE
    retired = retired_file(Path(path)) if path else None
    before = datadir.read(retired).split() if retired and retired.exists() else []
    return tuple(dict.fromkeys((*keys(), *before)))


@lru_cache(maxsize=2)
def _keys_in(path: str, version: tuple[int, int, int]) -> tuple[str, ...]:
    return tuple(datadir.read(Path(path)).replace(",", " ").split()) or tuple(settings.FIELD_KEYS)


def tokens(name: str) -> Cast:
    """What stands in the database for the encrypted field `name`, undeciphered, for queries."""
    return Cast(name, models.TextField())


DUMPED = "fernet:"


class EncryptedTextField(_Text):
    """Text that stands in the database only as a Fernet token; empty stays empty.

    It cannot be filtered on. Raises ImproperlyConfigured on reading when no key fits.
    """

    def get_prep_value(self, value: Any) -> Any:
        return cipher().encrypt(str(value).encode()).decode() if value else ""

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> str:
        if not value:
            return ""
        try:
            return cipher().decrypt(value.encode()).decode()
        except InvalidToken:
            raise ImproperlyConfigured(
                "A stored secret fits none of the field keys: restore field_keys from the backup."
            ) from None

    def value_to_string(self, obj: models.Model) -> str:
        """For `dumpdata`: a dump may lie about for years, so it holds the token and not the secret."""
        value = self.get_prep_value(self.value_from_object(obj))
        return f"{DUMPED}{value}" if value else ""

    def to_python(self, value: Any) -> Any:
        """For `loaddata`: what `value_to_string` wrote."""
        if isinstance(value, str) and value.startswith(DUMPED):
            return self.from_db_value(value.removeprefix(DUMPED), None, None)
        return super().to_python(value)
