"""What money is spent on, known to billing by an opaque id and a snapshot of its label."""

from __future__ import annotations

import uuid

from django.db import models


class Subject(models.Model):
    """One rented machine as the ledger sees it. `scope` groups subjects: the deployment's id."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    label = models.CharField(max_length=256)
    scope = models.UUIDField(db_index=True)
    scope_label = models.CharField(max_length=120)
    provider = models.CharField(max_length=40)
    tier = models.CharField(max_length=40, blank=True)
    gpu = models.CharField(max_length=80, blank=True)
    created_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.label
