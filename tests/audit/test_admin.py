"""The audit in the admin site: read and verified there, by administrators alone, never written."""

from __future__ import annotations

import csv
import io
import json
from datetime import timedelta

import pytest
from django.db import connection

from panel.audit import chain, listing, triggers
from panel.audit.models import AuditEvent, Head, Pseudonym
from panel.context import RequestContext, request_context
from panel.notices.notify import open_notices
from tests import factories
from tests.conftest import NOW

pytestmark = pytest.mark.django_db
LIST = "/admin/audit/auditevent/"


@pytest.fixture
def ada(client):
    ada = factories.administrator()
    client.force_login(ada)
    return ada


def _events(actor, n=3) -> None:
    token = request_context.set(RequestContext("request-77", "192.0.2.7", "Browser/1"))
    for i in range(n):
        chain.record(
            "deployment.launch",
            actor=actor,
            target=actor,
            before={"desired": "stopped"},
            after={"n": i},
            now=NOW,
        )
    request_context.reset(token)
    chain.record("instance.create", actor=None, reason="<b>because</b>", now=NOW)


def test_it_lists_who_did_what_to_what(client, ada):
    _events(ada)
    page = client.get(LIST)
    assert str(ada) in page.text
    assert "deployment.launch" in page.text
    assert "&lt;b&gt;because&lt;/b&gt;" in page.text
    assert f'<td class="field-who">{ada}</td>' in page.text


def test_the_number_of_queries_does_not_grow_with_the_events(client, ada, django_assert_max_num_queries):
    _events(ada, n=30)
    with django_assert_max_num_queries(14):
        client.get(LIST)


def test_it_filters_and_searches(client, ada):
    _events(ada)
    count = lambda query: client.get(LIST + query).context["cl"].result_count  # noqa: E731
    assert count("") == 4
    assert count("?actor=system") == 1
    assert count(f"?actor={chain.pseudonym_of(ada)}") == 3
    assert count("?target_type=accounts.user") == 3
    assert count("?action=instance.create") == 1
    assert count("?q=request-77") == 3
    assert count("?q=because") == 1
    assert count("?q=nothing") == 0


def test_an_event_shows_before_and_after_and_on_demand_where_it_came_from(client, ada):
    _events(ada)
    page = client.get(f"{LIST}1/change/")
    for shown in ("&quot;desired&quot;: &quot;stopped&quot;", "&quot;n&quot;: 0", "request-77"):
        assert shown in page.text
    # The address is personal data: it is shown on demand, and that it was is an act.
    assert "192.0.2.7" not in page.text
    assert client.get(f"{LIST}1/origin/").status_code == 405
    shown = client.post(f"{LIST}1/origin/")
    assert "192.0.2.7" in shown.text
    assert "Browser/1" in shown.text
    read = AuditEvent.objects.latest("sequence")
    assert (read.action, read.target_id, read.actor) == ("origin.read", "1", chain.pseudonym_of(ada))


def test_nothing_is_written_there(client, ada):
    _events(ada)
    assert client.get(f"{LIST}add/").status_code == 403
    assert client.post(f"{LIST}1/change/", {"reason": "x"}).status_code == 403
    assert client.post(f"{LIST}1/delete/", {"post": "yes"}).status_code == 403
    client.post(LIST, {"action": "delete_selected", "_selected_action": ["1"], "post": "yes"})
    assert AuditEvent.objects.count() == 4


def test_the_badge_says_whether_the_chain_holds_and_since_when(client, ada):
    _events(ada)
    assert "The chain has not been verified yet." in client.get(LIST).text
    assert "The chain is whole: 4 events." in client.post(f"{LIST}verify/", follow=True).text
    assert "4 events, each follows the one before it." in client.get(LIST).text


def test_the_badge_and_a_notice_tell_of_tampering(client, ada):
    _events(ada)
    with connection.cursor() as cursor:
        for statement in triggers.remove(connection.vendor):
            cursor.execute(statement)
        cursor.execute("UPDATE audit_auditevent SET reason = 'x' WHERE sequence = 2")
        for statement in triggers.install(connection.vendor):
            cursor.execute(statement)
    assert "The chain is broken: event 2 was edited" in client.post(f"{LIST}verify/", follow=True).text
    assert "Chain broken" in client.get(LIST).text
    assert open_notices().get().title == "The audit has been tampered with"


