"""Which engines the panel connects to: those at a public address, or this computer's own. Pure but for DNS.

The guard itself is the panel's (`panel/outbound.py`); here stands what it means for an engine's address.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from panel.outbound import GuardedResolver, Refused, is_allowed, is_disguised, is_ip, unwrapped

__all__ = ["GuardedResolver", "Refused", "check_url", "is_allowed", "is_own"]


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
    if is_disguised(host):
        raise Refused("The engine's address is not a plain host name.")
    if is_ip(host) and not is_allowed(host, loopback=loopback):
        raise Refused("The engine's address lies inside a private network, so nothing is sent there.")
    if parts.scheme == "http" and not plaintext and not (loopback and is_own(host)):
        raise Refused("The engine's address is not encrypted (http), so nothing is sent there.")


def is_own(host: str) -> bool:
    """Whether `host` (a name or an IP) is this computer's own address. Other names may lead anywhere."""
    if not is_ip(host):
        return host.lower() == "localhost"
    return unwrapped(ipaddress.ip_address(host.partition("%")[0])).is_loopback
