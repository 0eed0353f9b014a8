"""Drafts are made from what ran, once, and nothing that a person wrote is overwritten."""

from __future__ import annotations

from datetime import timedelta

import pytest

from deployments import standing
from deployments.models import Instance
from panel.alerts.models import Channel
from panel.audit.models import AuditEvent
from panel.registers import above, drafts, services
from panel.registers.models import ProcessingActivity, Processor, RegisterVersion, State, Transfer
from tests import factories
from tests.browser import scene
from tests.conftest import NOW

pytestmark = pytest.mark.django_db


@pytest.fixture
def ran(db) -> scene.Scene:
    made = scene.build(now=NOW)
    # The scene has drafted already; here nothing has.
    ProcessingActivity.objects.all().delete()
    Transfer.objects.all().delete()
    Processor.objects.exclude(engaged_by=None).delete()
    Processor.objects.all().delete()
    RegisterVersion.objects.all().delete()
    return made


def test_the_facts_are_those_of_the_rows(ran):
    runpod, vast = above.companies()
    assert (runpod.legal_name, runpod.country, runpod.outside_eea, runpod.tiers) == (
        "RunPod Inc.",
        "US",
        True,
        ("secure",),
    )
    assert {"CZ", "IS", "NL"} <= set(runpod.countries)
    assert "EU-CZ-1" in runpod.sites
    assert runpod.hosts == "", "a data centre answers for itself"
    assert vast.countries == ("FR",)
    assert "Own and run" in vast.hosts, "a host of Vast.ai may be a further sub-processor"
    assert vast.until is None


def test_nothing_ran_and_nothing_is_drafted_but_what_the_panel_itself_does(db):
    factories.administrator()
    made = drafts.draft(actor=None, now=NOW)
    assert [str(row) for row in made] == ["Accounts and sign-in of the team"]


def test_what_ran_is_drafted_once_for_a_person_to_confirm(ran, settings):
    settings.MAIL_CONFIGURED = True
    settings.MAILERS = {"default": {"OPTIONS": {"host": "mail.example.com"}}}
    boss = factories.administrator()
    drafts.draft(actor=boss, now=NOW)
    names = set(Processor.objects.values_list("legal_name", flat=True))
    assert {
        "RunPod Inc.",
        "Vast.ai Inc.",
        "Hosts of Vast.ai",
        "Whoever runs the mail server mail.example.com",
    } <= names
    assert (
        Processor.objects.filter(source_key__startswith="channel:").count()
        == Channel.objects.exclude(kind="mail").count()
        == 2
    )
    hosts = Processor.objects.get(legal_name="Hosts of Vast.ai")
    assert (hosts.role, str(hosts.engaged_by)) == ("sub", "Vast.ai Inc.")
    assert set(Transfer.objects.values_list("country", flat=True)) == {"US"}
    assert "Serving the language model" in set(ProcessingActivity.objects.values_list("name", flat=True))
    for model in (Processor, Transfer, ProcessingActivity):
        assert set(model.objects.values_list("state", flat=True)) == {State.DRAFT}
        assert all("a person's confirmation" in row.missing for row in model.objects.all())
    assert drafts.draft(actor=boss, now=NOW) == []
    assert AuditEvent.objects.filter(action="registers.draft").count() == 2, "the scene's, and one here"


def test_what_a_person_wrote_stays_and_only_what_ran_is_renewed(ran):
    drafts.draft(actor=None, now=NOW)
    vast = Processor.objects.get(legal_name="Vast.ai Inc.")
    Processor.objects.filter(pk=vast.pk).update(service="Our own words", hosting_countries="FR only")
    vast.refresh_from_db()
    services.confirm(vast, actor=factories.administrator(), now=NOW)
    Transfer.objects.filter(processor=vast).update(state=State.RETIRED)
    other = Instance.objects.filter(account__backend="vast").exclude(remote_id="").first()
    Instance.objects.filter(pk=other.pk).update(country="SE", created_at=NOW - timedelta(days=400))
    assert drafts.draft(actor=None, now=NOW) == []
    vast.refresh_from_db()
    assert (vast.service, vast.hosting_countries, vast.state) == ("Our own words", "FR only", State.CONFIRMED)
    assert "SE" in vast.seen
    assert Transfer.objects.get(processor=vast).state == State.RETIRED, "it does not come back"


def test_confirming_keeps_a_version_and_is_audited(ran):
    drafts.draft(actor=None, now=NOW)
    record = Processor.objects.get(legal_name="RunPod Inc.")
    services.confirm(record, actor=factories.administrator(), now=NOW)
    record.refresh_from_db()
    assert (record.state, str(record.last_review)) == (State.CONFIRMED, "2026-11-24")
    versions = RegisterVersion.objects.filter(register="processor", object_id=record.pk).order_by("number")
    assert [v.snapshot["state"] for v in versions] == ["draft", "confirmed"]
    event = AuditEvent.objects.filter(action="processor.confirm").latest("sequence")
    assert (event.before["state"], event.after["state"]) == ("draft", "confirmed")


def test_where_data_stands_is_told_by_country_site_and_provider(ran):
    rows = {(p.country, p.site, p.provider): p for p in standing.places()}
    assert rows["CZ", "EU-CZ-1", "RunPod"].allowed is True
    assert rows["CZ", "EU-CZ-1", "RunPod"].machines == 2
    assert rows["", "", "This computer"].allowed is None
    Instance.objects.filter(deployment=ran.ready).update(country="US", data_center="US-DE-1")
    moved = next(p for p in standing.places() if p.site == "US-DE-1")
    assert (moved.country, moved.allowed, moved.verdict) == ("US", False, "US is outside the EEA.")


def test_what_the_guard_keeps_back_of_the_offers_is_counted(ran):
    assert {(w.reason, w.offers) for w in standing.withheld()} == {
        ("US is outside the EEA.", 1),
        ("The provider does not say in which country it stands.", 1),
    }
