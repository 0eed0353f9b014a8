"""Typed factory functions: each makes one real row, with defaults that hold."""

from __future__ import annotations

import itertools
import uuid
from datetime import UTC, datetime
from decimal import Decimal

from django.contrib.auth.models import Group

from billing import ledger
from billing.models import Budget, Component, Subject
from panel.accounts.models import User
from panel.accounts.roles import ADMINISTRATOR, OPERATOR, VIEWER

_count = itertools.count(1)


def user(role: str | None = None, *, email: str = "", password: str | None = None) -> User:
    n = next(_count)
    made = User.objects.create_user(
        email or f"{role or 'nobody'}{n}@example.com", password, is_staff=role == ADMINISTRATOR
    )
    if role:
        made.groups.add(Group.objects.get(name=role))
    return made


def viewer() -> User:
    return user(VIEWER)


def operator() -> User:
    return user(OPERATOR)


def administrator() -> User:
    return user(ADMINISTRATOR)


def subject(*, scope: uuid.UUID | None = None, label: str = "", provider: str = "local") -> Subject:
    """A machine as the ledger knows it; it costs nothing yet."""
    n = next(_count)
    snapshot = ledger.Snapshot(
        label=label or f"machine-{n}",
        scope=scope or uuid.uuid4(),
        scope_label=f"deployment-{n}",
        provider=provider,
        tier="local",
    )
    return ledger.open_subject(uuid.uuid4(), snapshot, now=datetime(2026, 11, 1, tzinfo=UTC))


def metered_machine(usd_per_hour: str, *, since: datetime, scope: uuid.UUID | None = None) -> Subject:
    """A machine that costs `usd_per_hour` for its compute from `since` on."""
    made = subject(scope=scope)
    ledger.set_price(made.pk, Component.COMPUTE, Decimal(usd_per_hour), at=since)
    return made


def budget(amount: str, *, period: str = "month", hard_stop: bool = True) -> Budget:
    return Budget.objects.create(amount_usd=Decimal(amount), period=period, hard_stop=hard_stop)
