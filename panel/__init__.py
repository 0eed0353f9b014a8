"""The project. `celery_app` is made when it is asked for: the supervisor needs neither Celery nor Django."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from panel.celery import app as celery_app

__all__ = ["celery_app"]


def __getattr__(name: str) -> Any:
    if name == "celery_app":
        from panel.celery import app

        return app
    raise AttributeError(name)
