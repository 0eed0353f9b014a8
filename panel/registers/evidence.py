"""The registers as rows, for the evidence pack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from django.db import models
from django.utils.text import capfirst

from panel.audit.models import AuditEvent
from panel.registers import above
from panel.registers.completeness import REGISTERS
from panel.registers.models import AdequacyDecision, BreachEntry, Deadline, Holiday, RegisterVersion

type Table = tuple[str, Sequence[str], list[Sequence[object]]]
"""(title, names of the columns, rows)."""

_TABLES: dict[str, type[Any]] = {
    **{str(model._meta.model_name): model for model in REGISTERS},
    "breachentry": BreachEntry,
    "adequacydecision": AdequacyDecision,
    "deadline": Deadline,
    "holiday": Holiday,
}
NAMES = (*_TABLES, "versions", "places", "refusals")
"""What `rows` knows."""
_REFUSALS = ("residency.refused", "residency.violation")


_TITLES = {
    "versions": "Versions of the registers",
    "places": "Where data stands now",
    "refusals": "What the residency guard refused",
}


def title(name: str) -> str:
    """Raises LookupError for a name that is not in `NAMES`."""
    return _TITLES.get(name) or _title(_TABLES[name])


def rows(name: str, start: datetime, end: datetime) -> Table:
    """A register as it stands now, or what happened in `start` <= t < `end` of what has a time.

    Raises LookupError for a name that is not in `NAMES`.
    """
    if name == "versions":
        return _versions(start, end)
    if name == "places":
        return _places()
    if name == "refusals":
        return _refusals(start, end)
    return _register(_TABLES[name])


def _register(model: type[Any]) -> Table:
    fields = [f for f in model._meta.concrete_fields if f.name != "source_key"]
    scored = hasattr(model, "missing")
    headers = [str(f.verbose_name) for f in fields] + (["complete, percent", "missing"] if scored else [])
    found = model._default_manager.order_by("pk")
    return (
        _title(model),
        headers,
        [[*_values(row, fields), *(_score(row) if scored else [])] for row in found],
    )


def _title(model: type[Any]) -> str:
    return str(capfirst(str(model._meta.verbose_name_plural)))


def _values(row: models.Model, fields: Sequence[Any]) -> Iterator[object]:
    for field in fields:
        # A person's account is told by its key: its name stands in the register itself where it must.
        yield getattr(row, field.attname) if field.is_relation else _plain(field.value_from_object(row))


def _plain(value: Any) -> object:
    return str(value) if isinstance(value, list | dict) else value


def _score(row: Any) -> list[object]:
    return [row.score, "; ".join(row.missing)]


def _versions(start: datetime, end: datetime) -> Table:
    found = RegisterVersion.objects.filter(at__gte=start, at__lt=end).order_by("pk")
    columns = ("register", "object_id", "number", "at", "by")
    return title("versions"), columns, [list(row) for row in found.values_list(*columns)]


def _places() -> Table:
    columns = ("country", "site", "provider", "machines", "source", "since", "allowed", "verdict")
    return title("places"), columns, [[getattr(p, name) for name in columns] for p in above.places()]


def _refusals(start: datetime, end: datetime) -> Table:
    found = AuditEvent.objects.filter(action__in=_REFUSALS, at__gte=start, at__lt=end).order_by("sequence")
    columns = ("sequence", "at", "action", "reason", "what")
    return (
        title("refusals"),
        columns,
        [[row.sequence, row.at, row.action, row.reason, str(row.after or {})] for row in found],
    )
