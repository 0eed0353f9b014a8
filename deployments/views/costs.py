"""What the pages of money show that billing does not know of."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from billing.models import Subject
from deployments.models import Deployment


def of_machine(subject: Subject, *, now: datetime) -> dict[str, Any]:
    """For a machine's bill: where its deployment is shown, while it is here."""
    deployment = Deployment.objects.filter(pk=subject.scope).only("id").first()
    return {"machine_url": f"{deployment.get_absolute_url()}?tab=cost" if deployment else ""}
