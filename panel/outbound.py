"""Which addresses the panel connects to: public ones, and others only where somebody allowed it. Pure but for DNS.

An address may come from a provider's answer or from a form, so it is not trusted: a name that resolves to a
private or link-local address (a cloud's metadata service) is refused, and what was resolved and judged is what
is connected to, so that a second answer of the DNS changes nothing.
"""

from __future__ import annotations

import ipaddress
import re
import socket

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

type Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NEVER = tuple(
    ipaddress.ip_network(network)
    for network in (
        # Where clouds answer with their keys beside 169.254.169.254: AWS and Google by IPv6, Oracle, Alibaba, Azure.
        "fd00:ec2::/32", "fd20:ce::/32", "192.0.0.192/32", "100.100.100.200/32", "168.63.129.16/32",
        # A network's own NAT64 (RFC 8215): what it carries inside cannot be told.
        "64:ff9b:1::/48",
    )
)  # fmt: skip
_NUMBER = re.compile(r"\d+|0[xX][0-9a-fA-F]*")


class Refused(OSError):
    """The panel does not connect there. The text is a sentence without the address."""


def is_allowed(address: str, *, loopback: bool, private: bool = False) -> bool:
    """Whether `address` (an IP) may be connected to: global ones, with `loopback` this computer's own.

    `private` adds the networks of one's own house, never link-local ones: a cloud answers there with its keys.
    """
    try:
        ip = unwrapped(ipaddress.ip_address(address.partition("%")[0]))
    except ValueError:
        return False
    if ip.is_loopback:
        return loopback
    if any(ip.version == network.version and ip in network for network in _NEVER):
        return False
    if ip.is_multicast or ip.is_reserved or ip.is_link_local or ip.is_unspecified:
        return False
    return ip.is_global or (private and ip.is_private)


def unwrapped(ip: Address) -> Address:
    """The IPv4 address that an IPv6 one carries inside, if it does: that is where the packets go."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
    if inner is None and ip in _NAT64:
        inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return inner or ip


def is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def is_disguised(host: str) -> bool:
    """Full-width digits or a bare number, of any base: an address in disguise, which a client would read as one."""
    last = host.rstrip(".").rpartition(".")[2]
    return not host.isascii() or (not is_ip(host) and bool(_NUMBER.fullmatch(last)))


class GuardedResolver(AbstractResolver):
    """DNS whose answers are judged before anything connects to them. `whose` begins the sentence of a refusal."""

    def __init__(self, *, loopback: bool, private: bool = False, whose: str = "The engine's") -> None:
        self._loopback, self._private, self._whose = loopback, private, whose
        self._inner = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        allowed = [r for r in found if is_allowed(r["host"], loopback=self._loopback, private=self._private)]
        if found and not allowed:
            raise Refused(f"{self._whose} name leads into a private network, so nothing is sent there.")
        return allowed

    async def close(self) -> None:
        await self._inner.close()
