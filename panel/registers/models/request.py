"""What people ask for under Articles 15 to 22, from receipt to answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from django.conf import settings
from django.db import models
from django.urls import reverse

from panel.registers.models.record import Complete, line, sha256, text


class SubjectRequest(Complete):
    class Kind(models.TextChoices):
        ACCESS = "access", "Access: what do you have about me? (Art. 15)"
        RECTIFY = "rectify", "Correction (Art. 16)"
        ERASE = "erase", "Erasure (Art. 17)"
        RESTRICT = "restrict", "Restriction (Art. 18)"
        PORT = "port", "Data portability (Art. 20)"
        OBJECT = "object", "Objection (Art. 21)"
        AUTOMATED = "automated", "Not to be subject to automated decisions (Art. 22)"

    class Identity(models.TextChoices):
        OPEN = "open", "Not checked yet"
        ASKED = "asked", "Asked for more (Art. 12(6))"
        PROVED = "proved", "It is the person"
        FAILED = "failed", "Not proved"

    class Outcome(models.TextChoices):
        DONE = "done", "Done as asked"
        PARTLY = "partly", "Done in part"
        REFUSED = "refused", "Refused (Art. 12(4), 12(5))"
        WITHDRAWN = "withdrawn", "Withdrawn"

    kind = models.CharField("what is asked", max_length=10, choices=Kind.choices)
    requester = models.CharField("who asks", max_length=160)
    contact = line("how they can be reached", "Where the answer goes.")
    account = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+",
        verbose_name="their account here", help_text="If they have one: the panel can then export or erase it.",
    )  # fmt: skip
    details = text("in their words", "What they wrote, as far as it matters.")
    received_on = models.DateField(
        "received on", help_text="The month starts on this day, by whichever way it came."
    )
    identity = models.CharField(
        "identity", max_length=6, choices=Identity.choices, default=Identity.OPEN,
        help_text="More is asked only when there is reasonable doubt (Art. 12(6)).",
    )  # fmt: skip
    identity_how = line(
        "how it was checked", "Such as “signed in with their account”. No copies of papers here."
    )
    due_on = models.DateField("to be answered by", editable=False)
    extended_on = models.DateField("told of the extension on", null=True, blank=True)
    extension_reason = text(
        "why it takes longer", "Complexity or number of requests; told within the first month (Art. 12(3))."
    )
    outcome = models.CharField(max_length=10, choices=Outcome.choices, blank=True)
    answered_on = models.DateField("answered on", null=True, blank=True)
    refusal_reason = text(
        "why it was refused", "Told to the person, with the right to complain (Art. 12(4))."
    )
    evidence_sha256 = sha256(
        "SHA-256 of what was sent", "Proves later what the answer was, without keeping it here."
    )
    filed_at = models.DateTimeField(editable=False)

    class Meta:
        verbose_name = "subject request"
        verbose_name_plural = "subject requests (Art. 15-22)"

    needed: ClassVar = (
        ("contact", "how they can be reached"),
        ("identity_how", "how the identity was checked"),
        ("outcome", "the outcome"),
        ("answered_on", "when it was answered"),
    )

    def __str__(self) -> str:
        return f"Request #{self.pk}"

    def get_absolute_url(self) -> str:
        return reverse("subject_request", args=[self.pk])

    @property
    def is_running(self) -> bool:
        return self.answered_on is None

    @property
    def word(self) -> str:
        """ "Access"."""
        return str(self.get_kind_display()).partition(":")[0].partition(" (")[0]

    def wanted(self) -> Sequence[tuple[str, str]]:
        refused = self.outcome in {self.Outcome.REFUSED, self.Outcome.PARTLY}
        sent = self.outcome in {self.Outcome.DONE, self.Outcome.PARTLY}
        why = (("refusal_reason", "why it was refused"),) if refused else ()
        proof = (("evidence_sha256", "the SHA-256 of what was sent"),) if sent else ()
        return (*self.needed, *why, *proof)

    def gaps(self) -> Iterator[str]:
        if self.identity in {self.Identity.OPEN, self.Identity.ASKED}:
            yield "whether it is the person"
