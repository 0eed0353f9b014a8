"""Which addresses the panel connects to: an engine's public one, or this computer's own. Pure but for DNS.

An endpoint's URL comes from a provider's answer, so it is not trusted: a name that resolves to a private or
link-local address (a cloud's metadata service) is refused, and what was resolved and judged is what is
connected to, so that a second answer of the DNS changes nothing.
"""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Refused(OSError):
    """The panel does not connect there. The text is a sentence without the address."""


def is_allowed(address: str, *, loopback: bool) -> bool:
    """Whether `address` (an IP) may be connected to: global ones, and with `loopback` this computer's own."""
    try:
        ip = _unwrapped(ipaddress.ip_address(address.partition("%")[0]))
    except ValueError:
        return False
    if ip.is_loopback:
        return loopback
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def _unwrapped(
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IPv4 address that an IPv6 one carries inside, if it does: that is where the packets go."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
    if inner is None and ip in _NAT64:
        inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return inner or ip


def check_url(url: str, *, plaintext: bool, loopback: bool) -> None:
    """Raise Refused unless `url` is https, or as allowed plain http, to a host that may be connected to.

    `plaintext`: http to a public address, for a deployment whose operator allows that keys and prompts travel
    in the clear. `loopback`: this computer's own address, with or without TLS, for the operator's own machine
    and with ALLOW_INSECURE_ENDPOINTS. A name is judged again when it is resolved.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        raise Refused("The engine's address cannot be read.") from None
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        raise Refused("The engine's address is not an http address.")
    if not host.isascii() or (not _is_ip(host) and host.replace(".", "").isdigit()):
        # Full-width digits or a bare number: an address in disguise, which the client would read as one.
        raise Refused("The engine's address is not a plain host name.")
    if _is_ip(host) and not is_allowed(host, loopback=loopback):
        raise Refused("The engine's address lies inside a private network, so nothing is sent there.")
    if parts.scheme == "http" and not plaintext and not (loopback and is_own(host)):
        raise Refused("The engine's address is not encrypted (http), so nothing is sent there.")


def is_own(host: str) -> bool:
    """Whether `host` (a name or an IP) is this computer's own address. Other names may lead anywhere."""
    if not _is_ip(host):
        return host.lower() == "localhost"
    return _unwrapped(ipaddress.ip_address(host.partition("%")[0])).is_loopback


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


class GuardedResolver(AbstractResolver):
    """DNS whose answers are judged before anything connects to them."""

    def __init__(self, *, loopback: bool) -> None:
        self._loopback = loopback
        self._inner = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        allowed = [r for r in found if is_allowed(r["host"], loopback=self._loopback)]
        if found and not allowed:
            raise Refused("The engine's name leads into a private network, so nothing is sent there.")
        return allowed

    async def close(self) -> None:
        await self._inner.close()
