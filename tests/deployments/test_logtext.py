"""A log's lines as they may be shown: their level, and nothing secret or hidden in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.monitoring import logtext
from deployments.monitoring.logtext import Level, clean, level_of, lines_of, masked
from deployments.providers.base import LogLine
from tests.deployments.test_logs import lines, texts, untimed


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("INFO 11-28 14:48:33 [api_server.py:1203] vLLM API server version 0.32.0", Level.INFO),
        ("(EngineCore_0 pid=71) ERROR 11-28 14:48:33 [core.py:700] EngineCore failed to start.", Level.ERROR),
        ("(APIServer pid=1) WARNING 11-28 14:48:33 [cache.py:214] Possibly too large", Level.WARNING),
        ("INFO:     Started server process [1]", Level.INFO),
        ('INFO:     10.0.0.1:44 - "POST /v1/chat/completions HTTP/1.1" 500 Internal Server Error', Level.ERROR),
        ('INFO:     10.0.0.1:44 - "GET /v1/models HTTP/1.1" 401 Unauthorized', Level.WARNING),
        ("2026/11/28 14:48:33 [error] 12#12: *1 connect() failed", Level.ERROR),
        ("2026-11-28T14:48:33Z [WARN] low disk", Level.WARNING),
        ('{"ts": 1, "level": "warn", "msg": "x"}', Level.WARNING),
        ("ts=1 level=debug msg=x", Level.DEBUG),
        ("0.00.035.060 W srv  load_model: slow", Level.WARNING),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", Level.ERROR),
        ("Killed", Level.ERROR),
        ('regia exit code=70 cause="the engine died"', Level.ERROR),
        ("regia exit code=0 cause=asked", Level.INFO),
        ("regia phase=loading seconds=20", Level.INFO),
        ("Information about errors in general", Level.UNKNOWN),
        ("", Level.UNKNOWN),
    ],
)  # fmt: skip
def test_the_level_of_a_line(text: str, level: Level) -> None:
    assert level_of(text) is level


def test_a_traceback_is_an_error_to_its_end_and_no_further() -> None:
    told = lines(untimed(
        "INFO 11-28 14:48:33 [a.py:1] fine", "Traceback (most recent call last):", '  File "a.py", line 1',
        "    boom()", "RuntimeError: boom", "and on it goes",
    ))  # fmt: skip
    error = Level.ERROR
    assert [line.level for line in told] == [Level.INFO, error, error, error, error, Level.UNKNOWN]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m and \x1b]0;title\x07plain", "red and plain"),
        ("turned \u202eround\u202c", "turned round"),
        ("bell\x07 and null\x00", "bell and null"),
        ("a\ttab", "a\ttab"),
    ],
)
def test_what_moves_or_hides_text_is_taken_out(text: str, shown: str) -> None:
    assert clean(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "key planted-secret-1 in the middle", "Authorization: Bearer planted-secret-1",
        "GET https://user:planted-secret-1@example.com/x", "api_key='planted-secret-1'", '"hf_token": "planted-secret-1"',
        "REGIA_API_KEY=planted-secret-1", "--api-key planted-secret-1", "HF_TOKEN: planted-secret-1",
        "password=planted-secret-1&x=1",
    ],
)  # fmt: skip
def test_a_secret_is_masked_wherever_it_stands(text: str) -> None:
    assert "planted-secret-1" not in masked(text, ["planted-secret-1"])
    if text.count("planted") and not text.startswith("key planted"):
        assert "planted-secret-1" not in masked(text), "and by its name alone"
    assert logtext.MASK in masked(text, ["planted-secret-1"])


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens=131072", "prompt_tokens: 1204", "tokenizer='Qwen/Qwen3-4B'", "skip_tokenizer_init=False",
        "http://127.0.0.1:8000/v1", "Avg prompt throughput: 12.5 tokens/s",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(text: str) -> None:
    assert masked(text) == text


def test_what_begins_like_a_secret_that_is_known_is_masked_to_its_end() -> None:
    assert masked("Bearer sk-test-abcdefgh", ["sk-test"]) == "Bearer ***"
    assert masked("api_key=sk-test-abcdefgh", ["sk-test"]) == "api_key=***"


def test_a_private_key_is_left_out_whole() -> None:
    told = lines(untimed(
        "before", "-----BEGIN EC PRIVATE KEY-----", "MHcCAQEE", "/AwEHoUQ+", "-----END EC PRIVATE KEY-----", "after",
    ))  # fmt: skip
    assert texts(told) == ["before", "*** (a private key)", "after"]


def test_a_secret_that_colours_cut_in_two_is_masked() -> None:
    (line,) = lines_of(untimed("key plant\x1b[1med-secret-1"), ["planted-secret-1"])
    assert line.text == "key ***"


def test_what_hides_or_turns_text_is_shown_and_hides_no_secret() -> None:
    hidden = lines_of(
        untimed("turned \u202eround\u202c", "plan\u200bted-secr\u2066et-1"), ["planted-secret-1"]
    )
    assert [line.text for line in hidden] == ["turned <U+202E>round<U+202C>", "***"]


@given(st.text(max_size=300))
def test_whatever_is_said_can_be_shown(text: str) -> None:
    for line in lines_of([LogLine(None, "container", text)]):
        assert len(line.text) <= logtext.LONGEST
        assert "\x1b" not in line.text
