"""Every saved change of a record keeps the older version readable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import models
from django.db.models import Field

from panel.audit import chain
from panel.registers.models import RegisterVersion

type AnyField = Field[Any, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """A field between two versions. Empty values read "-"."""

    field: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Told:
    """A version, and what it changed of the one before."""

    version: RegisterVersion
    who: str
    changes: list[Change]


def keep(record: models.Model, *, by: Any, now: datetime) -> RegisterVersion:
    """Write the record down as it stands now, in the caller's transaction. `by` None: the system."""
    register, pk = str(record._meta.model_name), record.pk
    last = RegisterVersion.objects.filter(register=register, object_id=pk).order_by("-number").first()
    return RegisterVersion.objects.create(
        register=register, object_id=pk, number=last.number + 1 if last else 1, at=now,
        by=chain.pseudonym_of(by) if by else chain.SYSTEM, snapshot=snapshot(record),
    )  # fmt: skip


def snapshot(record: models.Model) -> dict[str, Any]:
    """Its fields as JSON; what it points to as the other's key, with its name at the time."""
    return {field.name: _value(field, record) for field in _fields(record)}


def _fields(record: models.Model) -> Iterator[AnyField]:
    yield from (f for f in record._meta.concrete_fields if not f.primary_key and f.name != "source_key")
    yield from record._meta.local_many_to_many


def _value(field: AnyField, record: models.Model) -> Any:
    if field.many_to_many:
        return [str(other) for other in getattr(record, field.name).order_by("pk")]
    if field.is_relation:
        other = getattr(record, field.name)
        return None if other is None else f"#{other.pk}"
    value = field.value_from_object(record)
    return value if isinstance(value, bool | int | str | list | None) else value.isoformat()


def history(record: models.Model) -> list[Told]:
    """Its versions, the newest first, each with what it changed."""
    rows = list(
        RegisterVersion.objects.filter(register=record._meta.model_name, object_id=record.pk).order_by(
            "number"
        )
    )
    names = chain.names_of({row.by for row in rows})
    titles = {f.name: str(f.verbose_name) for f in _fields(record)}
    before: dict[str, Any] = {}
    found = []
    for row in rows:
        found.append(Told(row, names[row.by], list(_changes(before, row.snapshot, titles))))
        before = row.snapshot
    return found[::-1]


def _changes(before: dict[str, Any], after: dict[str, Any], titles: dict[str, str]) -> Iterator[Change]:
    for name, value in after.items():
        if _words(value) != _words(before.get(name)):
            yield Change(titles.get(name, name), _words(before.get(name)), _words(value))


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "-" if value in (None, "") else str(value)


def forget(record: models.Model) -> int:
    """Delete its versions, with a record that is deleted itself; how many."""
    rows = RegisterVersion.objects.filter(register=record._meta.model_name, object_id=record.pk)
    return rows.delete()[0]
