"""What is changed of a running deployment: what each change means is said before, and saved all or not at all."""

import re
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from urllib.parse import parse_qs

import pytest
from django.urls import reverse
from django.utils import timezone

from billing import budgets
from billing.models import Reservation
from deployments import changes
from deployments.changes import ChangeRefused, Effect, NeedsReplacing, change_settings
from deployments.lifecycle import Desired, State
from deployments.models import Deployment, Event, Instance
from panel.audit.models import AuditEvent
from tests import factories
from tests.browser import scene
from tests.browser.scene_providers import typed

pytestmark = pytest.mark.django_db


@pytest.fixture
def made():
    return scene.build(now=timezone.now())


@pytest.fixture
def actor():
    return factories.operator()


@pytest.fixture
def operator(client, actor):
    client.force_login(actor)
    return client


def text(response):
    return response.content.decode()


def fresh(deployment):
    return Deployment.objects.get(pk=deployment.pk)


def save(deployment, actor, *, may_replace=True, **values):
    return change_settings(
        fresh(deployment), values, actor=actor, now=timezone.now(), may_replace=may_replace
    )


def effects(deployment, **values):
    return {c.name: c.effect for c in changes.plan(fresh(deployment), values)}


def form(deployment, **values):
    """What a browser would send back of the fresh form, with `values` typed into it."""
    return parse_qs(typed(fresh(deployment), **values), keep_blank_values=True)


# -- what it means -----------------------------------------------------------------------------------

AT_ONCE = {
    "name": "renamed", "stop_at": datetime(2030, 1, 1, tzinfo=UTC), "delete_at": datetime(2030, 1, 2, tzinfo=UTC),
    "schedule_days": "12345", "time_zone": "Europe/Berlin", "bid_policy": "wait", "bid_ceiling": Decimal("0.3"),
}  # fmt: skip
AT_RELAUNCH = {"policy": "cheapest", "purpose": "development", "price_ceiling": Decimal(2), "plan_b": 5}


def test_each_field_says_when_it_takes_effect(made):
    assert set(effects(made.ready, **AT_ONCE).values()) == {Effect.NOW}
    assert set(effects(made.ready, **AT_RELAUNCH).values()) == {Effect.RELAUNCH}
    assert effects(made.ready, context=4096) == {"context": Effect.REPLACE}


def test_countries_replace_the_machine_only_where_it_may_not_stand_any_more(made):
    assert effects(made.ready, allowed_countries=["CZ"]) == {"allowed_countries": Effect.RELAUNCH}
    assert effects(made.ready, allowed_countries=["FR", "NL"]) == {"allowed_countries": Effect.REPLACE}
    local = Deployment.objects.get(name="first-try")
    assert effects(local, allowed_countries=["FR"]) == {"allowed_countries": Effect.RELAUNCH}


def test_countries_look_at_every_worker_of_an_endpoint(made):
    Instance.objects.filter(deployment=made.ready).update(places=[["EU-CZ-1", "CZ"], ["EU-NL-1", "NL"]])
    assert effects(made.ready, allowed_countries=["CZ"]) == {"allowed_countries": Effect.REPLACE}
    assert effects(made.ready, allowed_countries=["CZ", "NL"]) == {"allowed_countries": Effect.RELAUNCH}


def test_plaintext_replaces_only_a_machine_that_speaks_it(made):
    assert effects(made.ready, allow_plaintext=True) == {"allow_plaintext": Effect.RELAUNCH}
    assert effects(made.outbid, allow_plaintext=False) == {"allow_plaintext": Effect.REPLACE}


def test_nothing_is_replaced_where_nothing_stands(made):
    assert effects(made.failed, context=4096, allowed_countries=["FR"]) == {
        "context": Effect.RELAUNCH, "allowed_countries": Effect.RELAUNCH,
    }  # fmt: skip


# -- saving ------------------------------------------------------------------------------------------


def test_a_change_is_written_with_its_audit_and_its_event_and_rings(
    made, actor, rung, django_capture_on_commit_callbacks
):
    with django_capture_on_commit_callbacks(execute=True):
        save(made.ready, actor, name="renamed", price_ceiling=Decimal("0.90"))
    now = fresh(made.ready)
    assert (now.name, now.price_ceiling, now.generation) == ("renamed", Decimal("0.90"), 1)
    told = AuditEvent.objects.filter(action="deployment.settings").latest("sequence")
    assert told.before == {"name": "support-assistant", "price_ceiling": "none", "generation": 1}
    assert told.after == {"name": "renamed", "price_ceiling": "$0.9/h", "generation": 1}
    assert "Name: support-assistant to renamed" in Event.objects.get(kind="settings").reason
    assert ("deployments.tasks.look", (str(made.ready.pk),)) in rung


