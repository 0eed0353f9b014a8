"""The same panel with the real adapters, and the providers' emulators behind them: real HTTP, a clock that jumps.

What goes wrong is what the emulator does wrong; where processes die is the World's. Only two things of the adapters
are bent: their pace follows the test's clock, and where the emulator is told to hang they lose patience soon.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

from billing import ledger
from billing.models import Reservation
from deployments import crash, decide, observe, offers, services
from deployments.lifecycle import TERMINAL, State
from deployments.models import Deployment, Installation, Instance, Offer, ProviderAccount
from deployments.models.account import ADAPTERS
from deployments.monitoring import probe
from deployments.providers import http, runpod_api, vast_calls, vast_pace
from deployments.providers.base import Provider, Traits
from deployments.providers.runpod_pace import Pace as RunPodPace
from panel.accounts.models import User
from panel.celery import app
from tests import factories
from tests.conftest import NOW
from tests.deployments.endpoint import Endpoint
from tests.deployments.world import DIED, FOREIGN, MINUTE, Bells, CloudWorld, brisk
from tests.emulators.common import Clock, Fault, FixedEngine
from tests.emulators.common.server import DEFAULT_KEY, Emulator
from tests.emulators.runpod import RunPodEmulator
from tests.emulators.vast import Vast
from tests.providers.faulty import CrashHook, Point, exit_at

COUNTRIES = ("CZ", "DE", "FI", "FR", "IS", "NL", "NO", "PL", "RO", "SE")
PATIENT, HASTY = 20.0, 0.3
"""Seconds that a call waits for its answer: usually, and while the emulator is told to hang."""
FAR = timedelta(minutes=11)
"""A list that is put off for longer was put off by a clock that has been put back since."""
_HANGS = {Fault.HANG_BEFORE, Fault.HANG_AFTER}
_CHANGES = {"create", "terminate", "stop", "start", "change_bid", "mend"}
_MAY_ASK_AGAIN = {Fault.RATE_LIMITED, Fault.RATE_LIMITED_AFTER}
"""Faults after which the same create may be sent again: certainly nothing was done."""


@dataclass(frozen=True)
class Kind:
    """One provider and tier that the world rents from. `place`: what of the emulator's a foreign machine is."""

    name: str
    backend: str
    tier: str
    emulator: Callable[..., Emulator]
    place: tuple[tuple[str, str], ...] = ()


KINDS = {
    kind.name: kind
    for kind in (
        Kind("pod", "runpod", "secure", RunPodEmulator),
        Kind("serverless", "runpod", "serverless-active", RunPodEmulator, (("kind", "endpoint"),)),
        Kind("vast", "vast", "datacenter", Vast),
        Kind("bid", "vast", "interruptible", Vast),
    )
}


