"""The operator's verbs: each records what is wanted, in one transaction, and rings the bell.

Nothing here calls a provider; `reconcile` makes it so.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import partial
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import QuerySet

from billing import budgets
from deployments import bids, catalog, certificates, money, offers
from deployments.fit import CONCURRENCY
from deployments.lifecycle import MAY_EXIST, SERVING, TERMINAL, Desired, State
from deployments.models import Deployment, Event, Installation, Instance, KeyStep, Offer
from deployments.models.offer import freeze_quote
from deployments.providers.base import Quote
from deployments.schedule import Schedule
from panel.accounts.models import User
from panel.audit import chain
from panel.celery import app
from panel.notices.notify import clear_notice

logger = logging.getLogger(__name__)

ADOPTABLE = "found-"
"""How the launch key of a deployment begins that stands for a machine nobody asked for."""
LOOK = "deployments.tasks.look"
END = "deployments.tasks.terminate_instance"
OFFERS = "deployments.tasks.offers_due"
LEASE = "deployments.tasks.lease_due"


class LaunchRefused(Exception):
    """A launch that is not admitted. The text is for the operator; `field` names the form's field."""

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class ActionRefused(Exception):
    """A stop, start or terminate that is not valid now. The text is for the operator."""


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """What the Launch page asks for. `launch_key` is the form's own: sent twice, it is one launch."""

    name: str
    model_key: str
    context: int
    offer_id: int
    launch_key: str
    policy: str = Deployment.Policy.RELIABILITY
    allowed_countries: tuple[str, ...] = ()
    price_ceiling: Decimal | None = None
    stop_at: datetime | None = None
    delete_at: datetime | None = None
    purpose: str = Deployment.Purpose.PRODUCTION
    allow_plaintext: bool = False
    plan_b: int = 3
    bid_usd_per_hour: Decimal | None = None
    """For an interruptible offer: the first bid on compute; None: the lowest that wins now."""
    bid_policy: str = Deployment.BidPolicy.MOVE
    bid_ceiling: Decimal | None = None
    schedule: Schedule | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    concurrency: int = CONCURRENCY
    """How many requests of full context must fit side by side."""


def launch(request: LaunchRequest, *, actor: User, now: datetime) -> Deployment:
    """Record a deployment with its first attempt and its reserved budget, and ring the bell.

    The same `launch_key` again returns the deployment that it made. Raises LaunchRefused.
    """
    earlier = Deployment.objects.filter(launch_key=request.launch_key).first()
    if earlier:
        return earlier
    model, offer = _admit(request, actor=actor, now=now)
    try:
        with transaction.atomic():
            deployment = _insert(request, model, actor=actor, now=now)
            add_attempt(deployment, offer, now=now, bid=request.bid_usd_per_hour)
            ring(deployment, now=now)
            # Last: the chain's head is held from here to the commit.
            chain.record(
                "deployment.launch", actor=actor, target=deployment, now=now,
                after={"model": model.key, "offer": offer.key, "account": str(offer.account_id), "usd_per_hour": str(offer.usd_per_hour)},
            )  # fmt: skip
    except IntegrityError:
        # The second click of a double submit lost the race for the unique launch key.
        return Deployment.objects.get(launch_key=request.launch_key)
    except budgets.OverBudget as e:
        raise LaunchRefused(str(e), field="offer") from e
    return deployment


def _admit(request: LaunchRequest, *, actor: User, now: datetime) -> tuple[catalog.Model, Offer]:
    model = catalog.get_model(request.model_key)
    if model is None:
        raise LaunchRefused("This model is not in the catalogue. Choose one from the list.", field="model")
    if not 256 <= request.context <= model.max_context:
        raise LaunchRefused(f"The context must be 256 to {model.max_context} tokens.", field="context")
    if request.stop_at and request.stop_at <= now:
        raise LaunchRefused("The stop date has passed. Choose a later one or none.", field="stop_at")
    offer = Offer.objects.select_related("account").filter(pk=request.offer_id).first()
    if offer is None:
        raise LaunchRefused("This offer has vanished. Choose another one; nothing was rented.", field="offer")
    view = offers.judge(
        offer,
        model,
        context=request.context,
        allowed=request.allowed_countries,
        price_ceiling=request.price_ceiling,
        purpose=request.purpose,
        allow_plaintext=request.allow_plaintext,
        hours=offers.wished_hours(request.stop_at, now=now),
        concurrency=request.concurrency,
    )
    if not view.verdict.allowed:
        _note_refusal(offer, request, view.verdict.reason, actor=actor, now=now)
    if not view.suitable:
        raise LaunchRefused(" ".join(view.reasons), field="offer")
    if offer.interruptible:
        _admit_bid(request, offer)
    return model, offer


