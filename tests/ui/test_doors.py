"""Pages for somebody who is not signed in, and pages for what went wrong."""

import re

import pytest
from django.template.loader import render_to_string
from django.test import Client

from tests import factories

pytestmark = pytest.mark.django_db

INLINE = re.compile(r"<style|\sstyle=|<script(?![^>]*\ssrc=)|\son\w+=|javascript:|hx-on", re.IGNORECASE)


def test_sign_in_says_what_is_wrong_and_keeps_the_address(client):
    factories.user(email="a@example.com", password="a long enough password")
    response = client.post("/accounts/login/", {"login": "a@example.com", "password": "wrong"})
    page = response.content.decode()
    assert "not correct" in page
    assert 'value="a@example.com"' in page
    assert 'role="alert"' in page


def test_an_error_is_tied_to_its_field(client):
    page = client.post("/accounts/login/", {"login": "", "password": ""}).content.decode()
    assert 'aria-invalid="true"' in page
    assert 'aria-describedby="id_login_error"' in page
    assert 'id="id_login_error"' in page


def test_a_form_without_its_token_is_refused_with_a_sentence():
    response = Client(enforce_csrf_checks=True).post("/accounts/login/", {"login": "a@example.com"})
    assert response.status_code == 403
    assert "This form has expired" in response.content.decode()


def test_an_address_that_does_not_exist_says_what_to_do(client):
    client.force_login(factories.viewer())
    response = client.get("/nothing/here/")
    assert response.status_code == 404
    assert "There is nothing here" in response.content.decode()


def test_a_role_that_does_not_suffice_is_told_so(client):
    client.force_login(factories.viewer())
    response = client.get("/launch/")
    assert response.status_code == 403
    assert "An administrator can change your role" in response.content.decode()


@pytest.mark.parametrize("name", ["400", "403", "404", "500", "errors/csrf", "errors/unavailable"])
def test_pages_for_a_failure_need_no_request_and_no_database(name, django_assert_num_queries):
    with django_assert_num_queries(0):
        page = render_to_string(f"{name}.html")
    assert page.count("<h1>") == 1
    assert not INLINE.search(page)
