"""Personal data breaches. Every one is documented, also one that nobody has to be told of (Art. 33(5))."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from django.db import models
from django.urls import reverse

from panel.registers.models.record import Complete, line, text


class Breach(Complete):
    class Risk(models.TextChoices):
        UNLIKELY = "unlikely", "Unlikely: the authority need not be told (Art. 33(1)), we write down why"
        RISK = "risk", "A risk: the authority is told"
        HIGH = "high", "A high risk: the people concerned are told too (Art. 34)"

    class Contained(models.TextChoices):
        YES = "yes", "Yes"
        NO = "no", "No"
        UNSURE = "unsure", "Not sure yet"

    facts = models.TextField("what happened", help_text="In your own words. It can be completed later.")
    aware_at = models.DateTimeField(
        "when we became aware", help_text="When we were reasonably sure that personal data is affected. The 72 hours start here."
    )  # fmt: skip
    occurred_at = models.DateTimeField("when it happened", null=True, blank=True)
    detected_at = models.DateTimeField("when it was first noticed", null=True, blank=True)
    contained = models.CharField("is it stopped?", max_length=6, choices=Contained.choices, blank=True)
    subject_categories = text("whose data", "Such as customers, staff, children (Art. 33(3)(a)).")
    subjects_count = line("how many people, about", "A guess is fine: “about 40”.", length=80)
    data_categories = text("which data", "Such as names, addresses, prompts, passwords (Art. 33(3)(a)).")
    records_count = line("how many records, about", length=80)
    effects = text("what may come of it", "Likely consequences for the people concerned (Art. 33(3)(c)).")
    remedies = text("what is done about it", "Taken or proposed, also to soften the effects (Art. 33(3)(d)).")
    contact = line(
        "who can be asked", "The data protection officer or another contact (Art. 33(3)(b)).", length=300
    )
    risk = models.CharField("risk to people", max_length=8, choices=Risk.choices, blank=True)
    risk_reason = text("why this risk", "Art. 33(1) and (5): the authority may ask.")
    authority = line("supervisory authority", "The lead authority of our main establishment (Art. 55, 56).")
    notified_at = models.DateTimeField("told the authority at", null=True, blank=True)
    reference = line("the authority's reference", length=120)
    delay_reason = text("reason for the delay", "Needed when more than 72 hours have passed (Art. 33(1)).")
    subjects_told_at = models.DateTimeField("told the people concerned at", null=True, blank=True)
    subjects_told_how = text("how they were told, or why not", "Art. 34(3) names the exceptions.")
    filed_at = models.DateTimeField(editable=False)
    filed_by = models.CharField(max_length=40, editable=False, help_text="who, as the audit names them")
    closed_at = models.DateTimeField("closed at", null=True, blank=True, editable=False)

    class Meta:
        verbose_name = "breach"
        verbose_name_plural = "breaches (Art. 33)"
        default_permissions = ("add", "change", "view")

    TO_AUTHORITY: ClassVar = (
        ("facts", "what happened", "33(3)(a)"),
        ("subject_categories", "whose data it is", "33(3)(a)"),
        ("subjects_count", "about how many people", "33(3)(a)"),
        ("data_categories", "which data it is", "33(3)(a)"),
        ("records_count", "about how many records", "33(3)(a)"),
        ("contact", "who can be asked", "33(3)(b)"),
        ("effects", "what may come of it", "33(3)(c)"),
        ("remedies", "what is done about it", "33(3)(d)"),
    )
    """(field, in words, of which article)."""

    def __str__(self) -> str:
        return f"Breach #{self.pk}"

    def get_absolute_url(self) -> str:
        return reverse("breach", args=[self.pk])

    @property
    def needs_authority(self) -> bool:
        """Until somebody has judged that a risk is unlikely, the clock runs."""
        return self.risk != self.Risk.UNLIKELY

    @property
    def is_running(self) -> bool:
        """Whether the 72 hours run: nobody told the authority, and nobody has written down why that is not needed."""
        settled = self.risk == self.Risk.UNLIKELY and bool(self.risk_reason)
        return self.notified_at is None and not settled

    def wanted(self) -> Sequence[tuple[str, str]]:
        asked = [(name, words) for name, words, _ in self.TO_AUTHORITY]
        own = [("occurred_at", "when it happened"), ("contained", "whether it is stopped"), ("risk", "the risk to people"),
               ("risk_reason", "why this risk")]  # fmt: skip
        told = [("authority", "which authority"), ("notified_at", "when the authority was told")]
        return (*asked, *own, *(told if self.needs_authority else []))

    def gaps(self) -> Iterator[str]:
        from panel.registers import clocks

        if self.risk == self.Risk.HIGH and not (self.subjects_told_at or self.subjects_told_how):
            yield "when the people concerned were told, or why not"
        if self.notified_at and self.notified_at > clocks.breach_due(self) and not self.delay_reason:
            yield "the reason for the delay"


class BreachEntry(models.Model):
    """A line of a breach's timeline: what was found or done, and what was told later, in phases (Art. 33(4))."""

    class Kind(models.TextChoices):
        NOTE = "note", "Found or done"
        UPDATE = "update", "Told the authority more"

    breach = models.ForeignKey(Breach, on_delete=models.PROTECT, related_name="entries")
    at = models.DateTimeField()
    by = models.CharField(max_length=40, help_text="who, as the audit names them")
    kind = models.CharField(max_length=6, choices=Kind.choices, default=Kind.NOTE)
    text = models.TextField()

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M}"
