"""A whole panel in a test's hands: its clock, its bells, its provider, and where its processes die.

Deliveries of bells run in forked processes while a crash is armed: the process really ends, with its
lease held, its transaction open and its bells unrung. All else is the real code.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Self
from uuid import UUID, uuid4

from django.db import connections
from django.db.models import Min

from billing import ledger
from deployments import crash, decide, observe, offers, reconcile, services
from deployments.lifecycle import MAY_EXIST, Desired, State
from deployments.models import Deployment, Installation, Instance, Offer, ProviderAccount
from deployments.models.account import ADAPTERS
from deployments.monitoring import probe
from deployments.providers.base import Provider, Quote
from panel.accounts.models import User
from tests.conftest import NOW
from tests.deployments.endpoint import Endpoint
from tests.providers.fakecloud import TRAITS, FakeCloud
from tests.providers.faulty import Fault, Faulty, Point, exit_at

DIED = 137
MINUTE = timedelta(minutes=1)
FOREIGN = "somebody-elses-machine"
BRISK = (
    (decide, "MOVING", 2), (decide, "WAITING", 8), (observe, "STEADY_INTERVAL", 10), (probe, "STARTING_INTERVAL", 2),
)  # fmt: skip
"""What is looked at more seldom than in the product, so that an hour of the test's clock costs little of ours."""


class World:
    """Launches, bells, deaths and invariants; a subclass says which provider and whose clock."""

    now: datetime

    def __init__(self, folder: Path, bells: Bells, *, owner: User) -> None:
        self.folder, self.bells, self.owner = folder, bells, owner
        bells.now = self.clock
        self.plan: dict[str, list[Fault]] = {}
        self.inner = self.build(folder)
        self.late_until: datetime | None = None
        self.provider = self._provider()
        ADAPTERS["runpod"] = lambda account: self.provider
        self.account = self.make_account()
        offers.refresh(self.account, now=self.clock())
        self.arm: Callable[[], None] | None = None
        self.armed_for: int | None = None
        self.deaths = 0

    def make_account(self) -> ProviderAccount:
        return ProviderAccount.objects.create(name="Cloud", backend="runpod", credentials="key-of-a-test")

    def clock(self) -> datetime:
        raise TypeError("a world needs a clock")

    def build(self, folder: Path) -> Provider:
        """The provider behind the faults."""
        raise TypeError("a world needs a provider")

    def standing(self) -> list[str]:
        """The labels of what really stands there, whatever lists say."""
        raise TypeError("a world needs a provider")

    def _provider(self) -> Faulty:
        """The provider as a fresh process finds it: what was planned for calls already made is used up."""
        faulty = Faulty(
                        self.inner, memory=self.folder / "calls.jsonl",
            late_until=lambda: self.late_until is None or self.now >= self.late_until,
        )  # fmt: skip
        for method, faults in self.plan.items():
            faulty.plan[method] = faults[faulty.count(method) :]
        return faulty

    # -- what goes wrong ---------------------------------------------------------------------------

    def fail(self, method: str, *faults: Fault) -> None:
        """From the next call of `method` on, these happen to it."""
        done = self.provider.count(method)
        self.plan[method] = [Fault.OK] * done + list(faults)
        self.provider = self._provider()

    def die_at(self, where: int | tuple[Point, str] | None, *, within: int | None = None) -> None:
        """The next process that comes to this crash point, or this place in a provider call, dies there.

        `within` so many tasks; None: whenever one comes there.
        """

        def arm() -> None:
            if isinstance(where, tuple):
                self.provider.crash = exit_at(*where, code=DIED)
            elif where is not None:
                crash.armed[where] = lambda: os._exit(DIED)

        self.arm, self.armed_for = arm if where is not None else None, within

    # -- bells -------------------------------------------------------------------------------------

    def _round(self, due: Collection[str] = ("list", "probe", "look")) -> None:
        """Deliver the bells of these kinds, then those that were rung by then."""
        if "list" in due:
            self.deliver(lambda: reconcile.observe_due(clock=self.clock))
        if "probe" in due:
            self.deliver(lambda: probe.probe_due(clock=self.clock))
        if due:
            self.deliver(lambda: reconcile.due(self.clock()))
        for name, *given in self.bells.take(self.clock()):
            if name == services.LOOK:
                row_id, *claim = given
                claimed = datetime.fromisoformat(claim[0]) if claim else None
                self.deliver(partial(reconcile.look, UUID(row_id), clock=self.clock, claim=claimed))
            elif name == services.END:
                self.deliver(partial(reconcile.terminate, UUID(given[0]), clock=self.clock))

    def deliver(self, bell: Callable[[], object]) -> None:
        """Run one task, in a process of its own while a crash is armed."""
        if self.arm is None:
            bell()
            return
        if self.armed_for is not None:
            self.armed_for -= 1
            if self.armed_for < 0:
                self.arm = None
                bell()
                return
        connections.close_all()
        pid = os.fork()
        if pid == 0:
            with suppress(BaseException):
                self.arm()
                bell()
                os._exit(0)
            os._exit(1)
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        assert code in {0, DIED}, f"the task ended with {code}"
        self.provider = self._provider()
        if code == DIED:
            self.deaths += 1
            self.arm = None

    # -- what must always hold ------------------------------------------------------------------------

    def check(self) -> None:
        """The invariants that hold at every moment."""
        key = Installation.own_key()
        everything = self.standing()
        standing = [label for label in everything if label.startswith(f"{key}-")]
        known = set(Instance.objects.filter(label__in=standing).values_list("label", flat=True))
        assert set(standing) <= known, "a machine that nobody knows"
        assert len(standing) == len(set(standing)), "two machines for one attempt"
        creates = [label for method, label in self.provider.calls if method == "create"]
        refused = sum(f in _MAY_ASK_AGAIN for f in self.plan.get("create", ()))
        assert len(creates) - len(set(creates)) <= refused, "a create was repeated blindly"
        for i in Instance.objects.filter(state=State.TERMINATED):
            assert i.label not in everything or self.provider.plan.get("list_machines"), (
                "called terminated, and stands"
            )

    def check_books(
        self, deployment: Deployment, *, slack: timedelta = timedelta(minutes=2), unseen: Decimal = Decimal(0)
    ) -> None:
        """We count no less than the provider charged (but for `unseen`, USD), and no more than until we knew better."""
        charged = sum(
            (c.usd for c in self.inner.charges(self.now - timedelta(days=1), self.now) if c.label != FOREIGN),
            Decimal(0),
        )
        counted = ledger.cost_of(deployment.pk, now=self.now)
        most = (
            charged
            + deployment.instances.count()
            * max(i.usd_per_hour for i in deployment.instances.all())
            * Decimal(slack.total_seconds())
            / 3600
        )
        assert charged <= counted + unseen + Decimal("0.000001"), f"charged {charged}, counted only {counted}"
        assert counted <= most, f"charged {charged}, counted {counted}"


