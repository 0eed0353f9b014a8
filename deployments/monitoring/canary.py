"""Does it really answer? A short chat with every serving engine at a pace of its own, every other one with thinking.

The answer is checked, and how long the first token took and how fast the others came is measured as a person would
see it, connection and TLS included. Never of a serverless endpoint, which would wake a worker and bill. Facts only are
written; `decide` reads them through `verdict`: one failure is no news, n of the last m are.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Lock
from time import perf_counter
from typing import Any
from uuid import UUID

import aiohttp
from django.conf import settings
from django.db import transaction
from django.db.models import Q

from deployments import catalog, damping, services
from deployments.catalog import Model
from deployments.certificates import request_options
from deployments.endpoints import check_url
from deployments.lifecycle import State
from deployments.models import Deployment, Instance
from deployments.models.instance import SELDOM
from deployments.monitoring import samples
from deployments.monitoring.connection import TROUBLE, Target, answers, target_of, trouble

FIRST = timedelta(seconds=30)
"""After it became ready: the first answer belongs to whoever waited for it."""
RETRY = timedelta(seconds=30)
"""After a failure: what is damped is asked again soon."""
PATIENCE = 60.0
"""Seconds for the whole answer."""
FAR = timedelta(days=1)
QUESTION = "Name the capital of France and tell what it is famous for."
EXPECTED = "paris"
_TOKENS, _TOKENS_THINKING = 64, 320
_MOST_BYTES = 1024 * 1024
_FEW_TOKENS = 8
"""From fewer than these no speed is told."""
_STATES = [State.READY.value, State.DEGRADED.value]


@dataclass(frozen=True, slots=True)
class Chat(Target):
    """One canary."""

    model: str = ""
    thinking: bool | None = None
    """None: the model cannot think, and is not asked to or not to."""
    temperature: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of it. `detail` says why it failed, empty when it was good."""

    detail: str = ""
    ttft: float | None = None
    """Time to first token, seconds; None: no token came."""
    rate: float | None = None
    """Tokens per second after the first one; None: too few came."""
    timed_out: bool = False
    busy: bool = False
    """It said itself that it has too much to do, which is no failure of the machine."""


def verdict(i: Instance) -> str:
    """Why its last canaries count as failed, in a clause; empty: they do not, or none are sent."""
    if not settings.CANARY_INTERVAL or not damping.CANARIES.is_bad(i.canary_recent):
        return ""
    return f"{damping.CANARIES.bad} of the last {damping.CANARIES.of} canary chats failed: {i.canary_detail}"[
        :300
    ]


# -- whom, and what is written ------------------------------------------------------------------------


def canary_due(*, clock: Callable[[], datetime]) -> int:
    """Chat with every engine whose time has come; returns with how many."""
    if not settings.CANARY_INTERVAL or not _round.acquire(blocking=False):
        return 0
    try:
        mine = {i.pk: i for i in _claim(now=clock())}
        for found in answers({pk: _chat(i) for pk, i in mine.items()}, ask):
            for pk, answer in sorted(found.items()):
                _note(mine[pk], answer, now=clock())
        return len(mine)
    finally:
        _round.release()


# One round at a time in a process: a worker whose threads all waited a minute for engines would do nothing else.
_round = Lock()


def _claim(*, now: datetime) -> list[Instance]:
    """Those that are due, put ahead in one transaction so that two workers ask once."""
    interval = timedelta(seconds=settings.CANARY_INTERVAL)
    is_due = Q(next_canary_at=None) | Q(next_canary_at__lte=now) | Q(next_canary_at__gt=now + FAR)
    # What does not answer its probes has no chat to give.
    due = Instance.objects.filter(is_due, state__in=_STATES, probe_failures=0).exclude(endpoint_url="")
    if not due.exists():
        return []
    with transaction.atomic():
        found = list(
            due.select_related("deployment", "account")
            .defer(*SELDOM)
            .order_by("pk")
            .select_for_update(of=("self",))
        )
        mine = [i for i in found if i.next_canary_at and not i.quote.get("serverless")]
        new = [i.pk for i in found if not i.next_canary_at or i.quote.get("serverless")]
        Instance.objects.filter(pk__in=new).update(next_canary_at=now + min(FIRST, interval))
        Instance.objects.filter(pk__in=[i.pk for i in mine]).update(next_canary_at=now + interval)
    for i in mine:
        i.next_canary_at = now + interval
    return mine


def _chat(i: Instance) -> Chat:
    t, model = target_of(i), catalog.get_model(i.deployment.model_key)
    thinks = model.thinks if model else False
    thinking = i.canary_count % 2 == 1 if thinks else None
    return Chat(
        t.url, t.key, t.plaintext, t.loopback, t.pin,
        model=model.served_name if model else i.deployment.model_key, thinking=thinking,
        temperature=_temperature(model, thinking=bool(thinking)),
    )  # fmt: skip


def _temperature(model: Model | None, *, thinking: bool) -> float:
    # A model that thinks goes round in circles at 0, by its makers' word; the plain answer is to be the same each time.
    return model.sampling_thinking.temperature if thinking and model and model.sampling_thinking else 0.0


