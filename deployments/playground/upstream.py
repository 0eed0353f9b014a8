"""The connection to an engine: opened once per answer, never kept, each failure a sentence.

aiohttp, because httpx was measured to stall under many streams. No keep-alive: a connection that
llama.cpp's server closes after a stream makes the next request on it fail.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import weakref
from dataclasses import dataclass
from typing import Any

import aiohttp
from django.conf import settings

from deployments import certificates, endpoints

_ERROR_BODY = 64 * 1024
"""Bytes of an error's body that are read; the rest does not matter."""


class EngineRefused(Exception):
    """No stream came to be. The text is a sentence for the person who asked; `status` is the panel's answer."""

    def __init__(self, text: str, *, status: int = 502) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Engine:
    """Where to send a chat, as the adapter gave it.

    `plaintext`: http to a public address is fine; `loopback`: this computer's own address is; `pin`: the one
    certificate that is trusted there; `door_key`: where `key` opens the provider's door alone, the machine's own.
    """

    url: str
    key: str
    plaintext: bool = False
    loopback: bool = False
    pin: certificates.Pin | None = None
    door_key: str = ""

    @property
    def headers(self) -> dict[str, str]:
        own = {"X-Regia-Key": self.door_key} if self.door_key else {}
        return {"Authorization": f"Bearer {self.key}", **own}

    def __repr__(self) -> str:
        return f"Engine({self.url!r})"


async def open_stream(
    session: aiohttp.ClientSession, engine: Engine, body: dict[str, Any]
) -> aiohttp.ClientResponse:
    """The engine's answer, its event stream not yet read. The caller closes it. Raises EngineRefused."""
    try:
        endpoints.check_url(engine.url, plaintext=engine.plaintext, loopback=engine.loopback)
        response = await session.post(
            f"{engine.url.rstrip('/')}/v1/chat/completions",
            data=json.dumps(body).encode(),
            headers=engine.headers,
            allow_redirects=False,
            **certificates.request_options(engine.pin),
        )
    except (OSError, aiohttp.ClientError) as e:
        raise _not_reached(e, engine) from None
    if response.status == 200 and response.content_type == "text/event-stream":
        return response
    try:
        raise await _refusal(response)
    finally:
        response.close()


def _not_reached(error: Exception, engine: Engine) -> EngineRefused:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, endpoints.Refused):
            return EngineRefused(str(cause))
        cause = getattr(cause, "os_error", None) or cause.__cause__
    if isinstance(error, TimeoutError):
        return EngineRefused(
            f"The engine did not begin to answer within {settings.CHAT_IDLE_SECONDS} s. "
            "It may be overloaded or hang: try again.",
            status=504,
        )
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return EngineRefused(certificates.refusal(error, engine.pin))
    if isinstance(error, aiohttp.ClientSSLError):
        return EngineRefused("What answers does not speak TLS as an engine does, so nothing was sent.")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return EngineRefused("The engine's name could not be resolved: the machine may be gone.")
    if isinstance(error, aiohttp.ClientConnectorError):
        return EngineRefused(
            "The engine refused the connection: it may be starting or gone. Try again in a moment."
        )
    return EngineRefused("The engine closed the connection before it answered. Try again.")


async def _refusal(response: aiohttp.ClientResponse) -> EngineRefused:
    status = response.status
    if 300 <= status < 400:
        return EngineRefused("The engine's address leads elsewhere (a redirect), which is not followed.")
    if status == 200:
        return EngineRefused(
            f"What answered is not an engine's stream but {response.content_type}. "
            "The address may lead to another server."
        )
    if known := _BY_STATUS.get(status):
        text, answer = known
        return EngineRefused(text, status=answer)
    message, kind = error_of(await _json_of(response))
    if status in (400, 413, 422) and message:
        return _rejected(message, kind)
    said = f": {message}" if message else "."
    return EngineRefused(f"The engine answered with an error ({status}){said}")


