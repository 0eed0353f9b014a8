"""Evidence packs that were asked for. The file lies in the evidence folder for a week."""

from __future__ import annotations

import uuid
from datetime import timedelta

from django.db import models


class Pack(models.Model):
    """One pack of [start, end): waiting, being written, ready, or failed with a sentence."""

    class State(models.TextChoices):
        WAITING = "waiting", "Waiting"
        WRITING = "writing", "Being written"
        READY = "ready", "Ready"
        FAILED = "failed", "Failed"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    start = models.DateTimeField()
    end = models.DateTimeField()
    state = models.CharField(max_length=8, choices=State.choices, default=State.WAITING)
    asked_by = models.CharField(max_length=36, help_text="who, as the audit names them")
    asked_at = models.DateTimeField()
    beat_at = models.DateTimeField(null=True, help_text="when its writer was last heard of")
    section = models.CharField(max_length=120, blank=True, help_text="what is being written now")
    rows = models.BigIntegerField(default=0, help_text="written so far")
    ready_at = models.DateTimeField(null=True)
    size = models.BigIntegerField(default=0, help_text="bytes")
    sha256 = models.CharField(max_length=64, blank=True, help_text="of the file")
    whole = models.CharField(max_length=64, blank=True, help_text="of its contents, as its manifest says")
    head_sequence = models.BigIntegerField(default=0, help_text="the audit event that it stands on")
    error = models.CharField(max_length=300, blank=True)

    class Meta:
        default_permissions = ()
        permissions = [("export_pack", "Can export evidence packs")]
        indexes = [models.Index(fields=["state"], name="evidence_pack_state")]

    def __str__(self) -> str:
        return f"{self.first_day} to {self.last_day}"

    @property
    def first_day(self) -> str:
        return f"{self.start:%Y-%m-%d}"

    @property
    def last_day(self) -> str:
        """The last day that it has something of."""
        return f"{self.end - timedelta(microseconds=1):%Y-%m-%d}"

    @property
    def file_name(self) -> str:
        return f"regia-evidence-{self.first_day}-{self.last_day}.zip"

    @property
    def is_over(self) -> bool:
        return self.state in (self.State.READY, self.State.FAILED)