def test_verifying_takes_a_post_and_the_right(client, ada):
    assert client.get(f"{LIST}verify/").status_code == 405
    client.force_login(factories.user("operator"))
    assert client.post(f"{LIST}verify/").status_code in {302, 403}
    staff_without_role = factories.user()
    type(staff_without_role).objects.filter(pk=staff_without_role.pk).update(is_staff=True)
    client.force_login(staff_without_role)
    assert client.post(f"{LIST}verify/").status_code == 403


def test_it_filters_by_period(client, ada):
    for day in range(3):
        chain.record("thing.done", actor=None, now=NOW + timedelta(days=day))
    count = lambda query: client.get(LIST + query).context["cl"].result_count  # noqa: E731
    assert count("?from=2026-11-25") == 2
    assert count("?from=2026-11-25&to=2026-11-25") == 1
    assert count("?to=2026-11-24") == 1
    assert count("?from=nonsense") == 3


def test_an_erased_person_is_called_so(client, ada):
    who = factories.operator()
    _events(who, n=1)
    who.delete()
    Pseudonym.objects.exclude(user=ada).delete()
    assert "erased person" in client.get(LIST).text
    assert "erased person" in client.get(f"{LIST}1/change/").text
    assert chain.verify().ok


def test_the_whole_list_is_not_counted_row_by_row(client, ada, monkeypatch):
    _events(ada, n=3)
    # What the head says is believed, so nothing was counted; of what a filter finds a bounded part is.
    Head.objects.update(sequence=1_000_000)
    assert client.get(LIST).context["cl"].result_count == 1_000_000
    monkeypatch.setattr(listing, "COUNTED", 2)
    assert client.get(f"{LIST}?target_type=accounts.user").context["cl"].result_count == 2


def test_the_choices_of_a_filter_are_what_the_column_holds():
    assert listing.distinct("action") == []
    for action in ("b.two", "a.one", "b.two", "c.three"):
        chain.record(action, actor=None, now=NOW)
    assert listing.distinct("action") == ["a.one", "b.two", "c.three"]


def test_what_the_filters_leave_is_exported_and_that_it_was_is_audited(client, ada):
    _events(ada)
    answer = client.get(f"{LIST}export/csv/?action=deployment.launch&q=request-77")
    rows = list(csv.DictReader(io.StringIO(answer.getvalue().decode())))
    assert [row["sequence"] for row in rows] == ["1", "2", "3"]
    assert (rows[0]["who"], rows[0]["after"]) == (str(ada), '{"n": 0}')
    assert "192.0.2.7" not in answer.getvalue().decode()
    event = AuditEvent.objects.latest("sequence")
    assert (event.action, event.after) == (
        "export.audit",
        {"as": "csv", "action": "deployment.launch", "searched": True},
    )
    assert client.get(f"{LIST}export/xml/").status_code == 404


def test_the_jsonl_export_holds_all_that_the_hashes_cover(client, ada):
    _events(ada)
    answer = client.get(f"{LIST}export/jsonl/")
    lines = [json.loads(line) for line in answer.getvalue().decode().splitlines()]
    assert [line["sequence"] for line in lines] == [1, 2, 3, 4, 5]
    assert [line["previous"] for line in lines[1:]] == [line["hash"] for line in lines[:-1]]
    assert lines[-1]["action"] == "export.audit"


def test_a_cell_of_the_export_is_no_formula(client, ada):
    chain.record("thing.done", actor=None, reason="=HYPERLINK(1)", now=NOW)
    text = client.get(f"{LIST}export/csv/").getvalue().decode()
    assert ",'=HYPERLINK(1)," in text


def test_exports_and_addresses_take_the_right(client, ada):
    _events(ada)
    staff = factories.user()
    type(staff).objects.filter(pk=staff.pk).update(is_staff=True)
    client.force_login(staff)
    assert client.get(f"{LIST}export/csv/").status_code == 403
    assert client.post(f"{LIST}1/origin/").status_code == 403
    assert AuditEvent.objects.count() == 4
