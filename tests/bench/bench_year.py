"""A year of many deployments against the emulators' own books. Run: python -m tests.bench.bench_year

DEPLOYMENTS machines (default 200, one in RUNPOD of them at RunPod, default 3, the others at Vast.ai) come, go and come again for DAYS days
(default 365) on a held clock, while lists are lost, prices change, bids are outbid, machines appear late or twice, the
panel is down for hours and the bills answer with errors. Four times a day (ROUNDS) the panel's own tasks run: observe,
look, meter, and once a day balances, fetch and match; what is a gap then is explained and booked, and each month is
closed when it is over. All over HTTP. Before reconciliation our total never lies below the emulators' bill, but for what
nothing told us (`EXCEPTIONS`); after it, it equals that bill to the cent.

It fills a SQLite file in a temporary folder and prints the times of each task and the memory. With BENCH_FOLDER it
stays in that folder, is put down every ten days, and the same command goes on from there (`year_state.py`).
"""

from __future__ import annotations

import os
import random
import resource
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench import year_state

if TYPE_CHECKING:
    from deployments.models import Instance, ProviderAccount

DEPLOYMENTS = int(os.environ.get("BENCH_DEPLOYMENTS", "200"))
DAYS = int(os.environ.get("BENCH_DAYS", "365"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "4"))
RUNPOD = int(os.environ.get("BENCH_RUNPOD", "3"))
SEED = int(os.environ.get("BENCH_SEED", "1"))
FOLDER = os.environ.get("BENCH_FOLDER", "")
START = datetime(2026, 1, 1, tzinfo=UTC)
DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
CENT = Decimal("0.01")
ROUNDING = Decimal("0.0001")
"""USD by which a total of thousands of hours may be off: the emulators' prices have more digits than a nano-dollar."""
EXCEPTIONS = "traffic, of which no list tells; and what changed since the last list, while lists fail"
KINDS = ("runpod", "vast")


@dataclass
class Machine:
    """One of the world's machines, as the test knows it."""

    instance: Instance
    backend: str
    remote_id: str
    is_bid: bool
    ends: datetime
    outbid: bool = False