def _note_refusal(offer: Offer, request: LaunchRequest, reason: str, *, actor: User, now: datetime) -> None:
    """The residency guard's second look said no: that it did is evidence, so the audit keeps it."""
    what = " ".join(
        filter(None, [offer.account.name, offer.gpu_name, offer.country or "no country", offer.data_center])
    )
    after = {"what": what, "asked": list(request.allowed_countries), "promised": offer.country}
    chain.record("residency.refused", actor=actor, target=offer, after=after, reason=reason, now=now)


def _admit_bid(request: LaunchRequest, offer: Offer) -> None:
    lowest, bid, ceiling = offer.compute_usd_per_hour, request.bid_usd_per_hour, request.bid_ceiling
    if ceiling is not None and ceiling < lowest:
        raise LaunchRefused(
            f"The lowest bid that wins now is ${lowest.normalize():f}: above the ceiling.",
            field="bid_ceiling",
        )
    if ceiling is None and request.bid_policy == Deployment.BidPolicy.RAISE:
        raise LaunchRefused("To raise the bid, say how far: give it a ceiling.", field="bid_ceiling")
    if bid is not None and bid < lowest:
        raise LaunchRefused(
            f"The lowest bid that wins now is ${lowest.normalize():f}.", field="bid_usd_per_hour"
        )
    if bid is not None and ceiling is not None and bid > ceiling:
        raise LaunchRefused("The bid is above its ceiling.", field="bid_usd_per_hour")
    most = request.price_ceiling
    if bid is not None and most is not None and bid + offer.disk_usd_per_hour > most:
        raise LaunchRefused(
            f"With its disk this bid is above the ceiling of ${most.normalize():f}.", field="bid_usd_per_hour"
        )


def _insert(request: LaunchRequest, model: catalog.Model, *, actor: User, now: datetime) -> Deployment:
    deployment = Deployment.objects.create(
        name=request.name.strip()[:80] or model.name,
        model_key=model.key,
        context=request.context,
        allowed_countries=list(request.allowed_countries),
        policy=request.policy,
        tags=dict(request.tags),
        price_ceiling=request.price_ceiling,
        stop_at=request.stop_at,
        delete_at=request.delete_at,
        purpose=request.purpose,
        allow_plaintext=request.allow_plaintext,
        plan_b=request.plan_b,
        bid_policy=request.bid_policy,
        bid_ceiling=request.bid_ceiling,
        **(request.schedule.columns() if request.schedule else {}),
        desired=Desired.RUNNING,
        owner=actor,
        created_at=now,
        launch_key=request.launch_key,
        next_look_at=now,
    )
    note(deployment, "launch", now=now, actor=actor, reason=f"{model.title}")
    return deployment


def add_attempt(
    deployment: Deployment, offer: Offer, *, now: datetime, bid: Decimal | None = None
) -> Instance:
    """Reserve the money and insert the next instance, inside the caller's transaction. Raises OverBudget.

    `bid` is what an interruptible offer's compute is bid for, USD per hour; None: the lowest that wins now.
    """
    last = deployment.instances.order_by("-attempt").first()
    attempt = last.attempt + 1 if last else 1
    quote = offer.quote()
    price, bid = quote.usd_per_hour, _first_bid(deployment, quote, bid)
    if bid is not None:
        price += bid - quote.compute_usd_per_hour
    instance = Instance(
        deployment=deployment,
        account=offer.account,
        attempt=attempt,
        label=f"{Installation.own_key()}-{deployment.id.hex}-{attempt}",
        quote=freeze_quote(quote),
        usd_per_hour=price,
        bid_usd_per_hour=bid,
        generation=deployment.generation,
        host=quote.host[:80],
        state=State.REQUESTED,
        state_since=now,
        created_at=now,
        api_key=_fresh_key(),
    )
    _equip(instance, now=now)
    money.open_subject(instance, now=now)
    stops = offer.account.adapter().traits.can_stop
    kept = quote.held_usd_per_hour if stops else Decimal(0)
    budgets.reserve(instance.id, price, until=deployment.stop_at, now=now, kept=kept)
    instance.save(force_insert=True)
    Event.objects.create(
        deployment=deployment, instance=instance, at=now, kind="state", to_state=State.REQUESTED,
        reason=f"attempt {attempt} on {quote.gpu_name} at {offer.account.name}"[:300],
    )  # fmt: skip
    deployment.__dict__.pop("current", None)
    return instance


