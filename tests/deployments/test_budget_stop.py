"""The hard stop, end to end: whatever the budgets, prices and refusals, no more is overspent than was stated.

Random runs on the test's clock against the fake cloud, whose own books say what was spent. A few in CI, 200 with
REGIA_LONG=1; REGIA_STOP_RUNS names another number, and REGIA_STOP_LOG a file for the figures.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest

from billing import budgets
from billing.models import Budget
from deployments import changes
from deployments.lifecycle import TERMINAL, Desired, State
from deployments.models import Deployment, Instance
from tests.deployments.world import FOREIGN, MINUTE, CloudWorld, fresh, settled
from tests.providers.fakecloud import fake_quote
from tests.providers.faulty import Fault

RUNS = int(os.environ.get("REGIA_STOP_RUNS") or (200 if os.environ.get("REGIA_LONG") else 4))
LOG = os.environ.get("REGIA_STOP_LOG", "")
CENT = Decimal("0.01")


@pytest.mark.parametrize("seed", range(RUNS))
def test_the_overspend_stays_within_the_stated_bound(world: CloudWorld, monkeypatch, seed: int) -> None:
    dice = random.Random(seed)
    world.calm(monkeypatch)
    monkeypatch.setattr(CloudWorld, "SHORTEST", timedelta(seconds=5))
    world.cloud.traits = replace(world.cloud.traits, can_stop=dice.random() < 0.6)
    fleet = _fleet(world, dice)
    protected = {d.pk for d in fleet if dice.random() < 0.25}
    for d in fleet:
        if d.pk in protected:
            changes.change_settings(fresh(d), {"protected": True}, actor=world.owner, now=world.now)
    made = _budgets(world, dice, fleet)
    stated = {s.budget.pk: s.bound for s in budgets.statuses(now=world.now)}
    covered = _coverage(made, fleet)
    for method in ("stop", "terminate"):
        if dice.random() < 0.3:
            world.fail(method, dice.choice([Fault.RATE_LIMITED, Fault.UNAVAILABLE, Fault.LOST_RESPONSE]))

    stoppable = [d.pk for d in fleet if d.pk not in protected and any(d in mine for mine in covered.values())]
    world.run(12 * MINUTE, until=lambda: not _stands(stoppable))
    # What is kept or protected goes on.
    world.now += timedelta(hours=dice.choice([0, 1, 8]))

    for budget in made:
        mine = covered[budget.pk]
        spent = _charged(world, mine)
        over = max(Decimal(0), spent - budget.amount_usd)
        bound = stated[budget.pk]
        _note(
            f"{seed} {budget.name} amount={budget.amount_usd} spent={spent:.6f} over={over:.6f} bound={bound:.6f}"
        )
        assert over <= bound, f"{over} beyond the budget {budget.name}, and {bound} was stated"
        ended = {d.pk for d in mine if fresh(d).desired == Desired.STOPPED}
        assert not ended & protected, "what is protected was stopped"
        if spent >= budget.amount_usd:
            assert ended == {d.pk for d in mine} - protected, (
                "the money is gone, and something is still wanted"
            )
    running = {i.deployment_id for i in Instance.objects.filter(state=State.READY)}
    assert protected <= running


def _fleet(world: CloudWorld, dice: random.Random) -> list[Deployment]:
    """One to three that serve, at prices from 20 cents to 4 dollars, some with a disk that bills when stopped."""
    quotes = []
    for n in range(dice.randint(1, 3)):
        price = Decimal(dice.randint(20, 400)) / 100
        disk = Decimal(dice.choice([0, 2, 5])) / 100
        quotes.append(
            fake_quote(
                f"offer-{n}", usd_per_hour=price, compute_usd_per_hour=price - disk, disk_usd_per_hour=disk,
                host=f"host-{n}",
            )
        )  # fmt: skip
    world.offer(*quotes)
    fleet = [world.launch(q.key) for q in quotes]
    world.run(6 * MINUTE, until=lambda: all(settled(d) == State.READY for d in fleet))
    assert all(settled(d) == State.READY for d in fleet)
    return fleet


def _budgets(world: CloudWorld, dice: random.Random, fleet: list[Deployment]) -> list[Budget]:
    """One to three, set under what runs: each has money for some minutes of it."""
    scopes: list[Callable[[], tuple[str, budgets.Whom]]] = [
        lambda: ("Everything", budgets.Whom()),
        lambda: ("The provider", budgets.Whom(provider="runpod")),
        lambda: ("The account", budgets.Whom(account=world.account.pk)),
        lambda: ("One", budgets.Whom(scope=dice.choice(fleet).pk)),
    ]
    made = []
    for pick in dice.sample(scopes, dice.randint(1, 3)):
        name, whom = pick()
        mine = [d for d in fleet if whom.scope in (None, d.pk)]
        burn = sum((i.usd_per_hour for i in Instance.objects.filter(deployment__in=mine)), Decimal(0))
        minutes = Decimal(dice.choice([0, dice.randint(1, 60)])) / 10
        amount = (_charged(world, mine) + burn * minutes / 60).quantize(CENT)
        period = dice.choice(["day", "month"])
        made.append(budgets.add(budgets.Wish(name, amount, period, whom), actor=world.owner, now=world.now))
    return made


def _stands(deployments: list[UUID]) -> bool:
    """Whether one of them is wanted, or its machine runs or is ending."""
    wanted = Deployment.objects.filter(pk__in=deployments, desired=Desired.RUNNING)
    rests = [State.STOPPED, *TERMINAL]
    return (
        wanted.exists()
        or Instance.objects.filter(deployment__in=deployments).exclude(state__in=rests).exists()
    )


def _coverage(made: list[Budget], fleet: list[Deployment]) -> dict[int, list[Deployment]]:
    return {b.pk: [d for d in fleet if b.scope in (None, d.pk)] for b in made}


def _charged(world: CloudWorld, mine: list[Deployment]) -> Decimal:
    """What the cloud's own books say that these cost, USD."""
    labels = set(Instance.objects.filter(deployment__in=mine).values_list("label", flat=True)) - {FOREIGN}
    charges = world.inner.charges(world.now - timedelta(days=1), world.now)
    return sum((c.usd for c in charges if c.label in labels), Decimal(0))


def _note(line: str) -> None:
    if LOG:
        with Path(LOG).open("a") as f:
            f.write(line + "\n")
