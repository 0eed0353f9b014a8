"""What the providers say they charged, how it compares with our ledger, and the months that were closed."""

from __future__ import annotations

import uuid
from datetime import timedelta

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.urls import reverse

from billing.fields import UsdField
from billing.models.ledger import Adjustment, ClosedPeriod
from billing.models.subject import Subject


class Bill(models.Model):
    """How far one account's bill has been read, and how its provider bills. Its id is the account's."""

    account = models.UUIDField(primary_key=True, editable=False)
    account_label = models.CharField(max_length=80)
    provider = models.CharField(max_length=40)
    step_seconds = models.PositiveIntegerField(help_text="the spans that the bill tells: an hour or a day")
    lag_seconds = models.PositiveIntegerField(help_text="a span is billed when it is over for this long")
    since = models.DateTimeField(help_text="the first moment that is asked for")
    told_until = models.DateTimeField(help_text="the bill was read without a gap from `since` to here")
    fetched_at = models.DateTimeField(null=True, blank=True, help_text="the last answer")
    next_at = models.DateTimeField(null=True, blank=True, help_text="when it is asked again; none: at once")
    error = models.CharField(max_length=300, blank=True, help_text="why it stands still; empty: it does not")
    error_at = models.DateTimeField(null=True, blank=True, help_text="since when it stands still")
    matched_at = models.DateTimeField(
        null=True, blank=True, help_text="when it was last compared with the ledger"
    )

    class Meta:
        default_permissions = ("view",)

    def __str__(self) -> str:
        return self.account_label

    @property
    def step(self) -> timedelta:
        return timedelta(seconds=self.step_seconds)

    @property
    def lag(self) -> timedelta:
        return timedelta(seconds=self.lag_seconds)


class ProviderStatement(models.Model):
    """One line of a provider's bill: what one component of one machine cost in one span."""

    account = models.UUIDField()
    remote_id = models.CharField(max_length=120)
    component = models.CharField(max_length=20, help_text="in our words; fee and other are the provider's")
    start = models.DateTimeField()
    end = models.DateTimeField()
    seconds = models.PositiveIntegerField(
        default=0, help_text="that the provider says it charged; 0: it does not say"
    )
    usd = UsdField(signed=True)
    label = models.CharField(max_length=256, blank=True)
    subject = models.ForeignKey(
        Subject, null=True, blank=True, on_delete=models.PROTECT, related_name="statements",
        help_text="the machine of the ledger that it is for; none: nobody knows",
    )  # fmt: skip
    first_seen_at = models.DateTimeField()
    fetched_at = models.DateTimeField(help_text="when this amount was told first")
    missing_since = models.DateTimeField(
        null=True, blank=True, help_text="an answer left it out; the second one makes it 0"
    )

    class Meta:
        default_permissions = ("view",)
        constraints = [
            models.UniqueConstraint(
                fields=["account", "remote_id", "component", "start"], name="billing_statement_once"
            )
        ]
        indexes = [
            models.Index(fields=["account", "start"], name="billing_statement_time"),
            models.Index(fields=["account", "fetched_at"], name="billing_statement_news"),
        ]

    def __str__(self) -> str:
        return f"{self.remote_id} {self.component} {self.start:%Y-%m-%d %H}h {self.usd}"


class StatementChange(models.Model):
    """An amount that a line had before: the provider corrected it, or its span was not over."""

    line = models.ForeignKey(ProviderStatement, on_delete=models.CASCADE, related_name="changes")
    at = models.DateTimeField()
    before_usd = UsdField(signed=True)
    after_usd = UsdField(signed=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.line_id} {self.before_usd} -> {self.after_usd}"


class BalanceSnapshot(models.Model):
    """An account's prepaid money at a moment, as its provider told it."""

    account = models.UUIDField()
    at = models.DateTimeField()
    usd = UsdField(signed=True)

    class Meta:
        default_permissions = ()
        constraints = [models.UniqueConstraint(fields=["account", "at"], name="billing_balance_once")]

    def __str__(self) -> str:
        return f"{self.account} {self.usd}"


class AccountDay(models.Model):
    """The three figures of one account and day (UTC), as last compared: what pages add up, never the truth."""

    account = models.UUIDField()
    day = models.DateField()
    metered_usd = UsdField(signed=True, help_text="our entries and adjustments")
    charged_usd = UsdField(signed=True, help_text="the provider's lines")
    moved_usd = UsdField(null=True, signed=True, help_text="by which the balance fell; none: nobody can tell")
    topped_up = models.BooleanField(
        default=False, help_text="it rose on that day, which hides a part of its fall"
    )
    final = models.BooleanField(help_text="old enough to be billed in full")
    gaps = models.PositiveIntegerField(help_text="machines whose figures differ by more than the tolerance")

    class Meta:
        default_permissions = ()
        constraints = [models.UniqueConstraint(fields=["account", "day"], name="billing_account_day_once")]

    def __str__(self) -> str:
        return f"{self.account} {self.day}"


