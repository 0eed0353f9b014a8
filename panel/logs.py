"""How the panel logs: what each line is about, as text or JSON, without the secrets that travel in addresses.

`REGIA_LOG_FORMAT=json` writes one object a line: time (UTC), level, logger, message, process, and of
`request`, `task`, `task_id`, `deployment`, `instance`, `account` those that are known where the line is
written. As text the same ids stand at the line's end.
"""

from __future__ import annotations

import inspect
import json
import logging
import re
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from panel.context import request_context

_SECRET_PATH = re.compile(r"(/sign-in/|/password/reset/key/)[^\s/?\"']+")
REQUEST_HEADER = "regia_request"
"""Carries the id of the request that rang a bell to the worker."""

_about: ContextVar[dict[str, str] | None] = ContextVar("log_about", default=None)


def redact(text: str) -> str:
    """The text with the tokens of sign-in and password-reset links taken out."""
    return _SECRET_PATH.sub(r"\1[redacted]", text)


class RedactLinks(logging.Filter):
    """Takes tokens and addresses of people out of every line, whoever writes it: Django and axes log what was asked."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if (said := clean(text)) != text:
            record.msg, record.args = said, None
        return True


_ADDRESS = re.compile(r"[\w.+%-]{1,64}@(?:[\w-]{1,63}\.)+[A-Za-z]{2,24}\b")
"""Nobody's address stands in a log, which no erasure reaches."""


def clean(text: str) -> str:
    """As it may be logged: redacted, and without anybody's e-mail address."""
    text = redact(text)
    return _ADDRESS.sub("[address]", text) if "@" in text else text


# -- what a line is about -----------------------------------------------------------------------------


def begin(**ids: object) -> None:
    """A request or a task begins: its lines are about `ids` and nothing from before."""
    _about.set({name: str(value) for name, value in ids.items() if value})


def end() -> None:
    """It is over: threads are used again, and what comes next is about something else."""
    _about.set(None)


def about(**ids: object) -> None:
    """From here to the end of the request or task, lines are about these as well. Never names, only ids."""
    _about.set({**(_about.get() or {}), **{name: str(value) for name, value in ids.items() if value}})


def ids_now() -> dict[str, str]:
    """What a line written here and now is about."""
    here = request_context.get()
    request = {"request": here.request_id} if here else {}
    return {**request, **(_about.get() or {})}


class AddIds(logging.Filter):
    """Gives each record its `ids`, in the thread and context that wrote it."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.ids = ids_now()
        return True


# -- how a line is written ------------------------------------------------------------------------------


class Line(logging.Formatter):
    """Text, with the ids at its end: `... [request=6f0a… deployment=1d7e…]`."""

    def format(self, record: logging.LogRecord) -> str:
        ids = getattr(record, "ids", {})
        record.about = f" [{' '.join(f'{name}={value}' for name, value in ids.items())}]" if ids else ""
        return super().format(record)

    def formatException(self, ei: Any) -> str:
        return clean(super().formatException(ei))


class Json(logging.Formatter):
    """One JSON object a line; a line of the log is a line of the file, whatever the message holds."""

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
            **getattr(record, "ids", {}),
        }
        if record.exc_info:
            told["exception"] = clean(self.formatException(record.exc_info))
        if record.stack_info:
            told["stack"] = clean(record.stack_info)
        return json.dumps(told, ensure_ascii=False, default=str)


# -- Celery's tasks -------------------------------------------------------------------------------------


def pass_request_on(headers: dict[str, Any] | None = None, **_: Any) -> None:
    """Before a bell is rung: say which request rang it."""
    here = request_context.get()
    if here is not None and headers is not None:
        headers.setdefault(REQUEST_HEADER, here.request_id)


def begin_task(task: Any = None, task_id: str = "", args: Any = (), kwargs: Any = None, **_: Any) -> None:
    """A task begins: its lines carry its id, who rang it, and the ids that it was given."""
    given = _ids_given(task, tuple(args or ()), kwargs or {})
    begin(request=getattr(task.request, REQUEST_HEADER, ""), task=task.name, task_id=task_id, **given)


def end_task(**_: Any) -> None:
    end()


def _ids_given(task: Any, args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, object]:
    """Tasks carry ids: `deployment_id` is told as `deployment`, and so on."""
    given = {**dict(zip(_parameters(task.run), args, strict=False)), **kwargs}
    return {name.removesuffix("_id"): value for name, value in given.items() if name.endswith("_id")}


@lru_cache(maxsize=256)
def _parameters(run: Any) -> tuple[str, ...]:
    return tuple(inspect.signature(run).parameters)