def _note(i: Instance, answer: Answer, *, now: datetime) -> None:
    if answer.busy or (answer.timed_out and _is_busy(i.pk, now=now)):
        return  # It works on others' requests: whoever replaced it now would make it worse.
    failed = bool(answer.detail)
    recent = damping.after(i.canary_recent, failed=failed)
    columns: dict[str, Any] = {
        "canary_at": now, "canary_ok": not failed, "canary_ttft": answer.ttft, "canary_rate": answer.rate,
        "canary_detail": answer.detail[:300], "canary_recent": recent, "canary_count": i.canary_count + 1,
    }  # fmt: skip
    if failed:
        columns["next_canary_at"] = now + RETRY
    with transaction.atomic():
        # The order of everybody who writes both, and the bell holds the deployment's row.
        Deployment.objects.filter(pk=i.deployment_id).select_for_update().values_list("pk").first()
        # While our claim holds: whoever stalled in between writes nothing.
        ours = Instance.objects.filter(pk=i.pk, state__in=_STATES, next_canary_at=i.next_canary_at)
        if not ours.update(**columns):
            return
        if damping.CANARIES.is_bad(recent) or i.status is State.DEGRADED:
            services.ring(i.deployment, now=now)
    samples.record(i.pk, now, {"canary_ttft": answer.ttft, "canary_rate": answer.rate})


def _is_busy(instance_id: UUID, *, now: datetime) -> bool:
    """Its own figures of the last minute say that others wait, and that it gives them tokens."""
    keys = ("running", "waiting", "tokens_out_rate")
    last = samples.read([instance_id], keys, now - timedelta(minutes=1), now, now=now)
    return any((p.values["tokens_out_rate"] or 0) > 0 and (p.values["waiting"] or 0) > 0 for p in last)


# -- one chat -----------------------------------------------------------------------------------------


async def ask(session: aiohttp.ClientSession, chat: Chat) -> Answer:
    """One canary. It never raises: whatever goes wrong is the answer."""
    heard = _Heard(begun=perf_counter())
    try:
        check_url(chat.url, plaintext=chat.plaintext, loopback=chat.loopback)
        async with session.post(
            f"{chat.url}/v1/chat/completions", json=_body(chat), headers={"Authorization": f"Bearer {chat.key}"},
            allow_redirects=False, timeout=aiohttp.ClientTimeout(total=PATIENCE, connect=5.0),
            **request_options(chat.pin),
        ) as response:  # fmt: skip
            if response.status != 200:
                return _refused(response.status)
            if response.content_type != "text/event-stream":
                return Answer(f"it answered a chat with {response.content_type[:80]}, not with a stream")
            async for event in _events(response):
                heard.hear(event)
    except TimeoutError:
        what = "the answer had no end" if heard.first else "no token came"
        return Answer(f"{what} within {PATIENCE:.0f} s", ttft=heard.ttft, timed_out=True)
    except TROUBLE as e:
        return Answer(trouble(e, chat.pin), ttft=heard.ttft)
    return Answer(heard.failure(chat), ttft=heard.ttft, rate=heard.rate)


def _refused(status: int) -> Answer:
    detail = f"/v1/chat/completions answered {status}"
    return Answer(detail, busy=status == 429)


def _body(chat: Chat) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": chat.model,
        "messages": [{"role": "user", "content": QUESTION}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": chat.temperature,
        "max_tokens": _TOKENS_THINKING if chat.thinking else _TOKENS,
    }
    if chat.thinking is not None:
        body["chat_template_kwargs"] = {"enable_thinking": chat.thinking}
    return body


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """The stream's events until its end. Raises ValueError for one that is none, or for more than is read."""
    size, rest = 0, b""
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > _MOST_BYTES:
            raise ValueError("too much")
        *lines, rest = (rest + piece).split(b"\n")
        for event in _events_of(lines):
            yield event


def _events_of(lines: list[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line.startswith(b"data:") and (data := line[5:].strip()) != b"[DONE]":
            yield _event(data)


def _event(data: bytes) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except RecursionError:
        event = None
    if not isinstance(event, dict):
        raise ValueError("no object")
    return event


_THOUGHT = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)


@dataclass(slots=True)
class _Heard:
    """What a stream has told so far."""

    begun: float
    first: float = 0.0
    last: float = 0.0
    text: str = ""
    thought: str = ""
    pieces: int = 0
    tokens: int = 0
    finish: str = ""
    error: bool = False

    def hear(self, event: dict[str, Any]) -> None:
        self.error = self.error or bool(event.get("error"))
        usage, choices = event.get("usage"), event.get("choices")
        if isinstance(usage, dict) and isinstance(usage.get("completion_tokens"), int):
            self.tokens = usage["completion_tokens"]
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            return
        if isinstance(finish := choices[0].get("finish_reason"), str):
            self.finish = finish
        delta = choices[0].get("delta")
        if isinstance(delta, dict):
            text = _text(delta, "content")
            thought = _text(delta, "reasoning") or _text(delta, "reasoning_content")
            if text or thought:
                self.last = perf_counter()
                self.first = self.first or self.last
                self.pieces += 1
            self.text, self.thought = self.text + text, self.thought + thought

    @property
    def ttft(self) -> float | None:
        return self.first - self.begun if self.first else None

    @property
    def rate(self) -> float | None:
        tokens, seconds = self.tokens or self.pieces, self.last - self.first
        return (tokens - 1) / seconds if tokens >= _FEW_TOKENS and seconds > 0 else None

    def failure(self, chat: Chat) -> str:
        """What is wrong with the whole answer; empty: nothing."""
        said = _THOUGHT.sub("", self.text).strip()
        thought = self.thought or (self.text if "<think>" in self.text else "")
        if self.error:
            return "the engine ended the answer with an error"
        if not self.first:
            return "the answer was empty"
        if not self.finish:
            return "the answer broke off"
        if chat.thinking and not said and thought and self.finish == "length":
            return ""  # It thought until there was no room left, as it may.
        if EXPECTED not in said.lower():
            return f"it answered something else than was asked: {' '.join(said.split())[:80]!r}"
        return ""


def _text(delta: dict[str, Any], name: str) -> str:
    value = delta.get(name)
    return value if isinstance(value, str) else ""
