"""Model fields that more than one app stands on."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import models

if TYPE_CHECKING:
    _Text = models.TextField[str, str]
else:
    _Text = models.TextField


@lru_cache(maxsize=4)
def _cipher(keys: tuple[str, ...]) -> MultiFernet:
    return MultiFernet([Fernet(key) for key in keys])


def cipher() -> MultiFernet:
    """The rotating cipher of `FIELD_KEYS`: the first key encrypts, every key decrypts."""
    return _cipher(tuple(settings.FIELD_KEYS))


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
