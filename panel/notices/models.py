"""What the panel must tell somebody: raised once per key, shown until it is cleared."""

from __future__ import annotations

from django.db import models


class Notice(models.Model):
    class Severity(models.TextChoices):
        INFO = "info"
        WARNING = "warning"
        CRITICAL = "critical"

        @property
        def rank(self) -> int:
            """0 for info, 2 for critical."""
            return list(type(self)).index(self)

    key = models.CharField(max_length=160, help_text="one open notice for each key")
    severity = models.CharField(max_length=10, choices=Severity.choices)
    severity_since = models.DateTimeField(null=True, help_text="when it was raised, or last got worse")
    title = models.CharField(max_length=200)
    detail = models.TextField(blank=True)
    url = models.CharField(max_length=300, blank=True)
    subject = models.UUIDField(null=True, help_text="the deployment it is about, for the rules of alerts")
    touches = models.JSONField(default=list, help_text="ids of deployments that it touches besides")
    # One cause is told once: what an incident tells of stands here for the pages and the loops alone.
    cause = models.CharField(max_length=120, blank=True, help_text="of the incident that is to tell it")
    told_by = models.CharField(max_length=160, blank=True, help_text="the key of the notice that tells it")
    raised_at = models.DateTimeField(db_index=True)
    last_seen_at = models.DateTimeField()
    cleared_at = models.DateTimeField(null=True, blank=True)
    acknowledged_at = models.DateTimeField(null=True)
    acknowledged_by = models.CharField(max_length=40, blank=True, help_text="who, as the audit names them")
    # What the alerts have done about it. The row itself is their outbox: it is written in the transaction of
    # what it tells of, and stays here until its end has been told.
    routed_at = models.DateTimeField(null=True, help_text="when the alerts first looked at it")
    settled_at = models.DateTimeField(null=True, help_text="when the alerts were done with it")

    class Meta:
        default_permissions = ("view",)
        permissions = [("acknowledge_notice", "Can see alerts and acknowledge them")]
        constraints = [
            models.UniqueConstraint(
                fields=["key"], condition=models.Q(cleared_at=None), name="notices_one_open_per_key"
            )
        ]
        indexes = [
            models.Index(fields=["raised_at"], condition=models.Q(settled_at=None), name="notices_unsettled")
        ]

    def __str__(self) -> str:
        return self.title
