"""Whether the door answers, asked from inside: the image's HEALTHCHECK. Exit code 0 when it does."""

from __future__ import annotations

import os
import ssl
import sys
import urllib.request
from collections.abc import Mapping

SECONDS = 8.0


def address(environ: Mapping[str, str]) -> str:
    """Of the door's health, as the environment places the door."""
    port = environ.get("REGIA_PORT", "").strip() or environ.get("PORT", "").strip() or "8000"
    scheme = "http" if environ.get("REGIA_DOOR", "").strip() == "plain" else "https"
    return f"{scheme}://127.0.0.1:{port}/health"


def is_well(url: str) -> bool:
    # The certificate is the machine's own and this is the machine: there is nobody else to take for it.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    direct = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        with direct.open(url, timeout=SECONDS) as answer:
            return int(answer.status) == 200
    except (OSError, ValueError):
        return False


if __name__ == "__main__":
    sys.exit(0 if is_well(address(os.environ)) else 1)
