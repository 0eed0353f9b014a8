"""The Alerts pages: operators acknowledge, administrators say who is told; no secret is shown twice."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from panel.alerts.models import Channel, Delivery, Rule, Window
from panel.alerts.routing import route
from panel.audit.models import AuditEvent
from panel.notices.models import Notice
from panel.notices.notify import clear_notice
from tests import factories
from tests.alerts import made

pytestmark = pytest.mark.django_db

ALERTS = "/alerts/"
SECRET_URL = "https://events.example.com/in/7f3a-secret?token=abc-secret"


@pytest.fixture
def boss(client):
    person = factories.administrator()
    client.force_login(person)
    return person


def tab(client, name: str) -> str:
    return client.get(f"{ALERTS}?tab={name}").text


def actions() -> list[str]:
    return list(AuditEvent.objects.order_by("sequence").values_list("action", flat=True))


def test_an_operator_acknowledges_and_everybody_sees_who_it_is(client):
    ada = factories.user("operator", email="ada@example.com")
    client.force_login(ada)
    notice = made.notice(now=timezone.now())
    made.rule(made.channel(), after_minutes=1)
    assert "Acknowledge" in client.get(ALERTS).text
    client.post(reverse("notice_acknowledge", args=[notice.pk]))
    page = client.get(ALERTS).text
    assert "ada@example.com" in page
    assert "sees to it" in page
    assert route(now=timezone.now() + timedelta(hours=1)) == 0, "nothing is escalated"
    (event,) = AuditEvent.objects.filter(action="notice.acknowledge")
    assert event.after == {"key": "k"}
    client.post(reverse("notice_acknowledge", args=[notice.pk]))
    assert actions().count("notice.acknowledge") == 1


def test_what_is_over_is_not_acknowledged_any_more(client):
    client.force_login(factories.operator())
    notice = made.notice(now=timezone.now())
    clear_notice("k", now=timezone.now())
    answer = client.post(reverse("notice_acknowledge", args=[notice.pk]), follow=True)
    assert "it is over" in answer.text
    assert Notice.objects.get().acknowledged_at is None


def test_an_operator_sees_no_channels(client):
    client.force_login(factories.operator())
    made.channel("secret service")
    assert "Delivery log" not in client.get(ALERTS).text
    assert "secret service" not in tab(client, "channels")


def test_a_webhook_is_added_and_its_key_is_shown_once(client, boss):
    answer = client.post(
        reverse("alert_channel_add", args=["webhook"]), {"name": "Paging", "address": SECRET_URL}
    )
    hook = Channel.objects.get()
    (shown,) = re.findall(r"whsec_[\w+/=]+", answer.text)
    assert shown == hook.signing_key
    assert answer["Cache-Control"] == "no-store"
    assert (hook.address, hook.leads_to) == (SECRET_URL, "events.example.com")
    audit = json.dumps(list(AuditEvent.objects.values()), default=str)
    pages = tab(client, "channels") + client.get(reverse("alert_channel", args=[hook.pk])).text + audit
    assert "events.example.com" in pages
    for secret in (shown, "7f3a-secret", "abc-secret"):
        assert secret not in pages
        assert secret not in repr(hook) + str(hook)


def test_secrets_stand_in_the_database_only_encrypted(client, boss):
    from django.db import connection

    client.post(reverse("alert_channel_add", args=["webhook"]), {"name": "Paging", "address": SECRET_URL})
    with connection.cursor() as cursor:
        cursor.execute("SELECT address, signing_key FROM alerts_channel")
        stored = str(cursor.fetchall())
    assert "secret" not in stored
    assert "whsec_" not in stored


def test_a_key_of_ones_own_is_taken_and_not_shown(client, boss):
    answer = client.post(
        reverse("alert_channel_add", args=["webhook"]),
        {"name": "Paging", "address": SECRET_URL, "signing_key": made.KEY}, follow=True,
    )  # fmt: skip
    assert Channel.objects.get().signing_key == made.KEY
    assert "whsec_" not in answer.text


@pytest.mark.parametrize(
    ("kind", "values", "sentence"),
    [
        ("webhook", {"address": "http://events.example.com/"}, "not encrypted"),
        ("webhook", {"address": "https://169.254.169.254/"}, "private network"),
        ("webhook", {"address": ""}, "Paste the receiver"),
        ("webhook", {"address": SECRET_URL, "signing_key": "whsec_short"}, "signing key"),
        ("chat", {"address": "syslog://"}, "none of the chat services"),
        ("mail", {"mailbox": ""}, "Choose somebody"),
        ("mail", {"mailbox": "not an address"}, "valid email"),
        ("mail", {"name": "taken", "mailbox": "rota@example.com"}, "of this name already"),
    ],
)
def test_a_wrong_channel_is_refused_with_its_reason_and_without_what_was_typed(
    client, boss, kind, values, sentence
):
    made.channel("Taken")
    answer = client.post(reverse("alert_channel_add", args=[kind]), {"name": "new", **values})
    assert answer.status_code == 422
    assert sentence in answer.text
    assert "7f3a-secret" not in answer.text
    assert Channel.objects.count() == 1


def test_changing_a_channel_keeps_the_address_that_is_not_typed_again(client, boss):
    hook = made.channel(url=SECRET_URL, failures=4, held_until=timezone.now())
    page = reverse("alert_channel", args=[hook.pk])
    client.post(page, {"name": "renamed", "address": ""})
    hook.refresh_from_db()
    assert (hook.name, hook.address, hook.failures) == ("renamed", SECRET_URL, 4)
    client.post(page, {"name": "renamed", "address": "https://other.example.com/"})
    hook.refresh_from_db()
    assert (hook.address, hook.leads_to, hook.failures, hook.held_until) == (
        "https://other.example.com/", "other.example.com", 0, None,
    )  # fmt: skip
    assert actions() == ["alert_channel.change"] * 2


def test_a_new_key_is_shown_once_and_the_old_one_goes_on_for_a_while(client, boss):
    hook = made.channel()
    answer = client.post(reverse("alert_channel_action", args=[hook.pk, "rotate"]))
    hook.refresh_from_db()
    assert hook.signing_key in answer.text
    assert hook.signing_key != made.KEY == hook.old_signing_key
    mail = made.channel("mail", kind="mail")
    assert client.post(reverse("alert_channel_action", args=[mail.pk, "rotate"])).status_code == 404


def test_a_test_is_sent_at_once_and_a_channel_that_is_off_says_so(
    client, boss, rung, django_capture_on_commit_callbacks
):
    hook = made.channel(held_until=timezone.now() + timedelta(minutes=4))
    with django_capture_on_commit_callbacks(execute=True):
        client.post(reverse("alert_channel_action", args=[hook.pk, "test"]))
    hook.refresh_from_db()
    assert (hook.held_until, rung) == (None, [("panel.alerts.tasks.send", (hook.pk,))])
    assert Delivery.objects.get().occasion == "test"
    client.post(reverse("alert_channel_action", args=[hook.pk, "disable"]))
    assert Delivery.objects.get().state == "dropped"
    answer = client.post(reverse("alert_channel_action", args=[hook.pk, "test"]), follow=True)
    assert "switch it on first" in answer.text
    assert actions() == ["alert_channel.test", "alert_channel.disable"]


def test_a_deleted_channel_is_named_in_the_audit(client, boss):
    hook = made.channel()
    made.rule(hook)
    made.waiting(hook)
    assert "all" in client.get(reverse("alert_channel_action", args=[hook.pk, "delete"])).text
    client.post(reverse("alert_channel_action", args=[hook.pk, "delete"]))
    assert (Channel.objects.count(), Delivery.objects.count(), Rule.objects.count()) == (0, 0, 1)
    event = AuditEvent.objects.get()
    assert (event.action, event.target_id, event.before["name"]) == (
        "alert_channel.delete",
        str(hook.pk),
        "hook",
    )


def rule_form(*channels: Channel, **values) -> dict:
    return {
        "name": "night watch", "severity": "warning", "channels": [c.pk for c in channels], "after_minutes": "0",
        "time_zone": "Europe/Berlin", "tells_end": "on", "critical_passes": "on", "enabled": "on", **values,
    }  # fmt: skip


def test_a_rule_is_added_changed_and_deleted_each_with_its_audit(client, boss):
    hook = made.channel()
    client.post(
        reverse("alert_rule_add"),
        rule_form(hook, quiet_from="22:00", quiet_until="07:00", after_minutes="15"),
    )
    rule = Rule.objects.get()
    assert (rule.after_minutes, str(rule.quiet_from), list(rule.channels.all())) == (15, "22:00:00", [hook])
    page = client.get(reverse("alert_rule", args=[rule.pk])).text
    assert 'value="22:00"' in page
    client.post(reverse("alert_rule", args=[rule.pk]), rule_form(hook, severity="critical"))
    rule.refresh_from_db()
    assert (rule.severity, rule.quiet_from) == ("critical", None)
    assert "no longer tells" in client.get(reverse("alert_rule_delete", args=[rule.pk])).text
    client.post(reverse("alert_rule_delete", args=[rule.pk]))
    assert actions() == ["alert_rule.create", "alert_rule.change", "alert_rule.delete"]
    changed = AuditEvent.objects.get(action="alert_rule.change")
    assert (changed.before["severity"], changed.after["severity"]) == ("warning", "critical")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"channels": []}, "at least one channel"),
        ({"time_zone": "Europe/Atlantis"}, "no such time zone"),
        ({"quiet_from": "22:00"}, "a beginning and an end"),
        ({"quiet_from": "22:00", "quiet_until": "22:00"}, "never or always"),
        ({"after_minutes": "-1"}, "greater than or equal to 0"),
        ({"subjects": ["no such deployment"]}, "not one of the available choices"),
    ],
)
def test_a_wrong_rule_is_refused_with_its_reason(client, boss, values, sentence):
    answer = client.post(reverse("alert_rule_add"), rule_form(made.channel(), **values))
    assert (answer.status_code, Rule.objects.count()) == (422, 0)
    assert sentence in answer.text


def test_maintenance_is_planned_and_ended_early(client, boss):
    ends = timezone.now().astimezone(UTC) + timedelta(hours=2)
    client.post(reverse("alert_window_add"), {"reason": "a new driver", "ends_at": f"{ends:%Y-%m-%dT%H:%M}"})
    window = Window.objects.get()
    assert window.starts_at <= timezone.now() < window.ends_at
    assert "a new driver" in client.get(ALERTS).text
    client.post(reverse("alert_window_end", args=[window.pk]))
    client.post(reverse("alert_window_end", args=[window.pk]))
    assert "a new driver" not in client.get(ALERTS).text
    assert actions() == ["maintenance_window.create", "maintenance_window.end"]


@pytest.mark.parametrize(
    ("starts", "ends"),
    [("", "2020-01-01T00:00"), ("2030-01-02T00:00", "2030-01-01T00:00"), ("2030-01-01T00:00", "2030-03-01T00:00")],
)  # fmt: skip
def test_a_wrong_time_of_maintenance_is_refused(client, boss, starts, ends):
    answer = client.post(reverse("alert_window_add"), {"reason": "x", "starts_at": starts, "ends_at": ends})
    assert (answer.status_code, Window.objects.count()) == (422, 0)


def test_what_does_not_arrive_is_listed_tried_again_and_given_up(client, boss):
    hook = made.channel()
    lost = made.waiting(hook, state="failed", tries=11, error="It answered 503.")
    made.waiting(hook, state="sent", sent_at=timezone.now(), occasion="resolved")
    page = client.get(f"{ALERTS}?tab=log&state=undelivered").text
    assert "It answered 503." in page
    assert "1 alert could not be delivered</a>." in page
    assert f'href="{ALERTS}?tab=log&amp;state=undelivered"' in page
    client.post(reverse("alert_message_retry", args=[lost.pk]))
    lost.refresh_from_db()
    assert (lost.state, lost.tries) == ("waiting", 0)
    assert "could not be delivered" not in tab(client, "log")
    Delivery.objects.filter(pk=lost.pk).update(tries=2)
    client.post(reverse("alert_messages_drop"))
    lost.refresh_from_db()
    assert lost.state == "dropped"
    assert actions() == ["alert_delivery.retry", "alert_delivery.drop"]


def test_the_page_says_when_no_rule_tells_of_everything(client, boss):
    assert "No rule tells anybody" in client.get(ALERTS).text
    made.rule(made.channel(), subjects=["a"])
    assert "No rule tells anybody" in client.get(ALERTS).text
    Rule.objects.update(subjects=[])
    assert "No rule tells anybody" not in client.get(ALERTS).text


def test_a_poll_without_news_answers_that_there_is_none(client, boss):
    made.notice(now=datetime(2026, 11, 24, tzinfo=UTC))
    headers = {"HX-Request": "true", "HX-Target": "alerts"}
    first = client.get(ALERTS, headers=headers)
    again = client.get(ALERTS, headers={**headers, "If-None-Match": first["ETag"]})
    assert (first.status_code, again.status_code) == (200, 304)


def test_the_log_costs_the_same_for_many_messages(client, boss, django_assert_max_num_queries):
    hook = made.channel()
    for _ in range(60):
        made.waiting(hook)
    with django_assert_max_num_queries(16):
        assert "1 of 2" in tab(client, "log")


def test_pages_that_are_not_there(client, boss):
    for path in (
        "?tab=nonsense",
        "channels/add/pigeon/",
        "channels/999/",
        "channels/999/test/",
        "rules/999/",
    ):
        assert client.get(ALERTS + path).status_code == 404, path
    hook = made.channel()
    assert client.get(f"{ALERTS}channels/{hook.pk}/explode/").status_code == 404


def test_the_admin_site_shows_who_is_alerted_without_its_secrets_and_changes_nothing(client, boss):
    ada = factories.user("operator", email="ada@example.com")
    hook = made.channel(url=SECRET_URL, old_signing_key="whsec_b2xk")
    hook.people.set([ada])
    rule, sent = made.rule(hook), made.waiting(hook)
    window = Window.objects.create(
        starts_at=made.NOW, ends_at=made.NOW, reason="A new rack", created_by="someone-7"
    )
    for row, seen in (
        (hook, "alerts.example.com"),
        (rule, "hook"),
        (sent, "chat is down"),
        (window, "A new rack"),
    ):
        name = f"admin:alerts_{row._meta.model_name}"
        with CaptureQueriesContext(connection) as asked:
            pages = [
                client.get(reverse(f"{name}_changelist")).text,
                client.get(reverse(f"{name}_change", args=[row.pk])).text,
            ]
        assert seen in pages[1]
        for text in (*pages, *(q["sql"] for q in asked.captured_queries)):
            for secret in ("7f3a-secret", made.KEY, "whsec_b2xk", "signing_key", '"address"', "someone-7"):
                assert secret not in text
        assert client.post(reverse(f"{name}_change", args=[row.pk]), {"name": "x"}).status_code == 403
