"""Make everything ready for the panel to start: `./regia up` runs it before anything else. Idempotent."""

from __future__ import annotations

import hashlib
import logging
import os
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

import django
from django.apps import apps
from django.conf import settings
from django.contrib.auth.models import Group
from django.contrib.staticfiles.finders import get_finders
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.core.validators import validate_email
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from billing import budgets
from billing.models import Budget
from deployments import offers, services
from deployments.models import Heartbeat, Installation, ProviderAccount
from panel import sandbox
from panel.accounts.models import User
from panel.accounts.roles import ADMINISTRATOR
from panel.audit import chain
from panel.failures import database_sentence
from panel.privacy import erasing

logger = logging.getLogger(__name__)

Backend = ProviderAccount.Backend
SANDBOX_BUDGET = "100"
PLACEHOLDER = "admin@localhost.localdomain"
"""The first administrator's address until somebody gives a real one. It leads nowhere on purpose."""


class Command(BaseCommand):
    help = "Migrate, collect the static files, make the first administrator and the local account."
    # The suite runs them; here they would open the database before its failure can be told in a sentence.
    requires_system_checks = []

    def handle(self, *args: Any, **options: Any) -> None:
        now = timezone.now()
        try:
            before = rights_of_roles()
            call_command("migrate", interactive=False, verbosity=0)
            # Written at every start: a database that can only be read is told now, not at the first launch.
            Heartbeat.beat("start", now)
            # A backup that was restored may hold people who have been erased since.
            erasing.reapply(now=now)
            collect_static()
            with transaction.atomic():
                Installation.own_key()
                note_rights(before, now=now)
                make_administrator(now=now)
                account = make_local_account(now=now)
                if settings.SANDBOX:
                    make_sandbox_accounts(now=now)
                else:
                    make_public_accounts(now=now)
                make_budget(now=now)
        except DatabaseError as e:
            raise CommandError(database_sentence(e)) from e
        except OSError as e:
            raise CommandError(f"{e.filename or settings.DATA_DIR} cannot be written: {e.strerror}.") from e
        show_local_offers(account, now=now)
        # For the worker that starts next: the first Launch page shall not wait a minute for the providers.
        services.ring_offers()


def collect_static() -> bool:
    """Collect the static files unless they are as they were the last time. True when it had to."""
    stamp = settings.DATA_DIR / "static.stamp"
    print_of_files = _static_digest()
    if stamp.exists() and stamp.read_text() == print_of_files:
        return False
    stamp.unlink(missing_ok=True)
    # From an empty folder: collectstatic keeps a file that is newer than its source, as after an unpacked release.
    call_command("collectstatic", interactive=False, verbosity=0, clear=True)
    stamp.write_text(print_of_files)
    return True


