"""An instance: one attempt to rent one machine."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any, Self

from django.db import models, transaction
from django.db.models import Q

from billing.fields import UsdField
from deployments import certificates
from deployments.lifecycle import COMPUTE_BILLS, MAY_EXIST, SERVING, TERMINAL, State, may_advance
from deployments.models.account import ProviderAccount
from deployments.models.deployment import Deployment
from deployments.models.event import Event
from deployments.models.offer import thaw_quote
from deployments.providers.base import Quote
from panel.fields import EncryptedTextField


class StaleWrite(Exception):
    """Somebody else moved the row meanwhile: what this process wanted to write no longer holds."""


SECRETS = ("api_key", "birth_key", "next_key", "tls_key")
"""What no page reads: each is deciphered when a row is loaded with it."""
SELDOM = SECRETS[1:]
"""What a look at many machines does without."""


class KeyStep(models.TextChoices):
    """How far the change of a machine's key is; empty: none is under way."""

    ASKED = "asked", "the machine is to take the new key beside the old one"
    SWITCHED = "switched", "the new key is used, and the machine is to drop the old one"


class InstanceQuerySet(models.QuerySet["Instance"]):
    def without_secrets(self) -> Self:
        return self.defer(*SECRETS)

    def may_exist(self) -> Self:
        """Those that may stand at their provider, and so may bill."""
        return self.filter(state__in=[s.value for s in MAY_EXIST])

    def watched(
        self, now: datetime, *, and_labels: Collection[str] = (), and_ids: Collection[str] = ()
    ) -> Self:
        """Those that lists are read for: all that may exist, those that are over for their 24 hours, and
        whatever stands there under one of `and_labels` or as one of `and_ids`."""
        shown = Q(label__in=and_labels) | Q(remote_id__in=and_ids)
        over = Q(watch_until__gt=now) | (shown & ~Q(state=State.REQUESTED))
        return self.filter(Q(state__in=[s.value for s in MAY_EXIST]) | over).defer(*SELDOM)


