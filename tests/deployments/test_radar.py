"""The orphan radar: whose each machine is, what is done about those nobody knows, and that others' are left alone."""

from datetime import timedelta
from decimal import Decimal

import pytest
from django.urls import reverse
from django.utils import timezone

from billing import budgets
from billing.periods import calendar_month
from deployments import money, radar, services
from deployments.lifecycle import Desired
from deployments.models import Heartbeat, Installation, Instance, ListedMachine, ProviderAccount
from deployments.radar import Bin
from panel.audit.models import AuditEvent
from tests import factories
from tests.browser import scene
from tests.browser.scene_providers import listed

pytestmark = pytest.mark.django_db


@pytest.fixture
def made():
    return scene.build(now=timezone.now())


@pytest.fixture
def operator(client, made):
    client.force_login(factories.operator())
    return client


def text(response):
    return response.content.decode()


def bins():
    return {s.machine.remote_id: s.bin for s in radar.sightings(now=timezone.now())}


def of(machine):
    return next(s for s in radar.sightings(now=timezone.now()) if s.machine.pk == machine.pk)


def act(client, machine, action, **how):
    return client.post(reverse("radar_action", args=[machine.pk, action]), **how)


def test_a_bin_sums_every_price_it_knows_and_counts_what_has_none(operator, made):
    # A price is known though nobody says since when it runs.
    for n, price in (("aged", Decimal("3.25")), ("odd", None)):
        listed(made.account, n, "theirs", "", "CZ", price, None, now=timezone.now())
    ListedMachine.objects.exclude(label="theirs").delete()
    assert "$3.25/h now, 1 without a price" in text(operator.get(reverse("radar")))


# -- whose it is -------------------------------------------------------------------------------------


def test_every_machine_is_in_one_of_three_bins(made):
    found = bins()
    assert found[made.found.remote_id] is Bin.FOUND
    assert found[made.foreign.remote_id] is Bin.FOREIGN
    known = Instance.objects.may_exist().exclude(remote_id="").exclude(remote_id=made.found.remote_id)
    assert all(found[i.remote_id] is Bin.OURS for i in known)
    assert len(found) == known.count() + 3


@pytest.mark.parametrize("label", ["", "regia", "{key}", "x{key}-1", "regia0000aaaa-0123-1", "{label}0"])
def test_only_the_exact_label_makes_a_machine_ours(made, label):
    ours = made.ready.instances.get()
    label = label.format(key=Installation.own_key(), label=ours.label)
    strange = listed(made.account, "strange", label, "", "CZ", None, None, now=timezone.now())
    assert of(strange).bin is (Bin.FOUND if label == f"{ours.label}0" else Bin.FOREIGN)
    assert of(strange).instance is None


def test_a_second_machine_under_one_label_is_said_aloud(operator, made):
    ours = made.ready.instances.get()
    twin = listed(made.account, "twin", ours.label, "", "CZ", None, None, now=timezone.now())
    assert of(twin).doubled
    assert "a second one under this label" in text(operator.get(reverse("radar")))


def test_money_burned_is_age_times_price_and_unknown_without_either(made):
    now = timezone.now()
    machine = ListedMachine(usd_per_hour=Decimal("0.40"), remote_created_at=now - timedelta(hours=5))
    assert radar.burned(machine, now=now) == Decimal("2.00")
    for lacking in ({"usd_per_hour": None}, {"remote_created_at": None}):
        values = {"usd_per_hour": Decimal("0.40"), "remote_created_at": now} | lacking
        assert radar.burned(ListedMachine(**values), now=now) is None
    ahead = ListedMachine(usd_per_hour=Decimal("0.40"), remote_created_at=now + timedelta(hours=1))
    assert radar.burned(ahead, now=now) == 0


# -- what is done ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "words"), [("adopt", "Adopt it · $0.69/h"), ("terminate", "Terminate it")]
)
def test_a_decision_names_the_thing_and_its_cost_first(operator, made, action, words):
    page = text(operator.get(reverse("radar_action", args=[made.found.pk, action])))
    for said in (words, made.found.label, made.found.remote_id, "RunPod", "$0.69/h", "$5.0"):
        assert said in page
    assert of(made.found).may_decide


def test_an_adopted_machine_is_ours_and_runs_on(operator, made, rung):
    assert "is adopted" in text(act(operator, made.found, "adopt", follow=True))
    assert of(made.found).bin is Bin.OURS
    instance = Instance.objects.select_related("deployment").get(label=made.found.label)
    assert (instance.deployment.desired, instance.spared_until) == (Desired.RUNNING, None)


def test_the_kept_disk_of_an_adopted_machine_is_in_the_bound_as_the_list_tells_it(operator, made, rung):
    budget, now = budgets.current(), timezone.now()
    instance = Instance.objects.select_related("deployment", "account").get(label=made.found.label)
    hours = Decimal((calendar_month(now).end - now).total_seconds()) / 3600

    def kept(usd: str) -> bool:
        books = next(s for s in budgets.statuses(now=now) if s.budget == budget)
        return abs(books.kept - before - Decimal(usd) * hours) < Decimal("0.001")

    before = next(s for s in budgets.statuses(now=now) if s.budget == budget).kept
    Instance.objects.filter(pk=instance.pk).update(kept_usd_per_hour=Decimal("0.02"))
    services.adopt_found(instance.deployment, actor=factories.operator(), now=now)
    assert kept("0.02")
    instance.kept_usd_per_hour = Decimal("0.05")
    money.follow(instance, instance.observed, bills="", kept=Decimal("0.02"), last_seen=now, now=now)
    assert kept("0.05")


