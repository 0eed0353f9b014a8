"""Where the panel connects to: no name, number, redirect or second answer of the DNS leads into a private network."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import requests

from panel.alerts import webhook
from panel.outbound import GuardedResolver, Refused, is_allowed, is_disguised
from panel.outbound_requests import guarded_session

METADATA = [
    "169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "fe80::1%eth0", "fd00:ec2::254",
    "fd20:ce::254", "192.0.0.192", "100.100.100.200", "168.63.129.16", "::ffff:100.100.100.200", "64:ff9b:1::a9fe:a9fe",
]  # fmt: skip
PRIVATE = ["10.0.0.1", "192.168.1.1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "fd12:3456::1"]
NEVER = [
    "0.0.0.0",  # noqa: S104
    "::",
    "224.0.0.1",
    "ff02::1",
    "240.0.0.1",
    "255.255.255.255",
    "::127.0.0.1",
    "not an address",
    "",
]


@pytest.mark.parametrize("address", METADATA + NEVER)
def test_a_clouds_metadata_is_never_connected_to(address):
    assert not is_allowed(address, loopback=True, private=True)
    assert not is_allowed(address, loopback=False)


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_network_only_where_somebody_allowed_it(address):
    assert not is_allowed(address, loopback=True)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"])
def test_this_computer_only_where_somebody_allowed_it(address):
    assert is_allowed(address, loopback=True)
    assert not is_allowed(address, loopback=False, private=True)


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "127.1",
        "127.0.0.1.",
        "0X7F.0x1",
        "①②⑦.0.0.1",
        "a.0x",
    ],
)
def test_an_address_in_disguise_is_known(host):
    assert is_disguised(host)
    with pytest.raises(Refused):
        webhook.check_address(f"https://{host}/hook", private=True)


@pytest.mark.parametrize(
    "host", ["panel.example.com", "a1.example", "127.0.0.1", "::1", "7.example.com", "0xdead.example"]
)
def test_a_plain_name_is_none(host):
    assert not is_disguised(host)


# -- real connections -----------------------------------------------------------------------------------


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.seen.append(self.path)  # type: ignore[attr-defined]
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path[4:])
        else:
            self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    httpd = HTTPServer(("127.0.0.1", 0), Answers)
    httpd.seen = []  # type: ignore[attr-defined]
    threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
    yield httpd
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def names(monkeypatch) -> dict[str, list[str]]:
    """A little DNS at the socket's level: each question for a name takes its next answer."""
    answers: dict[str, list[str]] = {}
    real = socket.getaddrinfo

    def resolve(host, *args, **kwargs):
        if host in answers:
            address = answers[host].pop(0) if len(answers[host]) > 1 else answers[host][0]
            return real(address, *args, **kwargs)
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return answers


def test_single_sign_on_reaches_no_private_address(server, names):
    names["inside.example"] = ["127.0.0.1"]
    port = server.server_port
    session = guarded_session(https_only=False)
    for host in ("127.0.0.1", "localhost", "inside.example", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1"):
        with pytest.raises(requests.ConnectionError):
            session.get(f"http://{host}:{port}/")
    assert server.seen == []


def test_a_redirect_is_judged_as_well(server, names):
    session = guarded_session(private=True, https_only=False)
    port = server.server_port
    assert session.get(f"http://127.0.0.1:{port}/").status_code == 200
    with pytest.raises(requests.ConnectionError, match="private network"):
        session.get(f"http://127.0.0.1:{port}/to/http://169.254.169.254/latest/meta-data")
    with pytest.raises(requests.exceptions.InvalidSchema):
        guarded_session(private=True).get(f"http://127.0.0.1:{port}/")


def test_a_name_that_changes_its_answer_gains_nothing(server, names):
    # Judged and connected to by the one answer: the second, which leads inside, is never asked for.
    names["rebinds.example"] = ["192.0.2.1", "127.0.0.1"]
    connected = []
    session = guarded_session(https_only=False)

    def connect(sock: socket.socket, address: object) -> None:
        connected.append(address)
        raise OSError("no way")

    with pytest.MonkeyPatch.context() as patch:
        names["rebinds.example"] = ["8.8.8.8", "127.0.0.1"]
        patch.setattr(socket.socket, "connect", connect)
        with pytest.raises(requests.ConnectionError):
            session.get(f"http://rebinds.example:{server.server_port}/")
    assert connected == [("8.8.8.8", server.server_port)]
    assert server.seen == []


@pytest.mark.asyncio
async def test_an_engines_name_that_changes_its_answer_is_refused_then(names):
    resolver = GuardedResolver(loopback=False)
    names["rebinds.example"] = ["8.8.8.8", "127.0.0.1"]
    assert [r["host"] for r in await resolver.resolve("rebinds.example", 443)] == ["8.8.8.8"]
    with pytest.raises(Refused, match="private network"):
        await resolver.resolve("rebinds.example", 443)
    await resolver.close()
