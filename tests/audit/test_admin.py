"""The audit in the admin site: read and verified there, by administrators alone, never written."""

from __future__ import annotations

import pytest
from django.db import connection

from panel.audit import chain, triggers
from panel.audit.models import AuditEvent
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
    assert chain.pseudonym_of(ada) not in page.text.split("changelist-filter")[0]


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


def test_an_event_shows_before_and_after_and_where_it_came_from(client, ada):
    _events(ada)
    page = client.get(f"{LIST}1/change/")
    for shown in (
        "&quot;desired&quot;: &quot;stopped&quot;",
        "&quot;n&quot;: 0",
        "192.0.2.7 Browser/1",
        "request-77",
    ):
        assert shown in page.text


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
