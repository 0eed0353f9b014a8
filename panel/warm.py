"""What the first visitor would wait for: the views are imported and the templates compiled once the web process runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from django.conf import settings
from django.template.loader import get_template

logger = logging.getLogger(__name__)


def begin() -> None:
    """In a thread of its own: whoever comes meanwhile is served, and waits for what is not there yet alone."""
    threading.Thread(target=_warm, name="warm", daemon=True).start()


def _warm() -> None:
    try:
        everything()
    except Exception:  # whatever it is, the page that needs it says so
        logger.exception("The pages could not be made ready beforehand")


def everything() -> None:
    """Import every view and compile every template of the project."""
    import_module(settings.ROOT_URLCONF)
    for name in names():
        get_template(name)


def names() -> Iterator[str]:
    folder = Path(settings.BASE_DIR, "templates")
    yield from sorted(str(path.relative_to(folder)) for path in folder.rglob("*.html"))
