"""RunPod's own SDK, where it is the right tool: the health of a serverless endpoint, the account's balance.

It is heavy (a second or two, 60 MB), so it is imported on first use. Both calls read a setting that belongs to the
whole process, and some of its errors carry the query or raise for odd reasons: every error becomes one of ours.
Source: runpod 1.11 and 1.12, `endpoint/runner.py` and `api/graphql.py`.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, cast

from deployments.providers.base import (
    Gone,
    ProviderError,
    RateLimited,
    Rejected,
    Secret,
    Unauthorized,
    Unavailable,
)

HEALTH_SECONDS = 5
_BALANCE = "query { myself { id clientBalance currentSpendPerHr } }"
_ADDRESS = "RUNPOD_API_BASE_URL"
_importing = threading.Lock()
_aiming = threading.RLock()
"""Held while a setting of the process points to the address of one call."""


def endpoint_health(endpoint_id: str, *, key: Secret, runtime: str) -> Mapping[str, Any]:
    """`{"jobs": {…}, "workers": {…}}`. `runtime` is the address without `/v2`."""
    try:
        runpod = _load()
        with _aiming:
            before, runpod.endpoint_url_base = runpod.endpoint_url_base, f"{runtime}/v2"
            try:
                endpoint = runpod.Endpoint(endpoint_id, api_key=key.reveal())
            finally:
                runpod.endpoint_url_base = before
        _ask_once(endpoint)
        answer = endpoint.health(timeout=HEALTH_SECONDS)
    except Exception as e:
        raise _ours(e) from None
    if not isinstance(answer, Mapping):
        raise Unavailable("The endpoint's health cannot be read.")
    return answer


def account(*, key: Secret, api: str) -> Mapping[str, Any]:
    """`{"clientBalance", "currentSpendPerHr"}`. Rejected when RunPod answers, but not with that."""
    try:
        _load()
        from runpod.api.graphql import run_graphql_query  # type: ignore[import-untyped]

        with _aimed(api):
            answer: object = run_graphql_query(_BALANCE, api_key=key.reveal())
    except Exception as e:
        raise _ours(e) from None
    data = answer.get("data") if isinstance(answer, Mapping) else None
    if not isinstance(data, Mapping):
        raise Unavailable("RunPod's answer holds no balance.")  # The SDK does not say with which status.
    if not isinstance(data.get("myself"), Mapping):
        raise Rejected("RunPod does not tell the balance.")
    return cast("Mapping[str, Any]", data["myself"])


def _load() -> Any:
    with _importing:
        if "runpod" in sys.modules:
            return sys.modules["runpod"]
        # The import sets the root logger to INFO and gives it a handler of its own.
        root = logging.getLogger()
        level, handlers = root.level, root.handlers[:]
        try:
            import runpod  # type: ignore[import-untyped]

            return runpod
        finally:
            root.setLevel(level)
            root.handlers[:] = handlers


@contextmanager
def _aimed(api: str) -> Iterator[None]:
    """The SDK reads its address from the environment at every call."""
    with _aiming:
        before = os.environ.get(_ADDRESS)
        os.environ[_ADDRESS] = api
        try:
            yield
        finally:
            if before is None:
                del os.environ[_ADDRESS]
            else:
                os.environ[_ADDRESS] = before


def _ask_once(endpoint: Any) -> None:
    """Over plain http the SDK repeats a 429 for half a minute."""
    with suppress(AttributeError):
        endpoint.rp_client.rp_session.adapters["http://"] = endpoint.rp_client.rp_session.adapters["https://"]


def _ours(error: Exception) -> ProviderError:
    """Our error for any of the SDK's. Their texts may hold the query or a URL, so only their types are told."""
    name = type(error).__name__
    status = getattr(getattr(error, "response", None), "status_code", None)
    if name == "AuthenticationError" or type(error) is RuntimeError or status in (401, 403):
        return Unauthorized("RunPod refused the account's key.")
    if name == "QueryError":
        return Rejected("RunPod refused the query.")
    if status == 404:
        return Gone("RunPod has no such endpoint.")
    if status == 429:
        return RateLimited("RunPod has had too many requests.")
    return Unavailable(f"RunPod's SDK got no answer ({name}).")
