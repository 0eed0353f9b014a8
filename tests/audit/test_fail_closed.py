"""When the audit cannot be written, nothing that costs money is done, and giving machines back goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from django.urls import reverse

from billing import budgets
from billing.models import Budget, Reservation
from deployments import services
from deployments.evidence import refusals
from deployments.lifecycle import MAY_EXIST
from deployments.models import Deployment, Instance
from panel.audit import chain, spool
from panel.audit.models import AuditEvent
from tests import factories
from tests.audit.broken import unwritable
from tests.deployments.conftest import endpoint, world  # noqa: F401  (fixtures)
from tests.providers.fakecloud import fake_quote


@pytest.fixture
def running(world):  # noqa: F811
    deployment = world.launch()
    world.run()
    assert deployment.instances.get().state == "ready"
    return deployment


def test_create_and_spend_are_refused_and_nothing_of_them_stays(running, world):  # noqa: F811
    factories.budget("1000")
    made = (
        Deployment.objects.count(),
        Instance.objects.count(),
        Reservation.objects.count(),
        Budget.objects.count(),
    )
    with unwritable():
        for act in (
            lambda: world.launch(),
            lambda: services.rotate_machine_key(running, actor=world.owner, now=world.now),
            lambda: budgets.set_budget(
                Decimal(500), "month", hard_stop=True, actor=world.owner, now=world.now
            ),
        ):
            with pytest.raises(chain.AuditUnavailable):
                act()
        world.run(timedelta(minutes=1))
    assert made == (Deployment.objects.count(), Instance.objects.count(), Reservation.objects.count(), Budget.objects.count())  # fmt: skip
    assert len(world.standing()) == 2  # ours and the foreign one
    assert chain.verify().ok


def test_stop_and_terminate_go_on_and_stand_in_the_audit_later(running, world):  # noqa: F811
    before = AuditEvent.objects.count()
    with unwritable():
        services.stop(running, actor=world.owner, now=world.now, reason="too dear")
        world.run()
        services.terminate(running, actor=world.owner, now=world.now)
        world.run()
        assert not Instance.objects.filter(state__in=[s.value for s in MAY_EXIST]).exists()
        assert len(world.standing()) == 1  # the foreign one
        assert AuditEvent.objects.count() == before
    assert chain.drain_spool() == spool.pending() + 3
    added = AuditEvent.objects.filter(sequence__gt=before).order_by("sequence")
    assert [e.action for e in added] == ["deployment.stop", "deployment.terminate", "instance.terminate"]
    assert (added[0].actor, added[0].reason) == (chain.pseudonym_of(world.owner), "too dear")
    assert chain.verify().ok


def test_the_pages_say_so(running, world, client):  # noqa: F811
    client.force_login(factories.administrator())
    with unwritable():
        page = client.post(reverse("budget_add"), {"amount_usd": "5", "period": "month", "name": "x", "target": "", "hard_stop": "on", "rungs": "50, 80, 100"})  # fmt: skip
        if page.status_code != 422:
            assert page.status_code == 503
            assert "The audit log cannot be written" in page.text
        assert client.get(reverse("export_csv", args=["days"])).status_code == 503
        assert client.post(reverse("deployment_action", args=[running.pk, "stop"])).status_code == 302
    assert Deployment.objects.get(pk=running.pk).desired == "stopped"
    assert not Budget.objects.exists()


def test_a_disk_that_is_full_for_the_spool_too_keeps_no_machine(running, world, tmp_path, settings, caplog):  # noqa: F811
    settings.DATA_DIR = tmp_path
    # A device that is always full, in the spool's place.
    (tmp_path / "audit-spool.jsonl").symlink_to("/dev/full")
    with unwritable():
        services.terminate(running, actor=world.owner, now=world.now)
        world.run()
    assert len(world.standing()) == 1
    assert "Neither the database nor the spool took deployment.terminate" in caplog.text
    assert "No space left on device" in caplog.text


def test_what_was_spooled_before_the_disk_was_full_is_kept(running, world, tmp_path, settings):  # noqa: F811
    settings.DATA_DIR = tmp_path
    with unwritable():
        services.stop(running, actor=world.owner, now=world.now)
    (line,) = (tmp_path / "audit-spool.jsonl").read_text().splitlines()
    assert json.loads(line)["action"] == "deployment.stop"
    assert chain.drain_spool() == 1
    assert AuditEvent.objects.latest("sequence").action == "deployment.stop"


def test_what_the_residency_guard_refuses_at_launch_is_kept_as_evidence(world):  # noqa: F811
    world.offer(replace(fake_quote("far"), country="US"))
    with pytest.raises(services.LaunchRefused, match="outside the EEA"):
        world.launch()
    event = AuditEvent.objects.latest("sequence")
    assert (event.action, event.actor) == ("residency.refused", chain.pseudonym_of(world.owner))
    assert event.reason == "US is outside the EEA."
    header, rows = refusals(world.now - timedelta(hours=1), world.now + timedelta(seconds=1))
    assert [row[header.index("reason")] for row in rows] == ["US is outside the EEA."]
