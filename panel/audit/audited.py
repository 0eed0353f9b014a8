"""How other admins are audited: each change with what was before and after, in the transaction of the change.

What is personal or secret never enters the chain: such a field is named when it changed, its value is not told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from django.contrib import admin
from django.db import models, transaction
from django.db.models import Field, QuerySet
from django.http import HttpRequest
from django.utils import timezone

from panel.audit import chain
from panel.audit.link import names_a_secret
from panel.fields import EncryptedTextField

type AnyField = Field[Any, Any]
type Judge = Callable[[AnyField], bool]

NOT_SHOWN = "not_shown"
"""The key under which an event names the fields that changed and whose values are nobody's to read here."""
_UNSAID = (EncryptedTextField, models.EmailField, models.GenericIPAddressField, models.BinaryField)
_judges: list[Judge] = []


def unsaid_by(judge: Judge) -> None:
    """Let `judge`, of an app above, say which fields hold what is personal or secret."""
    if judge not in _judges:
        _judges.append(judge)


def is_unsaid(field: AnyField) -> bool:
    """Whether the field's value stays out of the audit."""
    return (
        isinstance(field, _UNSAID)
        or names_a_secret(field.name)
        or any(judge(field) for judge in list(_judges))
    )


@dataclass(frozen=True, slots=True, repr=False)
class Unsaid:
    """A value that is compared and never written."""

    value: Any


class AuditedAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Every change made here is an audit event. Django's own steps do the saving; overriding them is fine.

    `audited` names the fields whose values enter it, where not every plain field's should.
    """

    audited: ClassVar[Sequence[str]] = ()

    def audited_action(self, verb: str) -> str:
        return f"{self.opts.model_name}.{verb}"

    def snapshot(self, obj: Any) -> dict[str, Any]:
        """The fields of `obj` as plain values or, where they are not to be told, as `Unsaid`."""
        said = {name: _value(field, obj) for name, field in self._watched() if not is_unsaid(field)}
        fields = {field.name for field in _fields(self.model)}
        # What `audited` names besides is a property of the model.
        made = {name: _plain(getattr(obj, name)) for name in self.audited if name not in fields}
        return said | made | self.unsaid(obj)

    def unsaid(self, obj: Any) -> dict[str, Any]:
        """The fields that are only named when they change: personal, secret, or not in `audited`."""
        watched = {name for name, field in self._watched() if not is_unsaid(field)}
        rest = [f for f in _fields(self.model) if f.name not in watched]
        return {field.name: Unsaid(_value(field, obj)) for field in rest}

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:  # noqa: FBT001
        stored = self.model._default_manager.filter(pk=obj.pk).first() if change else None
        before = self.snapshot(stored) if stored else None
        super().save_model(request, obj, form, change)
        # Told once what belongs to it has been saved too.
        request._audited = ("change" if change else "create", before)  # type: ignore[attr-defined]

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:  # noqa: FBT001
        super().save_related(request, form, formsets, change)
        verb, before = request.__dict__.pop("_audited", ("", None))
        if verb:
            self._record(request, form.instance, verb, before, _rows(formsets))

    def delete_model(self, request: HttpRequest, obj: models.Model) -> None:
        with transaction.atomic():
            before, key = self.snapshot(obj), obj.pk
            super().delete_model(request, obj)
            # Django has cleared the key of what it deleted; the audit names what it was.
            obj.pk = key
            chain.record(
                self.audited_action("delete"),
                actor=actor_of(request),
                target=obj,
                before=_told(before, list(before)),
                now=timezone.now(),
            )

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[models.Model]) -> None:
        with transaction.atomic():
            for obj in queryset:
                self.delete_model(request, obj)

    def _watched(self) -> Iterator[tuple[str, AnyField]]:
        for field in _fields(self.model):
            if not self.audited or field.name in self.audited:
                yield field.name, field

    def _record(
        self, request: HttpRequest, obj: models.Model, verb: str, before: dict[str, Any] | None,
        rows: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        after = self.snapshot(obj)
        if before is None:
            changed = [
                name for name, value in after.items() if not (isinstance(value, Unsaid) or _is_empty(value))
            ]
        else:
            changed = [name for name in after if after[name] != before.get(name)]
            before = _told(before, [n for n in changed if not isinstance(after[n], Unsaid)])
        chain.record(
            self.audited_action(verb), actor=actor_of(request), target=obj, before=before,
            after=_told(after, changed) | (rows or {}), now=timezone.now(),
        )  # fmt: skip


def actor_of(request: HttpRequest) -> Any:
    return request.user if request.user.is_authenticated else None


def _fields(model: type[models.Model]) -> list[AnyField]:
    own = [f for f in model._meta.concrete_fields if f.editable and not f.primary_key]
    return [*own, *model._meta.local_many_to_many]


def _value(field: AnyField, obj: Any) -> Any:
    if field.many_to_many:
        return sorted(str(pk) for pk in getattr(obj, field.name).values_list("pk", flat=True))
    return _plain(field.value_from_object(obj))


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | str | list | dict | None) else str(value)


def _is_empty(value: Any) -> bool:
    return value in (None, "", [])


def _told(values: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The named values; those that are not told by their names alone."""
    hidden = sorted(name for name in names if isinstance(values[name], Unsaid))
    said = {name: values[name] for name in names if name not in hidden}
    return said | ({NOT_SHOWN: hidden} if hidden else {})


def _rows(formsets: Iterable[Any]) -> dict[str, Any]:
    """How many rows of each inline were added, changed and deleted."""
    found = {}
    for formset in formsets:
        counts = {
            "added": len(getattr(formset, "new_objects", ())),
            "changed": len(getattr(formset, "changed_objects", ())),
            "deleted": len(getattr(formset, "deleted_objects", ())),
        }
        if any(counts.values()):
            found[f"rows of {formset.prefix}"] = {name: n for name, n in counts.items() if n}
    return found
