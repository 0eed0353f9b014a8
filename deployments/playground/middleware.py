"""The short way of a token stream: first in MIDDLEWARE, async, past everything that hops threads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import lru_cache
from inspect import markcoroutinefunction
from uuid import UUID

from django.core.exceptions import DisallowedHost
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.middleware.clickjacking import XFrameOptionsMiddleware
from django.middleware.csp import ContentSecurityPolicyMiddleware
from django.middleware.security import SecurityMiddleware
from django.urls import Resolver404, resolve

from deployments.playground.views import Admit, admit_in_thread, answer, chat_stream
from panel import logs
from panel.context import context_of, request_context

GetResponse = Callable[[HttpRequest], Awaitable[HttpResponseBase]]


def stream_of(request: HttpRequest) -> UUID | None:
    """The deployment whose stream is asked for; None when it is another page."""
    if request.method != "POST" or not request.path_info.endswith("/stream"):
        return None
    return _stream_at(request.path_info)


@lru_cache(maxsize=1024)
def _stream_at(path: str) -> UUID | None:
    try:
        match = resolve(path)
    except Resolver404:
        return None
    return match.kwargs["pk"] if match.func is chat_stream else None


class StreamMiddleware:
    """Answers POST on a deployment's stream itself; everything else goes on down the chain.

    Each sync middleware costs a request a change of threads, which was measured to double the time that
    the panel adds to the first token. What the chain would do for this path is done here and in
    `admission`, by the same classes of Django.
    """

    # Not sync-capable, so that Django keeps it async even though it stands before sync middleware.
    sync_capable = False
    async_capable = True

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        self._security = SecurityMiddleware(get_response)
        self._headers: dict[bool, dict[str, str]] = {}
        markcoroutinefunction(self)

    async def __call__(self, request: HttpRequest) -> HttpResponseBase:
        deployment_id = stream_of(request)
        if deployment_id is None:
            return await self.get_response(request)
        return await self.stream(request, deployment_id, admit=admit_in_thread)

    async def stream(self, request: HttpRequest, deployment_id: UUID, *, admit: Admit) -> HttpResponseBase:
        """The stream's response, or the refusal, with the headers that every page of the panel has."""
        here = context_of(request)
        token = request_context.set(here)
        logs.begin(deployment=deployment_id)
        try:
            response = self._redirect(request) or await answer(request, deployment_id, admit=admit)
        finally:
            logs.end()
            request_context.reset(token)
        response["X-Request-ID"] = here.request_id
        for name, value in self._page_headers(request).items():
            response.headers.setdefault(name, value)
        return response

    def _page_headers(self, request: HttpRequest) -> dict[str, str]:
        """What Django's middleware puts on a page without scripts: the same for all of them, but for https."""
        secure = request.is_secure()
        if secure not in self._headers:
            page = HttpResponse()
            for middleware in (XFrameOptionsMiddleware, ContentSecurityPolicyMiddleware):
                middleware(self.get_response).process_response(request, page)
            self._security.process_response(request, page)
            del page["Content-Type"]
            self._headers[secure] = dict(page.items())
        return self._headers[secure]

    def _redirect(self, request: HttpRequest) -> HttpResponseBase | None:
        """To https, where the panel is served over it."""
        try:
            return self._security.process_request(request)
        except DisallowedHost:
            return None  # `answer` says so.
