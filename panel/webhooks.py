"""Signed messages to an address that somebody gave, as Standard Webhooks says (https://www.standardwebhooks.com).

What is sent to is judged first and resolved once (`panel.outbound`), no redirect is followed, and nothing of the
answer is read but its status.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import aiohttp
from standardwebhooks import Webhook

from panel.outbound import GuardedResolver, Refused, is_allowed, is_disguised, is_ip

TIMEOUT = 10.0
"""Seconds for the whole exchange: a slow receiver takes its place among the late, not a worker for long."""
LONGEST_WAIT = timedelta(hours=1)
PREFIX = "whsec_"


class NotTaken(Exception):
    """The receiver has not taken it. The text is a sentence without its address.

    `down`: the receiver itself seems to be. `after`: it asked not to be tried again sooner.
    """

    def __init__(self, sentence: str, *, down: bool = False, after: timedelta | None = None) -> None:
        super().__init__(sentence)
        self.down = down
        self.after = after


def new_key() -> str:
    """A signing key of 256 bits, as receivers' libraries take it."""
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def check_key(text: str) -> str:
    """The key as it is stored. Raises ValueError with a sentence unless it is base64 of 24 to 64 bytes."""
    try:
        raw = base64.b64decode(text.strip().removeprefix(PREFIX), validate=True)
    except ValueError:
        raise ValueError("A signing key is whsec_ and base64.") from None
    if not 24 <= len(raw) <= 64:
        raise ValueError("A signing key holds 24 to 64 bytes.")
    return PREFIX + base64.b64encode(raw).decode()


def check_address(url: str, *, private: bool) -> str:
    """The receiver's host. Raises Refused unless `url` is https to a host that may be connected to.

    `private`: also the networks of one's own house and this computer, and there by plain http
    (`REGIA_ALERTS_ALLOW_PRIVATE`). A name is judged again when it is resolved.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        raise Refused("The receiver's address cannot be read.") from None
    if parts.scheme not in ("http", "https") or not host or any(c.isspace() for c in url):
        raise Refused("The receiver's address is not an https address.")
    if parts.username is not None:
        raise Refused(
            "The receiver's address holds a name and password: leave them out, messages are signed."
        )
    if is_disguised(host):
        raise Refused("The receiver's address is not a plain host name.")
    if is_ip(host) and not is_allowed(host, loopback=private, private=private):
        raise Refused("The receiver's address lies inside a private network, so nothing is sent there.")
    if parts.scheme == "http" and not private:
        raise Refused("The receiver's address is not encrypted (http), so nothing is sent there.")
    return host


def signed(message_id: str, body: str, keys: Sequence[str], *, now: datetime) -> dict[str, str]:
    """The headers of a message: a signature by each of the keys. The id is the same in every try."""
    at = now.astimezone(UTC)
    return {
        "content-type": "application/json",
        "user-agent": "Regia",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(Webhook(key).sign(message_id, at, body) for key in keys),
    }


def post(url: str, body: bytes, headers: dict[str, str], *, private: bool) -> None:
    """POST the message. Raises NotTaken unless the receiver answers 2xx within 10 s; follows no redirect."""
    try:
        check_address(url, private=private)
        status, wait = asyncio.run(_post(url, body, headers, private=private))
    except TimeoutError:
        raise NotTaken(f"It did not answer within {TIMEOUT:.0f} s.", down=True) from None
    except Refused as e:
        raise NotTaken(str(e)) from None
    except (aiohttp.ClientError, OSError, UnicodeError) as e:
        raise NotTaken(_why(e), down=True) from None
    if 300 <= status < 400:
        raise NotTaken(f"It answered {status}, a redirect: those are not followed.")
    if not 200 <= status < 300:
        raise NotTaken(f"It answered {status}.", down=status >= 500 or status == 429, after=wait)


async def _post(
    url: str, body: bytes, headers: dict[str, str], *, private: bool
) -> tuple[int, timedelta | None]:
    """The status, and how long the receiver asks to be left alone. Its body is nothing to us and is not read."""
    resolver = GuardedResolver(loopback=private, private=private, whose="The receiver's")
    connector = aiohttp.TCPConnector(resolver=resolver, force_close=True)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    async with (
        aiohttp.ClientSession(
            connector=connector, timeout=timeout, trust_env=False, cookie_jar=aiohttp.DummyCookieJar()
        ) as session,
        session.post(url, data=body, headers=headers, allow_redirects=False) as answer,
    ):
        return answer.status, _wait(answer.headers.get("Retry-After", ""))


def _wait(text: str) -> timedelta | None:
    seconds = text.strip()
    return (
        min(timedelta(seconds=int(seconds)), LONGEST_WAIT)
        if seconds.isdecimal() and len(seconds) < 7
        else None
    )


def _why(error: Exception) -> str:
    """aiohttp's own texts name the address."""
    cause = error
    while cause is not None:
        if isinstance(cause, Refused):
            return str(cause)
        cause = cause.__cause__ or getattr(cause, "os_error", None)  # type: ignore[assignment]
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "Its certificate is not valid."
    if isinstance(error, aiohttp.ClientSSLError):
        return "It does not speak TLS as it should."
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "Its name is not known."
    if isinstance(error, aiohttp.ClientConnectorError):
        return "It cannot be connected to."
    return "It broke the connection off."
