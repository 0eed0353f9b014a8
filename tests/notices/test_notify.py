"""One open notice for each key, whoever raises it how often."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from django.db import connection, transaction

from panel.notices.models import Notice
from panel.notices.notify import clear_notice, open_notices, raise_notice
from tests import factories
from tests.conftest import NOW

LATER = NOW + timedelta(minutes=5)


def _raise(key="disk:full", *, now=NOW, severity="warning", title="The disk fills", **kwargs):
    return raise_notice(key, severity, title, now=now, **kwargs)


@pytest.mark.django_db
def test_saying_it_twice_shows_it_once_with_the_newest_words():
    first = _raise()
    again = _raise(now=LATER, severity="critical", title="The disk is full", detail="0 bytes", url="/x")
    assert first.pk == again.pk
    (notice,) = open_notices()
    assert (notice.severity, notice.title, notice.detail, notice.url) == (
        "critical",
        "The disk is full",
        "0 bytes",
        "/x",
    )
    assert (notice.raised_at, notice.last_seen_at) == (NOW, LATER)


@pytest.mark.django_db
def test_a_cleared_notice_is_closed_and_a_new_one_may_open():
    _raise()
    assert clear_notice("disk:full", now=LATER)
    assert not clear_notice("disk:full", now=LATER)
    assert not open_notices().exists()
    _raise(now=LATER)
    assert Notice.objects.count() == 2
    assert open_notices().get().raised_at == LATER


@pytest.mark.django_db
def test_keys_do_not_touch_each_other_and_the_newest_stands_first():
    _raise("a")
    _raise("b", now=LATER)
    assert [n.key for n in open_notices()] == ["b", "a"]
    clear_notice("a", now=LATER)
    assert [n.key for n in open_notices()] == ["b"]


@pytest.mark.django_db
def test_it_joins_the_callers_transaction():
    class Refused(Exception):
        pass

    @transaction.atomic
    def refused():
        _raise()
        raise Refused

    with pytest.raises(Refused):
        refused()
    assert not Notice.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_raised_by_many_at_once_it_opens_once():
    start, failures = threading.Barrier(8), []

    def raise_it():
        try:
            start.wait()
            for _ in range(5):
                with transaction.atomic():
                    _raise()
        except Exception as e:
            failures.append(e)
        finally:
            connection.close()

    threads = [threading.Thread(target=raise_it) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert failures == []
    assert Notice.objects.count() == 1


@pytest.mark.django_db
def test_an_administrator_reads_them_and_changes_nothing(client):
    client.force_login(factories.administrator())
    notice = _raise()
    assert "The disk fills" in client.get("/admin/notices/notice/").text
    assert client.get(f"/admin/notices/notice/{notice.pk}/change/").status_code == 200
    assert client.post(f"/admin/notices/notice/{notice.pk}/change/", {"title": "x"}).status_code == 403
    assert client.get("/admin/notices/notice/add/").status_code == 403
