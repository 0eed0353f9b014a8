"""Who reaches a view: nobody is sent to sign in and back, the wrong role gets 403, sync and async alike."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import PermissionDenied
from django.http import HttpResponse
from django.test import AsyncRequestFactory, RequestFactory

from panel.accounts.access import requires
from tests import asgi, factories

PERMISSION = "deployments.launch_deployment"


@requires(PERMISSION)
def sync_view(request, word="in"):
    return HttpResponse(word)


@requires(PERMISSION)
async def async_view(request, word="in"):
    return HttpResponse(word)


def ask(user, **headers):
    request = RequestFactory().get("/launch/?model=x", headers=headers)
    request.user = user
    return sync_view(request, word="hello")


def ask_async(user):
    async def run():
        request = AsyncRequestFactory().get("/launch/")

        async def auser():
            return user

        request.auser = auser
        return await async_view(request, word="hello")

    return asgi.run(run())


@pytest.mark.django_db
def test_who_has_the_right_comes_in():
    assert ask(factories.operator()).content == b"hello"


@pytest.mark.django_db(transaction=True)
def test_an_async_view_is_guarded_likewise():
    assert ask_async(factories.operator()).content == b"hello"
    with pytest.raises(PermissionDenied, match="Your role does not include this"):
        ask_async(factories.viewer())
    assert ask_async(AnonymousUser())["Location"] == "/accounts/login/?next=/launch/"


@pytest.mark.django_db
def test_who_has_not_gets_a_sentence():
    with pytest.raises(PermissionDenied, match="Your role does not include this"):
        ask(factories.viewer())


def test_nobody_is_sent_to_sign_in_and_back():
    assert ask(AnonymousUser())["Location"] == "/accounts/login/?next=/launch/%3Fmodel%3Dx"


def test_htmx_is_told_to_open_the_sign_in_page_and_come_back_to_the_whole_page():
    answer = ask(AnonymousUser(), HX_Request="true", HX_Current_URL="http://testserver/spend/?day=1")
    assert (answer.status_code, answer["HX-Redirect"]) == (204, "/accounts/login/?next=/spend/%3Fday%3D1")


@pytest.mark.django_db
def test_a_signed_out_page_that_polls_is_told_so_by_the_middleware(client):
    answer = client.get("/", headers={"HX-Request": "true", "HX-Current-URL": "http://testserver/"})
    assert (answer.status_code, answer["HX-Redirect"]) == (204, "/accounts/login/?next=/")


@pytest.mark.parametrize(
    ("referer", "back"),
    [
        ("http://testserver/spend/", "/spend/"),
        ("https://evil.example/x", "/"),
        ("", "/"),
        ("javascript:alert(1)", "/"),
    ],
)
@pytest.mark.django_db
def test_a_form_that_was_sent_without_a_session_leads_back_to_its_page(client, referer, back):
    answer = client.post("/spend/budgets/add/", headers={"Referer": referer} if referer else {})
    assert answer["Location"] == f"/accounts/login/?next={back}"
