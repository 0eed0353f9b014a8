"""`./regia up`, `link` and what they refuse, with real processes."""

from __future__ import annotations

import os
import re
import signal
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from http.cookiejar import CookieJar
from pathlib import Path

import pytest

from panel.holding import HOST_FRESH, HostMark, Refused
from tests.command.running import Panel, command, free_port, gone, until

Start = Callable[..., Panel]


@pytest.fixture
def start(data: Path) -> Iterator[Start]:
    """Start panels on `data`, and end them after the test."""
    panels: list[Panel] = []

    def begin(*, leftovers: dict[str, str] | None = None, **options: object) -> Panel:
        for name, text in (leftovers or {}).items():
            (data / "broker" / name).write_text(text)
        panels.append(Panel(data, **options))  # type: ignore[arg-type]
        return panels[-1]

    yield begin
    for panel in panels:
        panel.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Panel]:
    """One panel for the tests that leave it as it was."""
    panel = Panel(tmp_path_factory.mktemp("regia") / "data")
    panel.wait_for("leaves machines running")
    yield panel
    panel.close()


def one_sentence(text: str) -> bool:
    return text.startswith("regia: ") and len(text.strip().splitlines()) == 1 and "Traceback" not in text


def visit(url: str, jar: CookieJar | None = None) -> tuple[int, str]:
    """(status, where it ended) of a GET, and of a sign-in link's button. Cookies are kept in `jar`."""
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}),
        urllib.request.HTTPCookieProcessor(jar if jar is not None else CookieJar()),
    )
    try:
        with opener.open(url, timeout=30) as page:
            if "/sign-in/" not in url:
                return page.status, page.geturl()
            token = re.findall(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.read().decode())
        button = urllib.parse.urlencode({"csrfmiddlewaretoken": token[0]}).encode()
        with opener.open(url, button, timeout=30) as answer:
            return answer.status, answer.geturl()
    except urllib.error.HTTPError as e:
        return e.code, e.geturl()


def test_the_printed_link_is_kept_in_no_log(running: Panel) -> None:
    token = running.link.rstrip("/").rpartition("/")[2]
    assert len(token) > 20
    for log in (running.data / "logs").iterdir():
        assert token not in log.read_text(), log.name


def test_the_web_says_that_it_lives_and_names_no_server(running: Panel) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{running.port}/healthz", timeout=30) as answer:
        assert answer.status == 200
        assert answer.headers["Server"] is None


def test_a_second_start_on_the_same_data_names_the_first(running: Panel) -> None:
    second = command("up", "--data-dir", str(running.data), "--port", str(free_port()))
    assert second.returncode == 1
    assert one_sentence(second.stderr)
    assert f"process {running.process.pid}" in second.stderr
    assert running.process.poll() is None


def test_link_prints_a_fresh_link_of_the_running_panel(running: Panel) -> None:
    asked = command("link", "--data-dir", str(running.data))
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.startswith(f"http://127.0.0.1:{running.port}/sign-in/")
    assert asked.stdout.strip() != running.link


def test_a_link_signs_in_once(running: Panel) -> None:
    link = command("link", "--data-dir", str(running.data)).stdout.strip()
    jar = CookieJar()
    status, _ = visit(link, jar)
    assert status == 200
    assert any(c.name == "regia_session" for c in jar)
    again = CookieJar()
    status, _ = visit(link, again)
    assert status == 410
    assert not any(c.name == "regia_session" for c in again), "a used link must not sign in"


def test_link_without_a_panel_says_what_to_do(tmp_path: Path) -> None:
    asked = command("link", "--data-dir", str(tmp_path))
    assert asked.returncode == 1
    assert one_sentence(asked.stderr)
    assert "./regia up" in asked.stderr


def test_a_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = command("up", "--data-dir", str(tmp_path / "data"), "--port", str(port))
    assert refused.returncode == 1
    assert one_sentence(refused.stderr)
    assert str(port) in refused.stderr


def test_an_unwritable_folder_is_one_sentence(tmp_path: Path) -> None:
    # Below a file, so that it holds for root too.
    (tmp_path / "file").write_text("")
    refused = command("up", "--data-dir", str(tmp_path / "file" / "data"))
    assert refused.returncode == 1
    assert one_sentence(refused.stderr)
    assert "cannot be written" in refused.stderr


def test_a_database_that_cannot_be_opened_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "regia.sqlite3").mkdir()
    refused = command("up", "--data-dir", str(tmp_path), "--port", str(free_port()))
    assert refused.returncode == 1
    assert one_sentence(refused.stderr)
    assert "cannot be opened" in refused.stderr


