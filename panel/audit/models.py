"""The audit chain: append-only rows, each carrying the hash of the one before.

Personal data stays out of the hashed payload. The actor is a pseudonym that `Pseudonym` resolves, the
source address stands in `Origin`: both can be erased and the chain still verifies.
"""

from __future__ import annotations

import uuid
from typing import Any, NoReturn

from django.conf import settings
from django.db import models


class Pseudonym(models.Model):
    """Who hides behind an actor's pseudonym. Erasing the row leaves the chain whole."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="pseudonym"
    )
    name = models.CharField(max_length=254, blank=True, help_text="for when the user's row is gone")

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return self.name or str(self.id)


class AppendOnly(TypeError):
    """Somebody tried to change or delete what has been audited."""


def _refuse(what: str) -> NoReturn:
    raise AppendOnly(f"Audit events are appended, never {what}.")


class AuditEventQuerySet(models.QuerySet["AuditEvent"]):
    def update(self, **_: Any) -> NoReturn:
        _refuse("edited")

    def bulk_update(self, *_: Any, **__: Any) -> NoReturn:
        _refuse("edited")

    def bulk_create(self, *_: Any, **__: Any) -> NoReturn:
        _refuse("written but by record()")

    def delete(self) -> NoReturn:
        _refuse("deleted")

    # Django marks the originals likewise: no template and no relation calls them by accident.
    update.alters_data = True  # type: ignore[attr-defined]
    delete.alters_data = True  # type: ignore[attr-defined]
    delete.queryset_only = True  # type: ignore[attr-defined]


class AuditEvent(models.Model):
    """One act. `sequence` has no gaps; `hash` covers every field but itself.

    Written by `chain.record` alone. Triggers in the database refuse UPDATE and DELETE (migration 0002).
    """

    sequence = models.BigIntegerField(primary_key=True)
    at = models.DateTimeField(db_index=True)
    actor = models.CharField(max_length=36, db_index=True, help_text="a pseudonym, or 'system'")
    action = models.CharField(max_length=80, db_index=True)
    target_type = models.CharField(max_length=80, blank=True)
    target_id = models.CharField(max_length=80, blank=True)
    before = models.JSONField(null=True)
    after = models.JSONField(null=True)
    reason = models.CharField(max_length=500, blank=True)
    request_id = models.CharField(max_length=36, blank=True)
    spooled = models.UUIDField(
        null=True, unique=True, help_text="the id of its line in the spool; none: written at once"
    )
    previous = models.CharField(max_length=64)
    hash = models.CharField(max_length=64, unique=True)

    objects = AuditEventQuerySet.as_manager()

    class Meta:
        default_permissions = ("view",)
        # The collector of deletes, too, goes through the guarded queryset.
        base_manager_name = "objects"
        # Each filter of the list in the list's order, so that a page of it reads a page and not a million rows.
        indexes = [
            models.Index(fields=["target_type", "target_id", "-sequence"], name="audit_target"),
            models.Index(fields=["actor", "-sequence"], name="audit_actor"),
            models.Index(fields=["action", "-sequence"], name="audit_action"),
        ]

    def __str__(self) -> str:
        return f"{self.sequence} {self.action}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            _refuse("edited")
        super().save(*args, **{**kwargs, "force_insert": True})

    def delete(self, *_: Any, **__: Any) -> NoReturn:
        _refuse("deleted")


class Origin(models.Model):
    """Where an act came from: personal data, kept beside the chain so that it can be erased."""

    event = models.OneToOneField(AuditEvent, primary_key=True, on_delete=models.PROTECT)
    address = models.GenericIPAddressField(null=True)
    user_agent = models.CharField(max_length=200, blank=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"origin of {self.event_id}"


class Head(models.Model):
    """The chain's last link: one row, locked by whoever appends. Outside anchors compare against it."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    sequence = models.BigIntegerField(default=0)
    hash = models.CharField(max_length=64, default="0" * 64)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"head at {self.sequence}"


class AnchorMessage(models.Model):
    """An anchor on its way to the receiver outside. The last one that arrived stays."""

    sequence = models.BigIntegerField(primary_key=True)
    hash = models.CharField(max_length=64)
    at = models.DateTimeField()
    tries = models.PositiveIntegerField(default=0)
    next_try_at = models.DateTimeField()
    sent_at = models.DateTimeField(null=True)
    error = models.CharField(max_length=300, blank=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"anchor of event {self.sequence}"
