"""Rows for the tests of privacy: one of any model, with the moment from which its time counts."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any

from axes.models import AccessAttempt
from django.db.models import (
    CharField,
    DateField,
    DateTimeField,
    EmailField,
    Field,
    ForeignKey,
    GenericIPAddressField,
    JSONField,
    Model,
    TextField,
    UUIDField,
)

from panel.accounts.models import User
from panel.audit import chain
from panel.audit.models import Origin
from panel.notices.models import Notice
from panel.privacy.policy import Term
from tests import factories
from tests.conftest import NOW

_count = itertools.count(1)


def row(model: type[Model], term: Term, moment: datetime) -> Model:
    """A row of the model whose time counts from `moment`."""
    if special := _SPECIAL.get(model._meta.label):
        return special(moment)
    made = plain(model)
    # By an update: some fields set themselves as a row is saved.
    model._base_manager.filter(pk=made.pk).update(**{term.anchor: moment})
    return made


def plain(model: type[Model], **values: Any) -> Model:
    """A row with something in every field that needs it."""
    for field in model._meta.concrete_fields:
        if (
            field.name not in values
            and not field.has_default()
            and not field.null
            and not _fills_itself(field)
        ):
            values[field.name] = _something(field)
    return model._base_manager.create(**values)


def _fills_itself(field: Field[Any, Any]) -> bool:
    return field.get_internal_type().endswith("AutoField") or bool(getattr(field, "auto_now_add", False))


def _something(field: Field[Any, Any]) -> Any:
    if isinstance(field, ForeignKey):
        target = field.related_model
        return factories.operator() if target is User else plain(target)
    kinds: dict[type, Callable[[], Any]] = {
        EmailField: lambda: f"x{next(_count)}@example.com",
        CharField: lambda: field.choices[0][0] if field.choices else f"x{next(_count)}"[: field.max_length],
        TextField: lambda: "x",
        JSONField: dict,
        DateTimeField: lambda: NOW,
        DateField: NOW.date,
        UUIDField: uuid.uuid4,
        GenericIPAddressField: lambda: "192.0.2.1",
    }
    return next((make() for kind, make in kinds.items() if isinstance(field, kind)), 0)


def _origin(moment: datetime) -> Origin:
    event = chain.record("thing.done", actor=None, now=moment)
    assert event is not None
    return Origin.objects.create(event=event, address="192.0.2.1", user_agent="x")


def _notice(moment: datetime) -> Notice:
    return plain(Notice, key=f"k{next(_count)}", cleared_at=moment)  # type: ignore[return-value]


def _attempt(moment: datetime) -> AccessAttempt:
    made = AccessAttempt.objects.create(username=f"u{next(_count)}", failures_since_start=1)
    AccessAttempt.objects.filter(pk=made.pk).update(attempt_time=moment)
    return made


_SPECIAL: dict[str, Callable[[datetime], Model]] = {
    "audit.Origin": _origin,
    "notices.Notice": _notice,
    "axes.AccessAttempt": _attempt,
}
