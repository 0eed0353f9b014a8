"""What every record of a register has: where it comes from, who answers for it, when it is looked at again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from django.db import models
from django.urls import reverse


class State(models.TextChoices):
    DRAFT = "draft", "Draft, to be confirmed by a person"
    CONFIRMED = "confirmed", "Confirmed"
    RETIRED = "retired", "No longer applies"


class Complete(models.Model):
    """Says what of it is still missing, in plain words."""

    needed: ClassVar[Sequence[tuple[str, str]]] = ()
    """(field, what is missing while it is empty)."""

    class Meta:
        abstract = True

    def gaps(self) -> Iterator[str]:
        """What follows from more than one field."""
        yield from ()

    def wanted(self) -> Sequence[tuple[str, str]]:
        """The fields that this record needs; some depend on what it says."""
        return self.needed

    @property
    def missing(self) -> list[str]:
        empty = [words for name, words in self.wanted() if getattr(self, name) in (None, "", [])]
        return [*empty, *self.gaps()]

    @property
    def score(self) -> int:
        """Percent of what is needed that is there."""
        gaps, needed = len(list(self.gaps())), len(self.wanted())
        whole = needed + gaps
        return 100 if not whole else round(100 * (whole - len(self.missing)) / whole)


class Record(Complete):
    """A record that is reviewed: an activity, a processor, a transfer, an assessment."""

    state = models.CharField(
        max_length=10, choices=State.choices, default=State.DRAFT,
        help_text="A draft counts for nothing until somebody has read and confirmed it.",
    )  # fmt: skip
    source_key = models.CharField(max_length=160, null=True, unique=True, editable=False)
    seen = models.TextField(
        "what ran", blank=True, editable=False, help_text="Written by the panel from what it rented; not for editing."
    )  # fmt: skip
    owner = models.CharField(
        "who answers for it", max_length=120, blank=True, help_text="A role rather than a name, such as “head of support”."
    )  # fmt: skip
    last_review = models.DateField("last reviewed on", null=True, blank=True)
    next_review = models.DateField(
        "to be reviewed by",
        null=True,
        blank=True,
        help_text="Registers are kept up to date (Art. 5(2), 24(1)).",
    )
    notes = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        abstract = True

    @property
    def change_url(self) -> str:
        return reverse(f"admin:{self._meta.app_label}_{self._meta.model_name}_change", args=[self.pk])

    def gaps(self) -> Iterator[str]:
        if self.state == State.DRAFT:
            yield "a person's confirmation"


def text(verbose: str, help_text: str, **more: Any) -> models.TextField[str, str]:
    """A text that may still be empty: what is missing is counted, never refused."""
    return models.TextField(verbose, blank=True, help_text=help_text, **more)


def line(verbose: str, help_text: str = "", *, length: int = 200) -> models.CharField[str, str]:
    return models.CharField(verbose, max_length=length, blank=True, help_text=help_text)


def sha256(verbose: str, help_text: str) -> models.CharField[str, str]:
    from django.core.validators import RegexValidator

    check = RegexValidator(r"^[0-9a-fA-F]{64}$", "A SHA-256 has 64 digits of 0-9 and a-f.")
    return models.CharField(verbose, max_length=64, blank=True, help_text=help_text, validators=[check])


def country_code(verbose: str, help_text: str = "Two letters, such as CZ.") -> models.CharField[str, str]:
    from django.core.validators import RegexValidator

    check = RegexValidator(r"^[A-Z]{2}$", "Two capital letters, such as CZ.")
    return models.CharField(verbose, max_length=2, blank=True, help_text=help_text, validators=[check])
