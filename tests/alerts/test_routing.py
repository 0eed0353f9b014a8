"""From a notice to its messages: in whatever order rounds, crashes and workers come."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from django.db import connection, transaction

from panel.alerts import message, routing
from panel.alerts.models import Delivery, Window
from panel.alerts.routing import route
from panel.notices.models import Notice
from panel.notices.notify import acknowledge, clear_notice
from tests.alerts import made
from tests.conftest import NOW

MINUTE = timedelta(minutes=1)


def occasions() -> list[tuple[str, str]]:
    return [(d.channel.name, d.occasion) for d in Delivery.objects.select_related("channel").order_by("pk")]


@pytest.mark.django_db
def test_raised_again_and_again_it_is_told_once_and_its_end_once():
    made.rule(made.channel())
    for minute in range(3):
        made.notice(now=NOW + minute * MINUTE)
        route(now=NOW + minute * MINUTE)
    assert occasions() == [("hook", "raised")]
    clear_notice("k", now=NOW + 3 * MINUTE)
    for minute in (3, 4):
        route(now=NOW + minute * MINUTE)
    assert occasions() == [("hook", "raised"), ("hook", "resolved")]
    assert not Notice.objects.filter(settled_at=None).exists()


@pytest.mark.django_db
def test_the_next_trouble_of_the_same_key_is_a_new_one():
    made.rule(made.channel())
    for minute in (0, 10):
        made.notice(now=NOW + minute * MINUTE)
        route(now=NOW + minute * MINUTE)
        clear_notice("k", now=NOW + (minute + 1) * MINUTE)
        route(now=NOW + (minute + 1) * MINUTE)
    assert [what for _, what in occasions()] == ["raised", "resolved"] * 2


@pytest.mark.django_db
def test_what_rolls_back_with_its_transaction_is_told_to_nobody():
    made.rule(made.channel())
    with transaction.atomic():
        made.notice()
        transaction.set_rollback(True)
    route(now=NOW)
    assert occasions() == []


@pytest.mark.django_db
def test_what_was_raised_and_cleared_while_the_panel_was_down_is_told():
    made.rule(made.channel())
    made.notice()
    clear_notice("k", now=NOW + MINUTE)
    route(now=NOW + timedelta(hours=8))
    assert [what for _, what in occasions()] == ["raised", "resolved"]


@pytest.mark.django_db
def test_a_rule_that_comes_later_tells_what_is_still_open_and_not_what_is_over():
    made.notice("old")
    made.notice("open")
    clear_notice("old", now=NOW)
    route(now=NOW)
    made.rule(made.channel())
    route(now=NOW + MINUTE)
    assert [d.message["key"] for d in Delivery.objects.all()] == ["open"]


@pytest.mark.django_db
def test_worse_means_told_again_and_acknowledged_no_more():
    made.rule(made.channel())
    boss = made.rule(made.channel("boss"), name="boss", after_minutes=10)
    warned = made.notice(severity="warning")
    route(now=NOW)
    assert acknowledge(warned.pk, by="somebody", now=NOW)
    assert not acknowledge(warned.pk, by="another", now=NOW)
    route(now=NOW + 20 * MINUTE)
    made.notice(severity="critical", now=NOW + 21 * MINUTE)
    route(now=NOW + 21 * MINUTE)
    route(now=NOW + 31 * MINUTE)
    assert occasions() == [("hook", "raised"), ("hook", "worsened"), ("boss", "escalated")]
    assert Delivery.objects.last().rule == boss
    warned.refresh_from_db()
    assert (warned.acknowledged_at, warned.acknowledged_by) == (None, "")


@pytest.mark.django_db
def test_a_channel_that_is_off_is_told_nothing():
    made.rule(made.channel(enabled=False), made.channel("on"))
    made.notice()
    route(now=NOW)
    assert occasions() == [("on", "raised")]


@pytest.mark.django_db
def test_planned_work_is_quiet_and_what_outlives_it_is_told():
    made.rule(made.channel())
    Window.objects.create(
        starts_at=NOW, ends_at=NOW + 30 * MINUTE, reason="a new driver", created_by="system"
    )
    made.notice("brief")
    made.notice("stays")
    route(now=NOW)
    clear_notice("brief", now=NOW + MINUTE)
    route(now=NOW + MINUTE)
    assert occasions() == []
    route(now=NOW + 30 * MINUTE)
    assert [d.message["key"] for d in Delivery.objects.all()] == ["stays"]


@pytest.mark.django_db
def test_a_round_costs_the_same_for_a_hundred_notices_as_for_one(django_assert_max_num_queries):
    made.rule(made.channel(), made.channel("two"))
    for n in range(100):
        made.notice(f"k{n}")
    with django_assert_max_num_queries(10):
        assert route(now=NOW) == 200
    with django_assert_max_num_queries(5):
        assert route(now=NOW + MINUTE) == 0


@pytest.mark.django_db
def test_a_round_without_news_writes_nothing(django_assert_num_queries):
    with django_assert_num_queries(1):
        assert route(now=NOW) == 0


@pytest.mark.django_db(transaction=True)
def test_many_workers_write_each_message_once():
    made.rule(made.channel(), made.channel("two"))
    for n in range(5):
        made.notice(f"k{n}")
    start, failures = threading.Barrier(6), []

    def work():
        try:
            start.wait()
            route(now=NOW)
        except Exception as e:
            failures.append(e)
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert failures == []
    assert Delivery.objects.count() == 10


@pytest.mark.django_db
def test_more_than_a_round_takes_comes_with_the_next(monkeypatch):
    monkeypatch.setattr(routing, "AT_ONCE", 2)
    made.rule(made.channel())
    for n in range(3):
        made.notice(f"k{n}", now=NOW + n * MINUTE)
        clear_notice(f"k{n}", now=NOW + n * MINUTE)
    assert [route(now=NOW + 9 * MINUTE) for _ in range(3)] == [4, 2, 0]


@pytest.mark.django_db
def test_the_words_of_a_message(settings):
    settings.PUBLIC_URL = "https://panel.example.com"
    notice = made.notice(title="chat\n is  down", detail="No answer.", url="/deployments/1/")
    values = message.of_notice(notice, "escalated")
    assert message.subject_of(values) == "[Regia critical] Not acknowledged: chat is down"
    assert message.text_of(values).splitlines() == [
        "No answer.", "", "Since 24 Nov 2026, 12:00:00 UTC", "Nobody has acknowledged it.",
        "https://panel.example.com/deployments/1/",
    ]  # fmt: skip
    clear_notice("k", now=NOW + MINUTE)
    notice.refresh_from_db()
    over = message.of_notice(notice, "resolved")
    assert message.subject_of(over) == "[Regia] Resolved: chat is down"
    assert "over since 24 Nov 2026, 12:01:00 UTC" in message.text_of(over)
    settings.PUBLIC_URL = ""
    assert "http" not in message.text_of(over)