class EmulatedWorld(CloudWorld):
    """One account at one emulator."""

    SHORTEST = timedelta(seconds=0.25)
    endpoint: Endpoint
    """Where every machine answers."""

    def __init__(
        self, kind: Kind, emulator: Emulator, folder: Path, bells: Bells, monkeypatch, *, owner: User
    ) -> None:
        self.kind, self.emulator, self.folder, self.bells, self.owner = kind, emulator, folder, bells, owner
        self.skew = timedelta()
        """How far the panel's clock is ahead of the provider's."""
        self.now = NOW
        bells.now = self.clock
        self.arm: Callable[[], None] | None = None
        self.armed_for: int | None = None
        self.deaths = 0
        self.taken = _note_faults(emulator)
        self.foreign = emulator.place(FOREIGN, **dict(kind.place))  # type: ignore[attr-defined]
        self.cloud: Any = Knobs(adapter_traits(kind))
        self.provider: Any = Mortal(self)
        self._real = ADAPTERS[kind.backend]
        ADAPTERS[kind.backend] = self._adapter
        monkeypatch.setattr(runpod_api, "PACE", RunPodPace(clock=self._seconds))
        pace = vast_pace.Pace(clock=self._seconds, sleep=lambda seconds: None)
        monkeypatch.setattr(vast_pace, "SHARED", pace)
        brisk(
            monkeypatch, (decide, "STEADY", 60), (observe, "STEADY_INTERVAL", 20), (probe, "STEADY_INTERVAL", 60)
        )  # fmt: skip
        self.account = ProviderAccount.objects.create(
            name="Cloud", backend=kind.backend, credentials=DEFAULT_KEY
        )
        offers.refresh(self.account, now=self.clock())

    # -- time ----------------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        """The panel's."""
        return self._now + self.skew

    @now.setter
    def now(self, moment: datetime) -> None:
        self._now = moment - self.skew
        self.emulator.clock.hold(self._now)

    def clock(self) -> datetime:
        return self.now

    def _seconds(self) -> float:
        return self._now.timestamp()

    def _next_list(self, account: ProviderAccount) -> datetime:
        at = observe.next_list(account, self.cloud.traits) or self.now
        return self.now if at > self.now + FAR else at

    # -- the adapter ---------------------------------------------------------------------------------

    def _adapter(self, account: ProviderAccount) -> Provider:
        inner: Any = self._real(account)
        inner._clock = self.clock
        return Adapter(inner, self)  # type: ignore[return-value]

    def _provider(self) -> Any:
        return Mortal(self)

    @contextmanager
    def patience(self) -> Iterator[None]:
        """How long the adapters wait for an answer is a question of what the emulator will do."""
        faults = self.emulator.faults
        planned = {f for some in faults.left.values() for f in some} | set(faults._standing.values())
        seconds = HASTY if planned & _HANGS else PATIENT
        http.READ_SECONDS = http.CHANGE_SECONDS = vast_calls.TIMEOUT = vast_calls.SEARCH_TIMEOUT = seconds
        yield

    # -- what goes wrong -----------------------------------------------------------------------------

    def fail(self, method: str, *faults: Any) -> None:
        """The next calls of this kind, as the emulator names them, meet these faults."""
        with self.emulator.lock:
            self.emulator.faults.add(method, *faults)

    def always(self, method: str, fault: Fault) -> None:
        """Every call of this kind meets this fault, until `calm_down`."""
        self.emulator.faults_always(method, fault)

    def calm_down(self) -> None:
        self.emulator.faults_clear()

    def die_at(self, where: int | tuple[Point, str] | None, *, within: int | None = None) -> None:
        def arm() -> None:
            # The parent's connections are the parent's.
            http._kept.cache_clear()
            if isinstance(where, tuple):
                self.provider.crash = exit_at(*where, code=DIED)
            elif where is not None:
                crash.armed[where] = lambda: os._exit(DIED)

        self.arm, self.armed_for = arm if where is not None else None, within

    # -- what is asked of it -------------------------------------------------------------------------

    def choose(self) -> Offer:
        """The cheapest offer of the tier that fits, in a country that the launch allows."""
        found = Offer.objects.filter(tier=self.kind.tier, country__in=COUNTRIES, vram_mb__gte=20_000)
        return found.order_by("usd_per_hour", "key")[0]

    def launch(self, **wishes: Any) -> Deployment:
        defaults: dict[str, Any] = {
            "name": "chat", "model_key": "qwen3-4b-awq", "context": 4096, "launch_key": uuid4().hex,
            "offer_id": wishes["offer_id"] if "offer_id" in wishes else self.choose().pk,
            "allowed_countries": COUNTRIES, "purpose": "development", "allow_plaintext": True,
        }  # fmt: skip
        request = services.LaunchRequest(**{**defaults, **wishes})
        return services.launch(request, actor=self.owner, now=self.now)

    def machine(self, label: str) -> str:
        """The id of the one machine that stands under this label."""
        (found,) = (m["id"] for m in self.emulator.machines() if m["label"] == label)
        return str(found)

    def of(self, deployment: Deployment) -> str:
        """The id of its newest attempt's machine."""
        return self.machine(deployment.instances.order_by("-attempt")[0].label)

    # -- what must always hold -----------------------------------------------------------------------

    def standing(self) -> list[str]:
        return [m["label"] for m in self.emulator.machines()]

    def ours(self) -> list[str]:
        key = Installation.own_key()
        return [label for label in self.standing() if label.startswith(f"{key}-")]

    def creates(self) -> list[tuple[str, Fault]]:
        """Every create request that came: its label and what the emulator did with it."""
        with self.emulator.lock:
            pairs = list(zip(self.emulator.requests, self.taken, strict=True))
        return [(s.body.get("name") or s.body.get("label"), f) for s, f in pairs if s.kind == "create"]

    def check(self, *, placed: tuple[str, ...] = ()) -> None:
        """The invariants of every moment. `placed`: labels of ours under which somebody else put a machine."""
        standing = self.ours()
        known = set(Instance.objects.filter(label__in=standing).values_list("label", flat=True))
        assert set(standing) <= known | set(placed), "a machine that nobody knows"
        twice = [label for label, n in Counter(standing).items() if n > 1 and label not in placed]
        assert not twice, "two machines for one attempt"
        sent = self.creates()
        asked = Counter(label for label, fault in sent if fault not in _MAY_ASK_AGAIN)
        assert all(n == 1 for n in asked.values()), "a create was repeated blindly"
        assert FOREIGN in self.standing(), "a foreign machine was touched"
        self.check_requests()

    def check_requests(self) -> None:
        """Nothing that changes anything was ever asked of the foreign machine."""
        with self.emulator.lock:
            new = self.emulator.requests[getattr(self, "_judged", 0) :]
        self._judged = getattr(self, "_judged", 0) + len(new)
        touching = [s for s in new if s.kind in _TOUCHES and self.foreign in s.path.split("/")]
        assert not touching, "the foreign machine was asked to change"

    def bill(self, deployment: Deployment | None = None) -> Decimal:
        """What the emulator's own event log says that ours cost, USD."""
        rows = deployment.instances.all() if deployment else Instance.objects.all()
        return sum((self.emulator.bill(i.label) for i in rows), Decimal(0))  # type: ignore[attr-defined]

    def check_books(
        self, deployment: Deployment, *, slack: timedelta = 4 * MINUTE, unseen: Decimal = Decimal(0)
    ) -> None:
        charged, counted = self.bill(deployment), ledger.cost_of(deployment.pk, now=self.now)
        rents = deployment.instances.exclude(remote_id="")
        dearest = max((i.usd_per_hour for i in rents), default=Decimal(0))
        most = charged + rents.count() * dearest * Decimal(slack.total_seconds()) / 3600
        for i in rents:
            if i.offer.serverless:  # of which the emulator bills no worker's disk
                hours = Decimal((self.now - i.created_at).total_seconds()) / 3600
                most += i.offer.disk_usd_per_hour * hours
        assert charged <= counted + unseen + ROUNDING, f"charged {charged}, counted only {counted}"
        assert counted <= most + ROUNDING, f"charged {charged}, counted {counted}"

    def check_empty(self) -> None:
        """Everything of ours is given back: nothing stands, nothing is held, nothing accrues."""
        assert self.standing() == [FOREIGN]
        left = Instance.objects.exclude(state__in=[s.value for s in TERMINAL])
        assert not left.exists(), list(left.values_list("label", "state", "reason"))
        assert not Reservation.objects.filter(released_at=None).exists(), "money is held for nothing"
        assert ledger.burn(now=self.now) == 0

    def check_conformance(self) -> None:
        assert self.emulator.violations == []


