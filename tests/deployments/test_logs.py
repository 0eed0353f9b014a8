"""The log of a machine: one call for everybody, followed and resumed, searched, masked, bounded."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from django.db import connections
from django.test import Client
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from deployments.lifecycle import Desired
from deployments.models import Breaker, Deployment, Instance
from deployments.models.account import ADAPTERS
from deployments.monitoring import logs
from deployments.monitoring.logs import GAP, Library, bounded, joined
from deployments.monitoring.logtext import Level, Line, lines_of
from deployments.providers.base import Gone, LogLine, RateLimited, Traits, Unavailable
from tests import factories
from tests.browser import scene

T0 = datetime(2026, 11, 24, 12, tzinfo=UTC)


def said(*texts: str, start: int = 0, source: str = "container") -> list[LogLine]:
    """One line a second, from second `start` on."""
    return [LogLine(T0 + timedelta(seconds=start + i), source, text) for i, text in enumerate(texts)]


def untimed(*texts: str) -> list[LogLine]:
    return [LogLine(None, "container", text) for text in texts]


def lines(told: Sequence[LogLine]) -> list[Line]:
    return list(lines_of(told))


def texts(found: Sequence[Line]) -> list[str]:
    return [line.text for line in found]


# -- joining ------------------------------------------------------------------------------------------


def test_what_is_read_twice_is_held_once() -> None:
    held, read = lines(said("a", "b", "c")), lines(said("b", "c", "d", start=1))
    assert texts(joined(held, read)) == ["a", "b", "c", "d"]


def test_a_line_that_comes_late_takes_its_place_in_time() -> None:
    late = lines([*said("a", "c"), *said("system", start=0, source="system")])
    assert texts(joined(lines(said("a", "c")), sorted(late, key=lambda n: n.at or T0))) == [
        "a",
        "system",
        "c",
    ]


def test_equal_lines_at_one_moment_are_as_many_as_were_said() -> None:
    twice = lines([*said("x"), *said("x")])
    assert texts(joined(lines(said("x")), twice)) == ["x", "x"]


def test_what_does_not_meet_says_that_lines_may_be_missing() -> None:
    assert joined(lines(said("a")), lines(said("z", start=500)))[1] == GAP
    assert joined(lines(untimed("a")), lines(untimed("z")))[1] == GAP


def test_a_log_without_times_is_joined_where_it_overlaps() -> None:
    held = lines(untimed("a", "b", "b", "c"))
    assert texts(joined(held, lines(untimed("b", "c", "b", "c")))) == ["a", "b", "b", "c", "b", "c"]
    assert texts(joined(held, lines(untimed("0", "a", "b", "b", "c", "d")))) == ["a", "b", "b", "c", "d"]


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=40), st.integers(1, 12), st.data())
def test_a_log_followed_through_a_window_loses_nothing_as_long_as_windows_overlap(
    log: list[str], tail: int, data: st.DataObject
) -> None:
    """Numbered lines; each look sees the last `tail`, and at most `tail - 1` new ones came since the look before."""
    numbered = [f"{i} {text}" for i, text in enumerate(log)]
    held: list[Line] = []
    end = 0
    while end < len(numbered):
        end = min(len(numbered), end + data.draw(st.integers(1, max(1, tail - 1))))
        held = joined(held, lines(untimed(*numbered[max(0, end - tail) : end])))
    first = next(i for i, text in enumerate(numbered) if text == held[0].text)
    if tail > 1:
        assert texts(held) == numbered[first:]


def test_a_book_is_bounded_in_lines_and_characters() -> None:
    many = [Line(None, "container", Level.INFO, f"{i} " + "x" * 1500) for i in range(logs.LINES_MOST + 10)]
    kept = bounded(many)
    assert kept[-1] == many[-1]
    assert sum(len(line.text) for line in kept) <= logs.CHARACTERS_MOST
    assert len(bounded([replace(line, text="x") for line in many])) == logs.LINES_MOST


# -- one call for everybody ------------------------------------------------------------------------------


class Teller:
    """A provider that says what it is told to say, and counts how often it was asked."""

    def __init__(self, *, apart: bool = False) -> None:
        self.traits = Traits(
            "runpod", "RunPod", can_stop=True, list_interval=5, unknown_grace=60, system_log_apart=apart
        )
        self.said: list[LogLine] = []
        self.of_system: list[LogLine] = []
        self.asked = 0
        self.fails: Callable[[], None] = lambda: None
        self.may_answer = threading.Event()
        self.may_answer.set()

    def logs(self, remote_id: str, *, tail: int = 200) -> tuple[LogLine, ...]:
        self.asked += 1
        self.may_answer.wait(20)
        self.fails()
        return tuple(self.said[-tail:])

    def system_logs(self, remote_id: str, *, tail: int = 200) -> tuple[LogLine, ...]:
        return tuple(self.of_system[-tail:])


@pytest.fixture
def teller(monkeypatch) -> Teller:
    made = Teller()
    monkeypatch.setitem(ADAPTERS, "runpod", lambda account: made)
    return made


@pytest.fixture
def clock() -> SimpleNamespace:
    return SimpleNamespace(now=1000.0)


@pytest.fixture
def library(clock, monkeypatch) -> Iterator[Library]:
    made = Library(clock=lambda: clock.now)
    monkeypatch.setattr(logs, "LIBRARY", made)
    yield made
    made._pool.shutdown(wait=True)


@pytest.fixture
def made(db) -> scene.Scene:
    return scene.build(now=timezone.now())


@pytest.fixture
def instance(made) -> Instance:
    return made.ready.instances.select_related("account").get()


def read(library: Library, instance: Instance, **more) -> logs.Reading:
    return library.read(instance, now=T0, **more)


def test_a_hundred_viewers_make_one_call(teller, library, instance) -> None:
    teller.said = said("a")
    teller.may_answer.clear()
    found: list[logs.Reading] = []

    def look() -> None:
        found.append(read(library, instance))
        connections.close_all()

    viewers = [threading.Thread(target=look) for _ in range(100)]
    for viewer in viewers:
        viewer.start()
    teller.may_answer.set()
    for viewer in viewers:
        viewer.join()
    assert teller.asked == 1
    assert [texts(r.lines) for r in found] == [["a"]] * 100


def test_it_is_asked_anew_once_the_book_is_old(teller, library, clock, instance) -> None:
    teller.said = said("a")
    for seconds in (0, 1, logs.FRESH - 1.1):
        clock.now += seconds
        read(library, instance)
    assert teller.asked == 1
    clock.now += logs.FRESH
    teller.said = said("b", start=1)
    assert texts(read(library, instance).lines) == ["a", GAP.text, "b"]
    assert teller.asked == 2


def test_a_slow_provider_holds_no_page_and_its_answer_is_kept(teller, clock, instance, monkeypatch) -> None:
    library = Library(clock=lambda: clock.now, patience=0.05)
    teller.said = said("late")
    teller.may_answer.clear()
    assert "did not answer within" in read(library, instance).problem
    assert "did not answer within" in read(library, instance).problem
    teller.may_answer.set()
    library._pool.shutdown(wait=True)
    assert texts(read(library, instance).lines) == ["late"]
    assert teller.asked == 1


def test_a_rate_limit_is_obeyed_and_what_was_read_stays(teller, library, clock, instance) -> None:
    def limited() -> None:
        raise RateLimited("Too many.", retry_after=60)

    teller.said = said("a")
    read(library, instance)
    clock.now += logs.FRESH
    teller.fails = limited
    assert "not asked again for 60 s" in read(library, instance).problem
    clock.now += 59
    assert texts(read(library, instance).lines) == ["a"]
    assert teller.asked == 2
    clock.now += 2
    read(library, instance)
    assert teller.asked == 3


def test_an_account_that_is_held_back_is_not_asked(teller, library, instance) -> None:
    Breaker.objects.create(
        account=instance.account, call=Breaker.Call.READ, failures=9, open_until=T0 + timedelta(seconds=40)
    )
    assert "not asked again for 40 s" in read(library, instance).problem
    assert teller.asked == 0
    assert library.read(instance, now=T0 + timedelta(seconds=41)).problem == "The log is empty so far."


@pytest.mark.parametrize(
    ("error", "words", "over"),
    [
        (Gone("no such pod"), "RunPod has no such machine any more", True),
        (Unavailable("no answer"), "RunPod did not give the log: no answer", False),
        (KeyError("odd"), "answered with what cannot be read (KeyError)", False),
    ],
)
def test_a_failure_says_why_and_keeps_the_lines(teller, library, clock, instance, error, words, over) -> None:
    def fail() -> None:
        raise error

    teller.said = said("a")
    read(library, instance)
    clock.now += logs.FRESH
    teller.fails = fail
    after = read(library, instance)
    assert words in after.problem
    assert after.over is over
    assert texts(after.lines) == ["a"]


def test_the_oldest_book_makes_room(teller, clock, instance) -> None:
    library = Library(clock=lambda: clock.now, books=2)
    for n in range(3):
        library._book((instance.pk, str(n)))
    assert [key[1] for key in library._books] == ["1", "2"]


def test_the_machines_own_secrets_and_its_accounts_are_masked(teller, library, instance) -> None:
    Instance.objects.filter(pk=instance.pk).update(
        birth_key="born-with-this", next_key="comes-next-1", tls_key="secret-of-tls"
    )
    fresh = Instance.objects.select_related("account").get(pk=instance.pk)
    secrets = [fresh.api_key, "born-with-this", "comes-next-1", "secret-of-tls", fresh.account.credentials]
    teller.said = said(*(f"it is {secret}." for secret in secrets))
    assert texts(read(library, fresh).lines) == ["it is ***."] * len(secrets)


def test_lines_without_a_time_stay_with_the_line_before(teller, library, clock, instance) -> None:
    teller.said = [
        LogLine(None, "container", "cut off"),
        *said("a"),
        LogLine(None, "container", "  of a"),
        *said("b", start=5),
    ]
    assert texts(read(library, instance).lines) == ["a", "  of a", "b"]
    clock.now += logs.FRESH
    assert texts(read(library, instance).lines) == ["a", "  of a", "b"]


# -- the page ------------------------------------------------------------------------------------------------


@pytest.fixture
def viewer(client, made, library) -> Client:
    client.force_login(factories.viewer())
    return client


@pytest.fixture
def path(made) -> str:
    return f"/deployments/{made.ready.pk}/logs/"


def shown(page) -> list[str]:
    """The lines of a page, or of the part that follows, as text."""
    log = page.text.partition('<div class="log-lines"')[2].partition(">")[2] or page.text
    return [
        re.sub(r"<[^>]+>", "", row).replace("24 Nov ", "")
        for row in re.findall(r"(?m)^<p(?: class=\"\w+\")?>(.*)</p>$", log)
    ]


def more(client: Client, path: str, page) -> object:
    """What a page that follows asks next."""
    at = re.search(r'id="log-more"[^>]*hx-get="[^"?]*(\?[^"]*)"', page.text)
    assert at, "it does not follow"
    address = path + at[1].replace("&amp;", "&")
    return client.get(address, headers={"HX-Request": "true", "HX-Target": "log-more"})


def test_the_page_shows_times_levels_and_sources(viewer, teller, path) -> None:
    teller.said = [*said("ERROR 11-28 14:48:33 [a.py:1] boom"), *said("created", start=1, source="system")]
    page = viewer.get(path)
    assert shown(page) == [
        "12:00:00 ERROR ERROR 11-28 14:48:33 [a.py:1] boom",
        "12:00:01 system created",
    ]
    assert 'datetime="2026-11-24T12:00:00+00:00"' in page.text


def test_the_day_is_told_unless_it_is_today(viewer, teller, path) -> None:
    now = timezone.now()
    teller.said = [*said("long ago"), LogLine(now, "container", "just now")]
    page = viewer.get(path).text
    assert ">24 Nov 12:00:00</time> long ago" in page
    assert f">{now:%H:%M:%S}</time> just now" in page


def test_it_is_searched_whatever_the_case_and_hits_are_marked(viewer, teller, path) -> None:
    teller.said = said("Loading weights", "<b>weights</b> & more", "else")
    page = viewer.get(path, {"q": "WEIGHTS"})
    assert "Loading <mark>weights</mark>" in page.text
    assert "&lt;b&gt;<mark>weights</mark>&lt;/b&gt; &amp; more" in page.text
    assert len(shown(page)) == 2
    assert "None of the 3 lines fits" in viewer.get(path, {"q": "nothing has this"}).text


def test_levels_and_sources_narrow_it(viewer, teller, path) -> None:
    teller.said = [*said("INFO fine", "WARNING hm", "ERROR no"), *said("created", start=9, source="system")]
    assert len(shown(viewer.get(path, {"level": "warning"}))) == 2
    assert shown(viewer.get(path, {"level": "error"})) == ["12:00:02 ERROR ERROR no"]
    assert shown(viewer.get(path, {"source": "system"})) == ["12:00:09 system created"]


def test_local_times_are_the_deployments_until_a_script_knows_better(viewer, teller, path, made) -> None:
    Deployment.objects.filter(pk=made.ready.pk).update(time_zone="Europe/Prague")
    teller.said = said("a")
    page = viewer.get(path, {"time": "local"})
    assert shown(page) == ["13:00:00 a"]
    assert "times in Europe/Prague" in page.text
    assert shown(viewer.get(path)) == ["12:00:00 a"]


def test_a_page_that_follows_gets_what_is_new_and_nothing_twice(viewer, teller, path, clock) -> None:
    teller.said = said("a", "b")
    page = viewer.get(path)
    assert more(viewer, path, page).status_code == 204
    clock.now += logs.FRESH
    teller.said = said("b", "c", start=1)
    fresh = more(viewer, path, page)
    assert shown(fresh) == ["12:00:02 c"]
    assert "<html" not in fresh.text
    clock.now += logs.FRESH
    assert more(viewer, path, fresh).status_code == 204


def test_a_search_that_follows_passes_over_what_does_not_fit(viewer, teller, path, clock) -> None:
    teller.said = said("hit 1", "miss")
    page = viewer.get(path, {"q": "hit"})
    clock.now += logs.FRESH
    teller.said = said("hit 1", "miss", "miss", "hit 2")
    assert shown(more(viewer, path, page)) == ["12:00:03 hit 2"]


def test_a_place_that_is_lost_brings_the_whole_log_again(viewer, teller, path, monkeypatch, clock) -> None:
    teller.said = said("a", "b")
    page = viewer.get(path)
    # The panel is started again, and meanwhile the provider has let the old lines go.
    monkeypatch.setattr(logs, "LIBRARY", Library(clock=lambda: clock.now))
    teller.said = said("y", "z", start=900)
    again = more(viewer, path, page)
    assert again["HX-Retarget"] == "#log"
    assert shown(again) == ["12:15:00 y", "12:15:01 z"]


def test_another_process_goes_on_from_the_same_place(viewer, teller, path, monkeypatch, clock) -> None:
    teller.said = said("a", "b", "c", "d", "e")
    page = viewer.get(path)
    monkeypatch.setattr(logs, "LIBRARY", Library(clock=lambda: clock.now))
    teller.said = said("a", "b", "c", "d", "e", "f")
    assert shown(more(viewer, path, page)) == ["12:00:05 f"]


def test_an_empty_log_fills_by_itself(viewer, teller, path, clock) -> None:
    page = viewer.get(path)
    assert "The log is empty so far" in page.text
    assert more(viewer, path, page).status_code == 204
    clock.now += logs.FRESH
    teller.said = said("a")
    assert shown(more(viewer, path, page)) == ["12:00:00 a"]


def test_following_ends_when_it_is_paused_and_when_the_machine_is_gone(viewer, teller, path, clock) -> None:
    def gone() -> None:
        raise Gone("no such pod")

    teller.said = said("a")
    page = viewer.get(path)
    assert 'id="log-more"' not in viewer.get(path, {"follow": "off"}).text
    clock.now += logs.FRESH
    teller.fails = gone
    assert 'id="log-more"' not in more(viewer, path, page).text
    assert "RunPod has no such machine any more" in viewer.get(path).text


def test_the_newest_lines_are_shown_and_the_rest_on_demand(viewer, teller, path) -> None:
    teller.said = said(*(f"line {i}" for i in range(600)))
    page = viewer.get(path)
    assert len(shown(page)) == 500
    assert "100 older lines are held" in page.text
    assert len(shown(viewer.get(path, {"lines": "4000"}))) == 600


def test_what_the_provider_keeps_apart_is_asked_for_by_itself(viewer, path, monkeypatch) -> None:
    made = Teller(apart=True)
    monkeypatch.setitem(ADAPTERS, "runpod", lambda account: made)
    made.said, made.of_system = untimed("inside"), [LogLine(None, "system", "Pull complete")]
    assert "a log of its own" in viewer.get(path).text
    assert shown(viewer.get(path, {"source": "system"})) == ["system Pull complete"]
    assert "a log of its own" not in viewer.get(path, {"source": "system"}).text


def test_the_download_is_text_in_utc_without_secrets(viewer, teller, path, instance) -> None:
    teller.said = said(f"key {instance.api_key}", "ERROR no")
    answer = viewer.get(f"{path}download/", {"level": "error"})
    assert answer["Content-Type"] == "text/plain; charset=utf-8"
    assert re.fullmatch(
        r'attachment; filename="support-assistant-1-\d{8}T\d{6}Z\.log"', answer["Content-Disposition"]
    )
    assert answer.text == "2026-11-24T12:00:01.000Z container error ERROR no\n"
    assert instance.api_key not in viewer.get(f"{path}download/").text


@pytest.mark.parametrize(
    "query",
    [
        "lines=0",
        "lines=-1",
        "lines=٣",
        "lines=999999",
        "level=x",
        "source=panel",
        "after=%00",
        "q=%00",
        "time=mars",
    ],
)
def test_a_strange_address_is_answered_with_the_page(viewer, teller, path, query) -> None:
    teller.said = said("a")
    assert viewer.get(f"{path}?{query}").status_code == 200
    assert (
        viewer.get(f"{path}?{query}", headers={"HX-Request": "true", "HX-Target": "log-more"}).status_code
        == 200
    )


def test_the_log_says_how_far_the_machine_is(viewer, teller, path) -> None:
    teller.said = said("regia phase=loading seconds=20")
    assert "Loading the model for 20 s" in viewer.get(path).text


def test_a_deployment_without_a_machine_has_no_log(viewer, path, made) -> None:
    made.ready.instances.update(remote_id="")
    assert "There is no machine yet" in viewer.get(path).text
    Deployment.objects.filter(pk=made.ready.pk).update(desired=Desired.TERMINATED)
    assert viewer.get(f"{path}download/").status_code == 200
