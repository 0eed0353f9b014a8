"""Personal data that leaves the EEA."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from django.db import models

from panel.registers.models.processor import Processor
from panel.registers.models.record import Record, country_code, line, text


class Transfer(Record):
    """A transfer to a third country (Chapter V), also by remote access from there."""

    class Mechanism(models.TextChoices):
        ADEQUACY = "adequacy", "Adequacy decision (Art. 45)"
        DPF = "dpf", "EU-US Data Privacy Framework (Art. 45)"
        SCC = "scc", "Standard contractual clauses (Art. 46(2)(c))"
        BCR = "bcr", "Binding corporate rules (Art. 47)"
        DEROGATION = "art49", "A derogation (Art. 49)"

    class Module(models.TextChoices):
        ONE = "1", "Module 1: controller to controller"
        TWO = "2", "Module 2: controller to processor"
        THREE = "3", "Module 3: processor to processor"
        FOUR = "4", "Module 4: processor to controller"

    class Tia(models.TextChoices):
        DONE = "done", "Done"
        NOT_NEEDED = "not-needed", "Not needed: an adequacy decision covers it"

    name = models.CharField(max_length=160)
    exporter = line("who sends it", "The exporter: us, or a processor of ours.")
    importer = line("who receives it", "The importer.")
    processor = models.ForeignKey(
        Processor, null=True, blank=True, on_delete=models.PROTECT, related_name="transfers",
        help_text="The record of the importer, when it is a processor of ours.",
    )  # fmt: skip
    country = country_code("country of the importer")
    data = text("which data", "And by which way: stored there, or reached from there.")
    mechanism = models.CharField(max_length=10, choices=Mechanism.choices, blank=True)
    scc_module = models.CharField("module of the clauses", max_length=1, choices=Module.choices, blank=True)
    derogation = text("which derogation", "Art. 49(1)(a) to (g), why it applies and how often.")
    tia = models.CharField("transfer assessment", max_length=10, choices=Tia.choices, blank=True)
    tia_on = models.DateField("assessed on", null=True, blank=True)
    tia_reference = line("where the assessment is kept")
    supplementary = text(
        "supplementary measures", "What is done where the law there falls short, or “none needed”."
    )

    needed: ClassVar = (
        ("exporter", "who sends it"),
        ("importer", "who receives it"),
        ("country", "the country of the importer"),
        ("data", "which data"),
        ("mechanism", "what allows the transfer"),
        ("tia", "the transfer assessment"),
        ("supplementary", "supplementary measures, or that none are needed"),
        ("owner", "who answers for it"),
        ("next_review", "the day of the next review"),
    )

    class Meta:
        verbose_name = "transfer"
        verbose_name_plural = "transfers to third countries (Chapter V)"

    def __str__(self) -> str:
        return self.name

    def wanted(self) -> Sequence[tuple[str, str]]:
        more: list[tuple[str, str]] = []
        if self.mechanism == self.Mechanism.SCC:
            more.append(("scc_module", "which module of the clauses"))
        if self.mechanism == self.Mechanism.DEROGATION:
            more.append(("derogation", "which derogation"))
        if self.tia == self.Tia.DONE:
            more.append(("tia_on", "the day of the assessment"))
            more.append(("tia_reference", "where the assessment is kept"))
        return (*self.needed, *more)

    def gaps(self) -> Iterator[str]:
        from panel.registers import adequacy

        yield from super().gaps()
        if self.country and self.mechanism in {self.Mechanism.ADEQUACY, self.Mechanism.DPF}:
            trouble = adequacy.doubt(self.country, self.mechanism, self.processor)
            if trouble:
                yield trouble