@dataclass
class Year:
    """The emulators, the panel's rows and a held clock that both share."""

    deployments: int
    days: int
    rounds: int = ROUNDS
    seed: int = SEED
    tell: Callable[[int], object] = lambda day: None
    """Hears of each day that is over."""
    took: Counter[str] = field(default_factory=Counter)
    did: Counter[str] = field(default_factory=Counter)
    machines: list[Machine] = field(default_factory=list)
    traffic: Counter[str] = field(default_factory=Counter)
    unseen: set[str] = field(default_factory=set)
    """The providers whose list fails in this round."""
    day: int = 0
    """The days that are over."""
    down_until: datetime = START
    spent: tuple[float, float] = (0.0, 0.0)
    """Seconds, by the clock and of a processor, before it was taken up again."""

    def __post_init__(self) -> None:
        from tests.emulators.common import Clock, NoEngines
        from tests.emulators.runpod import RunPodEmulator
        from tests.emulators.vast import Vast

        self.random = random.Random(self.seed)
        self.held = Clock(START)
        self.emulators: dict[str, Any] = {
            "runpod": RunPodEmulator(
                clock=self.held, engines=NoEngines(), conformance=False, quota=1_000_000
            ),
            "vast": Vast(clock=self.held, engines=NoEngines(), conformance=False),
        }
        self.rung: list[tuple[str, tuple[Any, ...]]] = []
        self.accounts: dict[str, ProviderAccount] = {}

    # -- the clock --------------------------------------------------------------------------------

    def now(self) -> datetime:
        return self.held.now

    def ring(self, name: str, args: tuple[Any, ...] = (), kwargs: object = None, **options: object) -> None:
        """In the broker's place."""
        self.rung.append((name, tuple(args)))

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.took[name] += time.perf_counter() - began  # type: ignore[assignment]

    # -- the world ---------------------------------------------------------------------------------

    def begin(self) -> None:
        from deployments.models import Installation, ProviderAccount
        from tests import factories
        from tests.emulators.common.server import DEFAULT_KEY

        self.key, self.admin = Installation.own_key(), factories.administrator()
        for backend in KINDS:
            self.accounts[backend] = ProviderAccount.objects.create(
                name=backend.capitalize(), backend=backend, credentials=DEFAULT_KEY
            )
            self.emulators[backend].set_balance(10_000_000)
        for n in range(self.deployments):
            self.rent(KINDS[n % RUNPOD > 0])

    def rent(self, backend: str, *, days: float = 0.0) -> None:
        """A machine is ordered, and the provider has answered with its id."""
        from billing import ledger
        from deployments import money
        from deployments.lifecycle import Desired, State
        from deployments.models import Deployment, Instance
        from deployments.models.offer import freeze_quote
        from deployments.services import ADOPTABLE
        from tests.providers.fakecloud import fake_quote

        now, emulator = self.now(), self.emulators[backend]
        is_bid = backend == "vast" and self.random.random() < 0.3
        deployment = Deployment.objects.create(
            name=f"d{len(self.machines)}", model_key="qwen3-4b-awq", context=4096, desired=Desired.RUNNING, created_at=now,
            # Nobody plays its endpoint, so it is kept as it is: not probed, not replaced.
            launch_key=f"{ADOPTABLE}{uuid.uuid4()}", allowed_countries=["RO"],
        )  # fmt: skip
        label = f"{self.key}-{deployment.id.hex}-1"
        more: dict[str, Any] = {"disk": 40}
        if is_bid:
            more["bid"] = 0.2
        remote_id = emulator.place(label, **more)
        truth = next(m for m in emulator.machines() if str(m["id"]) == remote_id)
        disk = emulator_rate(emulator, backend, remote_id, "disk")
        rate = emulator_rate(emulator, backend, remote_id, "gpu") + disk
        instance = Instance.objects.create(
            deployment=deployment, account=self.accounts[backend], attempt=1, label=label, remote_id=remote_id,
            quote=freeze_quote(fake_quote(usd_per_hour=rate, disk_usd_per_hour=disk, interruptible=is_bid, stopped_usd_per_hour=None)),
            usd_per_hour=rate, state=State.PROVISIONING, state_since=now, created_at=now, create_sent_at=now, country=truth["country"],
        )  # fmt: skip
        money.open_subject(instance, now=now)
        money.moved(instance, State.REQUESTED, State.PROVISIONING, now=now)
        assert ledger.booked_until(instance.pk) is not None or rate == 0
        ends = now + (timedelta(days=days) if days else DAY * self.random.uniform(2, 120))
        self.machines.append(Machine(instance, backend, remote_id, is_bid, ends))
        self.did["rented"] += 1

    def live(self, backend: str = "") -> list[Machine]:
        return [m for m in self.machines if m.ends > self.now() and backend in {"", m.backend}]

    # -- what goes wrong -----------------------------------------------------------------------------

    def fate(self) -> None:
        """What happens at the providers just before a list."""
        from tests.emulators.common import Fault

        chance, pick = self.random.random, self.random.choice
        self.unseen = {backend for backend in KINDS if chance() < 0.1}
        for backend in self.unseen:
            fault = pick([Fault.ERROR_BEFORE, Fault.EMPTY, Fault.TRUNCATED, Fault.HTML, Fault.RATE_LIMITED])
            self.emulators[backend].faults.add("list", fault)
            self.did[f"list: {fault}"] += 1
        for machine in self.live():
            emulator, roll = self.emulators[machine.backend], chance()
            if machine.outbid:
                if roll < 0.3:
                    emulator.resume(machine.remote_id)
                    machine.outbid = False
            elif roll < 0.002 and not machine.is_bid and machine.backend not in self.unseen:
                emulator.set_price(machine.remote_id, Decimal(self.random.randint(15, 60)) / 100)
                self.did["price"] += 1
            elif roll < 0.02 and machine.is_bid:
                emulator.outbid(machine.remote_id)
                machine.outbid = True
                self.did["outbid"] += 1
            elif roll < 0.03 and machine.backend == "vast":
                self.send_traffic(machine)
        if chance() < 0.05:
            self.appear(pick(KINDS))

    def send_traffic(self, machine: Machine) -> None:
        emulator = self.emulators[machine.backend]
        before = emulator.bill(machine.remote_id)
        emulator.traffic(machine.remote_id, up_gb=self.random.uniform(1, 200))
        self.traffic[machine.backend] += emulator.bill(machine.remote_id) - before
        self.did["traffic"] += 1

    def appear(self, backend: str) -> None:
        """A machine under our label that no row knows, or a second one under a label that is known."""
        standing = self.live(backend)
        label = f"{self.key}-{uuid.uuid4().hex}-1"
        if standing and self.random.random() < 0.5:
            label = self.random.choice(standing).instance.label
        self.emulators[backend].place(label, disk=40)
        self.did["late or twice"] += 1

    # -- the panel -----------------------------------------------------------------------------------

    def observe(self) -> None:
        """The lists, and the looks that they ring for, until nothing is on the move."""
        from deployments import reconcile, services
        from deployments.models import Deployment

        for _ in range(6):
            with self.timed("observe"):
                reconcile.observe_due(clock=self.now)
            with self.timed("look"):
                reconcile.due(self.now())
                rung, self.rung = self.rung, []
                for name, args in dict.fromkeys(rung):
                    if name == services.LOOK:
                        reconcile.step(uuid.UUID(args[0]), clock=self.now)
                    elif name == services.END:
                        reconcile.terminate(uuid.UUID(args[0]), clock=self.now)
            if not self.is_moving():
                break
            self.held.advance(61)
        # What stands still is looked at again when a list has news of it.
        Deployment.objects.update(next_look_at=None)

    def is_moving(self) -> bool:
        from deployments.models import Instance

        return bool(self.rung) or Instance.objects.filter(state="terminating").exists()

    def end_those_due(self) -> None:
        from deployments import services

        for machine in self.machines:
            if machine.ends <= self.now() and machine.instance:
                deployment = machine.instance.deployment
                deployment.refresh_from_db()
                if deployment.desired != "terminated":
                    services.terminate(deployment, actor=self.admin, now=self.now())
                    self.rent(machine.backend)
        self.machines = [m for m in self.machines if m.ends > self.now()]

    def meter(self) -> None:
        from billing import ledger

        with self.timed("meter"):
            ledger.meter(self.now())

    def books(self) -> None:
        """Once a day: the balances, the bills, and what differs is explained and booked."""
        from billing import gaps, reconcile
        from billing.models import Discrepancy
        from deployments import accounts, statements
        from deployments.models import Breaker
        from tests.emulators.common import Fault

        with self.timed("balances"):
            accounts.balances_due(now=self.now())
        for backend in KINDS:
            if self.random.random() < 0.15:
                fault = self.random.choice([Fault.ERROR_BEFORE, Fault.HTML, Fault.TRUNCATED, Fault.EMPTY])
                self.emulators[backend].faults.add("charges", fault)
                self.did["charges: errors"] += 1
        with self.timed("fetch"):
            statements.fetch_due(clock=self.now)
        Breaker.objects.all().delete()
        with self.timed("match"):
            reconcile.match_due(now=self.now())
        with self.timed("book"):
            for gap in Discrepancy.objects.exclude(state=Discrepancy.State.CLOSED).order_by("pk"):
                gaps.explain(gap, "So it was.", reason=gap.reason, actor=self.admin, now=self.now())
                gaps.book(gap, actor=self.admin, now=self.now())
                self.did[f"gap: {gap.reason}"] += 1

    def close(self) -> None:
        """Every month that is over for three days."""
        from billing import closing

        month = closing.next_month(now=self.now() - 3 * DAY)
        while month is not None:
            with self.timed("close"):
                try:
                    closing.close_month(month, {}, actor=self.admin, now=self.now())
                except closing.CloseRefused as e:
                    self.did["close put off"] += 1
                    self.refused = str(e)
                    return
            self.did["months closed"] += 1
            month = closing.next_month(now=self.now() - 3 * DAY)

    # -- the year ------------------------------------------------------------------------------------

    def run(self) -> None:
        while self.day < self.days:
            self.live_a_day()
            self.day += 1
            self.tell(self.day)
        self.settle()

    def live_a_day(self) -> None:
        step = DAY / self.rounds
        for n in range(self.rounds):
            at = START + self.day * DAY + (n + 1) * step - MINUTE * 20
            if at < self.down_until:
                continue
            self.held.hold(max(at, self.now()))
            self.end_those_due()
            self.fate()
            self.observe()
            self.meter()
            if self.random.random() < 0.01:
                self.down_until = at + HOUR * self.random.uniform(12, 60)
                self.did["panel down"] += 1
        self.check_not_below()
        if at >= self.down_until:
            self.books()
            self.close()

    def settle(self) -> None:
        """Four quiet days, so that all of the year is billed."""
        self.unseen = set()
        for backend in KINDS:
            self.emulators[backend].faults_clear()
        for day in range(self.days, self.days + 4):
            self.held.hold(START + (day + 1) * DAY)
            self.observe()
            self.meter()
            self.books()
            self.close()
        self.true_up()

    def true_up(self) -> None:
        """What closing does first, for the months that are not over."""
        from billing import closing
        from billing.models import Bill

        for bill in Bill.objects.order_by("pk"):
            month = START.date()
            while month <= self.now().date():
                closing.true_up(bill, month, now=self.now())
                month = (month + 32 * DAY).replace(day=1)

    # -- what must hold ------------------------------------------------------------------------------

    def counted(self, backend: str, until: datetime) -> Decimal:
        """The ledger's total of the account to `until`, USD."""
        from django.db.models import Q

        from billing.money import from_nano
        from billing.totals import Window, rows

        window = Window(None, until, self.now())
        mine = Q(subject__account=self.accounts[backend].pk)
        return from_nano(sum(window.cost(row) for row in rows(window, mine)))

    def check_not_below(self) -> None:
        """Before it is reconciled, our total never lies below what was charged, but for `EXCEPTIONS`."""
        with self.timed("check"):
            for backend in set(KINDS) - self.unseen:
                charged, counted = self.emulators[backend].bill(), self.counted(backend, self.now() + HOUR)
                told = charged - self.traffic[backend]
                assert counted >= told - ROUNDING, (
                    f"{self.now()} {backend}: charged {told}, counted {counted}"
                )

    def check_equal(self) -> dict[str, tuple[Decimal, Decimal]]:
        """After it, it is what was charged, to the cent; (charged, counted) of each account."""
        until = START + (self.days + 1) * DAY
        found = {}
        for backend in KINDS:
            charged = self.emulators[backend].bill(None, START, until)
            counted = self.counted(backend, until)
            found[backend] = (charged, counted)
            assert abs(charged - counted) < CENT, f"{backend}: charged {charged}, counted {counted}"
        return found


