from __future__ import annotations

import socket

import pytest

from deployments.endpoints import GuardedResolver, Refused, check_url, is_allowed
from deployments.playground.upstream import Engine

PRIVATE = [
    "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",  # noqa: S104
    "255.255.255.255", "198.18.0.1", "fe80::1", "fe80::1%eth0", "fd00::1", "ff02::1", "::", "::ffff:10.0.0.1",
    "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "64:ff9b::10.0.0.1", "2002:a00:1::", "not an address", "",
]  # fmt: skip
LOOPBACK = ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"]
PUBLIC = ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8"]


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_address_is_never_connected_to(address: str) -> None:
    assert not is_allowed(address, loopback=False)
    assert not is_allowed(address, loopback=True)


@pytest.mark.parametrize("address", LOOPBACK)
def test_this_computer_is_connected_to_only_for_the_operators_own_machine(address: str) -> None:
    assert is_allowed(address, loopback=True)
    assert not is_allowed(address, loopback=False)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_connected_to(address: str) -> None:
    assert is_allowed(address, loopback=False)


@pytest.mark.parametrize(
    ("url", "loopback", "says"),
    [
        ("http://8.8.8.8:8000", False, "not encrypted"),
        ("http://8.8.8.8:8000", True, "not encrypted"),
        ("http://example.com:8000", True, "not encrypted"),
        ("http://127.0.0.1:8000", False, "private network"),
        ("https://127.0.0.1:8000", False, "private network"),
        ("https://169.254.169.254/latest", True, "private network"),
        ("https://[fd00::1]:8000", True, "private network"),
        ("ftp://example.com", True, "not an http address"),
        ("file:///etc/passwd", True, "not an http address"),
        ("https://user:secret@example.com", False, "not an http address"),
        ("https://", False, "not an http address"),
        ("https://[::1", False, "cannot be read"),
        ("https://example.com:99999", False, "cannot be read"),
    ],
)
def test_an_address_that_is_not_an_engines_is_refused(url: str, loopback: bool, says: str) -> None:
    with pytest.raises(Refused, match=says) as refused:
        check_url(url, plaintext=False, loopback=loopback)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "plaintext", "loopback"),
    [
        ("https://abc-8000.proxy.runpod.net", False, False),
        ("https://8.8.8.8:40123", False, False),
        ("http://127.0.0.1:9", False, True),
        ("http://localhost:9", False, True),
        ("http://8.8.8.8:40123", True, False),
        ("http://example.com", True, False),
    ],
)
def test_an_engines_address_is_taken(url: str, plaintext: bool, loopback: bool) -> None:
    check_url(url, plaintext=plaintext, loopback=loopback)


def test_plain_text_may_not_lead_into_this_computer_or_a_private_network() -> None:
    for url in ("http://127.0.0.1:9", "http://10.0.0.1:9", "http://[fd00::1]:8000"):
        with pytest.raises(Refused, match="private network"):
            check_url(url, plaintext=True, loopback=False)


@pytest.mark.asyncio
async def test_a_name_that_leads_to_this_computer_is_refused_when_it_is_resolved() -> None:
    resolver = GuardedResolver(loopback=False)
    with pytest.raises(Refused, match="private network"):
        await resolver.resolve("localhost", 80, socket.AF_INET)
    assert await GuardedResolver(loopback=True).resolve("localhost", 80, socket.AF_INET)


def test_an_engines_key_is_not_in_its_representation() -> None:
    assert "k-123" not in repr(Engine(url="http://x", key="k-123", loopback=True))
