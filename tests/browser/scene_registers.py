"""The scene's registers: drafts of what ran, a breach whose clock runs and a request that is to be answered."""

from __future__ import annotations

from datetime import datetime, timedelta

from panel.accounts.models import User
from panel.registers import drafts, services
from panel.registers.models import Breach, ProcessingActivity, Processor, SubjectRequest


def build(
    administrator: User, *, now: datetime
) -> tuple[Breach, SubjectRequest, Processor, ProcessingActivity]:
    for record in drafts.draft(actor=administrator, now=now)[:2]:
        services.confirm(record, actor=administrator, now=now)
    breach = services.file_breach(
        {
            "facts": "The key of an account stood in a public repository for about an hour.", "contained": "yes",
            "aware_at": now - timedelta(hours=51, minutes=20), "data_categories": "Prompts and answers",
        },
        actor=administrator, now=now - timedelta(hours=50),
    )  # fmt: skip
    services.add_entry(
        breach, "note", "The key was changed and the logs are being read.", actor=administrator, now=now
    )
    request = services.file_request(
        {
            "kind": "access", "requester": "A customer", "contact": "customer@example.com", "account": administrator,
            "received_on": (now - timedelta(days=12)).date(), "identity": "proved", "identity_how": "Wrote from the known address",
        },
        actor=administrator, now=now,
    )  # fmt: skip
    return breach, request, Processor.objects.earliest("pk"), ProcessingActivity.objects.earliest("pk")
