from django.apps import AppConfig
from django.contrib.staticfiles.apps import StaticFilesConfig


class UiConfig(AppConfig):
    name = "panel.ui"
    label = "ui"


class StaticConfig(StaticFilesConfig):
    """Leaves out what no page names: each file is compressed twice, by gzip and Brotli, at a first start."""

    ignore_patterns = [
        *StaticFilesConfig.ignore_patterns,
        # Long forms that only a debugging page asks for, and then they come from their packages.
        "jquery.js", "xregexp.js", "select2.full.js", "select2.css",
        # We use htmx 2, without its extensions.
        "htmx-2.js", "htmx-4*", "htmax-*", "hx-*", "htmx-2-compat-4*",
    ]  # fmt: skip
