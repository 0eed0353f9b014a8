"""Where acts came from is personal data: it goes after 90 days, and the chain holds without it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from panel.audit import chain, keeping
from panel.audit.models import AuditEvent, Origin
from panel.context import RequestContext, request_context
from tests.conftest import NOW

pytestmark = pytest.mark.django_db


@pytest.fixture
def here():
    token = request_context.set(RequestContext("request-1", "192.0.2.7", "Browser/1"))
    yield
    request_context.reset(token)


def test_addresses_are_deleted_after_90_days_and_that_is_audited(here, monkeypatch):
    monkeypatch.setattr(keeping, "SLICE", 2)
    for days in (200, 100, 91, 89, 0):
        chain.record("thing.done", actor=None, now=NOW - timedelta(days=days))
    request_context.set(None)
    assert keeping.purge_origins(now=NOW) == 3
    assert list(Origin.objects.order_by("pk").values_list("pk", flat=True)) == [4, 5]
    purges = AuditEvent.objects.filter(action="origin.purge").order_by("sequence")
    assert [e.after for e in purges] == [{"rows": 2}, {"rows": 1}]
    assert keeping.purge_origins(now=NOW) == 0
    assert chain.verify().ok


def test_the_housekeeping_does_it(here):
    chain.record("thing.done", actor=None, now=NOW)
    request_context.set(None)
    keeping.keep(now=NOW + timedelta(days=90))
    assert Origin.objects.exists()
    keeping.keep(now=NOW + timedelta(days=90, seconds=1))
    assert not Origin.objects.exists()
