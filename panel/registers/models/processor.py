"""Who processes personal data for us."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from django.db import models
from django.utils import timezone

from panel.registers.models.record import Record, country_code, line, sha256, text


class Processor(Record):
    """A processor or sub-processor (Art. 28)."""

    class Role(models.TextChoices):
        PROCESSOR = "processor", "Processor"
        SUB = "sub", "Sub-processor"

    class Dpf(models.TextChoices):
        LISTED = "listed", "On the list, active"
        NOT_LISTED = "not-listed", "Not on the list"
        NOT_NEEDED = "not-needed", "Not a US company"

    class Scc(models.TextChoices):
        SIGNED = "signed", "Signed, or part of the agreement"
        NONE = "none", "None"
        NOT_NEEDED = "not-needed", "Not needed: no third country"

    legal_name = models.CharField("legal name", max_length=160)
    role = models.CharField(max_length=10, choices=Role.choices, default=Role.PROCESSOR)
    engaged_by = models.ForeignKey(
        "self", null=True, blank=True, on_delete=models.PROTECT, verbose_name="engaged by",
        help_text="For a sub-processor: the processor that engages it (Art. 28(2) and (4)).",
    )  # fmt: skip
    contact = line("contact", "For privacy questions and breaches.", length=300)
    country = country_code("country of the company")
    parent_country = country_code(
        "country of its parent", "Whose law may reach it. The same country when there is none."
    )
    service = text("what it does for us", "Subject matter, duration, nature and purpose (Art. 28(3)).")
    hosting_countries = line("where it keeps the data", "Country codes, such as “CZ, NL”.")
    access_countries = line(
        "from where it can reach the data", "Remote access counts as a transfer. Country codes."
    )
    dpa_signed_on = models.DateField(
        "agreement signed on", null=True, blank=True, help_text="Art. 28(3) and (9)."
    )
    dpa_version = line("version of the agreement", "Its date or number.", length=80)
    dpa_sha256 = sha256("SHA-256 of the agreement's file", "Proves later which text was signed.")
    dpa_expires_on = models.DateField(
        "agreement ends on", null=True, blank=True, help_text="Empty: it does not end."
    )
    a_instructions = models.BooleanField("(a) acts on documented instructions alone", default=False)
    b_confidentiality = models.BooleanField("(b) its people are bound to confidentiality", default=False)
    c_security = models.BooleanField("(c) takes the security measures of Art. 32", default=False)
    d_sub_processors = models.BooleanField(
        "(d) engages others only as Art. 28(2) and (4) allow", default=False
    )
    e_rights = models.BooleanField("(e) helps to answer subject requests", default=False)
    f_assistance = models.BooleanField(
        "(f) helps with security, breaches and assessments (Art. 32-36)", default=False
    )
    g_deletion = models.BooleanField("(g) deletes or returns the data at the end", default=False)
    h_audit = models.BooleanField("(h) shows that it complies and allows audits", default=False)
    change_notice_days = models.PositiveSmallIntegerField(
        "days of notice",
        null=True,
        blank=True,
        help_text="Before it engages another sub-processor (Art. 28(2)).",
    )
    certifications = line("certifications", "Such as ISO 27001 or SOC 2, with their dates.", length=300)
    dpf_status = models.CharField(
        "Data Privacy Framework", max_length=10, choices=Dpf.choices, blank=True,
        help_text="For a US company: whether dataprivacyframework.gov lists it as active.",
    )  # fmt: skip
    dpf_checked_on = models.DateField("looked up on", null=True, blank=True)
    scc_status = models.CharField(
        "standard contractual clauses",
        max_length=10,
        choices=Scc.choices,
        blank=True,
        help_text="Art. 46(2)(c).",
    )

    CHECKLIST: ClassVar = (
        "a_instructions", "b_confidentiality", "c_security", "d_sub_processors", "e_rights", "f_assistance",
        "g_deletion", "h_audit",
    )  # fmt: skip
    needed: ClassVar = (
        ("country", "the country of the company"),
        ("parent_country", "the country of its parent"),
        ("service", "what it does for us"),
        ("hosting_countries", "where it keeps the data"),
        ("access_countries", "from where it can reach the data"),
        ("dpa_signed_on", "a signed agreement"),
        ("dpa_version", "the agreement's version"),
        ("dpa_sha256", "the SHA-256 of the agreement's file"),
        ("change_notice_days", "how many days before another sub-processor it tells us"),
        ("scc_status", "whether there are standard contractual clauses"),
        ("owner", "who answers for it"),
        ("next_review", "the day of the next review"),
    )

    class Meta:
        verbose_name = "processor"
        verbose_name_plural = "processors and sub-processors (Art. 28)"

    def __str__(self) -> str:
        return self.legal_name

    @property
    def is_american(self) -> bool:
        return "US" in {self.country, self.parent_country}

    def wanted(self) -> Sequence[tuple[str, str]]:
        more = (
            (("dpf_status", "whether it is on the Data Privacy Framework's list"),)
            if self.is_american
            else ()
        )
        return (*self.needed, *more)

    def gaps(self) -> Iterator[str]:
        yield from super().gaps()
        letters = [name[0] for name in self.CHECKLIST if not getattr(self, name)]
        if letters:
            yield f"Art. 28(3) {', '.join(f'({letter})' for letter in letters)} in the agreement"
        if self.dpa_expires_on and self.dpa_expires_on < timezone.now().date():
            yield "an agreement that has not ended"
