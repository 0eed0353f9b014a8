"""What a machine says of its own way up, read from its log: our lines, and nothing that anybody else writes."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments import progress
from deployments.progress import Progress, latest, parse

IMAGE = Path(__file__).resolve().parents[2] / "inference_image"


@pytest.mark.parametrize(
    ("line", "phase", "values"),
    [
        ("regia phase=loading", "loading", {}),
        ("regia phase=loading\n", "loading", {}),
        ("regia phase=loading\r", "loading", {}),
        ("regia phase=ready seconds=210", "ready", {"seconds": "210"}),
        ("regia phase=downloading bytes=10 of=40 percent=25", "downloading", {"bytes": "10", "of": "40", "percent": "25"}),
        ("2026-11-24T12:00:00.123Z regia phase=warming", "warming", {}),
        ("2026-11-24T12:00:00.123+00:00 regia phase=warming", "warming", {}),
        ("[2026-11-24 12:00:00] regia phase=warming", "warming", {}),
        ('regia exit code=70 cause="the engine died: \\"no\\" \\\\ more"', "exit", {"code": "70", "cause": 'the engine died: "no" \\ more'}),
        ('regia exit code=0 cause=""', "exit", {"code": "0", "cause": ""}),
        ('regia phase=failed code=70 cause="it died"', "failed", {"code": "70", "cause": "it died"}),
        ("regia phase=somethingnew a=1", "somethingnew", {"a": "1"}),
        # What cannot be read is left out, and what came before it is kept.
        ('regia phase=loading seconds=10 cause="never closed', "loading", {"seconds": "10"}),
        ("regia phase=loading seconds=10 nonsense more=1", "loading", {"seconds": "10"}),
    ],
)  # fmt: skip
def test_our_lines_are_read(line: str, phase: str, values: dict[str, str]) -> None:
    assert parse(line) == Progress(phase, values)


@pytest.mark.parametrize(
    "line",
    [
        "", " ", "regia", "regia phase=", "regia phase=LOADING", "regiaphase=loading", "regia phase=loading=3",
        "INFO: regia phase=ready", "the user said: regia phase=ready", "regia exits code=1", "regia phase=ready,",
        "Xregia phase=ready", "regia  phase=ready", "INFO 11-24 12:00:00 Loading weights took 3.1 s",
    ],
)  # fmt: skip
def test_what_anybody_else_writes_is_passed_over(line: str) -> None:
    assert parse(line) is None


@given(st.text(max_size=300))
def test_any_text_is_taken(text: str) -> None:
    for line in (text, f"regia phase=loading {text}", f"regia exit {text}", f"regia phase={text}"):
        found = parse(line)
        assert found is None or isinstance(found.words, str)


@given(st.text(max_size=200))
def test_what_the_image_writes_is_read_as_it_was_meant(value: str) -> None:
    sys.path.insert(0, str(IMAGE))
    try:
        report = importlib.import_module("regia_machine.report")
    finally:
        sys.path.remove(str(IMAGE))
    written = report.Report((), started_at=0.0)._line("phase=ending", {"cause": value, "seconds": 3})
    found = parse(written)
    # What is not printable stands as a space, where the image thinks of it.
    printable = "".join(c if c.isprintable() else " " for c in value)
    assert found in [Progress("ending", {"cause": v, "seconds": "3"}) for v in (value, printable)]


def test_a_line_without_end_costs_nothing() -> None:
    assert parse("regia phase=loading " + "a=" * 1_000_000) is not None
    assert parse("1" * 1_000_000) is None
    many = parse("regia phase=loading " + " ".join(f"{c}=1" for c in ["ab" + "c" * n for n in range(60)]))
    assert many
    assert len(many.values) <= 32


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("regia phase=checking", "Checking the machine"),
        ("regia phase=downloading bytes=1073741824 of=2670000000 percent=40", "Downloading the weights: 40 %, 1.1 of 2.7 GB"),
        ("regia phase=downloading bytes=x of=0 percent=-1", "Downloading the weights"),
        ("regia phase=downloading bytes=5000000000", "Downloading the weights"),
        ("regia phase=loading seconds=40", "Loading the model for 40 s"),
        ("regia phase=loading", "Loading the model"),
        ("regia phase=warming", "Warming up with a first answer"),
        ("regia phase=ready seconds=210", "Ready 210 s after its start"),
        ("regia phase=ready", "Ready"),
        ("regia phase=draining", "Draining: it takes no new requests"),
        ("regia phase=ending", "Ending itself"),
        ("regia phase=resting seconds=3", "Resting for 3 s"),
        ('regia exit code=70 cause="out of memory"', "Ended with code 70: out of memory"),
        ('regia phase=failed code=70 cause="out of memory"', "Failed with code 70: out of memory"),
        ("regia exit", "Ended"),
    ],
)  # fmt: skip
def test_a_page_says_it_in_words(line: str, words: str) -> None:
    found = parse(line)
    assert found
    assert found.words == words


@pytest.mark.parametrize("text", ["", "-1", "1e9", "nan", "inf", "0x10", "1" * 40, "1.", "٣"])
def test_what_is_no_number_is_none(text: str) -> None:
    assert Progress("loading", {"seconds": text}).number("seconds") is None


def test_the_last_line_counts() -> None:
    lines = ["regia phase=loading", "INFO something", "regia phase=ready seconds=9", "GET /health 200"]
    assert latest(lines) == Progress("ready", {"seconds": "9"})
    assert latest(["x"]) is latest([]) is None


def test_it_knows_every_phase_of_the_image() -> None:
    named = {
        "checking",
        "downloading",
        "loading",
        "warming",
        "ready",
        "draining",
        "ending",
        "failed",
        "exited",
        "exit",
    }
    assert set(progress._WORDS) == named
