"""The accounts at the providers: add, test, disable, enable, and give a new key. Keys are written, never shown.

The web records what is wanted and rings; `check` asks the provider, in a worker. Whether a test is due stands
in the row (`rights_at` is empty), so a lost bell is rung again by `balances_due`.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet

from billing import statements
from deployments.lifecycle import MAY_EXIST
from deployments.models import Breaker, ProviderAccount
from deployments.providers.base import Balance, ProviderError, Rejected, Right
from panel.accounts.models import User
from panel.audit import chain
from panel.celery import app
from panel.notices.notify import clear_notice, open_notices

logger = logging.getLogger(__name__)

CHECK = "deployments.tasks.check_account"
KEY_LENGTH = 500
"""Characters of the longest key that is taken."""
BALANCE_EVERY = timedelta(minutes=10)
RENTED = (ProviderAccount.Backend.RUNPOD, ProviderAccount.Backend.VAST)
"""The backends that are spoken to with a key."""


class AccountRefused(Exception):
    """What was asked of an account is not valid. The text is for the operator; `field` names the form's field."""

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class NewAccount:
    """What the form of a new account asks for."""

    backend: str
    name: str
    key: str
    company_country: str = ""
    dpa_reference: str = ""

    def __repr__(self) -> str:
        return f"NewAccount({self.backend!r}, {self.name!r})"


# -- the operator's verbs ----------------------------------------------------------------------------


def add(wish: NewAccount, *, actor: User, now: datetime) -> ProviderAccount:
    """Record an account with its key, and have it tested. Raises AccountRefused."""
    if wish.backend not in RENTED:
        raise AccountRefused(
            "Choose RunPod or Vast.ai. This computer has its account already.", field="backend"
        )
    columns = {
        "name": wish.name.strip(), "credentials": clean_key(wish.key), "company_country": wish.company_country,
        "dpa_reference": wish.dpa_reference.strip(), "enabled": True,
    }  # fmt: skip
    try:
        with transaction.atomic():
            account = _recorded(wish.backend, columns)
            _ring(account)
            chain.record("provideraccount.create", actor=actor, target=account, after=_told(account), now=now)
    except IntegrityError as e:
        raise AccountRefused("Another account has this name. Choose another one.", field="name") from e
    return account


def _recorded(backend: str, columns: dict[str, Any]) -> ProviderAccount:
    # Beside one that has a key, an account of public prices would show every offer a second time.
    public = ProviderAccount.objects.filter(backend=backend, credentials="")
    spare = public.first()
    if spare and public.filter(pk=spare.pk).update(**columns):
        return ProviderAccount.objects.get(pk=spare.pk)
    return ProviderAccount.objects.create(backend=backend, **columns)


def rotate(account: ProviderAccount, key: str, *, actor: User, now: datetime) -> None:
    """Replace the account's key, or give it its first one, and have it tested. Raises AccountRefused."""
    if account.backend not in RENTED:
        raise AccountRefused("This computer needs no key.")
    fresh = clean_key(key)
    first = account.public_only
    with transaction.atomic():
        # What the old key was told says nothing of the new one.
        ProviderAccount.objects.filter(pk=account.pk).update(
            credentials=fresh, rights=[], rights_at=None, balance_usd=None, balance_at=None, create_refused="",
            key_unproved=account.instances.may_exist().exclude(remote_id="").exists(),
        )  # fmt: skip
        Breaker.objects.filter(account=account).delete()
        _ring(account)
        chain.record(
            "provideraccount.rotate", actor=actor, target=account, now=now,
            reason="its first key" if first else "a new key",
        )  # fmt: skip


def ask_test(account: ProviderAccount, *, actor: User, now: datetime) -> None:
    """Have the key tested: the answer stands in the row once `rights_at` is set again. Raises AccountRefused."""
    if account.backend not in RENTED or account.public_only:
        raise AccountRefused("There is no key to test.")
    with transaction.atomic():
        ProviderAccount.objects.filter(pk=account.pk).update(rights_at=None)
        _ring(account)
        chain.record("provideraccount.test", actor=actor, target=account, now=now)


def disable(account: ProviderAccount, *, actor: User, now: datetime) -> None:
    """Rent nothing there any more. What stands there goes on being watched and billed."""
    _switch(account, enabled=False, actor=actor, now=now)


def enable(account: ProviderAccount, *, actor: User, now: datetime) -> None:
    _switch(account, enabled=True, actor=actor, now=now)


def _switch(account: ProviderAccount, *, enabled: bool, actor: User, now: datetime) -> None:
    with transaction.atomic():
        moved = ProviderAccount.objects.filter(pk=account.pk, enabled=not enabled).update(enabled=enabled)
        if not moved:
            raise AccountRefused(f"{account.name} is {'enabled' if enabled else 'disabled'} already.")
        chain.record(
            f"provideraccount.{'enable' if enabled else 'disable'}", actor=actor, target=account,
            before={"enabled": not enabled}, after={"enabled": enabled}, now=now,
        )  # fmt: skip


