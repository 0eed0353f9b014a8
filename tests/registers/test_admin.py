"""The registers in the admin site: complete, versioned, audited; nothing that the law wants kept is deleted."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from panel.audit.models import AuditEvent
from panel.registers import evidence, services
from panel.registers.models import (
    AdequacyDecision,
    Breach,
    Deadline,
    ProcessingActivity,
    Processor,
    RegisterVersion,
    SubjectRequest,
    Transfer,
)
from tests import factories

pytestmark = pytest.mark.django_db
TODAY = timezone.now().date()
CODES = set("AD AR BR CA CH FO GB GG IL IM JE JP KR NZ US UY".split())  # noqa: SIM905


def listed(client, model: str, query: str = "") -> int:
    return client.get(reverse(f"admin:registers_{model}_changelist") + query).context["cl"].result_count


def form_of(client, record) -> dict[str, str]:
    name = f"admin:registers_{record._meta.model_name}_change"
    form = client.get(reverse(name, args=[record.pk])).context["adminform"].form
    sent: dict[str, str] = {}
    for key in form.fields:
        value = form[key].value()
        if value is not None and value is not False:
            sent[key] = value
    return sent


def change(client, record, **values):
    name = f"admin:registers_{record._meta.model_name}_change"
    return client.post(reverse(name, args=[record.pk]), {**form_of(client, record), **values})


def test_a_saved_change_keeps_the_older_version_and_is_audited(client, boss):
    record = Processor.objects.create(legal_name="RunPod Inc.", country="US", contact="jane@example.com")
    assert change(client, record, dpa_version="May 2026", contact="joe@example.com").status_code == 302
    assert change(client, record, dpa_version="June 2026").status_code == 302
    page = client.get(reverse("admin:registers_processor_history", args=[record.pk])).text
    for words in ("Version 2", "May 2026", "June 2026", str(boss)):
        assert words in page
    first, second = AuditEvent.objects.filter(action="processor.change").order_by("sequence")
    assert (second.before["dpa_version"], second.after["dpa_version"]) == ("May 2026", "June 2026")
    assert "joe@example.com" not in str(first.after) + str(first.before)
    assert RegisterVersion.objects.filter(register="processor").count() == 2


def test_the_older_version_is_there_also_of_what_points_elsewhere(client, boss):
    transfer = Transfer.objects.create(name="To the US")
    activity = ProcessingActivity.objects.create(name="Serving")
    assert change(client, activity, transfers=[transfer.pk]).status_code == 302
    page = client.get(reverse("admin:registers_processingactivity_history", args=[activity.pk])).text
    assert "To the US" in page


def test_what_is_missing_is_named_plainly_and_counted():
    record = Processor(legal_name="X", country="US", parent_country="US")
    missing = record.missing
    for words in ("a signed agreement", "whether it is on the Data Privacy Framework's list", "a person's confirmation",
                  "Art. 28(3) (a), (b), (c), (d), (e), (f), (g), (h) in the agreement"):  # fmt: skip
        assert words in missing
    assert 0 < record.score < 50
    for name in Processor.CHECKLIST:
        setattr(record, name, True)
    assert not any("28(3)" in words for words in record.missing)
    record.dpa_expires_on = TODAY - timedelta(days=1)
    assert "an agreement that has not ended" in record.missing


def test_a_transfer_rests_only_on_a_decision_that_is_in_force():
    transfer = Transfer(name="x", country="BR", mechanism="adequacy")
    assert not any("adequacy decision" in words for words in transfer.missing)
    AdequacyDecision.objects.filter(code="BR").update(valid_until=TODAY - timedelta(days=1))
    assert "an adequacy decision on BR that is in force" in transfer.missing
    american = Transfer(name="x", country="US", mechanism="dpf", processor=Processor(legal_name="y"))
    assert "the importer's entry on the Data Privacy Framework's list" in american.missing
    american.processor.dpf_status = "listed"
    assert not any("Framework" in words for words in american.missing)


def test_every_row_of_the_tables_says_where_it_comes_from_and_that_nobody_has_checked_it_yet():
    assert set(AdequacyDecision.objects.values_list("code", flat=True)) == CODES
    assert str(AdequacyDecision.objects.get(code="GB").valid_until) == "2031-12-27"
    for row in (*AdequacyDecision.objects.all(), *Deadline.objects.all()):
        assert row.source
        assert row.checked_on is None, "nobody has looked it up here"


def test_lists_are_filtered_by_what_is_due(client, boss):
    make = Processor.objects.create
    make(
        legal_name="late",
        next_review=TODAY - timedelta(days=3),
        dpa_signed_on=TODAY,
        dpa_expires_on=TODAY + timedelta(days=9),
    )
    make(
        legal_name="soon",
        next_review=TODAY + timedelta(days=9),
        dpa_signed_on=TODAY,
        dpa_expires_on=TODAY - timedelta(days=9),
    )
    make(legal_name="never")
    counts = {
        q: listed(client, "processor", f"?{q}")
        for q in (
            "review=overdue",
            "review=soon",
            "review=never",
            "agreement=unsigned",
            "agreement=soon",
            "agreement=ended",
        )
    }
    assert set(counts.values()) == {1}, counts
    assert listed(client, "processor", "?review=nonsense") == 3


def test_the_clocks_are_filters_too(client, boss):
    now = timezone.now()
    services.file_breach({"facts": "x", "aware_at": now}, actor=boss, now=now)
    services.file_request(
        {"kind": "erase", "requester": "x", "received_on": TODAY - timedelta(days=90)}, actor=boss, now=now
    )
    assert listed(client, "breach", "?clock=running") == 1
    assert listed(client, "breach", "?clock=told") == 0
    assert listed(client, "subjectrequest", "?clock=overdue") == 1
    assert listed(client, "subjectrequest", "?clock=answered") == 0


def test_drafts_are_confirmed_from_the_list(client, boss):
    record = Transfer.objects.create(name="x")
    url = reverse("admin:registers_transfer_changelist")
    client.post(url, {"action": "confirm", "_selected_action": [record.pk]})
    record.refresh_from_db()
    assert record.state == "confirmed"
    assert AuditEvent.objects.filter(action="transfer.confirm").count() == 1


def test_opening_a_breach_or_a_request_is_audited_once_and_other_records_are_not(client, boss):
    now = timezone.now()
    breach = services.file_breach({"facts": "x", "aware_at": now}, actor=boss, now=now)
    made = services.file_request(
        {"kind": "erase", "requester": "x", "received_on": TODAY}, actor=boss, now=now
    )
    transfer = Transfer.objects.create(name="x")
    for record in (breach, made, transfer):
        client.get(reverse(f"admin:registers_{record._meta.model_name}_change", args=[record.pk]))
    reads = AuditEvent.objects.filter(action__endswith=".read").order_by("sequence")
    assert [event.action for event in reads] == ["breach.read", "subject_request.read"]


def test_a_breach_is_never_deleted_and_a_request_only_once_it_is_answered(client, boss):
    now = timezone.now()
    breach = services.file_breach({"facts": "x", "aware_at": now}, actor=boss, now=now)
    made = services.file_request(
        {"kind": "erase", "requester": "x", "received_on": TODAY}, actor=boss, now=now
    )
    assert (
        client.post(reverse("admin:registers_breach_delete", args=[breach.pk]), {"post": "yes"}).status_code
        == 403
    )
    gone = reverse("admin:registers_subjectrequest_delete", args=[made.pk])
    assert client.post(gone, {"post": "yes"}).status_code == 403
    services.change_request(made, {"outcome": "done", "answered_on": TODAY}, actor=boss, now=now)
    assert client.post(gone, {"post": "yes"}).status_code == 302
    assert (Breach.objects.count(), SubjectRequest.objects.count()) == (1, 0)
    assert not RegisterVersion.objects.filter(register="subjectrequest").exists(), (
        "its versions hold the name too"
    )


def test_a_changed_deadline_is_audited(client, boss):
    row = Deadline.objects.get(key=Deadline.BREACH)
    answer = change(client, row, reminders="[24]", amount="72")
    assert answer.status_code == 302
    event = AuditEvent.objects.get(action="deadline.change")
    assert "24" in str(event.after["reminders"])


def test_the_evidence_pack_gets_every_register(boss):
    now = timezone.now()
    services.file_breach({"facts": "A key was lost.", "aware_at": now}, actor=boss, now=now)
    for name in evidence.NAMES:
        title, headers, rows = evidence.rows(name, now - timedelta(days=1), now + timedelta(days=1))
        assert title
        assert all(len(row) == len(headers) for row in rows), name
    assert evidence.rows("breach", now, now)[2][0][1:2] != [None]
    assert evidence.rows("versions", now - timedelta(days=1), now + timedelta(seconds=1))[2]
    with pytest.raises(LookupError):
        evidence.rows("nothing", now, now)


def test_only_an_administrator_comes_in(client):
    client.force_login(factories.operator())
    assert client.get(reverse("admin:registers_processor_changelist")).status_code == 302
