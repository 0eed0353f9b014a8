"""Middleware of the panel: the request's id, the way to sign-in, and clear pages when a part fails."""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction, markcoroutinefunction
from typing import Any, cast

from django.conf import settings
from django.contrib.auth.middleware import LoginRequiredMiddleware
from django.db import (
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
    NotSupportedError,
    ProgrammingError,
)
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render

from panel import logs
from panel.audit.chain import AuditUnavailable
from panel.context import context_of, request_context
from panel.signin import to_sign_in

logger = logging.getLogger(__name__)

type GetResponse = Callable[[HttpRequest], HttpResponseBase]


class RequestIdMiddleware:
    """Gives each request an id and says who asks, for the audit and the logs, as `request_context`."""

    sync_capable = async_capable = True

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if self._is_async:
            return self._acall(request)
        here = context_of(request)
        token = request_context.set(here)
        logs.begin()
        try:
            response = self.get_response(request)
        finally:
            logs.end()
            request_context.reset(token)
        response["X-Request-ID"] = here.request_id
        return response

    async def _acall(self, request: HttpRequest) -> HttpResponseBase:
        here = context_of(request)
        token = request_context.set(here)
        logs.begin()
        try:
            response = await cast("Awaitable[HttpResponseBase]", self.get_response(request))
        finally:
            logs.end()
            # Else it would follow whoever called us: asgiref carries what a coroutine sets back to its caller.
            request_context.reset(token)
        response["X-Request-ID"] = here.request_id
        return response


PERMISSIONS = ", ".join(
    f"{feature}=()"
    for feature in (
        "accelerometer", "autoplay", "browsing-topics", "camera", "display-capture", "encrypted-media", "fullscreen",
        "geolocation", "gyroscope", "hid", "idle-detection", "magnetometer", "microphone", "midi", "payment",
        "picture-in-picture", "publickey-credentials-create", "publickey-credentials-get", "screen-wake-lock", "serial",
        "usb", "xr-spatial-tracking",
    )
).replace("publickey-credentials-create=()", "publickey-credentials-create=(self)").replace(
    "publickey-credentials-get=()", "publickey-credentials-get=(self)"
)  # fmt: skip
"""The browser's powers that no page here uses; passkeys are the exception."""


class BrowserLimitsMiddleware:
    """What Django's SecurityMiddleware has no setting for: the browser's powers, and who may embed what we send."""

    sync_capable = async_capable = True

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if self._is_async:
            return self._acall(request)
        return self.process_response(request, self.get_response(request))

    async def _acall(self, request: HttpRequest) -> HttpResponseBase:
        response = await cast("Awaitable[HttpResponseBase]", self.get_response(request))
        return self.process_response(request, response)

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        response.headers.setdefault("Permissions-Policy", PERMISSIONS)
        response.headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
        # A page of somebody who is signed in is nobody else's, and not the back button's after they signed out.
        if (user := _known_user(request)) is not None and user.is_authenticated:
            response.headers.setdefault("Cache-Control", "private, no-store")
        return response


def _known_user(request: HttpRequest) -> Any:
    """The user, when something asked for it: a file needs none, and must not wait for the database."""
    return getattr(request, "_cached_user", None)


class SignInRequiredMiddleware(LoginRequiredMiddleware):
    """Everybody signs in first. htmx is told to open the sign-in page, not to swap it into a fragment."""

    def handle_no_permission(self, request: HttpRequest, view_func: Any) -> HttpResponse:  # type: ignore[override]
        return to_sign_in(request)


class FailureMiddleware:
    """A database, audit or folder that fails becomes a page that says what happened and what to do."""

    sync_capable = async_capable = True

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        return unavailable(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    """The project's handler500: other middleware meets a failing database before any view does."""
    error = sys.exc_info()[1]
    return (isinstance(error, Exception) and unavailable(request, error)) or _page(
        request, "500.html", {}, 500
    )


def unavailable(request: HttpRequest, error: Exception) -> HttpResponse | None:
    """The 503 for an error of the ground we stand on; None for any other."""
    sentence = sentence_of(error)
    if not sentence:
        return None
    # The text may name paths and hosts: it is for the log, never for the page.
    logger.error("%s %s: %s", request.method, request.path, error, exc_info=error)
    if request.method not in {"GET", "HEAD"}:
        sentence += " What you sent was not carried out."
    if "HX-Request" in request.headers:
        response = HttpResponse(f"{sentence} {_HINT}", status=503, content_type="text/plain; charset=utf-8")
    else:
        response = _page(request, "errors/unavailable.html", {"sentence": sentence, "hint": _HINT}, 503)
    response["Retry-After"] = "10"
    response["Cache-Control"] = "no-store"
    return response


_HINT = (
    "Machines that run go on running and billing; nothing you saved is lost. Try again in a minute;"
    " if this stays, look at the panel's log and at the space and permissions of its data folder."
)
_OURS = (DataError, IntegrityError, NotSupportedError, ProgrammingError)


def sentence_of(error: Exception) -> str:
    """What happened, without a path or a host; empty for an error that is a fault of the program."""
    if isinstance(error, AuditUnavailable):
        return "The audit log cannot be written, and without it nothing that costs money is done."
    if isinstance(error, OSError) and _in_data_folder(error.filename):
        return "A file or folder of the panel's data cannot be used."
    if not isinstance(error, DatabaseError | InterfaceError) or isinstance(error, _OURS):
        return ""
    text = str(error).lower()
    if "readonly" in text or "read-only" in text:
        return "The database is read-only."
    if "locked" in text or "lock timeout" in text or "deadlock" in text:
        return "The database is busy: another process holds it."
    if "full" in text or "no space" in text:
        return "The disk of the database is full."
    return "The database does not answer."


def _in_data_folder(filename: object) -> bool:
    return isinstance(filename, str) and filename.startswith(str(settings.DATA_DIR))


def _page(request: HttpRequest, template: str, context: dict[str, Any], status: int) -> HttpResponse:
    try:
        return render(request, template, context, status=status)
    except Exception:
        # Not even the page's frame can be drawn, say because it asks the database who is signed in.
        logger.exception("%s cannot be drawn", template)
        text = f"{context['sentence']} {context['hint']}" if context else "Something went wrong here."
        return HttpResponse(text, status=status, content_type="text/plain; charset=utf-8")