def emulator_rate(emulator: Any, backend: str, remote_id: str, component: str) -> Decimal:
    """USD per hour, out of the emulator's own books."""
    if backend == "vast":
        return emulator.fleet.all[int(remote_id)].ledger.rate_now(remote_id, component)  # type: ignore[no-any-return]
    (account,) = emulator.accounts.values()
    return account.ledger.rate_now(remote_id, component)  # type: ignore[no-any-return]


@contextmanager
def playing(year: Year, set_attribute: Callable[[Any, str, Any], object]) -> Iterator[Year]:
    """The panel's adapters speak to the year's emulators, on its clock. `set_attribute` is undone by the caller."""
    from django.conf import settings

    from deployments import decide, found, observe
    from deployments.models.account import ADAPTERS
    from deployments.providers import runpod_api, vast_pace
    from deployments.providers.runpod_pace import Pace as RunPodPace
    from panel.celery import app

    seconds = lambda: year.now().timestamp()  # noqa: E731
    set_attribute(app, "send_task", year.ring)
    set_attribute(runpod_api, "PACE", RunPodPace(clock=seconds))
    set_attribute(vast_pace, "SHARED", vast_pace.Pace(clock=seconds, sleep=year.held.advance))
    # What is looked at each few seconds there is looked at with each list here.
    set_attribute(observe, "STEADY_INTERVAL", timedelta())
    set_attribute(found, "SPARE", timedelta())
    set_attribute(decide, "GONE_AFTER", timedelta())
    before = dict(ADAPTERS)
    with ExitStack() as stack:
        for emulator in year.emulators.values():
            stack.enter_context(emulator.start())
        urls = {backend: emulator.url for backend, emulator in year.emulators.items()}
        set_attribute(settings, "RUNPOD_API_BASE_URL", urls["runpod"])
        set_attribute(settings, "RUNPOD_RUNTIME_BASE_URL", f"{urls['runpod']}/runtime")
        set_attribute(settings, "VAST_API_BASE_URL", urls["vast"])
        try:
            for backend in KINDS:
                ADAPTERS[backend] = _on_the_clock(before[backend], year)
            yield year
        finally:
            ADAPTERS.clear()
            ADAPTERS.update(before)


