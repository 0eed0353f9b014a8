"""A panel in the hands of chance: operators, HTTP faults, time, consoles and deaths in any order.

After each step the invariants hold. In the end all faults are gone, everything is terminated, and then nothing of
ours stands, nothing is held and the books have at least what the provider charged.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from datetime import timedelta
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID, uuid4

from django.db.models import Q
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from billing import budgets, ledger
from billing.models import Reservation
from deployments import accounts, changes, crash, reconcile, services
from deployments.lifecycle import TERMINAL
from deployments.models import Deployment, Installation, Instance
from tests.deployments.emulated_world import EmulatedWorld
from tests.deployments.world import MINUTE
from tests.emulators.common import Fault
from tests.providers.faulty import Point

CALLS = ("list", "create", "terminate", "stop", "start", "bid", "inspect", "quotes")
HANGS = {Fault.HANG_BEFORE, Fault.HANG_AFTER}
FAULTS = [f for f in Fault if f not in {Fault.OK, Fault.DELAY, Fault.MISSING_BALANCE}]
COMMON = ("destroy", "break", "hide", "show", "abroad", "home", "cheaper", "theirs", "stray", "double")
OWN: dict[str, tuple[str, ...]] = {
    "pod": ("lock", "unlock", "resume", "full", "empty"), "serverless": ("scaled-down", "throttled", "served"),
    "vast": ("lock", "unlock"), "bid": ("lock", "unlock", "outbid", "back", "outbid", "back"),
}  # fmt: skip
"""What only machines of one kind know."""
POINTS = [*crash.POINTS, *((p, m) for p in (Point.BEFORE_REQUEST, Point.BEFORE_ANSWER) for m in ("create", "terminate", "stop", "start"))]  # fmt: skip
MOST = 3
"""Deployments at once."""
DEATHLY = 20
"""Tasks of which one may die, after it was said where: each is a process of its own, which takes its time."""
SLACK = Decimal("0.002")
"""USD that a whole run's books may lie below the bill: the second to which a worker's life is rounded up."""

which = st.integers(min_value=0, max_value=7)
seconds = st.sampled_from([30, 0, 0, 3, 15, 60])
Maker = Callable[[], AbstractContextManager[EmulatedWorld]]


class Chance(RuleBasedStateMachine):
    """`make` opens an empty world."""

    make: ClassVar[Maker]
    steps: ClassVar[int] = 0
    examples: ClassVar[int] = 0
    launched: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.world = self.stack.enter_context(type(self).make())
        self.emulator: Any = self.world.emulator
        self.wanted: dict[UUID, str] = {}
        """What an operator asked last of each deployment."""
        self.placed: set[str] = set()
        self.others: set[str] = {self.world.foreign}
        type(self).examples += 1

    # -- steps: an act, and then some time passes ----------------------------------------------------

    @initialize(policy=st.sampled_from(["wait", "move"]), after=seconds)
    def begin(self, policy: str, after: int) -> None:
        self._launch(0, policy)
        self._then(after)

    @rule(act=st.sampled_from(["launch", "stop", "start", "stop", "start", "terminate", "settings", "budget", "test"]), n=which, after=seconds)  # fmt: skip
    def operator(self, act: str, n: int, after: int) -> None:
        acts = {
            "launch": self._launch, "settings": self._change, "budget": self._set_budget, "test": self._test,
        }  # fmt: skip
        acts[act](n) if act in acts else self._operate(act, n)
        self._then(after)

    @rule(span=st.sampled_from([10, 30, 60, 120, 240]), dead_for_hours=st.sampled_from([0, 0, 0, 1, 5]))
    def time_passes(self, span: int, dead_for_hours: int) -> None:
        self.world.now += timedelta(hours=dead_for_hours)
        self._then(span)

    @rule(call=st.sampled_from(CALLS), fault=st.sampled_from(FAULTS), times=st.sampled_from([1, 1, 2, 3, 0]), after=seconds)  # fmt: skip
    def calls_fail(self, call: str, fault: Fault, times: int, after: int) -> None:
        """So many calls of this kind; 0: all of them, until all is well again."""
        if fault in HANGS:
            times = 1
        if times:
            self.world.fail(call, *[fault] * times)
        else:
            self.world.always(call, fault)
        self._then(after)

    @rule(act=st.sampled_from(["well", "well", "die", "die", "die", "silent", "heard", "revoked", "restored"]), where=st.sampled_from(POINTS), after=seconds)  # fmt: skip
    def trouble(self, act: str, where: Any, after: int) -> None:
        """All is well again; the next process dies somewhere; engines fall silent; the key is revoked."""
        if act == "well":
            self._mend()
        elif act == "die":
            self.world.die_at(where, within=DEATHLY)
        elif act in {"silent", "heard"}:
            self.world.endpoint.alive = act == "heard"
        else:
            self.emulator.revoke() if act == "revoked" else self.emulator.restore()
        self._then(after)

    @rule(act=st.integers(0, 59), n=which, after=seconds)
    def console(self, act: int, n: int, after: int) -> None:
        """Somebody does something in the provider's console, or the provider itself does."""
        acts = (*COMMON, *OWN[self.world.kind.name])
        name = acts[act % len(acts)]
        if name == "theirs":
            self.others.add(self.emulator.place(f"theirs-{uuid4().hex}", **dict(self.world.kind.place)))
        elif name in {"stray", "double"}:
            self._place_ours(n, known=name == "double")
        elif self._machines():
            self._in_console(name, self._machine(n))
        self._then(after)

    def _then(self, seconds: int) -> None:
        type(self).steps += 1
        if seconds:
            self.world.run(timedelta(seconds=seconds))

    # -- operators -----------------------------------------------------------------------------------

    def _launch(self, n: int, policy: str = "") -> None:
        if sum(w != "terminated" for w in self.wanted.values()) >= MOST:
            return
        wishes = {"bid_policy": policy or ("wait", "move")[n % 2], "plan_b": n % 4}
        with suppress(services.LaunchRefused, IndexError):  # no room in the budget, no offer, no good key
            self.wanted[self.world.launch(**wishes).pk] = "running"
            type(self).launched += 1

    def _operate(self, verb: str, n: int) -> None:
        if not self.wanted:
            return
        deployment = self._deployment(n)
        with suppress(services.ActionRefused):
            getattr(services, verb)(deployment, actor=self.world.owner, now=self.world.now)
            self.wanted[deployment.pk] = _MEANS[verb]

    def _change(self, n: int) -> None:
        columns: dict[str, Any] = ({"context": 2048}, {"context": 4096}, {"plan_b": 1}, {"bid_policy": "wait"})[n % 4]  # fmt: skip
        if self.wanted:
            with suppress(changes.ChangeRefused):
                changes.change_settings(
                    self._deployment(n), columns, actor=self.world.owner, now=self.world.now
                )

    def _set_budget(self, n: int) -> None:
        usd = Decimal(("500", "3", "500", "0.02")[n % 4])
        budgets.set_budget(usd, "day", True, actor=self.world.owner, now=self.world.now)

    def _test(self, n: int) -> None:
        accounts.check(self.world.account.pk, now=self.world.now)
        reconcile.refresh_offers(clock=self.world.clock)

    # -- in the console ------------------------------------------------------------------------------

    def _in_console(self, act: str, machine: str) -> None:
        emulator, abroad, home = self.emulator, *self._places()
        acts: dict[str, Callable[[], object]] = {
            "destroy": lambda: emulator.destroy(machine), "break": lambda: emulator.fail(machine),
            "hide": lambda: emulator.vanish(machine), "show": lambda: emulator.vanish(machine, back=True),
            "abroad": lambda: emulator.move(machine, abroad), "home": lambda: emulator.move(machine, home),
            "cheaper": lambda: self._make_cheaper(machine),
            "lock": lambda: self._lock(machine, locked=True), "unlock": lambda: self._lock(machine, locked=False),
            "outbid": lambda: emulator.outbid(machine), "back": lambda: emulator.resume(machine),
            "resume": lambda: emulator.resume(machine), "full": lambda: emulator.fill_host(machine),
            "empty": lambda: emulator.fill_host(machine, full=False),
            "scaled-down": lambda: emulator.idle_scale_down(machine),
            "throttled": lambda: emulator.throttle(machine),
            "served": lambda: emulator.throttle(machine, throttled=False),
        }  # fmt: skip
        with suppress(ValueError, LookupError):  # not of this machine; not by this label
            acts[act]()

    def _make_cheaper(self, machine: str) -> None:
        """Only what the panel has seen: what a machine cost before its first list, no list tells."""
        if Instance.objects.filter(Q(remote_id=machine) | Q(duplicates__icontains=machine)).exists():
            self.emulator.set_price(machine, Decimal("0.05"))

    def _lock(self, machine: str, *, locked: bool) -> None:
        """Vast.ai has no lock: there a destruction is answered with a yes and does nothing."""
        if self.world.kind.name == "pod":
            self.emulator.lock_pod(machine, locked=locked)
        elif self.world.kind.backend == "vast":
            with self.emulator.lock:
                self.emulator._instance(machine).stuck = locked

    def _places(self) -> tuple[str, str]:
        return ("US-TX-3", "EU-RO-1") if self.world.kind.backend == "runpod" else ("US", "Lyon, FR")

    def _place_ours(self, n: int, *, known: bool) -> None:
        labels = list(Instance.objects.order_by("created_at", "pk").values_list("label", flat=True))
        label = labels[n % len(labels)] if known and labels else f"{Installation.own_key()}-{uuid4().hex}-1"
        self.placed.add(label)
        self.emulator.place(label, **dict(self.world.kind.place))

    # -- what must hold ------------------------------------------------------------------------------

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        self.world.check(placed=tuple(self.placed))
        standing = {str(m["id"]) for m in self.emulator.machines()}
        assert {str(i) for i in self.others} <= standing, "a foreign machine was touched"

    @invariant()
    def what_operators_want_stands(self) -> None:
        for deployment in Deployment.objects.filter(pk__in=self.wanted):
            by_itself = deployment.desired == "stopped" and "budget" in deployment.desired_reason.lower()
            assert deployment.desired == self.wanted[deployment.pk] or by_itself

    @invariant()
    def what_may_stand_is_held(self) -> None:
        """Of what was rented the budget holds the money, until it is over. What comes back after that is ended."""
        over = [s.value for s in TERMINAL]
        held = set(Reservation.objects.filter(released_at=None).values_list("subject_id", flat=True))
        rented = Instance.objects.filter(label__in=self._asked()).exclude(state__in=[*over, "terminating"])
        assert set(rented.values_list("pk", flat=True)) <= held, "a machine without a reservation"
        ended = set(Instance.objects.filter(state__in=over).values_list("pk", flat=True))
        assert not ended & held, "money is held for what is over"

    def teardown(self) -> None:
        try:
            self._settle()
        finally:
            self.stack.close()

    def _settle(self) -> None:
        world = self.world
        self._mend()
        for deployment in Deployment.objects.exclude(desired="terminated"):
            services.terminate(deployment, actor=world.owner, now=world.now)
        end = world.now + timedelta(hours=3)
        while world.now < end and not self._is_over():
            world.run(5 * MINUTE, until=self._is_over)
        self.nothing_is_lost_or_doubled()
        assert world.ours() == [], [*Instance.objects.values_list("label", "state", "reason")]
        assert not Instance.objects.exclude(state__in=[s.value for s in TERMINAL]).exists()
        assert not Reservation.objects.filter(released_at=None).exists()
        assert ledger.burn(now=world.now) == 0
        counted = ledger.spent(world.now - timedelta(days=30), world.now, now=world.now)
        labels = {*self.placed, *Instance.objects.values_list("label", flat=True)}
        charged = sum((self.emulator.bill(label) for label in labels), Decimal(0))
        assert charged <= counted + SLACK, (
            f"charged {charged}, counted only {counted}",
            {label: (self.emulator.bill(label), label in self.placed) for label in labels},
            list(Instance.objects.values_list("label", "pk", "state", "reason", "created_at", "ended_at")),
            [(i.label, ledger.cost_of([i.pk], now=world.now)) for i in Instance.objects.all()],
        )
        assert self.emulator.violations == []

    def _is_over(self) -> bool:
        live = Instance.objects.exclude(state__in=[s.value for s in TERMINAL])
        return not self.world.ours() and not live.exists()

    def _mend(self) -> None:
        self.world.calm_down()
        self.world.die_at(None)
        self.world.endpoint.alive = True
        self.emulator.restore()
        for machine in self._machines():
            for act in ("show", "unlock", "empty", "served"):
                if act in {*COMMON, *OWN[self.world.kind.name]}:
                    self._in_console(act, machine)
        accounts.check(self.world.account.pk, now=self.world.now)

    # -- helpers -------------------------------------------------------------------------------------

    def _asked(self) -> set[str]:
        return {label for label, _ in self.world.creates()}

    def _deployment(self, n: int) -> Deployment:
        """One of the newest: those that are terminated are old."""
        pks = list(self.wanted)[-MOST:]
        return Deployment.objects.get(pk=pks[n % len(pks)])

    def _machines(self) -> list[str]:
        """Ids of all that stands under our labels."""
        prefix = f"{Installation.own_key()}-"
        return [str(m["id"]) for m in self.emulator.machines() if (m["label"] or "").startswith(prefix)]

    def _machine(self, n: int) -> str:
        ids = self._machines()
        return ids[n % len(ids)]


_MEANS = {"stop": "stopped", "start": "running", "terminate": "terminated"}
