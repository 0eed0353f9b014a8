"""A pack is asked for, written by a worker, fetched, and let go after a week; each of it is audited."""

from __future__ import annotations

import errno
from datetime import UTC, datetime, timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from panel.audit import chain
from panel.audit.models import AuditEvent
from panel.evidence import proof, services
from panel.evidence.models import Pack
from tests import factories
from tests.conftest import NOW

pytestmark = pytest.mark.django_db
START, END = datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)
HERE = lambda: NOW  # noqa: E731


@pytest.fixture
def ada(client):
    ada = factories.administrator()
    client.force_login(ada)
    return ada


@pytest.fixture
def small(only):
    only(acts=(("who",), [("ada",)]))


def ask(ada, **kwargs) -> Pack:
    return services.ask(kwargs.get("start", START), kwargs.get("end", END), actor=ada, now=NOW)


def acts() -> list[str]:
    return list(AuditEvent.objects.order_by("sequence").values_list("action", flat=True))


def test_asking_writing_and_fetching_stand_in_the_audit(
    client, ada, small, rung, django_capture_on_commit_callbacks
):
    with django_capture_on_commit_callbacks(execute=True):
        pack = ask(ada)
    assert rung == [(services.BUILD, (str(pack.pk),))]
    services.build(pack.pk, clock=HERE)
    answer = client.get(reverse("evidence_download", args=[pack.pk]))
    content = answer.getvalue()
    assert answer["Content-Disposition"] == 'attachment; filename="regia-evidence-2026-10-01-2026-10-31.zip"'
    assert len(content) == int(answer["Content-Length"]) == services.path_of(pack).stat().st_size
    assert proof.check(services.path_of(pack)).problems == []
    assert acts() == ["evidence.export", "evidence.ready", "evidence.download"]
    asked, ready, _ = AuditEvent.objects.order_by("sequence")
    assert asked.actor == chain.pseudonym_of(ada)
    assert asked.after == {"start": START.isoformat(), "end": END.isoformat()}
    pack.refresh_from_db()
    assert (ready.after["whole"], ready.after["sha256"]) == (pack.whole, pack.sha256)
    assert (pack.state, pack.rows) == ("ready", 1)


def test_without_the_audit_nothing_is_exported(ada, small, monkeypatch):
    def refuse(*args, **kwargs):
        raise chain.AuditUnavailable("no disk")

    monkeypatch.setattr(chain, "record", refuse)
    with pytest.raises(chain.AuditUnavailable):
        ask(ada)
    assert not Pack.objects.exists()


def test_a_period_that_makes_no_sense_is_refused_and_one_that_runs_ends_now(ada):
    with pytest.raises(services.BadPeriod, match="has not begun"):
        ask(ada, start=NOW + timedelta(days=1), end=NOW + timedelta(days=2))
    with pytest.raises(services.BadPeriod, match="Ten years"):
        ask(ada, start=NOW - timedelta(days=5000))
    assert ask(ada, end=NOW + timedelta(days=9)).end == NOW


def test_asked_twice_it_is_written_once(ada, small):
    assert ask(ada) == ask(ada)
    pack = Pack.objects.get()
    services.build(pack.pk, clock=HERE)
    services.build(pack.pk, clock=HERE)
    assert acts() == ["evidence.export", "evidence.ready"]
    assert ask(ada) != pack  # it is ready: another one may be asked for


def test_a_writer_that_died_is_followed_by_another(ada, small, rung):
    pack = ask(ada)
    Pack.objects.update(state=Pack.State.WRITING, beat_at=NOW)
    services.build(pack.pk, clock=HERE)
    assert Pack.objects.get().state == "writing"
    later = NOW + services.SILENT + timedelta(seconds=1)
    services.tick(clock=lambda: later)
    assert (services.BUILD, (str(pack.pk),)) in rung
    services.build(pack.pk, clock=lambda: later)
    assert Pack.objects.get().state == "ready"


def test_a_full_disk_is_said_and_leaves_nothing(ada, only, evidence_folder):
    def rows():
        yield ("one",)
        raise OSError(errno.ENOSPC, "No space left on device")

    only(acts=(("who",), rows()))
    pack = ask(ada)
    services.build(pack.pk, clock=HERE)
    pack.refresh_from_db()
    assert (pack.state, pack.error) == ("failed", "The disk did not take it: No space left on device.")
    assert list(evidence_folder.iterdir()) == []


def test_after_a_week_it_is_let_go(ada, small, evidence_folder):
    pack = ask(ada)
    services.build(pack.pk, clock=HERE)
    (evidence_folder / "work-dead").mkdir()
    assert services.purge(now=NOW + services.KEPT) == 0
    assert services.purge(now=max(NOW, timezone.now()) + services.KEPT + timedelta(days=2)) == 1
    assert list(evidence_folder.iterdir()) == []
    assert not Pack.objects.exists()


def test_the_page_shows_how_far_it_is_and_then_the_file(client, ada, small):
    page = client.get(reverse("evidence"))
    assert "No pack yet" in page.text
    assert "Acts" in page.text
    client.post(reverse("evidence"), {"first": "2026-10-01", "last": "2026-10-31"})
    pack = Pack.objects.get()
    assert (pack.start, pack.end) == (START, END)
    assert "for a worker" in client.get(reverse("evidence")).text
    Pack.objects.update(state="writing", section="Audit: acts", rows=12_000)
    part = client.get(reverse("evidence"), headers={"HX-Request": "true", "HX-Target": "packs"}).text
    assert "Audit: acts, 12,000 rows so far" in part
    assert 'hx-trigger="every 2s"' in part
    assert client.get(reverse("evidence_download", args=[pack.pk])).status_code == 404
    Pack.objects.update(state="waiting")
    services.build(pack.pk)
    page = client.get(reverse("evidence")).text
    assert reverse("evidence_download", args=[pack.pk]) in page
    assert "every 2s" not in page
    services.path_of(pack).unlink()
    assert client.get(reverse("evidence_download", args=[pack.pk])).status_code == 404


def test_a_bad_period_is_told_where_it_was_typed(client, ada):
    page = client.post(reverse("evidence"), {"first": "2026-10-31", "last": "2026-10-01"})
    assert page.status_code == 422
    assert "The last day lies before the first." in page.text
    page = client.post(reverse("evidence"), {"first": "2999-01-01", "last": "2999-01-02"})
    assert "This day has not begun" in page.text
    assert client.post(reverse("evidence"), {"first": "9999-12-31", "last": "9999-12-31"}).status_code == 422
