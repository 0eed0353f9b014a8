"""Shoots every page at both sizes and in both themes: `python -m tests.browser.shoot FOLDER [page ...]`.

It seeds a data folder of its own, serves it on 127.0.0.1 and leaves the folder of pictures behind.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler

import django


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


def main(folder: Path, only: list[str]) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "panel.settings")
    for name in ("RUNPOD_API_BASE_URL", "RUNPOD_RUNTIME_BASE_URL", "VAST_API_BASE_URL"):
        os.environ.setdefault(name, "http://127.0.0.1:9")  # no picture asks a provider
    django.setup()
    from django.core.management import call_command
    from django.utils import timezone

    call_command("migrate", verbosity=0)
    call_command("collectstatic", verbosity=0, interactive=False)

    from tests.browser import scene, scene_samples

    made = scene.build(now=timezone.now(), history=1)
    scene_samples.tell(made.ready, now=timezone.now(), hours=24)
    address = _serve()
    folder.mkdir(parents=True, exist_ok=True)
    problems = _shoot(address, made, folder, only)
    sys.stdout.write("\n".join(problems) + f"\n{len(problems)} problems\n")


def _serve() -> str:
    from django.core.servers.basehttp import ThreadedWSGIServer
    from django.core.wsgi import get_wsgi_application

    server = ThreadedWSGIServer(("127.0.0.1", 0), _Quiet)
    server.set_app(get_wsgi_application())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}"


def _shoot(address: str, made: Any, folder: Path, only: list[str]) -> list[str]:
    from tests.browser import pages, scene

    problems: list[str] = []
    with pages.chromium() as browser:
        for size in pages.SIZES:
            for theme in ("light", "dark"):
                context = pages.context_of(browser, size, theme)
                page = context.new_page()
                said: list[str] = []
                page.on(
                    "console",
                    lambda m, said=said: said.append(m.text) if m.type in ("error", "warning") else None,
                )
                page.on("pageerror", lambda e, said=said: said.append(str(e)))

                def look(
                    name: str,
                    path: str,
                    page: Any = page,
                    size: str = size,
                    theme: str = theme,
                    said: Any = said,
                ) -> None:
                    if only and name not in only:
                        return
                    page.goto(address + path)
                    page.wait_for_load_state("networkidle")
                    shot = folder / f"{name}-{size}-{theme}.png"
                    page.screenshot(path=str(shot))
                    found = pages.axe(page) + (
                        [f"{pages.overflow(page)} px too wide"] if pages.overflow(page) > 0 else []
                    )
                    problems.extend(f"{shot.name}: {line}" for line in [*found, *said])
                    said.clear()

                for name, path in pages.DOORS.items():
                    look(name, path)
                page.goto(address + "/accounts/login/")
                page.get_by_label("Email").fill("admin@example.com")
                page.get_by_label("Password", exact=True).fill(scene.PASSWORD)
                page.get_by_role("button", name="Sign in").click()
                page.wait_for_url(address + "/")
                for name, path in pages.paths(made).items():
                    look(name, path)
                context.close()
    return problems


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