def _on_the_clock(build: Callable[[Any], Any], year: Year) -> Callable[[Any], Any]:
    def adapter(account: Any) -> Any:
        made = build(account)
        made._clock = year.now
        return made

    return adapter


def main() -> None:
    with ExitStack() as stack:
        folder = Path(FOLDER or stack.enter_context(tempfile.TemporaryDirectory(prefix="regia-bench-")))
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.update(
            REGIA_DATA_DIR=str(folder), DJANGO_SETTINGS_MODULE="panel.settings", REGIA_LOG_LEVEL="ERROR"
        )
        began = time.perf_counter(), time.process_time()
        found = year_state.begin(folder)

        def tell(day: int) -> None:
            if day % 10 == 0:
                seconds, cpu = spent()
                print(f"day {day}: {seconds:,.0f} s, {cpu:,.0f} s of a processor", flush=True)
                if FOLDER:
                    was, year.spent = year.spent, (seconds, cpu)
                    year_state.save(year, folder)
                    year.spent = was

        def spent() -> tuple[float, float]:
            clocks = time.perf_counter() - began[0], time.process_time() - began[1]
            return clocks[0] + year.spent[0], clocks[1] + year.spent[1]

        year = Year(DEPLOYMENTS, DAYS, seed=SEED, tell=tell)
        with playing(year, setattr):
            year_state.load(year, found) if found else year.begin()
            try:
                year.run()
                for backend, (charged, counted) in year.check_equal().items():
                    print(f"{backend}: charged ${charged:.6f}, counted ${counted:.6f}")
            finally:
                report(year, folder, *spent())


def report(year: Year, folder: Path, seconds: float, cpu: float) -> None:
    from billing.models import Adjustment, LedgerEntry, ProviderStatement

    size = sum(f.stat().st_size for f in os.scandir(folder) if f.is_file()) / 1e6
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{year.deployments} deployments, {(year.now() - START) / DAY:.0f} days, {year.rounds} rounds a day, seed {year.seed}: "
          f"{seconds:,.0f} s, {cpu:,.0f} s of a processor with the emulators in it, {memory:,.0f} MB, database {size:,.0f} MB")  # fmt: skip
    print(
        f"{LedgerEntry.objects.count():,} entries, {ProviderStatement.objects.count():,} lines, {Adjustment.objects.count():,} adjustments"
    )
    print("seconds:", ", ".join(f"{name} {took:,.1f}" for name, took in year.took.most_common()))
    print("what happened:", ", ".join(f"{name} {n}" for name, n in year.did.most_common()))


if __name__ == "__main__":
    sys.exit(main())