_BY_STATUS = {
    401: ("The engine did not accept the panel's key. Relaunch the deployment if this stays so.", 502),
    403: ("The engine did not accept the panel's key. Relaunch the deployment if this stays so.", 502),
    404: ("The engine does not serve this deployment's model at its endpoints.", 502),
    429: ("The engine has too many requests waiting. Try again in a moment.", 503),
    503: (
        "The engine is not ready: it may be loading its weights, or have died. Try again in a moment.",
        503,
    ),
    504: ("The provider's proxy gave up waiting for the engine (504). Try a shorter answer, or again.", 504),
    524: ("The provider's proxy gave up waiting for the engine (524). Try a shorter answer, or again.", 504),
}


def _rejected(message: str, kind: str) -> EngineRefused:
    # llama.cpp: type exceed_context_size_error. vLLM: param input_tokens, or max_tokens past the limit.
    if kind in ("exceed_context_size_error", "input_tokens"):
        return EngineRefused(
            "The conversation is too long for this deployment's context. "
            f"Shorten it or start a new one. The engine said: {message}",
            status=400,
        )
    return EngineRefused(f"The engine did not accept the request: {message}", status=400)


async def _json_of(response: aiohttp.ClientResponse) -> Any:
    body = b""
    try:
        while len(body) < _ERROR_BODY and (chunk := await response.content.readany()):
            body += chunk
        return json.loads(body)
    except (OSError, aiohttp.ClientError, ValueError, RecursionError):
        return None


def error_of(data: Any) -> tuple[str, str]:
    """(message, kind) of an engine's error in any of its shapes; both empty when there is none.

    `{"error": "Unauthorized"}`, `{"error": {"message": …, "type": …, "param": …}}`, `{"detail": …}`.
    """
    if not isinstance(data, dict):
        return "", ""
    error = data.get("error") or data.get("detail")
    if isinstance(error, dict):
        kind = error.get("type")
        if error.get("param") == "input_tokens":
            kind = "input_tokens"
        return _clean(error.get("message")), kind if isinstance(kind, str) else ""
    return _clean(error), ""


def _clean(text: Any) -> str:
    return " ".join(text.split())[:300] if isinstance(text, str) else ""


# -- sessions: one for each event loop and kind of address -------------------------------------------

_sessions: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[bool, aiohttp.ClientSession]]
_sessions = weakref.WeakKeyDictionary()


def session_for(engine: Engine) -> aiohttp.ClientSession:
    """The running loop's session for this kind of address, made on first use."""
    own = _sessions.setdefault(asyncio.get_running_loop(), {})
    session = own.get(engine.loopback)
    if session is None or session.closed:
        session = own[engine.loopback] = new_session(loopback=engine.loopback)
    return session


def new_session(*, loopback: bool) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(
        force_close=True, limit=0, ttl_dns_cache=10, resolver=endpoints.GuardedResolver(loopback=loopback)
    )
    return aiohttp.ClientSession(
        connector=connector,
        # An engine that packs its answer all the same must not make us unpack a bomb.
        auto_decompress=False,
        headers={
            "Content-Type": "application/json",
            "Accept": "text/event-stream",
            "Accept-Encoding": "identity",
        },
        skip_auto_headers={"User-Agent"},
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(
            total=None, sock_connect=min(10, settings.CHAT_IDLE_SECONDS), sock_read=settings.CHAT_IDLE_SECONDS
        ),
        trust_env=False,
        raise_for_status=False,
    )


async def close_sessions() -> None:
    """Close the running loop's sessions; the next chat opens new ones."""
    for session in _sessions.pop(asyncio.get_running_loop(), {}).values():
        await session.close()


@atexit.register
def _let_go() -> None:
    # No loop is left to close them on; without this each process would end with a warning.
    for own in list(_sessions.values()):
        for session in own.values():
            session.detach()