def _static_digest() -> str:
    left_out = apps.get_app_config("staticfiles").ignore_patterns  # type: ignore[attr-defined]
    how = (django.get_version(), settings.STORAGES["staticfiles"], left_out)
    digest = hashlib.sha256(repr(how).encode())
    for finder in get_finders():
        for path, storage in finder.list(left_out):
            facts = os.stat(storage.path(path))
            digest.update(f"{path} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def rights_of_roles() -> dict[str, list[str]]:
    """What each role may do, as the database has it; nothing before the first migration."""
    if Group._meta.db_table not in connection.introspection.table_names():
        return {}
    rows = Group.objects.order_by("permissions__content_type__app_label", "permissions__codename")
    rights: dict[str, list[str]] = {}
    for role, app, name in rows.values_list(
        "name", "permissions__content_type__app_label", "permissions__codename"
    ):
        rights.setdefault(role, []).extend([f"{app}.{name}"] if name else [])
    return rights


def note_rights(before: dict[str, list[str]], *, now: datetime) -> None:
    """An upgrade may change what a role includes: who may do what has changed then, without anybody's hand."""
    for role, after in rights_of_roles().items() if before else ():
        given, taken = set(after) - set(before.get(role, ())), set(before.get(role, ())) - set(after)
        if given or taken:
            chain.record(
                "role.change", actor=None, target=Group.objects.get(name=role), now=now, reason="an upgrade",
                before={"taken": sorted(taken)}, after={"given": sorted(given)},
            )  # fmt: skip


def make_administrator(*, now: datetime) -> User | None:
    """The first administrator, when there is none. No password until they set one: they sign in by link."""
    if User.objects.filter(is_superuser=True, is_active=True).exists():
        return None
    email = os.environ.get("REGIA_ADMIN_EMAIL", "").strip() or PLACEHOLDER
    try:
        validate_email(email)
    except ValidationError:
        raise CommandError(f"REGIA_ADMIN_EMAIL={email} is not an e-mail address.") from None
    user = User.objects.filter(email__iexact=email).first()
    if user:
        User.objects.filter(pk=user.pk).update(is_superuser=True, is_staff=True, is_active=True)
    else:
        user = User.objects.create_superuser(email)
    user.groups.add(Group.objects.get(name=ADMINISTRATOR))
    chain.record(
        "user.create",
        actor=None,
        target=user,
        after={"role": ADMINISTRATOR},
        reason="first administrator",
        now=now,
    )
    return user


def make_local_account(*, now: datetime) -> ProviderAccount | None:
    """The account of this computer, made once; None when an administrator has removed or disabled it."""
    local = ProviderAccount.Backend.LOCAL
    account = ProviderAccount.objects.filter(backend=local).first()
    if account is None and not ProviderAccount.objects.exists():
        account = ProviderAccount.objects.create(
            name="This computer",
            backend=local,
            local_usd_per_hour=_amount(settings.LOCAL_DEFAULT_USD_PER_HOUR),
        )
        _note_account(account, now=now)
    return account if account and account.enabled else None


def _note_account(account: ProviderAccount, *, now: datetime) -> None:
    after = {"name": account.name, "backend": str(account.backend)}
    chain.record(
        "provideraccount.create", actor=None, target=account, after=after, reason="the first start", now=now
    )


def make_sandbox_accounts(*, now: datetime) -> None:
    """An account at each emulator, made once. Their keys open nothing but the emulators."""
    for backend, title in ((Backend.RUNPOD, "RunPod (sandbox)"), (Backend.VAST, "Vast.ai (sandbox)")):
        if not ProviderAccount.objects.filter(backend=backend).exists():
            account = ProviderAccount.objects.create(
                name=title, backend=backend, credentials=sandbox.KEY, company_country="US"
            )
            _note_account(account, now=now)


def make_public_accounts(*, now: datetime) -> None:
    """An account without a key for each provider that has none: what it costs can be seen before one signs up."""
    for backend in (Backend.RUNPOD, Backend.VAST):
        if not ProviderAccount.objects.filter(backend=backend).exists():
            account = ProviderAccount.objects.create(name=f"{backend.label} · public prices", backend=backend)
            _note_account(account, now=now)
            # Until the first fetch, and for as long as there is no network.
            offers.store_dated_prices(account)


def make_budget(*, now: datetime) -> None:
    """The budget that `REGIA_BUDGET_USD` (USD a month) names, when there is none. Unset: none but in the sandbox."""
    text = os.environ.get("REGIA_BUDGET_USD", "").strip() or (SANDBOX_BUDGET if settings.SANDBOX else "")
    if text and not Budget.objects.exists():
        budgets.set_budget(_amount(text), Budget.Period.MONTH, hard_stop=True, actor=None, now=now)


def show_local_offers(account: ProviderAccount | None, *, now: datetime) -> None:
    """Fetch what this computer offers, so that the first Launch page is not empty. A failure costs seconds."""
    if account is None:
        return
    try:
        offers.refresh(account, now=now)
    except Exception:
        # Whatever it is, the panel starts: the clock fetches them again.
        logger.exception("The offers of %s could not be fetched", account)


def _amount(text: str) -> Decimal:
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise CommandError(f"{text!r} is not an amount in USD.") from None
    if not amount.is_finite() or amount < 0:
        raise CommandError(f"{text!r} is not an amount in USD.")
    return amount
