"""What is older than the policy says goes, what is younger stays, and what is held is not touched."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command

from panel.accounts.models import SignInLink
from panel.alerts.models import Window
from panel.audit.models import AuditEvent
from panel.notices.models import Notice
from panel.notices.notify import open_notices
from panel.privacy import policy, purging
from panel.privacy.models import LegalHold, PurgeRun
from tests import factories
from tests.conftest import NOW
from tests.privacy import made

pytestmark = pytest.mark.django_db

SECOND = timedelta(seconds=1)
LINKS = "accounts.SignInLink"


def link(*, age: timedelta, user=None) -> SignInLink:
    person = user or factories.operator()
    return SignInLink.objects.create(user=person, token_hash=f"{person.pk}-{age}", expires_at=NOW - age)


def windows(count: int) -> None:
    for _ in range(count):
        made.plain(Window, starts_at=NOW - timedelta(days=400), ends_at=NOW - timedelta(days=399))


@pytest.mark.parametrize(
    ("model", "term"), purging.duties(), ids=lambda value: getattr(value, "__name__", "")
)
def test_rows_older_than_the_policy_says_go_and_younger_ones_stay(model, term):
    edge = NOW if term.until else NOW - term.period
    old, young = made.row(model, term, edge - SECOND), made.row(model, term, edge + SECOND)
    done = purging.run(now=NOW)
    assert done.by_model.get(model._meta.label) == 1, done.errors
    left = set(model._base_manager.values_list("pk", flat=True))
    assert old.pk not in left
    assert young.pk in left


def test_every_retention_with_a_period_is_acted_on_by_the_purge_or_by_a_hand_that_registered():
    from django.apps import apps

    acted = {policy.entry_of(model)["retention"] for model, _ in purging.duties()}
    hands = {policy.entry_of(m).get("purged_by") for m in apps.get_models()} - {None}
    assert hands <= purging._hands.keys()
    timed = {word for word in policy.written()["retention"] if policy.period(word)}
    assert timed - acted == {"sample_values", "sample_minutes"}, "they are those of the samples"


def test_the_settings_that_end_a_session_and_a_lockout_are_the_policys():
    assert timedelta(seconds=settings.SESSION_COOKIE_AGE) == policy.kept_for("session")
    assert policy.kept_for("attempts") == settings.AXES_COOLOFF_TIME


def test_a_dry_run_counts_what_would_go_and_changes_nothing():
    windows(3)
    link(age=timedelta(days=31))
    told = StringIO()
    call_command("purge", "--dry-run", stdout=told)
    assert Window.objects.count() == 3
    assert not PurgeRun.objects.exists()
    assert not AuditEvent.objects.exists()
    found = purging.dry_run(now=NOW)
    assert found.by_model["alerts.Window"] == 3
    assert found.by_model[LINKS] == 1
    assert "alerts.Window: 3" in told.getvalue()
    assert "would go" in told.getvalue()


def test_a_run_goes_in_slices_is_kept_and_audited(monkeypatch):
    monkeypatch.setattr(purging, "SLICE", 2)
    windows(5)
    boss = factories.administrator()
    done = purging.run(now=NOW, actor=boss)
    assert (done.rows, done.by_model, done.state) == (5, {"alerts.Window": 5}, "done")
    assert not Window.objects.exists()
    (event,) = AuditEvent.objects.filter(action="privacy.purge")
    assert event.after == {"rows": 5, "held": 0, "errors": 0, "models": ["alerts.Window: 5"]}
    assert event.target_id == str(done.pk)
    assert event.actor == done.asked_by
    assert purging.run(now=NOW).rows == 0, "it may be repeated"


def test_rows_about_a_held_person_are_skipped_and_counted_and_go_when_the_hold_ends():
    held, other = factories.operator(), factories.operator()
    kept = link(age=timedelta(days=31), user=held)
    link(age=timedelta(days=31), user=other)
    hold = LegalHold.objects.create(person=held, reason="a dispute", since=NOW - timedelta(days=1))
    assert purging.dry_run(now=NOW).held[LINKS] == 1
    done = purging.run(now=NOW)
    assert (done.by_model[LINKS], done.held[LINKS]) == (1, 1)
    assert list(SignInLink.objects.all()) == [kept]
    LegalHold.objects.filter(pk=hold.pk).update(until=NOW)
    assert purging.run(now=NOW).by_model == {LINKS: 1}


def test_a_hold_on_a_kind_of_row_keeps_all_of_it_and_nothing_else():
    windows(2)
    link(age=timedelta(days=31))
    LegalHold.objects.create(model="alerts.Window", reason="an authority's letter", since=NOW)
    done = purging.run(now=NOW)
    assert done.held == {"alerts.Window": 2}
    assert done.by_model == {LINKS: 1}
    assert Window.objects.count() == 2


def test_samples_are_purged_by_their_own_hand_and_held_too(monkeypatch):
    gone = []
    hand = purging.Hand(count=lambda now: 7, purge=lambda now: gone.append(now) or 7)
    monkeypatch.setitem(purging._hands, "samples", hand)
    assert purging.dry_run(now=NOW).by_model["deployments.Sample"] == 7
    hold = LegalHold.objects.create(model="deployments.Sample", reason="x", since=NOW)
    assert purging.run(now=NOW).held == {"deployments.Sample": 7}
    assert not gone
    hold.delete()
    assert purging.run(now=NOW).by_model == {"deployments.Sample": 7}


def test_one_model_that_fails_keeps_no_other_ones_rows_and_somebody_is_told(monkeypatch):
    windows(1)
    whole = purging.over

    def broken(model, term, *, now):
        if model is SignInLink:
            raise RuntimeError("no such table")
        return whole(model, term, now=now)

    monkeypatch.setattr(purging, "over", broken)
    done = purging.run(now=NOW)
    assert done.by_model == {"alerts.Window": 1}
    assert list(done.errors) == [LINKS]
    assert done.state == "with errors"
    assert [n.key for n in open_notices()] == ["privacy:purge"]
    with pytest.raises(CommandError, match=LINKS):
        call_command("purge", stdout=StringIO())
    monkeypatch.setattr(purging, "over", whole)
    purging.run(now=NOW)
    assert not open_notices()
    assert Notice.objects.count() == 1


def test_it_runs_once_a_day():
    assert purging.due(now=NOW) is not None
    assert purging.due(now=NOW + timedelta(hours=23)) is None
    assert purging.due(now=NOW + timedelta(days=1)) is not None
    # A clock that was set back does not put it off for ever.
    assert purging.due(now=NOW - timedelta(days=30)) is not None
