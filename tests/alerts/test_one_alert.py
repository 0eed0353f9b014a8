"""One cause sends one alert, whichever loops have noticed it, and is acknowledged and cleared as one."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta

import pytest

from deployments import acts, decide, observe, turns
from deployments.lifecycle import State
from deployments.models import Deployment, Incident, Instance, ProviderAccount
from deployments.monitoring import incidents
from deployments.providers.base import Unauthorized
from deployments.step import Step
from panel.alerts import services
from panel.alerts.models import Delivery
from panel.alerts.routing import route
from panel.notices.models import Notice
from panel.notices.notify import INCIDENT_WITHIN, clear_notice, open_notices, raise_notice, shown_notices
from tests import factories
from tests.alerts import made
from tests.conftest import NOW
from tests.deployments.test_incidents import serving

pytestmark = pytest.mark.django_db
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)


@pytest.fixture
def account() -> ProviderAccount:
    return ProviderAccount.objects.create(name="Cloud", backend="runpod", credentials="a-key")


@pytest.fixture
def i(account) -> Instance:
    made.rule(made.channel("hook"), made.channel("room"))
    return serving(account)


def step(i: Instance) -> Step:
    """A worker's look at its deployment, under a lease."""
    token = uuid.uuid4()
    Deployment.objects.filter(pk=i.deployment_id).update(lease_token=token, lease_until=NOW + MINUTE)
    return Step(Deployment.objects.get(pk=i.deployment_id), {i.pk: i}, token, 0.0, lambda: NOW)  # type: ignore[arg-type]


def outbid(i: Instance) -> str:
    acts._advance(step(i), decide.Advance(i.pk, "a higher bid holds its GPU", to=State.OUTBID))
    return f"outbid:{i.pk}"


def not_relaunched(i: Instance) -> str:
    i.advance(State.DEGRADED, reason="2 probes in a row failed", now=NOW - MINUTE)
    turns.alert(step(i), decide.Alert(reason="No offer suits it now."))
    return f"relaunch:{i.deployment_id}"


def revoked(i: Instance) -> str:
    observe._failed(i.account, Unauthorized("The key was refused."), now=NOW)
    return f"account-key:{i.account_id}"


def spent(i: Instance) -> str:
    turns.set_desired(step(i), decide.SetDesired(reason="$9 of the budget of $9 a month is spent."))
    return f"stopped:{i.deployment_id}"


def look(now) -> None:
    """A round of each loop, the alerts' before the incidents' and after."""
    route(now=now)
    incidents.watch(now=now)
    route(now=now)


def told(**only) -> list[tuple[str, str, str]]:
    """(channel, occasion, what it is about) of every message."""
    sent = Delivery.objects.filter(**only).order_by("pk").select_related("channel")
    return [(d.channel.name, d.occasion, d.message["key"].partition(":")[0]) for d in sent]


ONE = [("hook", "raised", "incident"), ("room", "raised", "incident")]


@pytest.mark.parametrize("happen", [outbid, not_relaunched, revoked, spent], ids=lambda f: f.__name__)
def test_each_is_one_message_for_each_channel(i, happen: Callable[[Instance], str]):
    key = happen(i)
    for seconds in (1, 4, 60, 600):
        look(NOW + seconds * SECOND)
    assert told() == ONE
    part, shown = open_notices().get(key=key), shown_notices().get()
    assert (part.told_by, shown.key.partition(":")[0]) == (shown.key, "incident"), (
        "a page shows the incident alone"
    )
    # Whoever acknowledges the one has acknowledged the other and the incident, from either page.
    assert services.acknowledge(shown, actor=factories.operator(), now=NOW)
    incident = Incident.objects.get()
    assert incident.acknowledged_at == NOW
    assert incident.entries.filter(kind="acknowledged").count() == 1
    assert open_notices().get(key=key).acknowledged_at == NOW
    assert not services.acknowledge(shown, actor=factories.operator(), now=NOW)


def test_the_incident_says_what_the_other_notice_says(i):
    not_relaunched(i)
    for seconds in (1, 4):
        look(NOW + seconds * SECOND)
    assert Incident.objects.get().guess.count("It is not relaunched: No offer suits it now.") == 1


def test_over_they_are_over_together_and_that_is_told_once(i):
    key = not_relaunched(i)
    look(NOW)
    i.advance(State.READY, reason="it answers again", now=NOW + MINUTE)
    for minutes in (1, 4):
        look(NOW + minutes * MINUTE)
    assert told(occasion="resolved") == [("hook", "resolved", "incident"), ("room", "resolved", "incident")]
    assert not open_notices().exists(), key


def test_acknowledged_on_the_incidents_page_it_is_on_the_alerts_page_too(i):
    key = revoked(i)
    look(NOW)
    incidents.acknowledge(Incident.objects.get(), actor=factories.operator(), now=NOW)
    assert {n.acknowledged_at for n in open_notices()} == {NOW}
    assert open_notices().get(key=key).acknowledged_by == shown_notices().get().acknowledged_by != ""


def test_what_no_incident_takes_is_told_by_itself(i):
    raise_notice("outbid:1", "warning", "chat was outbid", now=NOW, cause=f"deployment:{uuid.uuid4()}")
    look(NOW + INCIDENT_WITHIN - SECOND)
    assert told() == []
    look(NOW + INCIDENT_WITHIN)
    assert told() == [("hook", "raised", "outbid"), ("room", "raised", "outbid")]
    clear_notice("outbid:1", now=NOW + INCIDENT_WITHIN)
    look(NOW + INCIDENT_WITHIN + SECOND)
    assert told(occasion="resolved") == [("hook", "resolved", "outbid"), ("room", "resolved", "outbid")]


def test_an_outage_tells_what_its_machines_lost_and_whoever_hears_of_one_of_them_alone(i, account):
    mine = str(i.deployment_id)
    others = [serving(account, n) for n in (1, 2)]
    made.rule(made.channel("mine"), name="mine", subjects=[mine])
    for each in (i, *others):
        not_relaunched(each)
    look(NOW)
    assert Incident.objects.get().kind == Incident.Kind.PROVIDER
    assert sorted(told()) == [(name, "raised", "incident") for name in ("hook", "mine", "room")]
    assert Notice.objects.filter(told_by=shown_notices().get().key).count() == 3


def test_what_an_incident_told_goes_with_it_when_it_becomes_part_of_another(i, account):
    first, second = i, serving(account, 1)
    for each in (first, second):
        not_relaunched(each)
    look(NOW)
    assert Incident.objects.count() == 2
    revoked(i)
    look(NOW + SECOND)
    left = shown_notices().get()
    assert Incident.objects.open().get().kind == Incident.Kind.KEY
    assert set(Notice.objects.filter(cause__startswith="deployment:").values_list("told_by", flat=True)) == {
        left.key
    }