class Instance(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    deployment = models.ForeignKey(Deployment, on_delete=models.PROTECT, related_name="instances")
    account = models.ForeignKey(ProviderAccount, on_delete=models.PROTECT, related_name="instances")
    attempt = models.PositiveIntegerField()
    label = models.CharField(max_length=120, unique=True)
    quote = models.JSONField(help_text="the offer as it stood at launch, frozen")
    usd_per_hour = UsdField(help_text="what it bills now, all-in, USD per hour")
    state = models.CharField(max_length=16, choices=[(s.value, s.word) for s in State])
    state_since = models.DateTimeField()
    reason = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField()

    # The launch protocol.
    create_sent_at = models.DateTimeField(
        null=True, help_text="the guarded mark before the one create request"
    )
    remote_id = models.CharField(max_length=120, blank=True)
    remote_created_at = models.DateTimeField(null=True)
    watch_until = models.DateTimeField(
        null=True, help_text="a failed attempt's label is looked for until then"
    )
    end_asked_at = models.DateTimeField(null=True, help_text="the last terminate that the provider took")
    end_tried_at = models.DateTimeField(null=True)
    end_tries = models.PositiveIntegerField(default=0)
    stop_asked_at = models.DateTimeField(null=True)
    spared_until = models.DateTimeField(
        null=True, help_text="a machine found under our label that nobody knew is not ended before this"
    )
    failure = models.CharField(max_length=300, blank=True, help_text="why it is given back as failed")
    generation = models.PositiveIntegerField(default=1, help_text="the deployment's, when it was asked for")
    host = models.CharField(
        max_length=80, blank=True, help_text="who runs the machine, for our history with them"
    )
    bid_usd_per_hour = UsdField(null=True, help_text="its bid on compute now, USD per hour")
    bid_changed_at = models.DateTimeField(null=True)
    outbid_at = models.DateTimeField(null=True, help_text="since when a higher bid holds its GPU")
    interruptions = models.PositiveIntegerField(default=0)
    ready_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)

    # What the provider's lists told; `observe` owns these.
    observed = models.CharField(
        max_length=16, blank=True, help_text="MachineStatus, empty before the first sight"
    )
    observed_at = models.DateTimeField(null=True)
    observed_detail = models.CharField(max_length=300, blank=True)
    missing_lists = models.PositiveIntegerField(default=0, help_text="complete lists in a row without it")
    missing_since = models.DateTimeField(null=True, help_text="the first of those lists")
    duplicates = models.JSONField(default=list, help_text="remote ids under the same label, to be given back")
    country = models.CharField(max_length=2, null=True)
    data_center = models.CharField(max_length=80, blank=True)
    places = models.JSONField(default=list, help_text="serverless: [data centre, country] of each worker")
    inspected_at = models.DateTimeField(null=True)
    locked = models.BooleanField(
        default=False, help_text="the provider refuses to end it until it is unlocked there"
    )
    drift = models.CharField(max_length=300, blank=True, help_text="what the provider changed by itself")
    min_bid = UsdField(null=True, help_text="the lowest bid on compute that would win now, USD per hour")
    bills_only = models.CharField(
        max_length=8, blank=True, default="", help_text="what alone is charged now: disk, nothing; empty: all"
    )
    kept_usd_per_hour = UsdField(null=True, help_text="what it costs stopped, as the list tells")
    traffic = models.JSONField(default=dict, help_text="the provider's counters of traffic, as last charged")
    traffic_at = models.DateTimeField(null=True, help_text="when those were charged")
    machine_ends_at = models.DateTimeField(null=True, help_text="when the rental ends at the latest")

    # The endpoint, and what the probe last saw.
    endpoint_url = models.CharField(max_length=300, blank=True)
    api_key = EncryptedTextField(editable=False)
    probe_ok_at = models.DateTimeField(null=True)
    probe_seen_at = models.DateTimeField(null=True, help_text="it answered at all, loading counts")
    probe_failures = models.PositiveIntegerField(default=0, help_text="in a row")
    probe_detail = models.CharField(max_length=300, blank=True)
    probe_recent = models.PositiveSmallIntegerField(
        default=0, help_text="the last probes, a bit for each, set where it failed, the newest lowest"
    )
    next_probe_at = models.DateTimeField(null=True)

    # The canary: a real chat, at its own pace. `monitoring.canary` owns these.
    canary_at = models.DateTimeField(null=True, help_text="the last one that has a verdict")
    canary_ok = models.BooleanField(null=True)
    canary_ttft = models.FloatField(null=True, help_text="time to first token, seconds")
    canary_rate = models.FloatField(null=True, help_text="tokens per second after the first")
    canary_detail = models.CharField(max_length=300, blank=True, help_text="why it failed")
    canary_recent = models.PositiveSmallIntegerField(
        default=0, help_text="the last canaries, a bit for each, set where it failed, the newest lowest"
    )
    canary_count = models.PositiveIntegerField(default=0, help_text="how many; every other one thinks")
    next_canary_at = models.DateTimeField(null=True)

    # Its door: a key and a certificate of its own where no provider's proxy ends TLS before it.
    tls_key = EncryptedTextField(
        editable=False, blank=True, default="", help_text="base64 of the DER form; empty: plain HTTP"
    )
    tls_certificate = models.TextField(editable=False, blank=True, default="", help_text="PEM")

    # Its lease: without renewals our image ends its machine. `monitoring.lease` owns these.
    lease_seconds = models.PositiveIntegerField(
        default=0, help_text="how long it lives without a renewal; 0: it has no lease"
    )
    lease_renewed_at = models.DateTimeField(null=True)
    lease_expires_at = models.DateTimeField(null=True, help_text="it ends itself then, if nobody renews it")
    lease_failures = models.PositiveIntegerField(default=0, help_text="in a row")
    lease_detail = models.CharField(max_length=300, blank=True)
    next_lease_at = models.DateTimeField(null=True)
    told_failure = models.CharField(
        max_length=300, blank=True, default="", help_text="what our image says that it failed of: its code and the cause"
    )  # fmt: skip

    # The change of its key, in steps that may each be repeated.
    birth_key = EncryptedTextField(
        editable=False, blank=True, default="",
        help_text="what it was ordered with, and knows when it starts again; empty: its key was never changed",
    )  # fmt: skip
    next_key = EncryptedTextField(editable=False, blank=True, default="")
    key_step = models.CharField(max_length=8, blank=True, choices=KeyStep.choices)
    key_changed_at = models.DateTimeField(null=True)

    objects = InstanceQuerySet.as_manager()

    class Meta:
        default_permissions = ("view",)
        constraints = [
            models.UniqueConstraint(fields=["deployment", "attempt"], name="deployments_attempt_once"),
            models.UniqueConstraint(
                fields=["account", "remote_id"], condition=~Q(remote_id=""), name="deployments_remote_once"
            ),
        ]
        indexes = [
            models.Index(fields=["account", "state"], name="deployments_inst_account"),
            models.Index(fields=["state", "next_probe_at"], name="deployments_inst_probe"),
            models.Index(fields=["state", "next_lease_at"], name="deployments_inst_lease"),
            models.Index(fields=["state", "next_canary_at"], name="deployments_inst_canary"),
            models.Index(fields=["host", "created_at"], name="deployments_inst_host"),
        ]

    def __str__(self) -> str:
        return self.label

    @property
    def offer(self) -> Quote:
        """The offer as it stood at launch."""
        return thaw_quote(self.quote)

    @property
    def bearer(self) -> str:
        """What its endpoint is opened with: its own key or, for a serverless endpoint, its account's."""
        return self.account.credentials if self.offer.serverless else self.api_key

    @property
    def pin(self) -> certificates.Pin | None:
        """The one certificate that is trusted at its endpoint; None: those of public authorities."""
        if not self.tls_certificate:
            return None
        return certificates.Pin(self.tls_certificate, certificates.name_of(self.pk))

    @property
    def runs_our_image(self) -> bool:
        """Whether INFERENCE_IMAGE runs there: not on this computer, nor behind a serverless endpoint."""
        return not self.offer.own_machine and not self.offer.serverless

    def lease_spent(self, now: datetime) -> float:
        """How much of its lease has gone by without a renewal: 1.0 is its end, 0 while it starts or has none."""
        if not self.lease_seconds or (self.lease_renewed_at is None and self.status not in SERVING):
            return 0.0
        since = self.lease_renewed_at or self.state_since
        return max(0.0, (now - since) / timedelta(seconds=self.lease_seconds))

    @property
    def plaintext(self) -> bool:
        """Whether keys and prompts travel to it in the clear, over more than this computer."""
        return self.endpoint_url.startswith("http://") and not self.offer.own_machine

    @property
    def status(self) -> State:
        return State(self.state)

    @property
    def is_over(self) -> bool:
        return self.status in TERMINAL

    @property
    def bills(self) -> bool:
        """Whether compute is charged now, as far as anybody knows."""
        return self.status in COMPUTE_BILLS

    def advance(
        self, to: State, *, reason: str, now: datetime, actor: str = "system", lease: str = "", **columns: Any
    ) -> None:
        """Move to `to` and write the Event, together, or raise StaleWrite and change nothing.

        The one door of a state change: a compare-and-swap on the state and, with `lease`, on the
        deployment's lease token. `columns` are written with it. Raises ValueError for a way that
        `TRANSITIONS` does not know.
        """
        before = self.status
        if not may_advance(before, to):
            raise ValueError(f"{self.label} cannot go from {before} to {to}.")
        columns = {**columns, "state": to.value, "state_since": now, "reason": reason[:300]}
        if to in TERMINAL:
            columns.setdefault("ended_at", now)
        with transaction.atomic():
            self.write(now=now, lease=lease, **columns)
            Event.objects.create(
                deployment_id=self.deployment_id, instance=self, at=now, kind="state",
                from_state=before.value, to_state=to.value, reason=reason[:300], actor=actor,
            )  # fmt: skip

    def write(self, *, now: datetime, lease: str = "", **columns: Any) -> None:
        """Write columns if the row still stands in the state we loaded (and the lease is ours), else StaleWrite."""
        with transaction.atomic():
            # The lease's row is held meanwhile: joined into the UPDATE it would not be looked at again by a
            # PostgreSQL that waited for the instance's row.
            ours = Deployment.objects.filter(pk=self.deployment_id, lease_token=lease, lease_until__gt=now)
            if lease and not ours.select_for_update().values_list("pk").first():
                raise StaleWrite(self.label)
            if not type(self).objects.filter(pk=self.pk, state=self.state).update(**columns):
                raise StaleWrite(self.label)
        for name, value in columns.items():
            setattr(self, name, value)
