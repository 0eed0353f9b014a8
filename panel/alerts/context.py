"""What the header of every page says of the alerts: that some do not arrive."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest

from panel.alerts.delivering import undelivered


def alerts(request: HttpRequest) -> dict[str, Callable[[], int]]:
    """`undelivered`, asked for only by pages that show it: an error page must not need the database."""

    def count() -> int:
        user = getattr(request, "user", None)
        return undelivered().count() if user is not None and user.is_authenticated else 0

    return {"undelivered": count}
