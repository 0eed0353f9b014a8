"""What the supervisor starts: `python -m panel.processes web|worker|terminate`.

Each reads the supervisor's lifeline, so that none is left when the supervisor was killed.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from typing import Any

LIFELINE = "REGIA_LIFELINE_FD"
LISTEN = "REGIA_LISTEN_FD"
ORPHAN_GRACE = 5.0
"""Seconds between the asking and the killing of a process whose supervisor is gone."""
WORKER_THREADS = 8
"""Looks at once: they wait for providers, so 1,000 machines at 200 ms each are seen within 30 s."""
TERMINATE_THREADS = 4

logger = logging.getLogger(__name__)


def web() -> None:
    """Serve the pages on the supervisor's socket until SIGTERM."""
    import uvicorn

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "panel.settings")
    from django.conf import settings

    from panel.serving import BoundedProtocol

    # A stream holds two files: the usual limit of 1,024 would turn everybody away at 500 streams.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    proxies = [str(network) for network in settings.TRUSTED_PROXIES]
    config = uvicorn.Config(
        "panel.asgi:application",
        loop="uvloop",
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        # Believed from the named addresses alone: anybody else could write any client's address.
        proxy_headers=bool(proxies),
        forwarded_allow_ips=proxies or None,
        timeout_graceful_shutdown=3,
    )
    config.load()
    from panel import warm

    warm.begin()
    uvicorn.Server(config).run(sockets=[_listener()])


def worker() -> None:
    """The general worker, with the clock as one of its threads: no clock without hands, none left behind."""
    from celery import bootsteps
    from celery.beat import EmbeddedService, Scheduler

    from panel.celery import app

    class Clock(bootsteps.StartStopStep):
        """Beat as a thread. Due times live in rows, so it needs no schedule file and remembers nothing."""

        requires = ("celery.worker.components:Pool",)

        def create(self, parent: Any) -> Any:
            return EmbeddedService(parent.app, thread=True, scheduler_cls=Scheduler)

        def start(self, parent: Any) -> None:
            super().start(parent)
            self.asked = threading.Event()
            watch = threading.Thread(
                target=_watch, args=[self.obj, self.asked], name="clock-watch", daemon=True
            )
            watch.start()

        def stop(self, parent: Any) -> None:
            self.asked.set()
            super().stop(parent)

    app.steps["worker"].add(Clock)
    _work(app, queue="regia", threads=_threads("REGIA_WORKER_THREADS", WORKER_THREADS))


def terminate() -> None:
    """The terminate queue's own worker: nothing may stand before giving a machine back."""
    from panel.celery import app

    _work(app, queue="terminate", threads=_threads("REGIA_TERMINATE_THREADS", TERMINATE_THREADS))


def _work(app: Any, *, queue: str, threads: int) -> None:
    hands = app.Worker(
        hostname=f"{queue}@{socket.gethostname()}",
        pool_cls="threads",
        concurrency=threads,
        queues=queue,
        loglevel=os.environ.get("REGIA_LOG_LEVEL", "").strip() or "INFO",
        # They let workers find each other; ours have nothing to say to one another.
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    hands.start()
    sys.exit(hands.exitcode)


def _watch(clock: threading.Thread, asked: threading.Event) -> None:
    """End the worker when its clock has died unasked, so that the supervisor starts both anew."""
    clock.join()
    if not asked.is_set():
        logger.error("The clock has died, and its worker ends with it")
        os.kill(os.getpid(), signal.SIGTERM)


def _threads(name: str, default: int) -> int:
    text = os.environ.get(name, "").strip()
    return max(1, int(text)) if text.isdecimal() else default


def _listener() -> socket.socket:
    listener = socket.socket(fileno=int(os.environ[LISTEN]))
    listener.set_inheritable(False)
    return listener


def hold_lifeline() -> None:
    """End this process when the supervisor's end of the pipe closes, in whatever way it ended."""
    fd = int(os.environ[LIFELINE])
    # Engines and other children must not keep the pipe, nor be found waiting for it.
    os.set_inheritable(fd, False)  # noqa: FBT003 - it takes no keyword

    def wait() -> None:
        os.read(fd, 1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHAN_GRACE)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


def main(name: str) -> None:
    hold_lifeline()
    {"web": web, "worker": worker, "terminate": terminate}[name]()


if __name__ == "__main__":
    main(sys.argv[1])