ROUNDING = Decimal("0.00002")
"""Providers tell prices as floats, and we keep them to a millionth of a dollar."""
_TOUCHES = {"terminate", "stop", "start", "bid"}


@dataclass
class Knobs:
    traits: Traits


def adapter_traits(kind: Kind) -> Traits:
    from deployments.providers import runpod, vast

    return runpod.TRAITS if kind.backend == "runpod" else vast.TRAITS


class Mortal:
    """Where the next process dies inside a call."""

    def __init__(self, world: EmulatedWorld) -> None:
        self.world = world
        self.crash: CrashHook | None = None

    @property
    def traits(self) -> Traits:
        traits: Traits = self.world.cloud.traits
        return traits

    def count(self, method: str) -> int:
        return len(self.world.emulator.seen(method))

    def dies(self, point: Point, method: str) -> None:
        if self.crash is not None:
            self.crash(point, method, "")


class Adapter:
    """The real adapter; its process may end before a request leaves, or before its answer is of any use."""

    def __init__(self, inner: Provider, world: EmulatedWorld) -> None:
        self._inner, self._world = inner, world

    @property
    def traits(self) -> Traits:
        return self._world.provider.traits  # type: ignore[no-any-return]

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._inner, name)

        def call(*args: Any, **options: Any) -> Any:
            mortal = self._world.provider
            if name in _CHANGES:
                mortal.dies(Point.BEFORE_REQUEST, name)
            try:
                with self._world.patience():
                    return real(*args, **options)
            finally:
                if name in _CHANGES:
                    mortal.dies(Point.BEFORE_ANSWER, name)

        return call


