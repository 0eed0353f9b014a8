"""Who may reach a view. Everybody signs in first (`SignInRequiredMiddleware`); this asks for the right."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, cast

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase

from panel.signin import to_sign_in

REFUSED = "Your role does not include this, and nothing was done. An administrator can change your role."

type View = Callable[..., HttpResponseBase]
type AsyncView = Callable[..., Awaitable[HttpResponseBase]]


def requires[V: Callable[..., Any]](permission: str) -> Callable[[V], V]:
    """Let in who has `permission` ("app.codename"). Nobody is sent to sign in; others get the 403 page.

    For sync and async views. Raises PermissionDenied with a sentence.
    """

    def decorate(view: V) -> V:
        guarded = _async(view, permission) if iscoroutinefunction(view) else _sync(view, permission)
        return cast("V", guarded)

    return decorate


def _sync(view: View, permission: str) -> View:
    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not request.user.is_authenticated:
            return to_sign_in(request)
        if not request.user.has_perm(permission):
            raise PermissionDenied(REFUSED)
        return view(request, *args, **kwargs)

    return guarded


def _async(view: AsyncView, permission: str) -> AsyncView:
    @wraps(view)
    async def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        user = await request.auser()
        if not user.is_authenticated:
            return to_sign_in(request)
        if not await user.ahas_perm(permission):
            raise PermissionDenied(REFUSED)
        return await view(request, *args, **kwargs)

    return guarded