def test_what_the_machine_cannot_take_counts_the_generation_up(made, actor):
    save(made.ready, actor, context=4096)
    assert (fresh(made.ready).generation, made.ready.instances.get().generation) == (2, 1)
    save(made.ready, actor, policy="cheapest")
    assert fresh(made.ready).generation == 2


def test_nothing_is_replaced_without_being_agreed_to(made, actor):
    with pytest.raises(NeedsReplacing):
        save(made.ready, actor, may_replace=False, context=4096, name="renamed")
    assert (fresh(made.ready).context, fresh(made.ready).name) == (8192, "support-assistant")


def test_nothing_is_written_when_nothing_is_changed(made, actor, rung):
    before = AuditEvent.objects.count()
    assert save(made.ready, actor, name="support-assistant", price_ceiling=None) == ()
    assert AuditEvent.objects.count() == before
    assert not rung


def test_two_who_change_at_once_do_not_write_over_each_other(made, actor):
    loaded = fresh(made.ready)
    save(made.ready, actor, price_ceiling=Decimal(1))
    with pytest.raises(ChangeRefused, match="Somebody else"):
        change_settings(loaded, {"name": "renamed"}, actor=actor, now=timezone.now())
    assert fresh(made.ready).name == "support-assistant"


def test_a_terminated_deployment_takes_no_change(made, actor):
    Deployment.objects.filter(pk=made.ready.pk).update(desired=Desired.TERMINATED)
    with pytest.raises(ChangeRefused, match="terminated"):
        save(made.ready, actor, name="renamed")


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"context": 100}, "context"),
        ({"context": 1_000_000}, "context"),
        ({"stop_at": datetime(2020, 1, 1, tzinfo=UTC)}, "stop_at"),
        ({"delete_at": datetime(2020, 1, 1, tzinfo=UTC)}, "delete_at"),
        ({"allowed_countries": []}, "allowed_countries"),
        ({"allowed_countries": ["US"]}, "allowed_countries"),
        ({"time_zone": "Europe/Nowhere"}, "time_zone"),
        ({"time_zone": "../etc/passwd"}, "time_zone"),
        ({"schedule_days": "12345"}, "schedule_from"),
        ({"schedule_days": "1", "schedule_from": time(8), "schedule_until": time(8)}, "schedule_until"),
        ({"bid_policy": "raise"}, "bid_ceiling"),
    ],
)
def test_what_cannot_be_is_refused_beside_its_field_and_changes_nothing(made, actor, values, field):
    before = changes.fingerprint(fresh(made.ready))
    with pytest.raises(ChangeRefused) as refused:
        save(made.ready, actor, name="renamed", **values)
    assert refused.value.field == field
    assert changes.fingerprint(fresh(made.ready)) == before


def test_a_schedule_counts_from_its_next_edge_on(made, actor):
    save(
        made.ready, actor, schedule_days="12345", schedule_from=time(8), schedule_until=time(20), time_zone="Europe/Berlin"
    )  # fmt: skip
    now = fresh(made.ready)
    assert now.schedule_at is not None
    last = now.schedule.last_edge(timezone.now())
    assert last.at <= now.schedule_at


# -- the money that is held --------------------------------------------------------------------------


def held(deployment):
    return Reservation.objects.get(subject_id=deployment.instances.get().pk)


def test_an_earlier_stop_date_holds_less_and_none_holds_to_the_periods_end_again(made, actor):
    soon = timezone.now() + timedelta(hours=3)
    save(made.ready, actor, stop_at=soon)
    assert held(made.ready).until == soon
    save(made.ready, actor, stop_at=None)
    assert held(made.ready).until is None


def test_a_later_stop_date_that_the_budget_has_no_room_for_is_refused(made, actor):
    Instance.objects.exclude(deployment=made.ready).update(state=State.TERMINATED)
    save(made.ready, actor, stop_at=timezone.now() + timedelta(minutes=30))
    budgets.set_budget(Decimal(1), "day", True, actor=actor, now=timezone.now())
    with pytest.raises(ChangeRefused) as refused:
        save(made.ready, actor, stop_at=None)
    assert refused.value.field == "stop_at"
    assert fresh(made.ready).stop_at == held(made.ready).until


