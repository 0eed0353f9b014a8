"""Whether an adequacy decision carries a transfer today."""

from __future__ import annotations

from django.utils import timezone

from panel.registers.models.processor import Processor
from panel.registers.models.reference import AdequacyDecision

US = "US"


def doubt(country: str, mechanism: str, importer: Processor | None) -> str:
    """What is missing for the transfer to rest on an adequacy decision; empty: nothing."""
    if AdequacyDecision.standing(country, on=timezone.now().date()) is None:
        return f"an adequacy decision on {country} that is in force"
    if country != US:
        return ""
    # The decision on the US covers those alone who are on the framework's list.
    listed = importer is not None and importer.dpf_status == Processor.Dpf.LISTED
    return "" if listed else "the importer's entry on the Data Privacy Framework's list"