def test_a_postgresql_that_is_not_there_is_one_sentence_without_the_password(tmp_path: Path) -> None:
    url = f"postgres://regia:s3cret-word@127.0.0.1:{free_port()}/regia"
    refused = command("up", "--data-dir", str(tmp_path), "--port", str(free_port()), DATABASE_URL=url)
    assert refused.returncode == 1
    assert one_sentence(refused.stderr)
    assert "s3cret-word" not in refused.stderr + (tmp_path / "logs" / "prepare.log").read_text()


def test_a_setting_that_makes_no_sense_is_one_sentence(tmp_path: Path) -> None:
    refused = command("up", "--data-dir", str(tmp_path), "--port", str(free_port()), REGIA_DEBUG="perhaps")
    assert refused.returncode == 1
    assert one_sentence(refused.stderr)
    assert "REGIA_DEBUG" in refused.stderr


@pytest.mark.parametrize(
    "flags", [("--port", "0"), ("--port", "x"), ("--port",), ("--colour",), ("--por", "8400"), ("stray",)]
)
def test_a_bad_flag_is_one_sentence(flags: tuple[str, ...]) -> None:
    refused = command("up", *flags)
    assert refused.returncode == 2
    assert one_sentence(refused.stderr)


def test_an_unknown_host_is_one_sentence(tmp_path: Path) -> None:
    refused = command("up", "--data-dir", str(tmp_path), "--host", "no.such.host.invalid")
    assert refused.returncode == 1
    assert one_sentence(refused.stderr)


def test_another_host_on_the_same_sqlite_is_refused(tmp_path: Path) -> None:
    (tmp_path / "regia.host").write_text("another-host\n")
    refused = command("up", "--data-dir", str(tmp_path), "--port", str(free_port()))
    assert refused.returncode == 1
    assert one_sentence(refused.stderr)
    assert "another-host" in refused.stderr


def test_a_host_that_is_long_gone_holds_nobody_up(tmp_path: Path) -> None:
    mark = HostMark(tmp_path)
    mark.path.write_text("another-host\n")
    with pytest.raises(Refused):
        mark.check()
    then = mark.path.stat().st_mtime - HOST_FRESH - 1
    os.utime(mark.path, (then, then))
    mark.check()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_every_child_and_says_what_still_runs(start: Start, number: signal.Signals) -> None:
    panel = start()
    panel.wait_for("leaves machines running")
    children = panel.children()
    assert panel.end(number) == 0
    assert gone(children)
    assert "No machine runs, and nothing bills." in panel.output
    assert not (panel.data / "regia.host").exists()


def test_nothing_survives_a_killed_supervisor_and_the_next_start_works_at_once(start: Start) -> None:
    first = start()
    first.wait_for("leaves machines running")
    children = first.children()
    first.process.kill()
    first.process.wait()
    second = start(port=first.port)
    second.wait_for("leaves machines running")
    until(lambda: gone(children), message="a child of the killed supervisor is still there")
    assert second.end() == 0


def test_everything_killed_at_once_starts_again(start: Start) -> None:
    first = start()
    first.wait_for("leaves machines running")
    for process in [first.process, *first.children()]:
        process.kill()
    first.process.wait()
    second = start(port=first.port)
    second.wait_for("leaves machines running")
    assert second.link != first.link
    assert second.end() == 0


def test_what_a_kill_left_in_the_broker_folder_holds_nobody_up(start: Start) -> None:
    panel = start(leftovers={"control/regia.exchange": "", "queue/1_a.regia.msg": '{"cut sh'})
    panel.wait_for("leaves machines running")
    # It answers 200 once the clock has reached the worker.
    until(
        lambda: visit(f"http://127.0.0.1:{panel.port}/readyz")[0] == 200,
        message="the clock reached no worker",
    )
    assert "process ended" not in panel.output


@pytest.mark.parametrize("name", ["web", "worker"])
def test_a_child_that_dies_is_started_again_and_told(start: Start, name: str) -> None:
    panel = start()
    panel.wait_for("leaves machines running")
    killed = panel.child(name)
    killed.kill()
    panel.wait_for(f"the {name} process ended (signal SIGKILL)")
    until(
        lambda: any(c.cmdline()[-1] == name and c.pid != killed.pid for c in panel.children()),
        message=f"no new {name} process",
    )
    assert visit(f"http://127.0.0.1:{panel.port}/healthz")[0] == 200


def test_links_are_not_printed_where_output_is_a_log(start: Start) -> None:
    panel = start(REGIA_PRINT_LINK="0")
    assert panel.link == f"http://127.0.0.1:{panel.port}/"
