"""What the purge has done, what it may not touch, and the receipts of who was erased."""

from __future__ import annotations

import uuid
from datetime import datetime

from django.conf import settings
from django.db import models
from django.db.models import Q

MANAGE = "privacy.manage_person"
PURGE = "privacy.run_purge"


class PurgeRun(models.Model):
    """One run of the purge: what it took, what was held, what went wrong. Without an end it was interrupted."""

    asked_by = models.CharField(
        max_length=40, blank=True, help_text="who, as the audit names them; empty: the clock"
    )
    started_at = models.DateTimeField(db_index=True)
    ended_at = models.DateTimeField(null=True)
    rows = models.PositiveBigIntegerField(default=0)
    by_model = models.JSONField(default=dict, help_text="rows that went, by model")
    held = models.JSONField(default=dict, help_text="rows that a legal hold kept, by model")
    errors = models.JSONField(default=dict, help_text="what went wrong, by model")

    class Meta:
        default_permissions = ("view",)
        permissions = [("run_purge", "Can see what the purge would take, and run it")]

    def __str__(self) -> str:
        return f"{self.started_at:%Y-%m-%d %H:%M}: {self.rows} rows"

    @property
    def state(self) -> str:
        if self.ended_at is None:
            return "not finished"
        return "with errors" if self.errors else "done"


class LegalHoldQuerySet(models.QuerySet["LegalHold"]):
    def active(self, now: datetime) -> LegalHoldQuerySet:
        return self.filter(Q(until=None) | Q(until__gt=now), since__lte=now)


class LegalHold(models.Model):
    """Rows that nothing may remove for a time: of one model, about one person, or both."""

    person = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+",
        help_text="whose rows are held; they cannot be erased meanwhile",
    )  # fmt: skip
    model = models.CharField(max_length=100, blank=True, help_text="the rows that are held; none: every kind")
    reason = models.TextField(
        max_length=1000, help_text="the dispute or the authority's letter that asks for it"
    )
    since = models.DateTimeField()
    until = models.DateTimeField(null=True, blank=True, help_text="empty: until somebody sets an end")
    set_by = models.CharField(max_length=40, blank=True, help_text="who, as the audit names them")

    objects = LegalHoldQuerySet.as_manager()

    class Meta:
        default_permissions = ("view", "add", "change")
        constraints = [
            models.CheckConstraint(
                # A person who has been erased since leaves a hold that has ended.
                condition=~Q(model="", person=None) | Q(until__isnull=False),
                name="privacy_hold_of_something",
            )
        ]

    def __str__(self) -> str:
        return f"{self.model or 'every kind of row'}{' about one person' if self.person_id else ''}"

    def is_active(self, now: datetime) -> bool:
        return self.since <= now and (self.until is None or self.until > now)


class ErasureReceipt(models.Model):
    """That somebody was erased, with what is kept and why. Nothing of theirs but two keyed hashes."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    at = models.DateTimeField(db_index=True)
    by = models.CharField(max_length=40, blank=True, help_text="who, as the audit names them")
    reason = models.CharField(max_length=300)
    person_key = models.CharField(max_length=64, help_text="keyed hash of the account")
    email_key = models.CharField(max_length=64, db_index=True, help_text="keyed hash of the address")
    document = models.TextField(help_text="the receipt as JSON")
    document_sha256 = models.CharField(max_length=64)
    page = models.TextField(help_text="the receipt as HTML")
    page_sha256 = models.CharField(max_length=64)
    reapplied = models.PositiveIntegerField(
        default=0, help_text="how often a restored backup brought them back"
    )
    reapplied_at = models.DateTimeField(null=True)

    class Meta:
        default_permissions = ("view",)
        permissions = [("manage_person", "Can export and erase anybody's data")]

    def __str__(self) -> str:
        return f"erasure of {self.at:%Y-%m-%d %H:%M}"