def _fresh_key() -> str:
    return f"sk-{secrets.token_urlsafe(32)}"


def _equip(instance: Instance, *, now: datetime) -> None:
    """Give a machine that is to run our image its lease, and a certificate where nothing ends TLS before it."""
    if not instance.runs_our_image:
        return
    instance.lease_seconds = settings.INFERENCE_LEASE_SECONDS
    if settings.INFERENCE_IMAGE_TLS and not instance.account.adapter().traits.ends_tls:
        pair = certificates.make(instance.pk, now=now)
        instance.tls_key, instance.tls_certificate = pair.key, pair.certificate


def _first_bid(deployment: Deployment, quote: Quote, wished: Decimal | None) -> Decimal | None:
    if not quote.interruptible:
        return None
    ceiling = bids.ceiling(deployment.bid_ceiling, deployment.price_ceiling, quote.disk_usd_per_hour)
    return bids.first(quote.compute_usd_per_hour, wished, ceiling)


def stop(deployment: Deployment, *, actor: User | None, now: datetime, reason: str = "") -> None:
    """Stop what runs and keep the deployment. Raises ActionRefused when it does not want to run."""
    _want(deployment, Desired.STOPPED, "stop", actor=actor, now=now, reason=reason)


def terminate(deployment: Deployment, *, actor: User | None, now: datetime, reason: str = "") -> None:
    """Give every machine of the deployment back, for good. Raises ActionRefused when that was asked before.

    A machine that was found and is spared for a while is ended now.
    """
    spared = deployment.instances.exclude(spared_until=None)
    if deployment.desired == Desired.TERMINATED and spared.exists():
        _end_spared(deployment, spared, actor=actor, now=now, reason=reason)
        return
    spared.update(spared_until=None)
    _want(deployment, Desired.TERMINATED, "terminate", actor=actor, now=now, reason=reason)


def _end_spared(
    deployment: Deployment, spared: QuerySet[Instance], *, actor: User | None, now: datetime, reason: str
) -> None:
    with transaction.atomic():
        # Held in the order of everybody else: the deployment, then its instance.
        Deployment.objects.select_for_update().filter(pk=deployment.pk).values_list("pk").first()
        spared.update(spared_until=None)
        note(deployment, "terminate", now=now, actor=actor, reason=reason)
        ring(deployment, now=now)
        chain.record(
            "deployment.terminate", actor=actor, target=deployment, now=now, reason=reason, may_spool=True
        )


def start(deployment: Deployment, *, actor: User | None, now: datetime, reason: str = "") -> None:
    """Run a stopped deployment again. Raises ActionRefused, also when the budget has no room for it."""
    if deployment.stop_at and deployment.stop_at <= now:
        raise ActionRefused("Its stop date has passed. Launch it again with a later one or none.")
    with transaction.atomic():
        # Held in the order of everybody else: the deployment, its instance, the budget.
        Deployment.objects.select_for_update().filter(pk=deployment.pk).values_list("pk").first()
        current = deployment.instances.select_for_update().order_by("-attempt").first()
        if current and current.status not in TERMINAL:
            try:
                budgets.reserve(current.id, _price_of(current), until=deployment.stop_at, now=now)
            except budgets.OverBudget as e:
                raise ActionRefused(str(e)) from e
        Deployment.objects.filter(pk=deployment.pk).update(retry_at=None)
        _want(deployment, Desired.RUNNING, "start", actor=actor, now=now, reason=reason)


