"""What money is spent on, known to billing by an opaque id and a snapshot of its label."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models


class Subject(models.Model):
    """One rented machine as the ledger sees it. `scope` groups subjects: the deployment's id.

    What it was when it was rented: later changes of the deployment's name, owner or tags do not reach it.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    label = models.CharField(max_length=256)
    scope = models.UUIDField(db_index=True)
    scope_label = models.CharField(max_length=120)
    provider = models.CharField(max_length=40)
    tier = models.CharField(max_length=40, blank=True)
    gpu = models.CharField(max_length=80, blank=True)
    account = models.UUIDField(
        null=True, blank=True, db_index=True, help_text="the provider's account that is billed"
    )
    account_label = models.CharField(max_length=80, blank=True)
    country = models.CharField(max_length=2, blank=True, help_text="ISO 3166-1 alpha-2")
    data_center = models.CharField(max_length=80, blank=True)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    tags = models.JSONField(default=dict, blank=True, help_text="text to text")
    created_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.label
