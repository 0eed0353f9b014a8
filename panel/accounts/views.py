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
from django.views.decorators.http import require_GET

from panel.accounts.models import SignInLink


@login_not_required
@require_GET
def sign_in_link(request: HttpRequest, token: str) -> HttpResponseBase:
    """Redeem the link and sign its user in. HEAD and POST get 405 and redeem nothing.

    404 for a token that never was, 410 for one that is used, expired or of a disabled user.
    """
    with transaction.atomic():
        user = SignInLink.redeem(token, now=timezone.now())
        if user:
            request.sign_in_by = "link"  # type: ignore[attr-defined]
            # Through allauth's stages, so that a second factor is asked for here too once there is one.
            response: HttpResponseBase = perform_login(request, user, email_verification="none")
        else:
            response = _invalid(request, token)
    response["Cache-Control"] = "no-store"
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