def clean_key(text: str) -> str:
    """The key without what a paste brings along. Raises AccountRefused with what is wrong, never with the key."""
    key = text.strip()
    if not key:
        raise AccountRefused("Paste the key.", field="key")
    if len(key) > KEY_LENGTH:
        raise AccountRefused(
            f"This is longer than {KEY_LENGTH} characters, and no key is. Paste the key alone.", field="key"
        )
    if any(c.isspace() for c in key):
        raise AccountRefused(
            "There is a space or a line break inside, and no key holds one. Copy it again.", field="key"
        )
    if not (key.isascii() and key.isprintable()):
        raise AccountRefused("It holds characters that no key holds. Copy it again.", field="key")
    return key


def _told(account: ProviderAccount) -> dict[str, Any]:
    return {
        "name": account.name,
        "backend": str(account.backend),
        "company_country": account.company_country,
        "dpa_reference": account.dpa_reference,
    }


# -- the worker's part -------------------------------------------------------------------------------


def check(account_id: UUID, *, now: datetime) -> None:
    """Ask what the account's key may do and what money is left, and write it. No error leaves this."""
    account = ProviderAccount.objects.get(pk=account_id)
    if account.backend not in RENTED or account.public_only:
        return
    rights = _rights(account)
    good = bool(rights) and all(right.ok for right in rights)
    columns: dict[str, Any] = {"rights": [asdict(right) for right in rights], "rights_at": now}
    if good:
        columns |= {"create_refused": "", **_unblocked(account)}
    if _write(account, columns | _balance(account, now=now)) and good:
        for what in ("account-key", "account-rights"):
            clear_notice(f"{what}:{account.pk}", now=now)


def balances_due(*, now: datetime) -> None:
    """Read every balance that is ten minutes old, and test what waits for its test."""
    for account in _with_key():
        if account.rights_at is None:
            check(account.pk, now=now)
        elif account.balance_at is None or not timedelta() <= now - account.balance_at < BALANCE_EVERY:
            _write(account, _balance(account, now=now))


def _with_key() -> QuerySet[ProviderAccount]:
    standing = Q(instances__state__in=[state.value for state in MAY_EXIST])
    keyed = ProviderAccount.objects.filter(backend__in=RENTED).exclude(credentials="")
    return keyed.filter(Q(enabled=True) | standing).distinct()


def _rights(account: ProviderAccount) -> tuple[Right, ...]:
    try:
        found = account.adapter().rights()
    except Exception as e:
        return (Right("answer", ok=False, detail=_sentence(account, e)),)
    return tuple(Right(r.name, r.ok, _masked(account, r.detail)) for r in found)


def _balance(account: ProviderAccount, *, now: datetime) -> dict[str, Any]:
    """The columns of what is left. What could not be asked stays as it was, with its age."""
    try:
        balance = account.adapter().balance()
    except Rejected:
        balance = Balance(usd=None)
    except Exception as e:
        logger.warning("The balance of %s could not be read: %s", account, _sentence(account, e))
        return {}
    usd = balance.usd
    return {"balance_usd": Decimal(usd) if usd is not None else None, "balance_at": now}


def _unblocked(account: ProviderAccount) -> dict[str, str]:
    # That most machines are missing from its lists is not answered by a good key.
    frozen = open_notices().filter(key=f"mass-disappearance:{account.pk}").exists()
    return {} if frozen else {"creates_blocked": ""}


def _write(account: ProviderAccount, columns: dict[str, Any]) -> bool:
    """Write what was told, unless the account has another key by now, which its own test will tell of."""
    with transaction.atomic():
        fresh = ProviderAccount.objects.select_for_update().get(pk=account.pk)
        if fresh.credentials != account.credentials:
            return False
        if "balance_at" in columns:
            statements.record_balance(account.pk, columns["balance_usd"], now=columns["balance_at"])
        return bool(columns and ProviderAccount.objects.filter(pk=account.pk).update(**columns))


def _sentence(account: ProviderAccount, error: Exception) -> str:
    if isinstance(error, ProviderError):
        return _masked(account, str(error))[:300]
    return f"The provider's answer cannot be read ({type(error).__name__})."


def _masked(account: ProviderAccount, text: str) -> str:
    """A provider may repeat the key in its answer; the page and the log must not."""
    return text.replace(account.credentials, "***") if account.credentials else text


def _ring(account: ProviderAccount) -> None:
    transaction.on_commit(partial(_send, str(account.pk)))


def _send(account_id: str) -> None:
    try:
        app.send_task(CHECK, args=(account_id,), expires=60, retry=False)
    except (
        Exception
    ):  # whatever the broker's client raises: the row waits for its test, and the clock sees it
        logger.warning("The broker did not take the test of %s; the clock will.", account_id)
