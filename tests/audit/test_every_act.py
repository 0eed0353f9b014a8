"""Whatever an address changes or hands out stands in the audit: each POST that acts and each download, by name.

The table of addresses is that of tests/test_urls_by_role.py, so that a new one is asked about here too.
"""

from __future__ import annotations

import pytest
from django.db import transaction
from django.test import Client
from django.utils import timezone

from panel.accounts.roles import ADMINISTRATOR
from panel.audit import chain
from panel.audit.models import AuditEvent
from tests import factories, urls
from tests.browser import scene
from tests.test_urls_by_role import Row, path_of, table

NO_ACT = {
    "account_login": "already signed in: led away",
    "account_signup": "led away",
    "account_set_password": "has one already: led to its change",
    "admin:login": "led to the panel's own",
    "admin:logout": "led to the panel's own",
    "month_close": "nothing is to be closed",
    "compliance_draft": "all that ran has its drafts",
    "breach_action": "refused: what the law asks for is not all told yet",
    "subject_request_part": "what the table sends changes nothing",
    "privacy_retention": "a worker is asked to purge, and audits what it did",
    "admin:audit_auditevent_verify": "reads alone; its result is kept",
}
"""POSTs that lead somewhere and change nothing with what the table sends."""

OF_THE_ADMIN_SITE = ("_changelist", "_add", "_change", "_delete", "_history")
"""Tested by tests/audit/test_audited.py."""

DOWNLOADS = (
    "export_", "spend_csv", "reconciliation_csv", "reliability_csv", "incident_export", "deployment_logs_download",
    "evidence_download", "admin:audit_auditevent_export",
)  # fmt: skip


@pytest.fixture
def asked(db):
    """Asks an address as an administrator: (its status, what stands in the audit since). It is undone then."""
    chain.record("thing.done", actor=None, now=timezone.now())
    made = scene.build(now=timezone.now())
    client = Client(raise_request_exception=False)
    client.force_login(factories.user(ADMINISTRATOR, password="a long enough password"))
    rows, cookies, before = table(made), client.cookies.copy(), AuditEvent.objects.count()

    def ask(method: str, address: urls.Address) -> tuple[int, list[str]]:
        row: Row = rows[address.name]
        path = path_of(address, row)
        with transaction.atomic():
            status = (client.get(path) if method == "get" else client.post(path, row.data)).status_code
            acts = AuditEvent.objects.filter(sequence__gt=before).values_list("action", flat=True)
            found = status, list(acts)
            transaction.set_rollback(True)
        client.cookies = cookies.copy()
        return found

    return ask


def test_every_act_that_is_carried_out_is_audited(asked):
    silent = []
    for address in urls.addresses():
        if "/" in address.name or address.name.endswith(OF_THE_ADMIN_SITE):
            continue
        status, acts = asked("post", address)
        if status == 302 and not acts:
            silent.append(address.name)
    # Both ways: an exception that acts by now is none any more.
    assert sorted(silent) == sorted(NO_ACT), set(silent) ^ set(NO_ACT)


def test_every_download_is_audited(asked):
    found = [a for a in urls.addresses() if a.name.startswith(DOWNLOADS)]
    assert len(found) >= 8
    silent = [a.name for a in found if (answer := asked("get", a))[0] == 200 and not answer[1]]
    assert silent == []
