"""Signing in by a one-time link. Everything else about accounts is allauth's."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from allauth.account.utils import perform_login
from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_http_methods

from panel.accounts.models import SignInLink


@login_not_required
@require_http_methods(["GET", "POST"])
def sign_in_link(request: HttpRequest, token: str) -> HttpResponseBase:
    """GET shows a page with one button; POST redeems the link and signs its user in. HEAD gets 405.

    404 for a token that never was, 410 for one that is used, expired or of a disabled user.
    """
    # What reads mail ahead of people opens every link in it: looking must not spend one.
    response = _redeem(request, token) if request.method == "POST" else _ask(request, token)
    response["Cache-Control"] = "no-store"
    return response


def _ask(request: HttpRequest, token: str) -> HttpResponseBase:
    if not SignInLink.works(token, now=timezone.now()):
        response = _invalid(request, token)
    else:
        response = render(request, "account/link.html")
    # No path, so no token, in a Referer; with "no-referrer" the button's request would name no origin either.
    response["Referrer-Policy"] = "strict-origin"
    return response


def _redeem(request: HttpRequest, token: str) -> HttpResponseBase:
    with transaction.atomic():
        user = SignInLink.redeem(token, now=timezone.now())
        if user:
            request.sign_in_by = "link"  # type: ignore[attr-defined]
            # Through allauth's stages, so that a second factor is asked for here too once there is one.
            response: HttpResponseBase = perform_login(request, user, email_verification="none")
        else:
            response = _invalid(request, token)
    # The page that follows must not learn the token from its Referer.
    response["Referrer-Policy"] = "no-referrer"
    return response


def _invalid(request: HttpRequest, token: str) -> HttpResponse:
    status = 410 if SignInLink.knows(token) else 404
    return render(request, "account/link_invalid.html", {"status": status}, status=status)


def only_with_mail(view: Callable[..., HttpResponseBase]) -> Callable[..., HttpResponseBase]:
    """Let `view` exist only where mail leaves the house: a reset link in a log would be a secret in a log."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not settings.MAIL_CONFIGURED:
            raise Http404
        return view(request, *args, **kwargs)

    return guarded
