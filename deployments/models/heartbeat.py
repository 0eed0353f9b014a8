"""The age of what must keep beating, for /readyz, the header of every page and /metrics."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import models
from django.db.models import F

SELDOM = timedelta(seconds=5)
"""A round that goes well is not written down more often than this: some go each second."""


class Heartbeat(models.Model):
    """When a loop last went round: `beat` (the clock reached a worker), `reconcile` (a round ended).

    `round:<name>` is a task of the clock's schedule: when it last went well, or was first tried.
    """

    name = models.CharField(primary_key=True, max_length=40)
    at = models.DateTimeField()
    failures = models.PositiveIntegerField(default=0, help_text="in a row")
    failures_total = models.PositiveBigIntegerField(default=0)
    failed_at = models.DateTimeField(null=True)
    error = models.CharField(
        max_length=80, blank=True, help_text="the kind of the last failure, not its words"
    )

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.name} {self.at}"

    @classmethod
    def beat(cls, name: str, now: datetime) -> None:
        if not cls.objects.filter(name=name).update(at=now):
            cls.objects.get_or_create(name=name, defaults={"at": now})

    @classmethod
    def first_tried(cls, name: str, now: datetime) -> None:
        """The round begins for the first time: one that never ends grows old from here on."""
        cls.objects.get_or_create(name=name, defaults={"at": now})

    @classmethod
    def went_round(cls, name: str, now: datetime) -> None:
        """The round went well. It is read before it is written: most of the time there is nothing to write."""
        row = cls.objects.filter(name=name).values_list("at", "failures").first()
        # A moment that lies ahead was written by a clock that has been put back since.
        if row is None or row[1] or not timedelta() <= now - row[0] < SELDOM:
            cls.beat(name, now)
            cls.objects.filter(name=name, failures__gt=0).update(failures=0, error="")

    @classmethod
    def failed(cls, name: str, error: str, now: datetime) -> None:
        """The round failed. One that never went well is as old as its first try."""
        cls.first_tried(name, now)
        cls.objects.filter(name=name).update(
            failures=F("failures") + 1,
            failures_total=F("failures_total") + 1,
            failed_at=now,
            error=error[:80],
        )
