"""The way to the sign-in page, and back to where somebody wanted to go."""

from __future__ import annotations

from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse
from django.shortcuts import resolve_url
from django.utils.http import url_has_allowed_host_and_scheme


def to_sign_in(request: HttpRequest) -> HttpResponse:
    """A redirect to sign-in that leads back to the page. htmx gets HX-Redirect: the whole page must go there."""
    there = redirect_to_login(_back_to(request), resolve_url(settings.LOGIN_URL))
    if "HX-Request" not in request.headers:
        return there
    return HttpResponse(status=204, headers={"HX-Redirect": there["Location"]})


def _back_to(request: HttpRequest) -> str:
    """The page that was open. A form's or a fragment's own address is no place to come back to."""
    page = request.headers.get("HX-Current-URL", "")
    if request.method in {"GET", "HEAD"} and not page:
        return request.get_full_path()
    page = page or request.headers.get("Referer", "")
    if not url_has_allowed_host_and_scheme(page, allowed_hosts={request.get_host()}):
        return "/"
    parts = urlsplit(page)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path or "/"