class Discrepancy(models.Model):
    """Money on which our meter and the provider's bill differ: of one machine on one day, or of a balance in a month."""

    class Reason(models.TextChoices):
        NOT_SEEN = "not-seen", "not seen by us"
        NOT_CHARGED = "not-charged", "metered, not charged"
        PRICE = "price", "the price differs"
        TIME = "time", "the time differs"
        TRAFFIC = "traffic", "traffic"
        FEE = "fee", "a fee"
        LATE = "late", "a late bill"
        BALANCE = "balance", "the balance differs"

    class State(models.TextChoices):
        OPEN = "open"
        ASSIGNED = "assigned"
        EXPLAINED = "explained"
        CLOSED = "closed"

    UNEXPLAINED = (State.OPEN, State.ASSIGNED)

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    account = models.UUIDField()
    account_label = models.CharField(max_length=80)
    provider = models.CharField(max_length=40)
    day = models.DateField(help_text="UTC; the first of the month for a balance")
    key = models.CharField(
        max_length=160, help_text="the machine: its subject's id, or what the provider calls it"
    )
    subject = models.ForeignKey(
        Subject, null=True, blank=True, on_delete=models.PROTECT, related_name="discrepancies"
    )
    remote_id = models.CharField(max_length=120, blank=True)
    label = models.CharField(max_length=256, blank=True)
    reason = models.CharField(
        max_length=12, choices=Reason.choices, help_text="a guess until somebody explains it"
    )
    metered_usd = UsdField(signed=True)
    charged_usd = UsdField(signed=True)
    usd = UsdField(signed=True, help_text="charged less metered")
    state = models.CharField(max_length=10, choices=State.choices, default=State.OPEN)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    explanation = models.CharField(max_length=1000, blank=True)
    accepted_usd = UsdField(null=True, blank=True, signed=True, help_text="the gap that was closed as it is")
    by_itself = models.BooleanField(default=False, help_text="a later bill or the ledger made it go")
    opened_at = models.DateTimeField()
    changed_at = models.DateTimeField()
    closed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        default_permissions = ("view",)
        permissions = [
            ("explain_discrepancy", "Can assign, explain and close unexplained money"),
            ("book_discrepancy", "Can book a gap and close a month"),
        ]
        verbose_name_plural = "discrepancies"
        constraints = [
            models.UniqueConstraint(fields=["account", "day", "key"], name="billing_discrepancy_once")
        ]
        indexes = [
            models.Index(fields=["state", "opened_at"], name="billing_discrepancy_open"),
            models.Index(fields=["day"], name="billing_discrepancy_day"),
        ]

    def __str__(self) -> str:
        return f"{self.account_label} {self.day} {self.label or self.remote_id or self.key}"

    def get_absolute_url(self) -> str:
        return reverse("discrepancy", args=[self.pk])

    @property
    def is_unexplained(self) -> bool:
        return self.state in self.UNEXPLAINED


class DiscrepancyNote(models.Model):
    """What somebody said or did about a discrepancy; without an author, the panel."""

    discrepancy = models.ForeignKey(Discrepancy, on_delete=models.CASCADE, related_name="notes")
    at = models.DateTimeField()
    author = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    text = models.CharField(max_length=1200)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return self.text[:80]


class Booking(models.Model):
    """An adjustment that took our ledger to the provider's bill. `key` and `day` are the discrepancy's."""

    account = models.UUIDField()
    day = models.DateField()
    key = models.CharField(max_length=160)
    adjustment = models.OneToOneField(Adjustment, on_delete=models.PROTECT, related_name="booking")
    discrepancy = models.ForeignKey(
        Discrepancy, null=True, blank=True, on_delete=models.SET_NULL, related_name="bookings",
        help_text="none: it lay within the tolerance, and was booked when its month was closed",
    )  # fmt: skip
    at = models.DateTimeField()

    class Meta:
        default_permissions = ("view",)
        indexes = [models.Index(fields=["account", "day"], name="billing_booking_day")]

    def __str__(self) -> str:
        return f"{self.day} {self.key} {self.adjustment_id}"


class MonthClose(models.Model):
    """A calendar month (UTC) that is closed: who closed it, with what totals, and why with gaps if so."""

    month = models.DateField(unique=True, help_text="its first day")
    period = models.OneToOneField(ClosedPeriod, on_delete=models.PROTECT, related_name="month")
    closed_at = models.DateTimeField()
    closed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    total_usd = UsdField(signed=True, help_text="of the whole ledger in that month")
    accounts = models.JSONField(default=list, help_text="what each account's figures were; amounts as text")

    class Meta:
        default_permissions = ("view",)
        constraints = [models.CheckConstraint(condition=Q(month__day=1), name="billing_month_first")]

    def __str__(self) -> str:
        return f"{self.month:%B %Y}"
