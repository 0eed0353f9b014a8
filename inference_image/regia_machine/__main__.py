"""`python3 -m regia_machine`: the image's entrypoint."""

from __future__ import annotations

import io
import sys

from regia_machine import entrypoint, init

if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        # An engine may print what a bare container's encoding does not know.
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(init.run(entrypoint.main))
