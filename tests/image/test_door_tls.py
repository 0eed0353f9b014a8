"""The door's TLS as the panel meets it: one certificate under one name, and nothing else."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from deployments import certificates
from deployments.certificates import Pin
from tests.image.doors import OpenDoor, StandIn, ask, bearer, knock, open_door, pinned
from tests.image.running import KEY

pytestmark = pytest.mark.image


@pytest.fixture
def door(folder: Path, engine: StandIn) -> Iterator[OpenDoor]:
    with open_door(folder, engine, tls=True) as opened:
        yield opened


def get(door: OpenDoor, pin: Pin | None, *, scheme: str = "https", host: str = "127.0.0.1") -> int:
    """As the panel asks: aiohttp with its own options for a pinned machine."""

    async def fetch() -> int:
        options = certificates.request_options(pin)
        async with aiohttp.ClientSession(trust_env=False) as session:
            url = f"{scheme}://{host}:{door.port}/v1/models"
            async with session.get(url, headers=bearer(KEY), **options) as answer:
                return answer.status

    return asyncio.run(fetch())


def test_the_panel_connects_to_the_certificate_that_it_made(door: OpenDoor) -> None:
    assert door.pin is not None
    assert get(door, door.pin) == 200
    # Its address is of no account: it is in no certificate.
    assert get(door, door.pin, host="localhost") == 200


def test_another_certificate_under_the_same_name_is_refused(door: OpenDoor, engine: StandIn) -> None:
    assert door.pin is not None
    other, _ = pinned()
    impostor = Pin(other.certificate, door.pin.name)
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        get(door, impostor)
    assert engine.noted("asked") == []


def test_the_right_certificate_under_another_name_is_refused(door: OpenDoor, engine: StandIn) -> None:
    assert door.pin is not None
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        get(door, Pin(door.pin.certificate, "another.machine.invalid"))
    assert engine.noted("asked") == []


def test_the_public_authorities_do_not_vouch_for_it(door: OpenDoor) -> None:
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        get(door, None)


def test_plain_http_is_refused(door: OpenDoor, engine: StandIn) -> None:
    assert get(door, None, scheme="http") == 400
    assert ask(door.port, "GET", "/health").status == 400
    assert knock(door.port, b"GET /v1/models HTTP/1.1\r\nHost: door\r\n\r\n") == 400
    assert engine.noted("asked") == []


def test_tls_where_the_door_is_plain_is_refused(folder: Path, engine: StandIn) -> None:
    pin, _ = pinned()
    with open_door(folder, engine) as plain, pytest.raises(aiohttp.ClientError):
        get(plain, pin)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_it_speaks_todays_tls(door: OpenDoor, version: ssl.TLSVersion) -> None:
    assert door.pin is not None
    assert ask(door.port, "GET", "/health", pin=limited(door.pin, version, version)).status == 200


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_it_speaks_no_tls_of_old(door: OpenDoor) -> None:
    assert door.pin is not None
    old = limited(door.pin, ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask(door.port, "GET", "/health", pin=old)


def limited(pin: Pin, least: ssl.TLSVersion, most: ssl.TLSVersion) -> Any:
    """The same trust, from a client that speaks certain versions only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Even what OpenSSL itself would not speak any more: the refusal has to be the door's.
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version, context.maximum_version = least, most
    context.load_verify_locations(cadata=pin.certificate)
    return SimpleNamespace(context=context, name=pin.name)
