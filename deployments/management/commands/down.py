"""Give every machine back and prove it: what `./regia down` runs, with or without a running panel."""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError
from django.db.models import Q
from django.utils import timezone

from deployments import reconcile, services
from deployments.lifecycle import TERMINAL, Desired, State
from deployments.management.commands.machines import count
from deployments.models import Deployment, Installation, Instance, ProviderAccount
from deployments.providers.base import ProviderError
from panel.failures import database_sentence

logger = logging.getLogger(__name__)

PATIENCE = 300.0
"""Seconds until what is not confirmed by then is named instead. Clouds confirm within a minute or two."""
ASK_AGAIN = timedelta(seconds=5)
PAUSE = 0.3


class Command(BaseCommand):
    help = "Terminate every machine, and prove from the providers' own lists that none is left."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            doubts = self._down(patience=options["patience"])
        except DatabaseError as e:
            raise CommandError(database_sentence(e)) from e
        except KeyboardInterrupt:
            raise CommandError("Stopped half-way: run ./regia down again to go on.", returncode=130) from None
        if doubts:
            raise CommandError("NOT everything is confirmed gone:\n" + "\n".join(f"  {d}" for d in doubts))

    def _down(self, *, patience: float) -> list[str]:
        """Terminate until the lists prove it or the patience ends; what is not proved, in sentences."""
        give_up = time.monotonic() + patience
        standing = _standing()
        self.stdout.write(
            f"Terminating {count(len(standing), 'machine')} …" if standing else "No machine is known to run."
        )
        self.stdout.flush()
        named = {i.pk for i in standing}
        while True:
            _want_none()
            _round()
            self._name_ended(named)
            if not _standing():
                doubts, proofs = _ask_providers()
                if not doubts:
                    self.stdout.write("\n".join(proofs))
                    return []
            else:
                doubts = [
                    f"{i.label} at {i.account}: {i.status.word}. {i.reason}".strip() for i in _standing()
                ]
            if time.monotonic() > give_up:
                return doubts
            time.sleep(PAUSE)

    def _name_ended(self, named: set[Any]) -> None:
        for i in Instance.objects.filter(pk__in=named, state__in=_TERMINAL).select_related("account"):
            named.discard(i.pk)
            self.stdout.write(f"  {i.label} at {i.account}: {i.status.word}")
            self.stdout.flush()


_TERMINAL = [s.value for s in TERMINAL]


def _standing() -> list[Instance]:
    """Every instance that is not over, those that were not yet asked for included."""
    return list(Instance.objects.exclude(state__in=_TERMINAL).select_related("account"))


def _want_none() -> None:
    """Ask for the end of every deployment. Also of what a sweep has found and spares, or somebody launched since."""
    wanted = ~Q(desired=Desired.TERMINATED) | Q(instances__spared_until__isnull=False)
    for deployment in Deployment.objects.filter(wanted).distinct():
        try:
            services.terminate(deployment, actor=None, now=timezone.now(), reason="./regia down")
        except services.ActionRefused:
            continue  # it is on its way, or somebody else asked for it a moment ago


def _round() -> None:
    """The reconciler's round, here and now: a running panel may do the same meanwhile, under its leases."""
    now = timezone.now()
    for instance in _standing():
        if instance.status is State.TERMINATING and _may_ask(instance, now):
            _try(reconcile.terminate, instance.pk)
    for deployment_id in {i.deployment_id for i in _standing()}:
        _try(reconcile.look, deployment_id)


def _may_ask(instance: Instance, now: Any) -> bool:
    return instance.end_tried_at is None or not timedelta() <= now - instance.end_tried_at < ASK_AGAIN


def _try(act: Any, row_id: Any) -> None:
    # One machine that cannot be looked at must not keep the others from being given back.
    try:
        act(row_id, clock=timezone.now)
    except DatabaseError:
        raise
    except Exception:
        logger.exception("%s: the round failed and is tried again", row_id)


def _ask_providers() -> tuple[list[str], list[str]]:
    """Ask every account for its list: (what is not proved, what is), in sentences."""
    prefix = f"{Installation.own_key()}-"
    doubts, proofs = [], []
    for account in ProviderAccount.objects.order_by("name"):
        # Without a key nothing was ever rented there, and nothing can be asked.
        if account.public_only or (not account.enabled and not account.instances.exists()):
            continue
        try:
            listing = account.adapter().list_machines()
        except (ProviderError, LookupError) as e:
            doubts.append(f"{account} could not be asked: {e}")
            continue
        ours = [m.label for m in listing.machines if m.label.startswith(prefix)]
        doubts += [f"{account} still lists {label}" for label in ours]
        if not listing.complete:
            doubts.append(f"{account} gave an incomplete list")
        elif not ours:
            proofs.append(f"Proved: {account} lists no machine of this installation.")
    return doubts, proofs
