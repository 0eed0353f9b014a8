"""Read an answer's event stream, as the page does."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Answer:
    text: str = ""
    thought: str = ""
    error: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


def read(body: bytes) -> Answer:
    answer = Answer()
    for event in body.decode().replace("\r\n", "\n").split("\n\n"):
        lines = event.split("\n")
        name = next((line[6:].strip() for line in lines if line.startswith("event:")), "message")
        data = "".join(line[5:].strip() for line in lines if line.startswith("data:"))
        if not data or data == "[DONE]":
            continue
        try:
            value = json.loads(data)
        except ValueError:
            continue  # the half of an event that broke off
        if name == "regia":
            assert not answer.figures, "the figures come once"
            answer.figures = value
        elif name == "error":
            answer.error = value["error"]
        else:
            for choice in value.get("choices", []):
                delta = choice["delta"]
                answer.text += delta.get("content") or ""
                answer.thought += delta.get("reasoning") or delta.get("reasoning_content") or ""
    return answer
