"""What the machine says: lines that one expression reads, and no secret in any of them."""

from __future__ import annotations

import io
import random
import sys

import pytest
from regia_machine.exits import Exit
from regia_machine.report import CAUSE_LENGTH, LINE, Lines, Report

from tests.image.running import PROGRESS, parsed

SECRET, LONGER = "a-secret-of-the-machine", "a-secret-of-the-machine-and-more"


@pytest.fixture
def report() -> Report:
    return Report((SECRET, LONGER), started_at=0, clock=lambda: 61.9)


VALUES = [
    "plain", "two words", 'a "quoted" word', "back\\slash", 'both \\" at once', "", "line\nbreak", "tab\there", "é – 漢字",
    "=", "a=b", '"', "\\", "\x00\x1b[31m", "https://example.com/a?b=c", 12, 3.5,
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES)
def test_every_value_comes_back_from_its_line(report, capsys, value):
    report.phase("checking", detail=value, other=1)

    (line,) = capsys.readouterr().out.splitlines()

    assert LINE.fullmatch(line)
    printable = "".join(c if c.isprintable() else " " for c in str(value))
    assert parsed(line).values == {"detail": printable, "other": "1"}


def test_the_last_line_says_code_and_cause(report, capsys):
    report.exit(Exit.STARTING, "The engine ended.")

    assert capsys.readouterr().out == 'regia exit code=70 cause="The engine ended."\n'


def test_a_long_cause_keeps_its_end(report, capsys):
    report.exit(Exit.SERVING, "x" * 10_000 + " the reason")

    cause = parsed(capsys.readouterr().out.rstrip()).values["cause"]
    assert len(cause) <= CAUSE_LENGTH + 2
    assert cause.endswith("the reason")


def test_a_secret_is_masked_before_it_is_shortened(report, capsys):
    report.exit(Exit.SERVING, f"{LONGER}{'x' * (CAUSE_LENGTH - 10)}")

    assert "more" not in capsys.readouterr().out


def test_seconds_count_from_the_start(report):
    assert report.seconds() == 61


def test_an_engines_line_cannot_pass_for_one_of_the_machines_own(report, capsys):
    report.pass_on('regia exit code=0 cause="all is well"')

    (line,) = capsys.readouterr().out.splitlines()
    assert not PROGRESS.match(line)
    assert "all is well" in line


def test_secrets_are_masked_in_everything_that_is_said(report, capsys):
    report.phase("ending", detail=f"key {SECRET} and {LONGER}")
    report.pass_on(f"Authorization: Bearer {LONGER}")
    report.exit(Exit.ASKED, SECRET)

    said = capsys.readouterr().out
    assert "secret" not in said
    assert "more" not in said
    assert said.count("***") == 4


def test_a_new_key_is_masked_from_then_on(report, capsys):
    report.hide(["a-new-key-of-the-panel"])
    report.pass_on("a-new-key-of-the-panel")

    assert capsys.readouterr().out == "***\n"


def test_a_secret_with_a_quote_is_masked_too(capsys):
    report = Report(['pass"word\\of'], started_at=0)
    report.phase("ending", detail='it is pass"word\\of here')

    assert "word" not in capsys.readouterr().out


def test_nobody_reading_is_no_reason_to_fail(report, monkeypatch):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdout", closed)

    report.phase("ready")


# -- a child's output, in pieces ----------------------------------------------------------------


def fed(report: Report, data: bytes, sizes: list[int]) -> list[str]:
    lines, said, at = Lines(report), [], 0
    for size in sizes:
        said += lines.feed(data[at : at + size])
        at += size
    return [*said, *lines.feed(data[at:]), *lines.end()]


@pytest.mark.parametrize("seed", range(20))
def test_a_secret_is_masked_wherever_the_output_is_cut(report, seed):
    chance = random.Random(seed)
    data = f"first {SECRET}\n{LONGER} second\r\nthird é\r\r{SECRET}".encode()
    sizes = [chance.randint(1, 9) for _ in range(30)]

    assert fed(report, data, sizes) == ["first ***", "*** second", "third é", "***"]


@pytest.mark.parametrize("before", [16_380, 16_384, 32_750, 32_768, 40_000])
def test_a_secret_in_a_line_without_end_is_never_cut_in_two(report, before):
    data = b"x" * before + LONGER.encode() + b"y" * 70_000

    said = "".join(fed(report, data, [1000] * 200))

    assert said == "x" * before + "***" + "y" * 70_000


def test_a_progress_bars_steps_are_lines(report):
    assert fed(report, b"\r 10%\r 20%\r100%\n", []) == [" 10%", " 20%", "100%"]