def test_an_earlier_stop_date_is_taken_whatever_the_budget_says(made, actor):
    budgets.set_budget(Decimal("0.01"), "day", True, actor=actor, now=timezone.now())
    save(made.ready, actor, stop_at=timezone.now() + timedelta(minutes=5))
    assert held(made.ready).until == fresh(made.ready).stop_at


# -- in the browser ----------------------------------------------------------------------------------


def settings(deployment):
    return reverse("deployment_settings", args=[deployment.pk])


def test_the_form_says_for_each_field_what_it_does(operator, made):
    page = text(operator.get(f"{made.ready.get_absolute_url()}?tab=settings"))
    for words in (
        "Takes effect at once",
        "At the next relaunch",
        "Replaces the machine: it is given back and a new one is rented",
        "without Czechia the machine is given back",
        "Nothing is changed yet",
    ):
        assert words in page


def test_the_fresh_form_sent_back_changes_nothing(operator, made):
    for deployment in (made.ready, made.outbid, made.starting):
        page = text(operator.post(settings(deployment), form(deployment), follow=True))
        assert "Nothing was changed." in page


def test_what_is_typed_is_told_before_it_is_saved(operator, made):
    ask = {"HX-Request": "true", "HX-Target": "changes"}
    url = f"{made.ready.get_absolute_url()}?tab=settings&{typed(made.ready, name='renamed')}"
    part = text(operator.get(url, headers=ask))
    assert "<html" not in part
    assert "renamed" in part
    assert "takes effect at once" in part
    assert "Save and replace" not in part
    url = f"{made.ready.get_absolute_url()}?tab=settings&{typed(made.ready, context=4096)}"
    part = text(operator.get(url, headers=ask))
    assert "Save and replace the machine" in part
    assert "bills $0.69/h" in part
    assert fresh(made.ready).name == "support-assistant"


def test_a_replacement_is_shown_first_and_saved_once_it_is_agreed_to(operator, made, rung):
    page = operator.post(settings(made.ready), form(made.ready, context=4096))
    assert page.status_code == 422
    assert "Save and replace the machine" in text(page)
    assert fresh(made.ready).context == 8192
    page = operator.post(settings(made.ready), form(made.ready, context=4096, replace="1"), follow=True)
    assert "a new one is rented" in text(page)
    assert "This machine is being replaced" in text(page)
    assert (fresh(made.ready).context, fresh(made.ready).generation) == (4096, 2)


def test_a_form_that_is_older_than_the_settings_is_shown_again_with_what_was_typed(operator, made, actor):
    old = form(made.ready, name="mine")
    save(made.ready, actor, price_ceiling=Decimal("0.90"))
    page = operator.post(settings(made.ready), old)
    assert page.status_code == 422
    assert "Somebody else changed these settings meanwhile." in text(page)
    assert 'value="mine"' in text(page)
    assert "$0.9/h" in text(page)
    seen = re.search(r'name="seen" value="(\w+)"', text(page))[1]
    assert operator.post(settings(made.ready), old | {"seen": seen}).status_code == 302
    assert fresh(made.ready).name == "mine"


def test_a_schedule_is_read_from_the_form(operator, made):
    typed_in = form(
        made.ready, schedule_days=["2", "1"], schedule_from="08:00", schedule_until="20:00", time_zone="Europe/Rome"
    )  # fmt: skip
    assert operator.post(settings(made.ready), typed_in).status_code == 302
    assert fresh(made.ready).schedule_days == "12"
    page = text(operator.get(made.ready.get_absolute_url()))
    assert "Europe/Rome" in page


def test_a_refusal_stands_beside_its_field_and_loses_nothing(operator, made):
    page = operator.post(settings(made.ready), form(made.ready, name="typed", time_zone="Mars/Base"))
    assert page.status_code == 422
    assert "There is no such time zone." in text(page)
    assert 'value="typed"' in text(page)


def test_who_may_only_see_has_no_form_and_a_terminated_one_neither(client, made):
    client.force_login(factories.viewer())
    page = text(client.get(f"{made.ready.get_absolute_url()}?tab=settings"))
    assert "settings-form" not in page
    assert "Reliability first" in page
    assert client.post(settings(made.ready), form(made.ready)).status_code == 403
    client.force_login(made.administrator)
    ended = Deployment.objects.get(name="load-test")
    assert "settings-form" not in text(client.get(f"{ended.get_absolute_url()}?tab=settings"))
    assert client.post(settings(ended), {}).status_code == 302
