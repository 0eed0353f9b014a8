from deployments.models.account import Installation, ProviderAccount
from deployments.models.advice import DismissedAdvice
from deployments.models.breaker import Breaker
from deployments.models.deployment import Deployment
from deployments.models.drill import Drill
from deployments.models.event import Event
from deployments.models.evidence import ResidencyEvidence
from deployments.models.heartbeat import Heartbeat
from deployments.models.incident import BUDGET_WORD, Cause, Incident, IncidentEntry
from deployments.models.instance import Instance, KeyStep, StaleWrite
from deployments.models.launch import Launch
from deployments.models.machine import ListedMachine
from deployments.models.offer import Offer
from deployments.models.sample import Monitor, Sample

__all__ = [
    "BUDGET_WORD",
    "Breaker",
    "Cause",
    "Deployment",
    "DismissedAdvice",
    "Drill",
    "Event",
    "Heartbeat",
    "Incident",
    "IncidentEntry",
    "Installation",
    "Instance",
    "KeyStep",
    "Launch",
    "ListedMachine",
    "Monitor",
    "Offer",
    "ProviderAccount",
    "ResidencyEvidence",
    "Sample",
    "StaleWrite",
]