def _price_of(instance: Instance) -> Decimal:
    """What it holds of the budget while it runs. A serverless endpoint holds one worker's price, whatever runs."""
    return instance.offer.usd_per_hour if instance.offer.serverless else instance.usd_per_hour


def mend(deployment: Deployment, *, actor: User, now: datetime) -> None:
    """Have what the provider changed by itself put back. Raises ActionRefused when nothing is to be mended."""
    current = deployment.instances.order_by("-attempt").first()
    if current is None or "mend" not in valid_actions(deployment):
        raise ActionRefused("Nothing is to be mended: look at what it says now.")
    with transaction.atomic():
        Event.objects.create(
            deployment=deployment, instance=current, at=now, kind="mend", reason=current.drift,
            actor=chain.pseudonym_of(actor),
        )  # fmt: skip
        ring(deployment, now=now)
        chain.record("deployment.mend", actor=actor, target=deployment, now=now, reason=current.drift)


def mend_is_wanted(instance: Instance) -> bool:
    """Whether somebody asked to mend it and the provider was not asked since."""
    last = instance.events.filter(kind__in=["mend", "mended", "mend-refused"]).order_by("-at", "-pk").first()
    return last is not None and last.kind == "mend"


def rotate_machine_key(deployment: Deployment, *, actor: User, now: datetime) -> None:
    """Have the machine's key changed. Answers that are under way go on. Raises ActionRefused.

    Only what is to be stands in the row: `monitoring.lease` tells the machine, step by step.
    """
    with transaction.atomic():
        # Held in the order of everybody else: the deployment, then its instance.
        held = Deployment.objects.select_for_update().get(pk=deployment.pk)
        current = deployment.instances.select_for_update().order_by("-attempt").first()
        if current is None or held.desired != Desired.RUNNING:
            raise ActionRefused("There is no running machine whose key could be changed.")
        if refusal := _no_new_key(current):
            raise ActionRefused(refusal)
        Instance.objects.filter(pk=current.pk).update(
            birth_key=current.birth_key or current.api_key, next_key=_fresh_key(), key_step=KeyStep.ASKED,
            next_lease_at=now,
        )  # fmt: skip
        Event.objects.create(
            deployment=deployment, instance=current, at=now, kind="rotate", reason="a new key was asked for",
            actor=chain.pseudonym_of(actor),
        )  # fmt: skip
        transaction.on_commit(partial(_send, LEASE))
        chain.record("deployment.rotate", actor=actor, target=deployment, now=now, reason=current.label)


def _no_new_key(instance: Instance) -> str:
    """Why its key cannot be changed now; empty: it can."""
    if not instance.lease_seconds:
        return "This machine takes no new key: it runs without the lease by which it would be told."
    if instance.key_step:
        return "Its key is being changed already."
    if instance.status not in SERVING:
        return "A machine takes a new key while it serves: wait until it is Ready."
    return ""


def adopt_found(deployment: Deployment, *, actor: User, now: datetime) -> None:
    """Keep a machine that was found under our label: it is shown and accrues until somebody ends it.

    Nothing is launched in its place once it is gone, and nothing but a person or the budget's hard stop ends
    it. Raises ActionRefused when it was adopted or ended already.
    """
    with transaction.atomic():
        Deployment.objects.select_for_update().filter(pk=deployment.pk).values_list("pk").first()
        found = deployment.instances.exclude(spared_until=None)
        still = [i for i in found if i.status in MAY_EXIST - {State.TERMINATING}]
        if not deployment.launch_key.startswith(ADOPTABLE) or not still:
            raise ActionRefused("Nothing is left to adopt: it is ended, or somebody decided already.")
        label = still[0].label
        found.update(spared_until=None)
        Deployment.objects.filter(pk=deployment.pk).update(
            desired=Desired.RUNNING, desired_reason="", name="Adopted machine", owner=actor
        )
        note(deployment, "adopt", now=now, actor=actor, reason=label)
        ring(deployment, now=now)
        clear_notice(f"found:{label}", now=now)
        chain.record(
            "deployment.adopt", actor=actor, target=deployment, now=now,
            before={"desired": deployment.desired}, after={"desired": Desired.RUNNING.value},
        )  # fmt: skip
    deployment.refresh_from_db()


