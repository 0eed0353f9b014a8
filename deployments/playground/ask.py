"""What the browser asks for: the JSON body of a chat, checked, and the engine's request made of it. Pure.

    {"messages": [{"role": "user" | "assistant", "content": text}, …],   the last one is the user's
     "system": text, "temperature": 0–2, "top_p": 0–1, "max_tokens": whole number, "thinking": bool}

Everything but `messages` may be left out. Nothing else is let through to the engine.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from deployments.catalog import Model, Sampling

MAX_MESSAGES = 400


class BadAsk(Exception):
    """The body cannot be used; the text is a sentence for the person who sent it."""


@dataclass(frozen=True, slots=True)
class Ask:
    messages: tuple[tuple[str, str], ...]
    """(role, content), oldest first."""
    system: str = ""
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    thinking: bool | None = None


def parse(body: bytes) -> Ask:
    """The checked ask of a request's body. Raises BadAsk with a sentence for each mistake."""
    try:
        data = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise BadAsk("The request is not valid JSON.") from None
    if not isinstance(data, dict):
        raise BadAsk("The request must be a JSON object.")
    if unknown := data.keys() - _FIELDS:
        raise BadAsk(f"The request has a field that is not known here: {sorted(unknown)[0][:40]!r}.")
    return Ask(
        messages=_messages(data.get("messages")),
        system=_text(data.get("system") or "", "The system prompt"),
        temperature=_number(data.get("temperature"), "Temperature", low=0, high=2),
        top_p=_number(data.get("top_p"), "Top-p", low=0, high=1, open_below=True),
        max_tokens=_whole(data.get("max_tokens"), "Max tokens"),
        thinking=_switch(data.get("thinking"), "The thinking switch"),
    )


_FIELDS = frozenset({"messages", "system", "temperature", "top_p", "max_tokens", "thinking"})


def check_against(ask: Ask, model: Model, context: int) -> None:
    """Raises BadAsk when this model, served with `context` tokens, cannot take the ask."""
    if ask.max_tokens is not None and ask.max_tokens > context:
        raise BadAsk(
            f"Max tokens is {ask.max_tokens}, but this deployment's context holds {context}. Ask for fewer."
        )
    if ask.thinking is not None and not model.thinks:
        raise BadAsk(f"{model.name} does not think: leave the thinking switch out.")


def sampling_of(model: Model, *, thinking: bool) -> Sampling:
    """The sampling that the model's makers advise, with or without thinking."""
    return model.sampling_thinking if thinking and model.sampling_thinking else model.sampling


def engine_request(ask: Ask, model: Model) -> dict[str, Any]:
    """The body of POST /v1/chat/completions. What the person left out, the model's advice fills in."""
    thinking = model.thinks and ask.thinking is not False
    advice = sampling_of(model, thinking=thinking)
    system = [{"role": "system", "content": ask.system}] if ask.system.strip() else []
    body: dict[str, Any] = {
        "model": model.served_name,
        "messages": [*system, *({"role": role, "content": content} for role, content in ask.messages)],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": advice.temperature if ask.temperature is None else ask.temperature,
        "top_p": advice.top_p if ask.top_p is None else ask.top_p,
    }
    if ask.max_tokens is not None:
        body["max_tokens"] = ask.max_tokens
    if advice.top_k is not None:
        body["top_k"] = advice.top_k
    if model.thinks:
        body["chat_template_kwargs"] = {"enable_thinking": thinking}
    return body


def _messages(value: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, list) or not value:
        raise BadAsk("There is no message to answer: write one first.")
    if len(value) > MAX_MESSAGES:
        raise BadAsk(f"The conversation has more than {MAX_MESSAGES} messages: start a new one.")
    messages = tuple(_message(m) for m in value)
    if messages[-1][0] != "user":
        raise BadAsk("The last message must be yours, so that there is something to answer.")
    return messages


def _message(value: Any) -> tuple[str, str]:
    if not isinstance(value, dict) or value.keys() != {"role", "content"}:
        raise BadAsk("Each message needs a role and a content, and nothing else.")
    if value["role"] not in ("user", "assistant"):
        raise BadAsk("A message's role is either user or assistant.")
    content = _text(value["content"], "A message")
    if not content.strip():
        raise BadAsk("A message is empty: write something first.")
    return value["role"], content


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise BadAsk(f"{what} must be text.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadAsk(f"{what} holds half of a character (a lone surrogate).") from None
    return value


def _number(value: Any, what: str, *, low: float, high: float, open_below: bool = False) -> float | None:
    if value is None:
        return None
    good = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
    if not good or (open_below and value == low):
        span = f"above {low} and at most {high}" if open_below else f"from {low} to {high}"
        raise BadAsk(f"{what} must be a number {span}.")
    return float(value)


def _whole(value: Any, what: str) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise BadAsk(f"{what} must be a whole number of at least 1.")
    return value


def _switch(value: Any, what: str) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise BadAsk(f"{what} must be true or false.")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(name)
