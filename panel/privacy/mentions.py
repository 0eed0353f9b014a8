"""Where text that somebody typed names a person, in whatever table: found before an erasure, and taken out by it."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any

from django.apps import apps
from django.db.models import CharField, F, Field, JSONField, Model, Q, QuerySet, TextField, UniqueConstraint
from django.db.models.functions import Cast

from panel.audit.models import AuditEvent
from panel.fields import EncryptedTextField
from panel.privacy.policy import Category, entry_of, rule_of

ERASED = "[erased]"
SHORTEST = 3
"""Letters of a name that is looked for: a shorter one is part of too much that is not a name."""
_SLICE = 500
_LEFT = {"privacy.ErasureReceipt", "accounts.User", "audit.Pseudonym", "account.EmailAddress"}
"""A receipt is kept as it was signed; and what names people is theirs, also when two have one name."""


@dataclass(frozen=True, slots=True)
class Mention:
    """Rows of one model whose text names the person."""

    model: type[Model]
    keys: Sequence[Any]

    @property
    def label(self) -> str:
        return self.model._meta.label


def find(names: Sequence[str]) -> list[Mention]:
    """Every row that names them and does not have to stay as it is (`kept`)."""
    models = filter(_may_change, apps.get_models(include_auto_created=True))
    found = (Mention(model, [row.pk for row in _rows(model, names)]) for model in models)
    return sorted((mention for mention in found if mention.keys), key=lambda mention: mention.label)


def kept(names: Sequence[str]) -> list[Mention]:
    """Rows that name them and stay as they are: the audit's, and those whose words the policy keeps as proof."""
    models = (m for m in apps.get_models() if m is AuditEvent or entry_of(m).get("words") == "keep")
    found = (Mention(model, [row.pk for row in _rows(model, names)]) for model in models)
    return [mention for mention in found if mention.keys]


def take_out(mention: Mention, names: Sequence[str]) -> int:
    """Put `ERASED` in the place of each name; how many rows changed."""
    changed = 0
    for start in range(0, len(mention.keys), _SLICE):
        some = mention.keys[start : start + _SLICE]
        for row in _read(mention.model).filter(pk__in=some):
            new = {f.name: _without(f, row, names) for f in _texts(mention.model) if _names(f, row, names)}
            if new:
                changed += mention.model._base_manager.filter(pk=row.pk).update(**new)
    return changed


def says(value: Any, names: Sequence[str]) -> bool:
    """Whether a text, or anything in a JSON value, names them."""
    pattern = _pattern(names)
    return pattern is not None and any(pattern.search(text) for text in _strings(value))


def without(value: Any, names: Sequence[str], instead: str = ERASED) -> Any:
    """The value with `instead` in the place of each name."""
    pattern = _pattern(names)
    return value if pattern is None else _replaced(value, pattern, instead)


def _may_change(model: type[Model]) -> bool:
    stays = model is AuditEvent or model._meta.label in _LEFT or entry_of(model).get("words") == "keep"
    return not stays and model._meta.managed


def _texts(model: type[Model]) -> list[Field[Any, Any]]:
    """The fields that somebody's words may stand in."""
    if entry_of(model).get("retention") == "program":
        return []
    return [f for f in model._meta.concrete_fields if _is_text(f)]


def _is_text(field: Field[Any, Any]) -> bool:
    plain = isinstance(field, CharField | TextField | JSONField) and not isinstance(field, EncryptedTextField)
    rule = rule_of(field)
    hidden = rule is not None and rule.category in {Category.NONE, Category.SECRET}
    return plain and not field.choices and not field.primary_key and not hidden


def _rows(model: type[Model], names: Sequence[str]) -> Iterator[Any]:
    fields, words = _texts(model), [name for name in names if len(name) >= SHORTEST]
    if not fields or not words:
        return
    texts = {f"text_{f.name}": Cast(F(f.name), TextField()) for f in fields}
    # JSON may stand in the database with its letters escaped.
    spelled = {form for word in words for form in (word, json.dumps(word)[1:-1])}
    some = reduce(or_, (Q(**{f"{alias}__icontains": form}) for alias in texts for form in spelled))
    rows = _read(model).alias(**texts).filter(some)
    for row in rows.iterator(chunk_size=_SLICE):
        if any(_names(field, row, names) for field in fields):
            yield row


def _read(model: type[Model]) -> QuerySet[Any]:
    # Secrets are not read, which a lost key would make impossible too.
    return model._base_manager.only("pk", *(f.name for f in _texts(model)))


def _names(field: Field[Any, Any], row: Any, names: Sequence[str]) -> bool:
    return says(field.value_from_object(row), names)


def _without(field: Field[Any, Any], row: Any, names: Sequence[str]) -> Any:
    # Two who are erased must not collide where a value may stand once.
    instead = f"[erased {secrets.token_hex(3)}]" if _is_unique(field) else ERASED
    value = without(field.value_from_object(row), names, instead)
    return value[: field.max_length] if isinstance(value, str) and field.max_length else value


def _is_unique(field: Field[Any, Any]) -> bool:
    options = field.model._meta
    together = [name for c in options.constraints if isinstance(c, UniqueConstraint) for name in c.fields]
    return field.unique or field.name in {*together, *(n for names in options.unique_together for n in names)}


def _pattern(names: Sequence[str]) -> re.Pattern[str] | None:
    words = sorted((name for name in names if len(name) >= SHORTEST), key=len, reverse=True)
    if not words:
        return None
    # An address in any case; a name as it is written, so that a word of the language stays one.
    forms = [f"(?i:{re.escape(word)})" if "@" in word else re.escape(word) for word in words]
    return re.compile(rf"(?<![\w.+-])(?:{'|'.join(forms)})(?![\w-])")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def _replaced(value: Any, pattern: re.Pattern[str], instead: str) -> Any:
    if isinstance(value, str):
        return pattern.sub(lambda _: instead, value)
    if isinstance(value, dict):
        return {
            pattern.sub(lambda _: instead, str(k)): _replaced(v, pattern, instead) for k, v in value.items()
        }
    if isinstance(value, list | tuple):
        return [_replaced(item, pattern, instead) for item in value]
    return value
