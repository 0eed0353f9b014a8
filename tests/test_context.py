"""Who asks: an id that can be trusted in a log, and the client's address, not one that it made up."""

from __future__ import annotations

import asyncio
import uuid
from ipaddress import ip_network

import pytest
from django.http import HttpResponse
from django.test import AsyncRequestFactory, RequestFactory

from panel.context import client_address, request_context
from panel.middleware import RequestIdMiddleware


def ask(**headers):
    seen = []

    def view(request):
        seen.append(request_context.get())
        return HttpResponse()

    request = RequestFactory().get("/", headers=headers, REMOTE_ADDR="192.0.2.1")
    response = RequestIdMiddleware(view)(request)
    return seen[0], response


def test_each_request_has_an_id_of_its_own_which_the_answer_carries():
    here, response = ask(User_Agent="Browser/1")
    assert uuid.UUID(here.request_id)
    assert response["X-Request-ID"] == here.request_id
    assert (here.address, here.user_agent) == ("192.0.2.1", "Browser/1")
    assert request_context.get() is None


def test_a_well_formed_id_of_the_proxy_is_kept():
    assert ask(X_Request_ID="req-0123456789")[0].request_id == "req-0123456789"


@pytest.mark.parametrize(
    "given", ["short", "x" * 37, "new\nline-0123", "sp ace-012345", "<script>0123", "-leading-dash-"]
)
def test_a_malformed_id_is_replaced(given):
    here, response = ask(X_Request_ID=given)
    assert uuid.UUID(here.request_id)
    assert given not in response["X-Request-ID"]


def test_requests_at_once_do_not_see_each_other():
    async def view(request):
        before = request_context.get()
        await asyncio.sleep(0)
        assert request_context.get() is before
        return HttpResponse(before.request_id)

    async def run():
        middleware = RequestIdMiddleware(view)
        requests = [
            AsyncRequestFactory().get("/", headers={"X-Request-ID": f"request-{n:04}"}) for n in range(20)
        ]
        return await asyncio.gather(*(middleware(r) for r in requests))

    assert [r.text for r in asyncio.run(run())] == [f"request-{n:04}" for n in range(20)]


@pytest.mark.django_db
def test_nothing_of_a_request_is_left_behind(client):
    assert client.get("/healthz")["X-Request-ID"]
    assert request_context.get() is None


def test_a_long_user_agent_is_cut():
    assert len(ask(User_Agent="x" * 5000)[0].user_agent) == 200


@pytest.mark.parametrize(
    ("trusted", "remote", "forwarded", "address"),
    [
        ([], "192.0.2.1", "203.0.113.9", "192.0.2.1"),
        (["10.0.0.0/8"], "192.0.2.1", "203.0.113.9", "192.0.2.1"),
        (["10.0.0.0/8"], "10.0.0.1", "203.0.113.9", "203.0.113.9"),
        (["10.0.0.0/8"], "10.0.0.1", "6.6.6.6, 203.0.113.9", "203.0.113.9"),
        (["10.0.0.0/8"], "10.0.0.1", "203.0.113.9, 10.0.0.2", "203.0.113.9"),
        (["10.0.0.0/8"], "10.0.0.1", "", "10.0.0.1"),
        (["10.0.0.0/8"], "10.0.0.1", "nonsense", "10.0.0.1"),
        (["10.0.0.0/8"], "10.0.0.1", "203.0.113.9, nonsense", "10.0.0.1"),
        (["::1/128"], "::1", "2001:db8::7", "2001:db8::7"),
        ([], "", "203.0.113.9", ""),
        ([], "fe80::1%eth0", "", "fe80::1"),
    ],
)
def test_the_client_is_who_connects_or_whom_a_trusted_proxy_names(
    settings, trusted, remote, forwarded, address
):
    settings.TRUSTED_PROXIES = [ip_network(network) for network in trusted]
    request = RequestFactory().get("/", REMOTE_ADDR=remote, headers={"X-Forwarded-For": forwarded})
    assert client_address(request) == address
