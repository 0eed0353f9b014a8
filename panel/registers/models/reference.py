"""Tables that the registers are judged by. Each row says where it comes from and when somebody looked."""

from __future__ import annotations

from datetime import date
from typing import ClassVar

from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q

from panel.registers.models.record import country_code

CHECKED = "When somebody last looked whether it still stands. Empty: nobody has yet."


class AdequacyDecision(models.Model):
    """A third country that the Commission found adequate (Art. 45). The EEA needs none."""

    code = country_code("country")
    scope = models.CharField(max_length=200, blank=True, help_text="What it covers, when not everything.")
    valid_from = models.DateField(help_text="The day of the decision.")
    valid_until = models.DateField(null=True, blank=True, help_text="Empty: no end is set.")
    source = models.CharField(max_length=200, help_text="Which decision.")
    checked_on = models.DateField(null=True, blank=True, help_text=CHECKED)

    class Meta:
        verbose_name = "adequacy decision"
        verbose_name_plural = "adequacy decisions (Art. 45)"
        ordering = ("code", "-valid_from")

    def __str__(self) -> str:
        return f"{self.code} {self.scope}".strip()

    @classmethod
    def standing(cls, code: str, *, on: date) -> AdequacyDecision | None:
        """The decision on the country that is in force on that day."""
        ends = Q(valid_until=None) | Q(valid_until__gte=on)
        return cls.objects.filter(ends, code=code, valid_from__lte=on).first()


class Deadline(models.Model):
    """A period of the law, and when the team is reminded before it ends."""

    class Unit(models.TextChoices):
        HOURS = "hours", "hours, weekends count"
        MONTHS = "months", "calendar months"

    BREACH: ClassVar = "breach.notify"
    ANSWER: ClassVar = "request.answer"
    EXTEND: ClassVar = "request.extend"

    key = models.CharField(max_length=40, unique=True, editable=False)
    title = models.CharField(max_length=120)
    amount = models.PositiveSmallIntegerField(validators=[MinValueValidator(1)])
    unit = models.CharField(max_length=6, choices=Unit.choices)
    reminders = models.JSONField(
        default=list,
        blank=True,
        help_text="Hours before the end at which the team is told, such as [48, 24, 6].",
    )
    source = models.CharField(max_length=300)
    checked_on = models.DateField(null=True, blank=True, help_text=CHECKED)

    class Meta:
        verbose_name = "deadline"
        verbose_name_plural = "deadlines"
        default_permissions = ("view", "change")

    def __str__(self) -> str:
        return self.title


class Holiday(models.Model):
    """A public holiday of the place where the team works: no period in months ends on it."""

    day = models.DateField(unique=True)
    name = models.CharField(max_length=80)

    class Meta:
        verbose_name = "public holiday"
        ordering = ("day",)

    def __str__(self) -> str:
        return f"{self.day} {self.name}"
