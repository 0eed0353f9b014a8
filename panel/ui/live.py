"""A page that serves its own fragments, each with an ETag, so that a poll without news answers 304."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.cache import patch_vary_headers

# Ages tick in the browser and tokens are new in each rendering: neither is news.
_NOT_NEWS = re.compile(rb'(?<=>)[^<]*(?=</time>)|name="csrfmiddlewaretoken" value="[^"]*"')


def wanted_fragment(request: HttpRequest, fragments: tuple[str, ...]) -> str | None:
    """The fragment that htmx asks for by its target's id, None for the whole page."""
    htmx = getattr(request, "htmx", None)
    target = getattr(htmx, "target", None) if htmx else None
    return target if target in fragments else None


def live(
    request: HttpRequest,
    template: str,
    context: dict[str, Any],
    *,
    fragments: tuple[str, ...],
    status: int = 200,
) -> HttpResponse:
    """The page, or the one of its partials that is asked for (304 when the asker has it already)."""
    name = wanted_fragment(request, fragments)
    response = render(request, f"{template}#{name}" if name else template, context, status=status)
    patch_vary_headers(response, ("HX-Request", "HX-Target"))
    response["Cache-Control"] = "private, no-store"
    if name and status == 200:
        tag = f'"{hashlib.sha256(_NOT_NEWS.sub(b"", response.content)).hexdigest()[:32]}"'
        if request.headers.get("If-None-Match") == tag:
            response = HttpResponse(status=304)
        response["ETag"] = tag
    return response
