"""The panel and the image together: what is ordered starts, is connected to, kept alive, and given another key.

The entrypoint, the door (nginx) and the watchdog are the image's own processes; a small server stands for vLLM.
"""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from django.db import connections
from django.utils import timezone

from deployments import progress, services
from deployments.lifecycle import State
from deployments.models import Instance
from deployments.monitoring import lease, probe
from deployments.playground import upstream
from deployments.providers.base import Order
from tests import factories
from tests.deployments.door import fresh, ordered
from tests.image.conftest import folder
from tests.image.doors import STAND_IN, wait_for_port
from tests.image.running import Running, engine_command, free_port, running, variables

__all__ = ["folder"]
pytestmark = [
    pytest.mark.image,
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("on_this_computer"),
]
WISH = {"model": "stand-in", "stream": True, "max_tokens": 40, "pause_seconds": 0.1}


@contextmanager
def started(folder: Path, order: Order, port: int) -> Iterator[Running]:
    """A container of that order; started twice on one folder, it is the same machine."""
    engine = shlex.join([sys.executable, str(STAND_IN), "--port", "{port}"])
    own = {"REGIA_PORT": str(port), "REGIA_ENGINE_COMMAND": engine, "REGIA_CHECKS": "off"}
    with running(folder, {**variables(folder), **order.container_environment(), **own}) as machine:
        machine.wait_for("ready")
        yield machine


def at(address: int, made: Instance) -> None:
    url = f"https://127.0.0.1:{address}"
    Instance.objects.filter(pk=made.pk).update(endpoint_url=url, state=State.READY, next_lease_at=None)


def renew(now: datetime) -> None:
    lease.renew_due(clock=lambda: now)


async def chat(made: Instance, meanwhile: Callable[[], None], **wish: object) -> bytes:
    engine = upstream.Engine(made.endpoint_url, made.api_key, loopback=True, pin=made.pin)
    async with upstream.new_session(loopback=True) as session:
        response = await upstream.open_stream(session, engine, {**WISH, **wish})
        first = await response.content.readany()
        await asyncio.to_thread(meanwhile)
        return first + await response.read()


def test_what_is_ordered_starts_and_only_the_panel_opens_it(folder: Path) -> None:
    made, order = ordered("vast")
    port = free_port()
    with started(folder, order, port) as machine:
        at(port, made)
        probe.probe_due(clock=timezone.now)
        now = timezone.now()
        renew(now)
        row = fresh(made)
        assert (row.probe_detail, row.lease_detail, row.lease_failures) == ("", "", 0)
        assert row.lease_expires_at == now + timedelta(hours=2)
        told = progress.latest(machine.lines)
        assert told
        assert told.phase == "ready"
        assert made.api_key not in machine.output


def test_a_key_changes_under_an_open_stream_and_after_a_start_it_is_told_again(folder: Path) -> None:
    made, order = ordered("vast")
    port, operator, begin = free_port(), factories.operator(), timezone.now()
    with started(folder, order, port):
        at(port, made)
        renew(begin)

        def change() -> None:
            services.rotate_machine_key(made.deployment, actor=operator, now=begin)
            for seconds in (0, 5, 11, 16):
                renew(begin + timedelta(seconds=seconds))
                asyncio.run(chat(fresh(made), lambda: None, max_tokens=1))
            connections.close_all()

        answer = asyncio.run(chat(fresh(made), change))
        assert answer.count(b"data: {") == 40
        assert answer.endswith(b"data: [DONE]\n\n")
        changed = fresh(made)
        assert (changed.key_step, changed.birth_key) == ("", made.api_key)
        assert changed.api_key != made.api_key
        old = fresh(made)
        old.api_key = made.api_key
        with pytest.raises(upstream.EngineRefused, match="did not accept"):
            asyncio.run(chat(old, lambda: None))
    with started(folder, order, port):
        assert asyncio.run(chat(fresh(made), lambda: None)).count(b"data: {") == 40, "it kept its key"
    (folder / "state" / "keys").unlink()
    with started(folder, order, port):
        with pytest.raises(upstream.EngineRefused, match="did not accept"):
            asyncio.run(chat(fresh(made), lambda: None))
        Instance.objects.update(next_lease_at=None)
        renew(begin + timedelta(minutes=2))
        assert (fresh(made).lease_detail, fresh(made).lease_failures) == ("", 0)
        assert asyncio.run(chat(fresh(made), lambda: None)).count(b"data: {") == 40


def test_a_machine_that_fails_as_it_starts_tells_the_panel_why_and_exits(folder: Path) -> None:
    made, order = ordered("vast")
    port = free_port()
    own = {
        "REGIA_PORT": str(port), "REGIA_CHECKS": "off", "REGIA_TELL_SECONDS": "60",
        "REGIA_ENGINE_COMMAND": engine_command("--die-loading", 5),
    }  # fmt: skip
    with running(folder, {**variables(folder), **order.container_environment(), **own}) as machine:
        machine.wait_for("failed")
        wait_for_port(port)
        at(port, made)
        Instance.objects.update(state=State.LOADING, next_lease_at=timezone.now() + lease.INTERVAL)
        now = timezone.now()
        probe.probe_due(clock=lambda: now)
        row = fresh(made)
        assert (row.probe_detail, row.next_lease_at) == ("the machine says that it failed", now)
        renew(now)
        assert machine.end(seconds=10).values["code"] == "70"
    failure = fresh(made).told_failure
    assert failure.startswith("code 70: The engine ended with exit code 5.")
    assert "cannot load this model" in failure
