"""Who is told of a notice, by which way and when; and every message with what became of it."""

from __future__ import annotations

import uuid
from datetime import datetime, time
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db import models

from panel.fields import EncryptedTextField
from panel.notices.models import Notice


class Channel(models.Model):
    """One way out: mail to people, a webhook, or a room of a chat service."""

    class Kind(models.TextChoices):
        MAIL = "mail", "E-mail"
        WEBHOOK = "webhook", "Webhook"
        CHAT = "chat", "Chat"

    name = models.CharField(max_length=80, unique=True)
    kind = models.CharField(max_length=10, choices=Kind.choices)
    enabled = models.BooleanField(default=True)
    address = EncryptedTextField(blank=True, help_text="a webhook's or Apprise's URL: it may hold a token")
    leads_to = models.CharField(max_length=200, blank=True, help_text="what of the address may be shown")
    signing_key = EncryptedTextField(blank=True, help_text="a webhook's, as Standard Webhooks writes it")
    old_signing_key = EncryptedTextField(blank=True)
    key_changed_at = models.DateTimeField(null=True)
    people = models.ManyToManyField(settings.AUTH_USER_MODEL, blank=True, related_name="+")
    mailbox = models.EmailField(blank=True, help_text="a shared address, beside the people")
    created_at = models.DateTimeField()
    failures = models.PositiveIntegerField(default=0, help_text="in a row")
    held_until = models.DateTimeField(null=True, help_text="its receiver is down: nothing is sent until then")
    last_ok_at = models.DateTimeField(null=True)
    last_error = models.CharField(max_length=300, blank=True)
    lease = models.UUIDField(
        null=True, help_text="one task sends at a time, so that messages keep their order"
    )
    lease_until = models.DateTimeField(null=True)

    class Meta:
        default_permissions = ("view",)
        permissions = [("manage_channel", "Can change who is alerted and see what was sent")]

    def __str__(self) -> str:
        return self.name


class Rule(models.Model):
    """Which notices a set of channels is told of, at once or when nobody acknowledges them in time."""

    name = models.CharField(max_length=80, unique=True)
    enabled = models.BooleanField(default=True)
    severity = models.CharField(
        max_length=10, choices=Notice.Severity.choices, default=Notice.Severity.WARNING, help_text="the least"
    )
    subjects = models.JSONField(default=list, help_text="ids of deployments; none: everything")
    channels = models.ManyToManyField(Channel, related_name="rules")
    after_minutes = models.PositiveIntegerField(default=0, help_text="0: at once; else if not acknowledged")
    tells_end = models.BooleanField(default=True)
    quiet_from = models.TimeField(null=True)
    quiet_until = models.TimeField(null=True)
    time_zone = models.CharField(max_length=64, default="UTC")
    critical_passes = models.BooleanField(default=True)
    created_at = models.DateTimeField()

    class Meta:
        default_permissions = ("view",)

    def __str__(self) -> str:
        return self.name

    def matches(self, notice: Notice) -> bool:
        severe = Notice.Severity(notice.severity).rank >= Notice.Severity(self.severity).rank
        return self.enabled and severe and about(self.subjects, notice)

    def is_quiet(self, notice: Notice, *, now: datetime) -> bool:
        """Whether its quiet hours hold the notice back now."""
        if self.quiet_from is None or self.quiet_until is None:
            return False
        if self.critical_passes and notice.severity == Notice.Severity.CRITICAL:
            return False
        return within(now.astimezone(ZoneInfo(self.time_zone)).time(), self.quiet_from, self.quiet_until)


class Window(models.Model):
    """A time of planned work: what is raised about its deployments is told only if it outlives the window."""

    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    subjects = models.JSONField(default=list, help_text="ids of deployments; none: everything")
    reason = models.CharField(max_length=200)
    created_by = models.CharField(max_length=40, help_text="who, as the audit names them")

    class Meta:
        default_permissions = ("view",)
        indexes = [models.Index(fields=["ends_at"], name="alerts_window_ends")]

    def __str__(self) -> str:
        return self.reason

    def mutes(self, notice: Notice, *, now: datetime) -> bool:
        return self.starts_at <= now < self.ends_at and about(self.subjects, notice)


class Delivery(models.Model):
    """One message to one channel: written once, sent until its receiver has taken it, with the same id."""

    class Occasion(models.TextChoices):
        RAISED = "raised", "Raised"
        WORSENED = "worsened", "Got worse"
        ESCALATED = "escalated", "Escalated"
        RESOLVED = "resolved", "Resolved"
        TEST = "test", "Test"

    class State(models.TextChoices):
        WAITING = "waiting", "Waiting"
        SENT = "sent", "Delivered"
        FAILED = "failed", "Given up"
        DROPPED = "dropped", "Dropped"

    message_id = models.UUIDField(unique=True, default=uuid.uuid4)
    notice = models.ForeignKey(Notice, null=True, on_delete=models.CASCADE, related_name="deliveries")
    channel = models.ForeignKey(Channel, on_delete=models.CASCADE, related_name="deliveries")
    rule = models.ForeignKey(Rule, null=True, on_delete=models.SET_NULL, related_name="+")
    occasion = models.CharField(max_length=10, choices=Occasion.choices)
    severity = models.CharField(max_length=10, choices=Notice.Severity.choices)
    message = models.JSONField(help_text="what is told, as it was when it was written")
    created_at = models.DateTimeField()
    state = models.CharField(max_length=10, choices=State.choices, default=State.WAITING)
    tries = models.PositiveIntegerField(default=0)
    tried_at = models.DateTimeField(null=True)
    next_try_at = models.DateTimeField()
    sent_at = models.DateTimeField(null=True)
    error = models.CharField(max_length=300, blank=True)

    class Meta:
        verbose_name_plural = "deliveries"
        default_permissions = ("view",)
        constraints = [
            # Whoever routes a notice how often: a channel is told of each turn of it once.
            models.UniqueConstraint(
                fields=["notice", "channel", "occasion", "severity"], name="alerts_told_once"
            )
        ]
        indexes = [
            models.Index(
                fields=["channel", "id"], condition=models.Q(state="waiting"), name="alerts_waiting"
            ),
            models.Index(fields=["state", "-id"], name="alerts_by_state"),
            models.Index(fields=["created_at"], name="alerts_delivery_age"),
        ]

    def __str__(self) -> str:
        return f"{self.occasion} to {self.channel_id}"


def about(subjects: list[str], notice: Notice) -> bool:
    """Whether the notice is about one of the deployments; none named: whether or not it is about any."""
    touched = {*notice.touches, *([str(notice.subject)] if notice.subject else [])}
    return not subjects or not touched.isdisjoint(subjects)


def within(at: time, start: time, end: time) -> bool:
    """Whether `at` lies from `start` on and before `end`, over midnight when that is the earlier one."""
    return start <= at < end if start < end else at >= start or at < end
