"""The Compliance pages: operators see the clocks, administrators act; what is personal stays out of the audit."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from deployments import services as launching
from deployments.models import Offer
from panel.audit import chain
from panel.audit.models import AuditEvent
from panel.notices.notify import open_notices
from panel.registers import clocks, services
from panel.registers.models import Breach, RegisterVersion, SubjectRequest
from tests import factories
from tests.browser import scene

pytestmark = pytest.mark.django_db
PAGE = "/compliance/"


def actions() -> list[str]:
    return list(AuditEvent.objects.order_by("sequence").values_list("action", flat=True))


def typed(when: datetime) -> str:
    from zoneinfo import ZoneInfo

    return f"{when.astimezone(ZoneInfo('Europe/Brussels')):%Y-%m-%dT%H:%M}"


def file(client, **values) -> Breach:
    now = timezone.now()
    client.post(
        reverse("breach_add"),
        {"facts": "A key of Ada Smith was published.", "aware_at": typed(now), **values},
    )
    return Breach.objects.get()


def save(client, breach: Breach, part: str, **values):
    page = client.get(breach.get_absolute_url() + f"?part={part}")
    form = page.context["form"]
    sent = {name: form[name].value() or "" for name in form.fields}
    sent = {
        name: value.strftime("%Y-%m-%dT%H:%M") if isinstance(value, datetime) else value
        for name, value in sent.items()
    }
    return client.post(reverse("breach_part", args=[breach.pk, part]), {**sent, **values})


def test_a_breach_is_saved_at_once_with_its_clock(client, boss, django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks(execute=True):
        breach = file(client)
    assert abs(breach.aware_at - timezone.now()) < timedelta(minutes=2), (
        "what is typed is the team's own time"
    )
    page = client.get(PAGE).text
    assert f"Breach #{breach.pk}" in page
    assert "left</span>" in page
    assert open_notices().get().severity == "warning"
    assert actions() == ["breach.create"]


def test_what_is_missing_for_the_authority_is_named_until_it_is_there(client, boss):
    breach = file(client)
    page = client.get(breach.get_absolute_url()).text
    assert "which data it is" in page
    assert "Not known yet; we will tell you" in page
    save(
        client,
        breach,
        "whom",
        data_categories="names",
        subject_categories="customers",
        subjects_count="40",
        records_count="40",
    )
    save(
        client,
        breach,
        "effects",
        effects="phishing",
        remedies="the key was changed",
        contact="dpo@example.com",
        risk="risk",
        risk_reason="It was public.",
    )
    breach.refresh_from_db()
    assert breach.missing == [
        "when it happened",
        "whether it is stopped",
        "which authority",
        "when the authority was told",
    ]
    letter = client.get(breach.get_absolute_url()).context["letter"]
    assert "(b) Contact: dpo@example.com" in letter
    assert "customers; about 40" in letter
    assert "Not known yet; we" not in letter


def test_a_late_notification_asks_for_its_reason_and_loses_nothing(client, boss):
    now = timezone.now()
    breach = services.file_breach({"facts": "x", "aware_at": now - timedelta(hours=90)}, actor=boss, now=now)
    answer = save(
        client, breach, "authority", authority="The authority", notified_at=typed(now - timedelta(minutes=1))
    )
    assert answer.status_code == 422
    assert "must be given the reason" in answer.text
    assert "The authority" in answer.text
    breach.refresh_from_db()
    assert breach.notified_at is None
    save(
        client,
        breach,
        "authority",
        authority="The authority",
        notified_at=typed(now - timedelta(minutes=1)),
        delay_reason="We slept.",
        reference="A-7",
    )
    breach.refresh_from_db()
    assert (breach.reference, breach.is_running) == ("A-7", False)
    assert "Reason for telling you after" in client.get(breach.get_absolute_url()).context["letter"]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"facts": ""}, "This field is required"),
        ({"aware_at": "2099-01-01T00:00"}, "has not come yet"),
        ({"aware_at": "x"}, "valid date/time"),
    ],
)
def test_a_wrong_breach_is_refused_with_its_reason(client, boss, values, sentence):
    sent = {"facts": "words that stay", "aware_at": typed(timezone.now()), **values}
    answer = client.post(reverse("breach_add"), sent)
    assert (answer.status_code, Breach.objects.count()) == (422, 0)
    assert sentence in answer.text


def test_a_breach_is_closed_only_when_its_clock_stands_and_can_be_opened_again(client, boss):
    breach = file(client)
    assert (
        "Its clock runs" in client.post(reverse("breach_action", args=[breach.pk, "close"]), follow=True).text
    )
    services.change_breach(breach, {"notified_at": breach.aware_at}, actor=boss, now=timezone.now())
    client.post(reverse("breach_action", args=[breach.pk, "close"]))
    assert Breach.objects.get().closed_at
    client.post(reverse("breach_action", args=[breach.pk, "reopen"]))
    assert Breach.objects.get().closed_at is None


def test_the_timeline_keeps_who_said_what_when(client, boss):
    breach = file(client)
    client.post(
        reverse("breach_action", args=[breach.pk, "note"]), {"kind": "update", "text": "40 people it is."}
    )
    page = client.get(breach.get_absolute_url()).text
    assert "Told the authority more." in page
    assert "40 people it is." in page
    assert (
        client.post(
            reverse("breach_action", args=[breach.pk, "note"]), {"kind": "note", "text": ""}
        ).status_code
        == 422
    )


def test_every_read_and_change_is_audited_without_what_was_written(client, boss):
    breach = file(client)
    client.get(breach.get_absolute_url())
    client.post(reverse("breach_action", args=[breach.pk, "note"]), {"kind": "note", "text": "Bob found it."})
    assert actions() == ["breach.create", "breach.read", "breach.note"]
    told = json.dumps(list(AuditEvent.objects.values()), default=str)
    for word in ("Ada Smith", "Bob found"):
        assert word not in told
    created = AuditEvent.objects.get(action="breach.create")
    assert created.after["not_shown"] == ["data_categories", "facts", "subject_categories"]
    assert RegisterVersion.objects.get(register="breach").snapshot["facts"].startswith("A key of Ada")


REQUEST = {"kind": "access", "requester": "Maria Novak", "identity": "open", "details": "What do you have?"}


def test_a_request_is_recorded_extended_and_answered(client, boss):
    today = timezone.now().date()
    answer = client.post(
        reverse("subject_request_add"), {**REQUEST, "received_on": today.isoformat()}, follow=True
    )
    made = SubjectRequest.objects.get()
    assert made.due_on == clocks.answer_due(today)
    assert "To be answered by" in answer.text
    assert f"Access request #{made.pk}" in client.get(PAGE).text
    extend = reverse("subject_request_part", args=[made.pk, "extend"])
    assert "Say why" in client.post(extend, {"extended_on": today.isoformat()}).text
    client.post(extend, {"extended_on": today.isoformat(), "extension_reason": "Forty mailboxes."})
    made.refresh_from_db()
    assert made.due_on == clocks.answer_due(today, extended=True)
    done = {"outcome": "done", "answered_on": today.isoformat(), "evidence_sha256": "ab" * 32}
    client.post(reverse("subject_request_part", args=[made.pk, "answer"]), done)
    made.refresh_from_db()
    assert (made.is_running, made.outcome) == (False, "done")
    assert [a for a in actions() if "read" not in a] == [
        "subject_request.create",
        "subject_request.change",
        "subject_request.change",
    ]
    assert "Novak" not in json.dumps(list(AuditEvent.objects.values()), default=str)


@pytest.mark.parametrize(
    ("part", "values", "sentence"),
    [
        ("extend", {"extended_on": "2026-06-01", "extension_reason": "x"}, "cannot be extended any more"),
        ("answer", {"answered_on": "2026-02-02"}, "Say what came of it"),
        ("answer", {"outcome": "refused", "answered_on": "2026-02-02"}, "Say why"),
        ("answer", {"outcome": "done", "answered_on": "2025-02-02"}, "before the request came"),
        ("answer", {"outcome": "done", "answered_on": "2026-02-02", "evidence_sha256": "abc"}, "64 digits"),
    ],
)
def test_a_wrong_answer_is_refused_with_its_reason(client, boss, part, values, sentence):
    made = services.file_request(
        {"kind": "erase", "requester": "x", "received_on": date(2026, 1, 5)}, actor=boss, now=timezone.now()
    )
    answer = client.post(reverse("subject_request_part", args=[made.pk, part]), values)
    assert answer.status_code == 422
    assert sentence in answer.text
    made.refresh_from_db()
    assert made.answered_on is None
    assert made.extended_on is None


def test_an_operator_sees_the_clocks_and_no_record(client):
    now = timezone.now()
    breach = services.file_breach(
        {"facts": "secret words", "aware_at": now}, actor=factories.administrator(), now=now
    )
    client.force_login(factories.operator())
    page = client.get(PAGE)
    assert f"Breach #{breach.pk}" in page.text
    assert "secret words" not in page.text
    assert breach.get_absolute_url() not in page.text
    assert client.get(breach.get_absolute_url()).status_code == 403
    assert "breach.read" not in actions()


def test_a_refused_launch_is_recorded_and_shown(client, boss):
    made = scene.build(now=timezone.now())
    offer = Offer.objects.get(key="us-3090")
    wish = launching.LaunchRequest(
        name="x",
        model_key="qwen3-4b-awq",
        context=4096,
        offer_id=offer.pk,
        launch_key="k",
        allowed_countries=("CZ",),
    )
    with pytest.raises(launching.LaunchRefused, match="outside the EEA"):
        launching.launch(wish, actor=boss, now=timezone.now())
    event = AuditEvent.objects.filter(action="residency.refused").latest("sequence")
    assert (event.reason, event.after["promised"]) == ("US is outside the EEA.", "US")
    chain.record(
        "residency.violation", actor=None, target=made.machine, reason="It stands in GB.", now=timezone.now(),
        after={"found": [["LON-1", "GB"]]},
    )  # fmt: skip
    page = client.get(PAGE).text
    assert "Refused before the launch" in page
    assert "NVIDIA RTX 3090 US US-DE-1" in page
    assert "LON-1 GB" in page
    assert "EU-CZ-1" in page


def test_the_page_costs_the_same_for_many_machines_and_records(client, boss, django_assert_max_num_queries):
    scene.build(now=timezone.now())
    client.post(reverse("compliance_draft"))
    with django_assert_max_num_queries(45):
        assert client.get(PAGE).status_code == 200


def test_a_poll_without_news_answers_that_there_is_none(client, boss):
    services.file_breach(
        {"facts": "x", "aware_at": datetime(2026, 1, 1, tzinfo=UTC)}, actor=boss, now=timezone.now()
    )
    headers = {"HX-Request": "true", "HX-Target": "clocks"}
    first = client.get(PAGE, headers=headers)
    again = client.get(PAGE, headers={**headers, "If-None-Match": first["ETag"]})
    assert (first.status_code, again.status_code) == (200, 304)


def test_pages_that_are_not_there(client, boss):
    breach = file(client)
    for method, path in (("get", "breaches/999/"), ("get", "requests/999/"), ("post", f"breaches/{breach.pk}/part/soul/"),
                         ("post", f"breaches/{breach.pk}/explode/")):  # fmt: skip
        assert getattr(client, method)(PAGE + path).status_code == 404, path
