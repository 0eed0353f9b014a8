from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.catalog import get_model
from deployments.playground.ask import MAX_MESSAGES, BadAsk, check_against, engine_request, parse

QWEN, SMOL = get_model("qwen3-4b-bf16"), get_model("smollm2-135m")
HELLO = [{"role": "user", "content": "Hello"}]


def body(**fields) -> bytes:
    return json.dumps({"messages": HELLO, **fields}).encode()


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        (b"{", "The request is not valid JSON."),
        (b"\xff\xfe", "The request is not valid JSON."),
        (b'{"messages": [], "temperature": NaN}', "The request is not valid JSON."),
        (b"[" * 100_000, "The request is not valid JSON."),
        (b"[]", "The request must be a JSON object."),
        (b"{}", "There is no message to answer: write one first."),
        (body(model="other"), "The request has a field that is not known here: 'model'."),
        (body(messages=[]), "There is no message to answer: write one first."),
        (body(messages="hi"), "There is no message to answer: write one first."),
        (body(messages=HELLO * (MAX_MESSAGES + 1)), "The conversation has more than 400 messages: start a new one."),
        (body(messages=["hi"]), "Each message needs a role and a content, and nothing else."),
        (body(messages=[{"role": "user"}]), "Each message needs a role and a content, and nothing else."),
        (body(messages=[{"role": "system", "content": "x"}]), "A message's role is either user or assistant."),
        (body(messages=[{"role": [], "content": "x"}]), "A message's role is either user or assistant."),
        (body(messages=[{"role": "user", "content": 3}]), "A message must be text."),
        (body(messages=[{"role": "user", "content": " \n"}]), "A message is empty: write something first."),
        (body(messages=[{"role": "assistant", "content": "x"}]), "The last message must be yours, so that there is something to answer."),
        (body(system=5), "The system prompt must be text."),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "A message holds half of a character (a lone surrogate)."),
        (body(temperature="hot"), "Temperature must be a number from 0 to 2."),
        (body(temperature=True), "Temperature must be a number from 0 to 2."),
        (body(temperature=2.1), "Temperature must be a number from 0 to 2."),
        (body(temperature=-0.1), "Temperature must be a number from 0 to 2."),
        (body(top_p=0), "Top-p must be a number above 0 and at most 1."),
        (body(top_p=1.5), "Top-p must be a number above 0 and at most 1."),
        (body(max_tokens=0), "Max tokens must be a whole number of at least 1."),
        (body(max_tokens=1.5), "Max tokens must be a whole number of at least 1."),
        (body(max_tokens=True), "Max tokens must be a whole number of at least 1."),
        (body(thinking="yes"), "The thinking switch must be true or false."),
    ],
)  # fmt: skip
def test_each_mistake_has_its_sentence(sent: bytes, sentence: str) -> None:
    with pytest.raises(BadAsk) as refused:
        parse(sent)
    assert str(refused.value) == sentence


def _is_a_sentence(refused: BadAsk) -> None:
    assert str(refused)[0].isupper()
    assert str(refused).endswith(".")


@given(st.binary(max_size=200))
def test_any_bytes_are_an_ask_or_a_sentence(sent: bytes) -> None:
    try:
        parse(sent)
    except BadAsk as e:
        _is_a_sentence(e)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(["messages", "system", "temperature", "top_p", "max_tokens", "thinking"]), json_values)
def test_any_value_in_any_field_is_an_ask_or_a_sentence(name: str, value: object) -> None:
    try:
        parse(json.dumps({"messages": HELLO, name: value}).encode())
    except BadAsk as e:
        _is_a_sentence(e)


def test_what_is_left_out_follows_the_models_advice() -> None:
    asked = engine_request(parse(body()), QWEN)
    assert (asked["temperature"], asked["top_p"], asked["top_k"]) == (0.6, 0.95, 20)
    assert asked["chat_template_kwargs"] == {"enable_thinking": True}
    plain = engine_request(parse(body(thinking=False)), QWEN)
    assert (plain["temperature"], plain["top_p"], plain["top_k"]) == (0.7, 0.8, 20)
    assert plain["chat_template_kwargs"] == {"enable_thinking": False}


def test_a_model_that_does_not_think_is_not_told_about_thinking() -> None:
    asked = engine_request(parse(body(system="Be brief.", temperature=0, max_tokens=9)), SMOL)
    assert asked == {
        "model": "smollm2-135m",
        "messages": [{"role": "system", "content": "Be brief."}, *HELLO],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.0,
        "top_p": 0.9,
        "max_tokens": 9,
    }
    with pytest.raises(BadAsk, match="does not think"):
        check_against(parse(body(thinking=True)), SMOL, 4096)


def test_more_tokens_than_the_context_holds_are_refused_with_both_figures() -> None:
    with pytest.raises(BadAsk, match="Max tokens is 9000, but this deployment's context holds 8192"):
        check_against(parse(body(max_tokens=9000)), QWEN, 8192)
