"""The registers of the GDPR, the clocks' periods and the older versions of every record."""

from panel.registers.models.activity import DPIA, ProcessingActivity
from panel.registers.models.breach import Breach, BreachEntry
from panel.registers.models.processor import Processor
from panel.registers.models.record import Record, State
from panel.registers.models.reference import AdequacyDecision, Deadline, Holiday
from panel.registers.models.request import SubjectRequest
from panel.registers.models.transfer import Transfer
from panel.registers.models.version import RegisterVersion

__all__ = [
    "DPIA",
    "AdequacyDecision",
    "Breach",
    "BreachEntry",
    "Deadline",
    "Holiday",
    "ProcessingActivity",
    "Processor",
    "Record",
    "RegisterVersion",
    "State",
    "SubjectRequest",
    "Transfer",
]
