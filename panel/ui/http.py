"""The request of a page behind `requires`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.http import HttpRequest

if TYPE_CHECKING:
    from panel.accounts.models import User


class SignedInRequest(HttpRequest):
    """For annotations: somebody has signed in, so the user is never anonymous."""

    user: User
