"""A new field key, and everything that is stored written again with it.

    add_key      a new key stands first in the file: from now on it encrypts, the others still decrypt
    rewrite      every token that is not the first key's becomes one, in slices
    finish       the other keys leave the file, once nothing needs them

Each slice is a transaction of its own, and a row that is written already is left alone: whoever is killed anywhere runs
it again. A token is replaced only while it is still the one that was read, so a key that somebody saves meanwhile stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from cryptography.fernet import Fernet, InvalidToken
from django.apps import apps
from django.conf import settings
from django.db import models, transaction
from django.db.models import Value

from panel import datadir, fields
from panel.audit import chain

SLICE = 100
"""Rows that are written in one transaction."""
JSON_FIELDS = {"mfa.Authenticator": "data"}
"""Fields of others that hold tokens of our cipher among other things."""


class Refused(Exception):
    """The rotation does not go on. The text says what to do."""


@dataclass
class Report:
    """What one run found. `rows` by the field's name: `deployments.ProviderAccount.credentials`."""

    rewritten: dict[str, int] = field(default_factory=dict)
    current: int = 0
    """Tokens that were the first key's already."""
    overtaken: int = 0
    """Changed by somebody between our reading and our writing: the next run sees them."""
    unreadable: dict[str, int] = field(default_factory=dict)
    """No key opens them."""

    @property
    def is_clean(self) -> bool:
        return not (self.overtaken or self.unreadable)


def encrypted_fields() -> Iterator[tuple[type[models.Model], str]]:
    """Every encrypted field of every model, whichever app it is in."""
    for model in apps.get_models():
        for one in model._meta.concrete_fields:
            if isinstance(one, fields.EncryptedTextField) and not model._meta.proxy and one.model is model:
                yield model, one.name


def stores() -> Iterator[Store]:
    """Everything that holds tokens."""
    yield from (FieldStore(model, name) for model, name in encrypted_fields())
    for label, name in JSON_FIELDS.items():
        if label.partition(".")[0] in apps.app_configs:
            yield JsonStore(apps.get_model(label), name)


# -- the steps ------------------------------------------------------------------------------------------


def add_key(*, now: datetime) -> None:
    """Put a new key first in the file of the field keys. Raises Refused when they stand in the environment."""
    path = own_file()
    with transaction.atomic():
        chain.record("field_keys.add", actor=None, after={"keys": len(fields.keys()) + 1}, now=now)
        datadir.replace(path, "\n".join([Fernet.generate_key().decode(), *fields.keys()]) + "\n")


def rewrite(*, now: datetime) -> Report:
    """Write everything with the first key that is not yet."""
    report = Report()
    for store in stores():
        for some in store.slices():
            with transaction.atomic():
                for pk, token in some:
                    _rewrite_one(report, store, pk, token)
    if report.rewritten:
        total = sum(report.rewritten.values())
        chain.record("field_keys.rewrite", actor=None, after={"rewritten": total}, now=now)
    return report


def finish(*, now: datetime) -> int:
    """Take every key but the first out of the file; how many. Raises Refused while something needs them.

    They go to a file beside it: a backup from before can be read with them alone.
    """
    path, (first, *rest) = own_file(), fields.keys()
    if left := _left(first):
        raise Refused(f"{left} stored values still need an older key: run this without --finish first.")
    if not rest:
        return 0
    retired = fields.retired_file(path)
    before = retired.read_text() if retired.exists() else ""
    with transaction.atomic():
        chain.record("field_keys.finish", actor=None, after={"retired": len(rest)}, now=now)
        datadir.replace(retired, before + "\n".join(rest) + "\n")
        datadir.replace(path, f"{first}\n")
    return len(rest)


def own_file() -> Path:
    """The file that holds the keys, which we may write. Raises Refused when they are not ours to change."""
    if str(settings.DATA_DIR / "field_keys") != settings.FIELD_KEYS_FILE:
        raise Refused(
            "The field keys are given from outside (REGIA_FIELD_KEYS or REGIA_FIELD_KEYS_FILE): put a new key first"
            " there, restart the panel where it is a variable, and run this without --new-key. Afterwards take the"
            " old key out there."
        )
    return Path(settings.FIELD_KEYS_FILE)


# -- row by row -----------------------------------------------------------------------------------------


def _rewrite_one(report: Report, store: Store, pk: Any, token: str) -> None:
    if opens(fields.keys()[0], token):
        report.current += 1
        return
    try:
        fresh = fields.cipher().rotate(token.encode()).decode()
    except InvalidToken:
        report.unreadable[store.where] = report.unreadable.get(store.where, 0) + 1
        return
    if store.swap(pk, token, fresh):
        report.rewritten[store.where] = report.rewritten.get(store.where, 0) + 1
    else:
        report.overtaken += 1


def _left(first: str) -> int:
    """How many tokens the first key does not open."""
    found = (token for store in stores() for some in store.slices() for _, token in some)
    return sum(not opens(first, token) for token in found)


def opens(key: str, token: str) -> bool:
    """Whether this one key opens the token."""
    try:
        Fernet(key).decrypt(token.encode())
    except InvalidToken:
        return False
    return True


# -- where tokens stand ---------------------------------------------------------------------------------


class Store(Protocol):
    @property
    def where(self) -> str: ...

    def slices(self) -> Iterator[list[tuple[Any, str]]]:
        """(the row's key, a token of it), some at a time, by the primary key."""

    def swap(self, pk: Any, old: str, new: str) -> bool:
        """Put `new` in the place of `old`; False when that is not there any more."""


@dataclass(frozen=True)
class FieldStore:
    """A column that is one token."""

    model: type[models.Model]
    name: str

    @property
    def where(self) -> str:
        return f"{self.model._meta.label}.{self.name}"

    def slices(self) -> Iterator[list[tuple[Any, str]]]:
        held = self._rows().exclude(token="")
        yield from _sliced(held.order_by("pk").values_list("pk", "token"))

    def swap(self, pk: Any, old: str, new: str) -> bool:
        same = self._rows().filter(pk=pk, token=old)
        return bool(same.update(**{self.name: Value(new, models.TextField())}))

    def _rows(self) -> models.QuerySet[Any]:
        return self.model._base_manager.annotate(token=fields.tokens(self.name))


@dataclass(frozen=True)
class JsonStore:
    """A JSON object whose values may be tokens."""

    model: type[models.Model]
    name: str

    @property
    def where(self) -> str:
        return f"{self.model._meta.label}.{self.name}"

    def slices(self) -> Iterator[list[tuple[Any, str]]]:
        rows = self.model._base_manager.order_by("pk").values_list("pk", self.name)
        for some in _sliced(rows):
            yield [
                (pk, v) for pk, data in some if isinstance(data, dict) for v in data.values() if _is_token(v)
            ]

    def swap(self, pk: Any, old: str, new: str) -> bool:
        row = self.model._base_manager.select_for_update().filter(pk=pk).first()
        data = getattr(row, self.name) if row else {}
        fresh = {key: new if value == old else value for key, value in data.items()}
        return fresh != data and bool(self.model._base_manager.filter(pk=pk).update(**{self.name: fresh}))


def _sliced(rows: models.QuerySet[Any, Any]) -> Iterator[list[Any]]:
    some = list(rows[:SLICE])
    while some:
        yield some
        some = list(rows.filter(pk__gt=some[-1][0])[:SLICE])


def _is_token(value: object) -> bool:
    return isinstance(value, str) and value.startswith("gAAAA")