def test_a_found_machine_is_given_back_at_a_click_without_waiting(operator, made, rung):
    assert "is being terminated" in text(act(operator, made.found, "terminate", follow=True))
    instance = Instance.objects.get(label=made.found.label)
    assert instance.spared_until is None
    assert AuditEvent.objects.filter(action="deployment.terminate").exists()
    assert "is being given back" in text(operator.get(reverse("radar")))


def test_a_second_decision_is_answered_with_a_sentence(operator, made, rung):
    act(operator, made.found, "adopt")
    assert "Nothing is left to decide" in text(act(operator, made.found, "terminate", follow=True))
    instance = Instance.objects.select_related("deployment").get(label=made.found.label)
    assert instance.deployment.desired == Desired.RUNNING


@pytest.mark.parametrize("action", ["adopt", "terminate"])
def test_a_foreign_machine_is_never_touched(operator, made, rung, action):
    before = Instance.objects.count(), AuditEvent.objects.count()
    assert "Nothing is left to decide" in text(act(operator, made.foreign, action, follow=True))
    assert (Instance.objects.count(), AuditEvent.objects.count()) == before
    assert not rung


def test_a_foreign_machine_is_hidden_and_shown_again_audited(operator, made):
    act(operator, made.foreign, "hide", follow=True)
    assert made.foreign.label not in text(operator.get(reverse("radar")))
    page = text(operator.get(reverse("radar") + "?hidden=1"))
    assert made.foreign.label in page
    assert "Show again" in page
    act(operator, made.foreign, "show")
    act(operator, made.foreign, "show")
    assert made.foreign.label in text(operator.get(reverse("radar")))
    told = AuditEvent.objects.filter(target_type="deployments.listedmachine").order_by("sequence")
    assert [e.action for e in told] == ["listedmachine.hide", "listedmachine.show"]
    assert made.foreign.label not in str([e.after for e in told])


def test_what_carries_our_label_cannot_be_hidden(operator, made):
    assert "stays in sight" in text(act(operator, made.found, "hide", follow=True))
    made.found.refresh_from_db()
    assert not made.found.hidden


def test_a_machine_that_is_gone_meanwhile_is_said_to_be(operator, made):
    ListedMachine.objects.filter(pk=made.foreign.pk).delete()
    assert "in no list any more" in text(act(operator, made.foreign, "hide", follow=True))
    assert operator.post(reverse("radar_action", args=[1, "delete"])).status_code == 404


def test_who_may_only_see_decides_nothing(client, made):
    client.force_login(factories.viewer())
    assert client.get(reverse("radar")).status_code == 403
    assert act(client, made.found, "terminate").status_code == 403
    assert of(made.found).may_decide


# -- how old it is -----------------------------------------------------------------------------------


def test_an_old_list_turns_visibly_stale_and_says_why(operator, made):
    ProviderAccount.objects.filter(pk=made.account.pk).update(
        listed_at=timezone.now() - timedelta(minutes=8), list_error=""
    )
    page = text(operator.get(reverse("radar")))
    assert "Old: what stands below may have changed." in page
    assert "401: the key was refused." in page
    assert page.count('class="card stale"') == 2


def test_an_incomplete_list_is_said_though_it_is_fresh(operator, made):
    ProviderAccount.objects.filter(pk=made.account.pk).update(list_error="The list was incomplete.")
    assert "The list was incomplete." in text(operator.get(reverse("radar")))


def test_a_disabled_account_with_nothing_on_it_is_no_fault(made):
    ProviderAccount.objects.filter(name="Vast.ai research").update(enabled=False, list_error="")
    sweep = next(s for s in radar.sweeps((), now=timezone.now()) if s.account.name == "Vast.ai research")
    assert (sweep.stale, sweep.problem) == (False, "")


def test_a_silent_loop_is_said_on_the_radar(operator, made):
    Heartbeat.beat("reconcile", timezone.now() - timedelta(minutes=5))
    assert "control loop was last seen" in text(operator.get(reverse("radar")))


def test_a_poll_without_news_is_304_and_one_with_news_is_not(operator, made, django_assert_max_num_queries):
    ask = {"HX-Request": "true", "HX-Target": "radar"}
    first = operator.get(reverse("radar"), headers=ask)
    assert "<html" not in text(first)
    ListedMachine.objects.exclude(pk=made.foreign.pk).update(usd_per_hour=None)
    ListedMachine.objects.filter(pk=made.foreign.pk).update(remote_created_at=None)
    second = operator.get(reverse("radar"), headers=ask | {"If-None-Match": first["ETag"]})
    assert second.status_code == 200
    third = operator.get(reverse("radar"), headers=ask | {"If-None-Match": second["ETag"]})
    assert third.status_code == 304


def test_the_radar_asks_as_many_queries_with_more_machines(operator, made, django_assert_max_num_queries):
    def ask():
        with django_assert_max_num_queries(12) as asked:
            operator.get(reverse("radar"))
        return len(asked)

    few = ask()
    for n in range(30):
        listed(made.account, f"more-{n}", f"more-{n}", "", "US", None, None, now=timezone.now())
    assert ask() == few


def test_the_known_verb_agrees_with_the_radar(made):
    assert radar.unclaimed(Instance.objects.select_related("deployment").get(label=made.found.label))
    assert made.found.label.startswith(f"{Installation.own_key()}-")
    assert services.ADOPTABLE == "found-"
