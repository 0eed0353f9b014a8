"""The ASGI door: `uvicorn panel.asgi:application`."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "panel.settings")

_django = get_asgi_application()

from django.conf import settings  # noqa: E402
from django.utils.module_loading import import_string  # noqa: E402

from panel.serving import BoundedBody  # noqa: E402

# Named as a string there: the panel imports nothing above itself.
application = BoundedBody(import_string(settings.ASGI_DOOR)(_django))
