"""The pages of privacy: the published one for everybody, one's own, and the administrators'."""

from __future__ import annotations

import io
import json
import zipfile
from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from panel.accounts.models import User
from panel.audit.models import AuditEvent
from panel.privacy import evidence, notice, policy, purging
from panel.privacy.models import ErasureReceipt, LegalHold
from tests import factories

pytestmark = pytest.mark.django_db


@pytest.fixture
def boss(client) -> User:
    person = factories.administrator()
    client.force_login(person)
    return person


def test_everybody_reads_what_is_kept_why_how_long_and_whom_to_ask(client, settings):
    settings.CONTROLLER_NAME, settings.CONTROLLER_CONTACT = "Example Ltd", "privacy@example.com"
    page = client.get("/privacy/").text
    for words in ("Example Ltd", "privacy@example.com", "Art. 6(1)", "Complaint", policy.text_of("origin")):
        assert words in page
    assert 'href="/privacy/"' in client.get("/accounts/login/").text


def test_the_published_page_tells_of_every_kind_of_row_that_is_about_people():
    told = {kind.label for purpose in notice.purposes() for kind in purpose.kinds}
    assert {"accounts.User", "audit.Origin", "deployments.Deployment", "privacy.LegalHold"} <= told
    assert "axes.AccessLog" not in told, "the panel writes no row there"


def test_an_operator_exports_and_erases_themselves_and_nobody_else(client):
    ada = factories.user("operator", email="ada@example.com", password="a long enough password")
    other = factories.operator()
    client.force_login(ada)
    for name in ("privacy_person_export", "privacy_person_erase"):
        assert client.get(reverse(name, args=[other.pk])).status_code == 403
        assert client.post(reverse(name, args=[other.pk])).status_code == 403
    answer = client.post(reverse("privacy_person_export", args=[ada.pk]))
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert json.loads(archive.read("manifest.json"))["email"] == "ada@example.com"
    erase = reverse("privacy_person_erase", args=[ada.pk])
    answer = client.post(erase, {"typed": "ada@example.com", "reason": "my wish"})
    receipt = ErasureReceipt.objects.get()
    assert answer["Location"] == reverse("privacy_receipt", args=[receipt.pk])
    assert "It is done" in client.get(answer["Location"]).text
    file = client.get(reverse("privacy_receipt_file", args=[receipt.pk, "json"]))
    assert file.content.decode() == receipt.document
    assert client.get("/account/privacy/").status_code == 302
    actions = list(AuditEvent.objects.order_by("sequence").values_list("action", flat=True))
    assert actions[-2:] == ["privacy.export", "privacy.erase"]


def test_an_erasure_asks_for_the_name_and_for_a_reason_without_it(client, boss):
    ada = factories.user("operator", email="ada@example.com")
    erase = reverse("privacy_person_erase", args=[ada.pk])
    assert "What goes" in client.get(erase).text
    for typed, reason, words in (
        ("bob@example.com", "x", "Nothing was done"),
        ("ada@example.com", "", "This field is required"),
        ("ada@example.com", "for Ada@example.com", "without the name"),
    ):
        page = client.post(erase, {"typed": typed, "reason": reason})
        assert page.status_code == 422
        assert words in page.text
    assert User.objects.filter(pk=ada.pk).exists()
    client.post(erase, {"typed": "ADA@example.com", "reason": "by letter"})
    assert not User.objects.filter(pk=ada.pk).exists()
    assert client.get("/privacy/retention/").status_code == 200, "the administrator stays signed in"


def test_the_last_administrator_reads_what_to_do_first(client, boss):
    page = client.get(reverse("privacy_person_erase", args=[boss.pk])).text
    assert "make another administrator" in page
    page = client.post(reverse("privacy_person_erase", args=[boss.pk]), {"typed": boss.email, "reason": "x"})
    assert page.status_code == 422
    assert User.objects.filter(pk=boss.pk).exists()


def test_nobody_but_a_superuser_touches_a_superuser(client, boss):
    first = User.objects.create_superuser("first@example.com")
    assert client.get(reverse("privacy_person_erase", args=[first.pk])).status_code == 403


def test_an_administrator_sees_runs_what_would_go_and_asks_for_a_run(client, boss, rung):
    purging.run(now=timezone.now())
    page = client.get("/privacy/retention/?look=1").text
    assert "What would go now" in page
    assert "accounts.SignInLink" in page
    client.post("/privacy/retention/")
    assert rung[-1] == ("panel.privacy.tasks.purge", (boss.pk,))


def test_a_hold_is_set_and_ended_in_the_admin_site_and_audited_without_a_name(client, boss):
    ada = factories.user("operator", email="ada@example.com")
    values = {
        "person": ada.pk,
        "model": "",
        "reason": "a dispute with Ada",
        "since_0": "2026-11-01",
        "since_1": "10:00",
    }
    client.post("/admin/privacy/legalhold/add/", values)
    hold = LegalHold.objects.get()
    assert hold.set_by
    ended = {**values, "until_0": "2026-11-02", "until_1": "10:00"}
    client.post(f"/admin/privacy/legalhold/{hold.pk}/change/", ended)
    events = AuditEvent.objects.filter(target_type="privacy.legalhold").order_by("sequence")
    assert [e.action for e in events] == ["legalhold.create", "legalhold.change"]
    assert events[0].after["person_id"] == ada.pk
    assert "ada" not in json.dumps([e.after for e in events]).lower()
    everything = client.post("/admin/privacy/legalhold/add/", {**values, "person": ""}).text
    assert "Choose a person" in everything


def test_an_administrator_finds_the_receipt_of_somebody_by_their_address(client, boss):
    ada = factories.user("operator", email="ada@example.com")
    client.post(
        reverse("privacy_person_erase", args=[ada.pk]), {"typed": "ada@example.com", "reason": "by letter"}
    )
    receipts = "/admin/privacy/erasurereceipt/?q="
    assert "by letter" in client.get(f"{receipts}ada@example.com").text
    assert "by letter" not in client.get(f"{receipts}bob@example.com").text


def test_the_evidence_has_as_many_cells_as_heads():
    now = timezone.now()
    purging.run(now=now)
    LegalHold.objects.create(model="alerts.Window", reason="x", since=now)
    span = (now - timedelta(days=1), now + timedelta(days=1))
    tables = [
        evidence.purge_runs(*span), evidence.legal_holds(*span), evidence.erasure_receipts(*span), evidence.data_map()
    ]  # fmt: skip
    assert [len(rows) > 0 for _, rows in tables] == [True, True, False, True]
    for headers, rows in tables:
        assert all(len(row) == len(headers) for row in rows)
