"""What the pages of money show that billing does not know of."""

from __future__ import annotations

from billing.models import Subject
from deployments.models import Deployment


def machine_url(subject: Subject) -> str:
    """The Cost tab of the machine's deployment; empty for what is of no deployment that is here."""
    deployment = Deployment.objects.filter(pk=subject.scope).only("id").first()
    return f"{deployment.get_absolute_url()}?tab=cost" if deployment else ""
