"""The same guard for libraries that speak by `requests` (single sign-on): each connection goes to a judged address."""

from __future__ import annotations

import socket
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import NewConnectionError

from panel.outbound import is_allowed

TIMEOUT = 10.0
"""Seconds for the connection and for each silence of the answer, where the caller says nothing else."""
REDIRECTS = 3


def guarded_session(*, private: bool = False, https_only: bool = True) -> requests.Session:
    """A session that reaches public addresses alone, redirects included; with `private` also one's own networks.

    Each name is resolved once, judged, and connected to as judged. It uses no proxy and no file of this computer.
    """
    session = _Session()
    adapter = _Adapter(private=private)
    session.mount("https://", adapter)
    if https_only:
        del session.adapters["http://"]
    else:
        session.mount("http://", adapter)
    return session


class _Session(requests.Session):
    def __init__(self) -> None:
        super().__init__()
        self.trust_env = False
        self.max_redirects = REDIRECTS

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        kwargs["timeout"] = kwargs.get("timeout") or TIMEOUT
        return super().request(*args, **kwargs)


class _Adapter(HTTPAdapter):
    def __init__(self, *, private: bool) -> None:
        self._private = private
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _pools(private=self._private)


def _pools(*, private: bool) -> dict[str, Any]:
    """Pools whose connections are judged."""

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _connected(self, private=private)

    class Tls(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return _connected(self, private=private)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class TlsPool(HTTPSConnectionPool):
        ConnectionCls = Tls

    return {"http": PlainPool, "https": TlsPool}


def _connected(connection: HTTPConnection, *, private: bool) -> socket.socket:
    """A socket to the first address of the name that may be connected to and answers."""
    try:
        found = socket.getaddrinfo(connection._dns_host, connection.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as e:
        raise NewConnectionError(connection, "Its name is not known.") from e
    allowed = [row for row in found if is_allowed(str(row[4][0]), loopback=private, private=private)]
    if not allowed:
        raise NewConnectionError(
            connection, "Its name leads into a private network, so nothing is sent there."
        )
    error: OSError | None = None
    for family, kind, protocol, _, address in allowed:
        sock = socket.socket(family, kind, protocol)
        try:
            timeout = connection.timeout
            sock.settimeout(timeout if isinstance(timeout, int | float) else TIMEOUT)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect(address)
        except OSError as e:
            sock.close()
            error = e
        else:
            return sock
    raise NewConnectionError(connection, "It cannot be connected to.") from error
