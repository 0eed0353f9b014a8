"""The same panel with a real provider and the real clock: this computer, and engines that really run.

What a step waits for is shortened, so that a lease that a dead process held runs out in seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

from django.utils import timezone

from billing import ledger
from deployments import acts, decide, observe, reconcile, services
from deployments.models import Deployment, Offer
from deployments.providers.base import Provider
from deployments.providers.local import LocalProvider
from panel.accounts.models import User
from tests.deployments.world import Bells, World

SECOND = timedelta(seconds=1)
RATE = Decimal(36)
"""USD per hour: a cent for each second, so that a second of difference shows in the books."""


class LocalWorld(World):
    def __init__(self, folder: Path, bells: Bells, monkeypatch, *, owner: User) -> None:
        self.local = LocalProvider(folder / "engines", usd_per_hour=RATE)
        self.local.traits = replace(self.local.traits, unknown_grace=1.5, list_interval=0.2)
        (folder / "engines").mkdir()
        monkeypatch.setattr(reconcile, "LEASE", 3 * SECOND)
        monkeypatch.setattr(acts, "CREATE_MARGIN", 1.0)
        monkeypatch.setattr(reconcile, "CLAIM", SECOND)
        monkeypatch.setattr(decide, "WAITING", SECOND / 4)
        monkeypatch.setattr(decide, "backoff", lambda attempts: SECOND / 4)
        monkeypatch.setattr(observe, "STEADY_INTERVAL", SECOND / 2)
        super().__init__(folder, bells, owner=owner)

    def build(self, folder: Path) -> Provider:
        return self.local

    def clock(self) -> datetime:
        return timezone.now()

    @property
    def now(self) -> datetime:
        return timezone.now()

    def launch(self, **wishes) -> Deployment:
        request = services.LaunchRequest(
            name="chat",
            offer_id=Offer.objects.get().pk,
            model_key="smollm2-135m",
            context=1024,
            launch_key="one",
        )
        return services.launch(request, actor=self.owner, now=self.now)

    def run(
        self,
        span: timedelta = timedelta(seconds=60),
        *,
        check: Callable[[], None] | None = None,
        until: Callable[[], bool] | None = None,
    ) -> LocalWorld:
        end = self.now + span
        while self.now < end:
            self._round()
            if check:
                check()
            if until and until():
                break
            time.sleep(0.03)
        ledger.meter(self.now)
        return self

    def standing(self) -> list[str]:
        return [m.label for m in self.local.list_machines().machines]

    def check_books(
        self, deployment: Deployment, *, slack: timedelta = 20 * SECOND, unseen: Decimal = Decimal(0)
    ) -> None:
        # The engine's own journal begins and ends a heartbeat's width beside what we saw.
        super().check_books(deployment, slack=slack, unseen=unseen + RATE * 3 / 3600)
