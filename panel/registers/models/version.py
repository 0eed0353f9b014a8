"""The older versions of every record."""

from __future__ import annotations

from django.db import models


class RegisterVersion(models.Model):
    """How a record stood when it was saved, who saved it and when. Never edited."""

    register = models.CharField(max_length=40, help_text="the model's name")
    object_id = models.PositiveBigIntegerField()
    number = models.PositiveIntegerField()
    at = models.DateTimeField()
    by = models.CharField(max_length=40, help_text="who, as the audit names them")
    snapshot = models.JSONField()

    class Meta:
        default_permissions = ()
        constraints = [
            models.UniqueConstraint(fields=["register", "object_id", "number"], name="registers_version_once")
        ]

    def __str__(self) -> str:
        return f"{self.register} {self.object_id}, version {self.number}"