def _note_faults(emulator: Emulator) -> list[Fault]:
    """What each request met, in the order of `emulator.requests`."""
    taken: list[Fault] = [Fault.OK for _ in emulator.requests]
    real = emulator.faults.take

    def take(kind: str, part: str = "") -> Fault:
        taken.append(real(kind, part))
        return taken[-1]

    emulator.faults.take = take  # type: ignore[method-assign]
    return taken


@contextmanager
def emulated(
    name: str, folder: Path, endpoint: Endpoint, settings, monkeypatch, *, boot_seconds: float = 6.0
) -> Iterator[EmulatedWorld]:
    """A panel with one account at a fresh emulator, whose machines all answer at `endpoint`."""
    kind, before, bells = KINDS[name], dict(ADAPTERS), Bells(folder / f"bells-{uuid4().hex}")
    monkeypatch.setattr(app, "send_task", bells.ring)
    emulator = kind.emulator(clock=Clock(NOW), engines=FixedEngine(endpoint.url), boot_seconds=boot_seconds)
    with emulator.start():
        point_at(settings, runpod=emulator.url, vast=emulator.url, doors=endpoint.url)
        try:
            world = EmulatedWorld(kind, emulator, folder, bells, monkeypatch, owner=factories.operator())
            world.endpoint = endpoint
            yield world
        finally:
            ADAPTERS.clear()
            ADAPTERS.update(before)
            crash.armed.clear()
            http.READ_SECONDS, http.CHANGE_SECONDS = _REAL[:2]
            vast_calls.TIMEOUT, vast_calls.SEARCH_TIMEOUT = _REAL[2:]


_REAL = (http.READ_SECONDS, http.CHANGE_SECONDS, vast_calls.TIMEOUT, vast_calls.SEARCH_TIMEOUT)


def point_at(settings, *, runpod: str, vast: str, doors: str) -> None:
    """The four addresses of the providers, and what an emulated machine needs besides."""
    settings.RUNPOD_API_BASE_URL, settings.RUNPOD_RUNTIME_BASE_URL = runpod, f"{runpod}/runtime"
    settings.RUNPOD_PROXY_URL_TEMPLATE, settings.VAST_API_BASE_URL = doors, vast
    settings.ALLOW_INSECURE_ENDPOINTS = True
    settings.INFERENCE_IMAGE_TLS = False


def lately(deployment: Deployment) -> Instance:
    """Its newest attempt."""
    return deployment.instances.order_by("-attempt")[0]


def run_to(world: EmulatedWorld, deployment: Deployment, state: State, *, within: timedelta) -> None:
    """Let time pass until its newest attempt is in this state."""
    world.run(within, check=world.check, until=lambda: lately(deployment).state == state)
    assert lately(deployment).state == state, (lately(deployment).state, lately(deployment).reason)


def calm(world: EmulatedWorld, monkeypatch) -> None:
    """For hours of the test's clock: each minute is enough."""
    for module, name in ((decide, "WAITING"), (observe, "STEADY_INTERVAL"), (decide, "MOVING")):
        monkeypatch.setattr(module, name, MINUTE)
    slower(world, 60.0)


def slower(world: EmulatedWorld, seconds: float) -> None:
    """The provider's list is asked for each so many seconds at the most."""
    world.cloud.traits = replace(world.cloud.traits, list_interval=seconds)
