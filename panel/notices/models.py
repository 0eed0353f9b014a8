"""What the panel must tell somebody: raised once per key, shown until it is cleared."""

from __future__ import annotations

from django.db import models


class Notice(models.Model):
    class Severity(models.TextChoices):
        INFO = "info"
        WARNING = "warning"
        CRITICAL = "critical"

    key = models.CharField(max_length=160, help_text="one open notice for each key")
    severity = models.CharField(max_length=10, choices=Severity.choices)
    title = models.CharField(max_length=200)
    detail = models.TextField(blank=True)
    url = models.CharField(max_length=300, blank=True)
    raised_at = models.DateTimeField(db_index=True)
    last_seen_at = models.DateTimeField()
    cleared_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        default_permissions = ("view",)
        constraints = [
            models.UniqueConstraint(
                fields=["key"], condition=models.Q(cleared_at=None), name="notices_one_open_per_key"
            )
        ]

    def __str__(self) -> str:
        return self.title
