from django.apps import AppConfig, apps

UNNAMED = [
    # Long forms that only a debugging page asks for, and then they come from their packages.
    "jquery.js", "xregexp.js", "select2.full.js", "select2.css",
    # We use htmx 2, without its extensions.
    "htmx-2.js", "htmx-4*", "htmax-*", "hx-*", "htmx-2-compat-4*",
]  # fmt: skip
"""What no page names is left out: each file is compressed twice, by gzip and Brotli, at a first start."""


class UiConfig(AppConfig):
    name = "panel.ui"
    label = "ui"

    def ready(self) -> None:
        config = apps.get_app_config("staticfiles")
        # Not by an app of our own in its place: by its name others know that static files are served.
        config.ignore_patterns = [*type(config).ignore_patterns, *UNNAMED]  # type: ignore[attr-defined]