class CloudWorld(World):
    """A cloud that a test can bend, and a clock that jumps from what is due to what is due next."""

    SHORTEST = timedelta(milliseconds=50)
    """How far it jumps at the least."""

    def __init__(self, folder: Path, endpoint: Endpoint, bells: Bells, *, owner: User) -> None:
        self.now = NOW
        self.cloud = FakeCloud(
            path=folder / "cloud.json",
            clock=self.clock,
            endpoint=lambda label: endpoint.url,
            boot_lists=1,
            traits=replace(TRAITS, list_interval=5.0),
        )
        self.cloud.place(FOREIGN)
        super().__init__(folder, bells, owner=owner)

    def build(self, folder: Path) -> Provider:
        return self.cloud

    def clock(self) -> datetime:
        return self.now

    def standing(self) -> list[str]:
        return self.cloud.labels()

    def check(self) -> None:
        super().check()
        assert FOREIGN in self.standing(), "a foreign machine was touched"

    def offer(self, *quotes: Quote) -> None:
        """The cloud offers these from now on."""
        self.cloud.offers = list(quotes)
        offers.refresh(self.account, now=self.now)

    def launch(self, key: str = "", **wishes) -> Deployment:
        """Launch on the offer `key`, or on the only one."""
        offered = Offer.objects.filter(available=True)
        wishes = {"launch_key": uuid4().hex, "model_key": "qwen3-4b-awq", "context": 4096, **wishes}
        wishes.setdefault("allowed_countries", ("DE",))
        chosen = offered.get(key=key) if key else offered.get()
        request = services.LaunchRequest(name="chat", offer_id=chosen.pk, **wishes)
        return services.launch(request, actor=self.owner, now=self.now)

    def calm(self, monkeypatch) -> World:
        """For tests that span hours: what is steady is looked at each minute, not each five seconds."""
        minute = timedelta(minutes=1)
        monkeypatch.setattr(observe, "STEADY_INTERVAL", minute)
        monkeypatch.setattr(probe, "STEADY_INTERVAL", minute)
        monkeypatch.setattr(decide, "STEADY", minute)
        self.cloud.traits = replace(TRAITS, list_interval=20.0)
        return self

    def run(
        self,
        span: timedelta = timedelta(minutes=4),
        *,
        check: Callable[[], None] | None = None,
        until: Callable[[], bool] | None = None,
    ) -> Self:
        """Let time pass, to `span` or `until` it is so; only what is due is delivered, as it comes due."""
        end, times = self.now + span, self._times()
        while True:
            self._round([kind for kind, at in times.items() if at and at <= self.now and kind != "bell"])
            if check:
                check()
            if until and until():
                end = self.now
            times = self._times()
            following = min((at for at in times.values() if at), default=None)
            if following is None or following > end:
                break
            self.now = max(following, self.now + self.SHORTEST)
        self.now = end
        self.deliver(lambda: ledger.meter(self.now))
        return self

    def _times(self) -> dict[str, datetime | None]:
        """When each kind of bell is due next."""
        probed = Instance.objects.filter(state__in=_PROBED).exclude(endpoint_url="")
        return {
            "bell": self.bells.next(),
            "look": Deployment.objects.aggregate(at=Min("next_look_at"))["at"],
            "list": self._next_list(ProviderAccount.objects.get(pk=self.account.pk)),
            "probe": probed.aggregate(at=Min("next_probe_at"))["at"],
        }

    def _next_list(self, account: ProviderAccount) -> datetime | None:
        return observe.next_list(account, self.cloud.traits)


