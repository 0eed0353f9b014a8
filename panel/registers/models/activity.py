"""What is done with personal data, and the assessment of what is risky in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from django.db import models

from panel.registers.models.record import Record, line, text
from panel.registers.models.transfer import Transfer


class DPIA(Record):
    """A data protection impact assessment (Art. 35)."""

    class Residual(models.TextChoices):
        LOW = "low", "Low enough"
        HIGH = "high", "Still high: the authority is asked first (Art. 36)"

    name = models.CharField(max_length=120)
    description = text(
        "what is planned", "The processing and its purposes, and the legitimate interest (Art. 35(7)(a))."
    )
    necessity = text("why it is necessary", "Necessity and proportionality to the purposes (Art. 35(7)(b)).")
    risks = text("risks", "To the rights and freedoms of the people concerned (Art. 35(7)(c)).")
    measures = text("measures", "What is done against those risks, and how that is shown (Art. 35(7)(d)).")
    dpo_advice = text(
        "advice of the data protection officer", "Is to be sought where there is one (Art. 35(2))."
    )
    subjects_views = text("views of the people concerned", "Where appropriate (Art. 35(9)).")
    residual_risk = models.CharField(
        "risk that is left",
        max_length=5,
        choices=Residual.choices,
        blank=True,
        help_text="After the measures.",
    )
    decided_on = models.DateField("decided on", null=True, blank=True)

    needed: ClassVar = (
        ("description", "what is planned"),
        ("necessity", "why it is necessary"),
        ("risks", "the risks"),
        ("measures", "the measures"),
        ("residual_risk", "the risk that is left"),
        ("decided_on", "the day of the decision"),
        ("owner", "who answers for it"),
        ("next_review", "the day of the next review"),
    )

    class Meta:
        verbose_name = "impact assessment"
        verbose_name_plural = "impact assessments (Art. 35)"

    def __str__(self) -> str:
        return self.name


class ProcessingActivity(Record):
    """A processing activity (Art. 30)."""

    class Role(models.TextChoices):
        CONTROLLER = "controller", "Controller (Art. 30(1)): we decide why and how"
        PROCESSOR = "processor", "Processor (Art. 30(2)): on behalf of somebody else"

    class Basis(models.TextChoices):
        CONSENT = "a", "(a) consent"
        CONTRACT = "b", "(b) contract"
        LAW = "c", "(c) legal obligation"
        VITAL = "d", "(d) vital interests"
        PUBLIC = "e", "(e) public task"
        LEGITIMATE = "f", "(f) legitimate interests"

    class Need(models.TextChoices):
        YES = "yes", "Yes"
        NO = "no", "No"

    name = models.CharField(max_length=120)
    role = models.CharField("our role", max_length=10, choices=Role.choices, default=Role.CONTROLLER)
    controller = line("controller, name and contact", "Art. 30(1)(a).", length=300)
    joint_controller = line("joint controller", "Art. 26; leave empty when there is none.", length=300)
    representative = line(
        "representative in the EU", "Art. 27; only when the controller is outside the EU.", length=300
    )
    dpo = line("data protection officer", "Name and contact (Art. 37), or “none needed” and why.", length=300)
    on_behalf_of = text("on behalf of", "As processor: each controller's name and contact (Art. 30(2)(a)).")
    purposes = text(
        "purposes", "What for (Art. 30(1)(b)); as processor: the categories of processing (Art. 30(2)(b))."
    )
    lawful_basis = models.CharField(
        "lawful basis", max_length=1, choices=Basis.choices, blank=True, help_text="Art. 6(1)."
    )
    basis_detail = text(
        "more on the basis", "For (c) the law, for (f) the interest and why it outweighs (Art. 6(1))."
    )
    subject_categories = text("whose data", "Categories of people (Art. 30(1)(c)).")
    data_categories = text("which data", "Categories of personal data (Art. 30(1)(c)).")
    special_categories = text(
        "special categories", "Health, beliefs and the like (Art. 9), with the exception used; or “none”."
    )
    recipients = text("recipients", "Who is given the data, also in third countries (Art. 30(1)(d)).")
    transfers = models.ManyToManyField(
        Transfer, blank=True, verbose_name="transfers to third countries",
        help_text="With their safeguards (Art. 30(1)(e), 30(2)(c)); none: it stays in the EEA.",
    )  # fmt: skip
    erasure = text("when it is erased", "The limits that are planned, per category (Art. 30(1)(f)).")
    measures = text("security measures", "Technical and organisational (Art. 32, 30(1)(g), 30(2)(d)).")
    dpia_needed = models.CharField(
        "impact assessment needed",
        max_length=3,
        choices=Need.choices,
        blank=True,
        help_text="Art. 35(1) and (3).",
    )
    dpia = models.ForeignKey(
        DPIA, null=True, blank=True, on_delete=models.PROTECT, verbose_name="impact assessment"
    )
    tia_needed = models.CharField(
        "transfer assessment needed", max_length=3, choices=Need.choices, blank=True,
        help_text="When data leaves the EEA on anything but an adequacy decision; it stands with the transfer.",
    )  # fmt: skip

    _both: ClassVar = (
        ("dpo", "the data protection officer, or that none is needed"),
        ("purposes", "the purposes"),
        ("measures", "the security measures"),
        ("owner", "who answers for it"),
        ("next_review", "the day of the next review"),
    )
    _as_controller: ClassVar = (
        ("controller", "the controller's name and contact"),
        ("lawful_basis", "the lawful basis"),
        ("subject_categories", "whose data it is"),
        ("data_categories", "which data it is"),
        ("special_categories", "whether special categories are in it"),
        ("recipients", "the recipients"),
        ("erasure", "when it is erased"),
        ("dpia_needed", "whether an impact assessment is needed"),
        ("tia_needed", "whether a transfer assessment is needed"),
    )

    class Meta:
        verbose_name = "processing activity"
        verbose_name_plural = "processing activities (Art. 30)"
        permissions = [
            ("see_compliance", "Can see the Compliance page"),
            ("manage_compliance", "Can file breaches, answer subject requests and draft registers"),
        ]

    def __str__(self) -> str:
        return self.name

    def wanted(self) -> Sequence[tuple[str, str]]:
        if self.role == self.Role.PROCESSOR:
            return (*self._both, ("on_behalf_of", "on whose behalf it is done"))
        return (*self._both, *self._as_controller)

    def gaps(self) -> Iterator[str]:
        yield from super().gaps()
        if self.dpia_needed == self.Need.YES and self.dpia_id is None:
            yield "the impact assessment itself"
        if self.tia_needed == self.Need.YES and not (self.pk and self.transfers.exists()):
            yield "the transfer with its assessment"
