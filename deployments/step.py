"""One worker's look at one deployment: what it holds, and the doors through which it changes anything."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction

from deployments import calls, choice, money
from deployments import decide as d
from deployments.calls import Call
from deployments.lifecycle import TERMINAL, Desired, State
from deployments.models import Deployment, Instance, StaleWrite
from deployments.providers.base import ProviderError

logger = logging.getLogger(__name__)

Clock = Callable[[], datetime]


class Later(Exception):
    """Nothing more can be done now; look again after `wait`."""

    def __init__(self, wait: timedelta) -> None:
        self.wait = wait


@dataclass(slots=True)
class Step:
    """One worker's look at one deployment, under one lease."""

    deployment: Deployment
    instances: dict[UUID, Instance]
    token: str
    lease_ends: float
    """A `time.monotonic()` moment."""
    clock: Clock

    def hold(self, *, desired: Desired) -> None:
        """Hold the deployment's row to the transaction's end; StaleWrite when the lease or the wish is gone."""
        mine = Deployment.objects.filter(
            pk=self.deployment.pk, lease_token=self.token, lease_until__gt=self.clock(), desired=desired
        )
        if not mine.select_for_update().values_list("pk").first():
            raise StaleWrite(str(self.deployment.pk))

    def move(self, i: Instance, to: State, reason: str, **columns: Any) -> None:
        """Advance through the one door, with what it means in money, or raise StaleWrite and change nothing."""
        now, before = self.clock(), i.status
        with transaction.atomic():
            i.advance(to, reason=reason, now=now, lease=self.token, **columns)
            money.moved(i, before, to, now=now)
            if to in TERMINAL and self.deployment.desired == Desired.RUNNING:
                wait = d.backoff(choice.attempts(self.deployment, now=now))
                Deployment.objects.filter(pk=self.deployment.pk).update(retry_at=now + wait)


def of(work: Step, action: d.Action) -> Instance:
    assert action.instance is not None  # noqa: S101 - only what concerns the whole deployment has none
    return work.instances[action.instance]


_KINDS = {"terminate": Call.END}


def call(i: Instance, verb: str, *args: Any, now: datetime) -> ProviderError | None:
    """One call that may be repeated; its error is returned, not raised. Anything odd counts as an error."""
    kind = _KINDS.get(verb, Call.CHANGE)
    try:
        calls.ask(i.account, kind, lambda: getattr(i.account.adapter(), verb)(*args), now=now)
    except ProviderError as e:
        logger.warning("%s: %s failed: %s", i.label, verb, e)
        return e
    except Exception as e:
        logger.warning("%s: %s failed oddly (%s)", i.label, verb, type(e).__name__)
        return ProviderError(f"an answer that cannot be read ({type(e).__name__})")
    return None
