"""Pages for what went wrong before any view was reached."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """The form's token is missing, old or of another session. Nothing was done."""
    return render(request, "errors/csrf.html", status=403)