def valid_actions(deployment: Deployment) -> frozenset[str]:
    """Which of stop, start, terminate, mend and rotate may be asked for now."""
    valid = set(_VALID[Desired(deployment.desired)])
    current = deployment.current if deployment.desired == Desired.RUNNING else None
    if current and current.drift:
        valid.add("mend")
    if current and not _no_new_key(current):
        valid.add("rotate")
    return frozenset(valid)


_VALID = {
    Desired.RUNNING: frozenset({"stop", "terminate"}),
    Desired.STOPPED: frozenset({"start", "terminate"}),
    Desired.TERMINATED: frozenset[str](),
}
_ALREADY = {
    Desired.RUNNING: "It is running or on its way to.",
    Desired.STOPPED: "It is stopped or on its way to.",
    Desired.TERMINATED: "It is terminated or on its way to.",
}


def _want(
    deployment: Deployment,
    desired: Desired,
    verb: str,
    *,
    actor: User | None,
    now: datetime,
    reason: str = "",
) -> None:
    """One compare-and-swap on what is wanted, its Event and its audit row, together; then the bell."""
    if verb not in valid_actions(deployment):
        raise ActionRefused(_ALREADY[Desired(deployment.desired)])
    before = deployment.desired
    with transaction.atomic():
        moved = Deployment.objects.filter(pk=deployment.pk, desired=before).update(
            desired=desired, desired_reason=reason[:300]
        )
        if not moved:
            raise ActionRefused("Somebody else changed it a moment ago. Look again and decide.")
        if desired is Desired.TERMINATED:
            budgets.protect(deployment.pk, protected=False)
        note(deployment, verb, now=now, actor=actor, reason=reason)
        if actor:
            _answer(deployment, now=now)
        ring(deployment, now=now)
        chain.record(
            f"deployment.{verb}", actor=actor, target=deployment, now=now, reason=reason,
            before={"desired": before}, after={"desired": desired.value},
            # Stop and terminate are never refused because the audit cannot be written.
            may_spool=desired is not Desired.RUNNING,
        )  # fmt: skip
    deployment.desired = desired


def _answer(deployment: Deployment, *, now: datetime) -> None:
    """Close what asked for somebody's decision: they have just made it."""
    for what in ("relaunch", "residency", "schedule", "stopped"):
        clear_notice(f"{what}:{deployment.pk}", now=now)


def note(
    deployment: Deployment, kind: str, *, now: datetime, actor: User | None = None, reason: str = ""
) -> None:
    """Write an Event of the deployment itself."""
    Event.objects.create(
        deployment=deployment, at=now, kind=kind, reason=reason[:300],
        actor=chain.pseudonym_of(actor) if actor else "system",
    )  # fmt: skip


def ring(deployment: Deployment, *, now: datetime) -> None:
    """Make the deployment due now and ring once the transaction is committed."""
    Deployment.objects.filter(pk=deployment.pk).update(next_look_at=now)
    transaction.on_commit(partial(ring_look, deployment.pk))


def ring_look(deployment_id: UUID, *, delay: float = 0, claim: datetime | None = None) -> None:
    """Ask a worker to look. A bell that cannot be rung is no error: `due` finds the row within seconds."""
    _send(LOOK, str(deployment_id), *([claim.isoformat()] if claim else []), delay=delay)


def ring_offers() -> None:
    """Ask a worker to fetch the offers now instead of within a minute."""
    _send(OFFERS)


def ring_end(instance_id: UUID) -> None:
    """Ask the terminate worker to give the machine back."""
    _send(END, str(instance_id))


def ring_bell(task: str) -> None:
    """Ask a worker for a round of the clock's now."""
    _send(task)


def _send(task: str, *args: str, delay: float = 0) -> None:
    try:
        app.send_task(task, args=args, countdown=delay or None, expires=delay + 60, retry=False)
    except Exception:  # whatever the broker's client raises: the row stands, and the clock looks at it
        logger.warning("The broker did not take %s; the next round of the clock will.", task)