_PROBED = ["loading", "warming", "ready", "degraded"]
_MAY_ASK_AGAIN = {Fault.RATE_LIMITED, Fault.UNAVAILABLE}


def brisk(monkeypatch, *more: tuple[object, str, float]) -> None:
    for module, name, seconds in (*BRISK, *more):
        monkeypatch.setattr(module, name, timedelta(seconds=seconds))


def live(deployment: Deployment) -> list[Instance]:
    return list(deployment.instances.filter(state__in=[s.value for s in MAY_EXIST]))


def settled(deployment: Deployment) -> str:
    """The state of the newest attempt, as a word."""
    fresh = Deployment.objects.get(pk=deployment.pk)
    assert fresh.desired != Desired.RUNNING or fresh.current
    return fresh.current.state if fresh.current else ""


def fresh(deployment: Deployment) -> Deployment:
    return Deployment.objects.get(pk=deployment.pk)


def run_threads(*targets) -> None:
    barrier = threading.Barrier(len(targets))

    def go(target) -> None:
        barrier.wait()
        try:
            target()
        finally:
            connections.close_all()

    threads = [threading.Thread(target=go, args=(t,)) for t in targets]
    [t.start() for t in threads]
    [t.join() for t in threads]


class Bells:
    """The broker: bells in a file, each with the moment it is due, so that they outlive who rang them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now: Callable[[], datetime] = lambda: NOW

    def ring(self, name: str, args: tuple = (), kwargs: object = None, **options: object) -> None:
        at = self.now() + timedelta(seconds=options.get("countdown") or 0)
        with open(self.path, "a") as f:
            f.write(json.dumps([at.isoformat(), name, *args]) + "\n")

    def take(self, now: datetime) -> list[list[str]]:
        rows = self._rows()
        due = [row[1:] for row in rows if datetime.fromisoformat(row[0]) <= now]
        self.path.write_text(
            "".join(json.dumps(r) + "\n" for r in rows if datetime.fromisoformat(r[0]) > now)
        )
        return due

    def next(self) -> datetime | None:
        return min((datetime.fromisoformat(row[0]) for row in self._rows()), default=None)

    def _rows(self) -> list[list[str]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []
