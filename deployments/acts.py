"""The acts of a step: what each decision does to the provider and to the rows.

Provider calls stand outside transactions; what their answers mean is written guarded by the lease.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction

from billing import budgets
from deployments import calls, catalog, certificates, choice, crash, money, services, turns
from deployments import decide as d
from deployments.calls import Call
from deployments.lifecycle import HELD, SERVING, STARTING, TERMINAL, Desired, State
from deployments.models import Cause, Event, Instance, ProviderAccount
from deployments.providers.base import (
    MachineStatus,
    Order,
    ProviderError,
    RateLimited,
    Rejected,
    Secret,
    Unauthorized,
    Unavailable,
)
from deployments.step import Later, Step, call, of
from panel.audit import chain
from panel.notices.models import Notice
from panel.notices.notify import clear_notice, raise_notice

logger = logging.getLogger(__name__)

CREATE_MARGIN = 10.0
"""Seconds of the lease that are kept for writing the answer down: no create is sent later than that."""
WATCH = timedelta(hours=24)
"""How long the label of an attempt that is over is still looked for."""
STARTED = "start was asked for"
"""The Event's reason by which starts are counted."""


class _Taken(Later):
    """Somebody else's create on the same offer is under way."""

    def __init__(self) -> None:
        super().__init__(d.WAITING)


def _create(work: Step, action: d.Action) -> None:
    """The launch protocol: mark, send exactly one request, and write down what the answer means."""
    i, now = of(work, action), work.clock()
    with transaction.atomic():
        i.write(now=now, lease=work.token, create_sent_at=now)
        if i.account.adapter().traits.one_create_per_offer:
            # Held until the mark is committed, so that of two creates on one offer the second sees the first.
            ProviderAccount.objects.select_for_update().filter(pk=i.account_id).values_list("pk").first()
            if choice.is_taken(i, now=now):
                i.create_sent_at = None
                raise _Taken
        chain.record(
            "instance.create", actor=None, target=i, now=now,
            after={"label": i.label, "account": str(i.account_id), "usd_per_hour": str(i.usd_per_hour)},
        )  # fmt: skip
    crash.point(2)
    answer: str | Exception
    try:
        order, deadline = _order(work, i), work.lease_ends - CREATE_MARGIN
        answer = calls.ask(
            i.account, Call.CREATE, lambda: i.account.adapter().create(order, deadline=deadline), now=now
        )
    except Exception as e:
        answer = e
    crash.point(3)
    _answered(work, i, answer)
    crash.point(4)
    if not isinstance(answer, str):
        raise Later(_patience(answer))


def _answered(work: Step, i: Instance, answer: str | Exception) -> None:
    """Commit the consequence of the create's answer: a remote id, a definite no, or nobody knows."""
    now = work.clock()
    if isinstance(answer, str):
        work.move(i, State.PROVISIONING, "the provider took the order", remote_id=answer)
        _may_rent(i.account, now=now)
    elif isinstance(answer, Rejected):
        _block(i.account, answer, now=now)
        work.move(i, State.FAILED, f"{choice.REFUSED}: {answer}", watch_until=now + WATCH)
    elif isinstance(answer, (RateLimited, Unavailable)):
        # Nothing was sent or done: take the mark back, and try the same offer again later.
        i.write(now=now, lease=work.token, create_sent_at=None)
    else:
        logger.warning("%s: the create's answer is unclear (%s)", i.label, type(answer).__name__)
        detail = f": {answer}" if isinstance(answer, ProviderError) else ""
        work.move(i, State.UNKNOWN, f"unclear answer{detail}")


def _patience(answer: Exception) -> timedelta:
    if isinstance(answer, RateLimited):
        most = calls.RETRY_AFTER_MOST.total_seconds()
        return timedelta(seconds=min(answer.retry_after or 10, most))
    return d.SOON if isinstance(answer, Rejected) else d.WAITING


def _order(work: Step, i: Instance) -> Order:
    model = catalog.get_model(work.deployment.model_key)
    if model is None:
        raise Rejected(f"The model {work.deployment.model_key} is no longer in the catalogue.")
    if model.unpinned and i.account.backend != ProviderAccount.Backend.LOCAL:
        raise Rejected(model.unpinned)
    return Order(
        label=i.label, quote=i.offer, model_key=model.key, repository=model.repository, revision=model.revision,
        served_name=model.served_name, context=work.deployment.context, api_key=Secret(i.api_key),
        image=settings.INFERENCE_IMAGE, disk_gb=settings.INFERENCE_DISK_GB, port=settings.INFERENCE_PORT,
        bid_usd_per_hour=i.bid_usd_per_hour, environment=_told(i, model),
    )  # fmt: skip


def _told(i: Instance, model: catalog.Model) -> dict[str, str]:
    """What our image is told beyond the order itself; nothing where it does not run."""
    if not i.runs_our_image:
        return {}
    known = {
        "REGIA_REASONING_PARSER": "qwen3" if model.thinks else "",
        "REGIA_CUDA_MIN": str(model.min_cuda) if model.min_cuda else "",
    }
    return {
        **certificates.environment(i.tls_key, i.tls_certificate),
        "REGIA_LEASE_SECONDS": str(i.lease_seconds),
        **{name: value for name, value in known.items() if value},
    }


def _block(account: ProviderAccount, error: Rejected, *, now: datetime) -> None:
    """The key may read but not rent: a good list proves nothing of that."""
    if isinstance(error, Unauthorized):
        ProviderAccount.objects.filter(pk=account.pk).update(create_refused=str(error)[:300])
        raise_notice(
            f"account-rights:{account.pk}", Notice.Severity.CRITICAL, f"{account.name} may not rent with its key",
            now=now, detail=f"{error} Give the account another key, or test it once its rights are there.",
        )  # fmt: skip


def _may_rent(account: ProviderAccount, *, now: datetime) -> None:
    if account.create_refused:
        ProviderAccount.objects.filter(pk=account.pk).update(create_refused="")
        account.create_refused = ""
        clear_notice(f"account-rights:{account.pk}", now=now)


def _advance(work: Step, action: d.Action) -> None:
    assert isinstance(action, d.Advance)  # noqa: S101 - the table below says so
    i, now = of(work, action), work.clock()
    columns: dict[str, Any] = {"watch_until": now + WATCH} if action.to is State.FAILED else {}
    if action.to is State.READY and not i.ready_at:
        columns["ready_at"] = now
    if action.to in STARTING and not i.next_probe_at:
        columns["next_probe_at"] = now
    if action.to is State.READY:
        columns["next_lease_at"] = now
    if action.to is State.OUTBID:
        columns |= {"outbid_at": now, "interruptions": i.interruptions + 1, "endpoint_url": "", **_NEW_LIFE}
    elif i.status is State.OUTBID:
        columns |= {"outbid_at": None, **_NEW_LIFE, "next_probe_at": now}
    with transaction.atomic():
        if State.OUTBID in {i.status, action.to}:
            _tell_outbid(work, i, back=i.status is State.OUTBID, reason=action.reason)
        work.move(i, action.to, action.reason, **columns)
    if action.to is State.STOPPED:
        clear_notice(f"stop:{i.pk}", now=now)
    if action.to in HELD | TERMINAL:
        # What does not run needs no renewal, and a start begins a lease anew.
        clear_notice(f"lease:{i.pk}", now=now)
    if action.to is State.READY:
        clear_notice(f"relaunch:{work.deployment.pk}", now=now)


_NEW_LIFE: dict[str, Any] = {
    "probe_ok_at": None, "probe_seen_at": None, "probe_failures": 0, "probe_recent": 0,
    "canary_at": None, "canary_ok": None, "canary_ttft": None, "canary_rate": None, "canary_detail": "", "canary_recent": 0, "next_canary_at": None,
    "lease_renewed_at": None, "lease_expires_at": None, "lease_failures": 0, "lease_detail": "",
    "told_failure": "",
}  # fmt: skip
"""What the probes, the canary and the lease knew of the machine's former life says nothing of this one."""


def _tell_outbid(work: Step, i: Instance, *, back: bool, reason: str) -> None:
    key, now = f"outbid:{i.pk}", work.clock()
    _note_bid(work, i, "resumed" if back else "outbid", reason)
    if back:
        clear_notice(key, now=now)
        return
    raise_notice(
        key, Notice.Severity.WARNING, f"{work.deployment.name} was outbid", now=now,
        url=work.deployment.get_absolute_url(), subject=work.deployment.pk, cause=Cause.DEPLOYMENT.of(work.deployment.pk),
        detail=f"Compute is not billed meanwhile, its disk is. By its policy: {work.deployment.get_bid_policy_display()}.",
    )  # fmt: skip


def _note_bid(work: Step, i: Instance, kind: str, reason: str) -> None:
    Event.objects.create(
        deployment=work.deployment, instance=i, at=work.clock(), kind=kind, reason=reason[:300]
    )


def _begin_end(work: Step, action: d.Action) -> None:
    i = of(work, action)
    failure = action.reason[:300] if isinstance(action, d.BeginFail) else i.failure
    with transaction.atomic():
        work.move(
            i, State.TERMINATING, action.reason, failure=failure, missing_lists=0, end_tried_at=None,
            end_asked_at=None, end_tries=0,
        )  # fmt: skip
        if isinstance(action, d.Expel):
            _tell_violation(work, i, action.reason)
        chain.record(
            "instance.terminate", actor=None, target=i, now=work.clock(), reason=action.reason, may_spool=True
        )
    crash.point(5)


def _tell_violation(work: Step, i: Instance, reason: str) -> None:
    """It stood where it may not: somebody is told, and the audit keeps it beside the evidence."""
    now = work.clock()
    raise_notice(
        f"residency:{work.deployment.pk}", Notice.Severity.CRITICAL,
        f"{work.deployment.name} stood where it may not", now=now,
        url=work.deployment.get_absolute_url(), subject=work.deployment.pk, detail=f"{reason} {i.label} is given back.",
        cause=Cause.RESIDENCY.of(work.deployment.pk),
    )  # fmt: skip
    chain.record(
        "residency.violation", actor=None, target=i, now=now, reason=reason, may_spool=True,
        after={"asked": list(work.deployment.allowed_countries), "promised": i.offer.country,
               "found": i.places or [[i.data_center, i.country]]},
    )  # fmt: skip


def _ask_end(work: Step, action: d.Action) -> None:
    i, now = of(work, action), work.clock()
    if now - i.state_since > d.PAGE_AFTER:
        raise_notice(
            f"terminate:{i.pk}", Notice.Severity.CRITICAL, f"{work.deployment.name} cannot be terminated", now=now,
            url=work.deployment.get_absolute_url(), subject=work.deployment.pk, cause=Cause.ENDING.of(i.pk),
            detail=f"{i.account.name} has not ended {i.label} after {i.end_tries} tries. It goes on accruing.",
        )  # fmt: skip
    if i.locked:
        raise_notice(
            f"locked:{i.pk}", Notice.Severity.CRITICAL, f"{work.deployment.name} is locked at {i.account.name}",
            now=now, url=work.deployment.get_absolute_url(), subject=work.deployment.pk, cause=Cause.ENDING.of(i.pk),
            detail=f"Unlock {i.label} in the provider's console. It is asked for again and again, and accrues until then.",
        )  # fmt: skip
    services.ring_end(i.pk)


def _confirm_end(work: Step, action: d.Action) -> None:
    i = of(work, action)
    crash.point(8)
    to, reason = (State.FAILED, i.failure) if i.failure else (State.TERMINATED, action.reason)
    beside, now = i.duplicates, work.clock()
    with transaction.atomic():
        work.move(
            i, to, reason, observed="", duplicates=[], endpoint_url="", outbid_at=None, drift="",
            watch_until=now + WATCH,
        )  # fmt: skip
        money.end_duplicates(i, beside, now=now)
    for verb in ("terminate", "stop", "locked", "drift", "outbid", "lease"):
        clear_notice(f"{verb}:{i.pk}", now=work.clock())


def _end_duplicates(work: Step, action: d.Action) -> None:
    i = of(work, action)
    raise_notice(
        f"duplicates:{i.pk}", Notice.Severity.CRITICAL, f"{work.deployment.name} stands twice at {i.account.name}",
        now=work.clock(), url=work.deployment.get_absolute_url(), subject=work.deployment.pk,
        cause=Cause.ORPHAN.of(i.account_id),
        detail=f"{len(i.duplicates)} more under {i.label}: ended until no list shows them.",
    )  # fmt: skip
    for remote_id in i.duplicates:
        chain.record(
            "instance.terminate", actor=None, target=i, now=work.clock(), reason=action.reason, may_spool=True
        )
        call(i, "terminate", remote_id, now=work.clock())


def _stop(work: Step, action: d.Action) -> None:
    i, now = of(work, action), work.clock()
    if i.status is State.STOPPING:
        i.write(now=now, lease=work.token, stop_asked_at=now)
    else:
        work.move(i, State.STOPPING, "stop was asked for", stop_asked_at=now)
    if now - i.state_since > d.PAGE_AFTER:
        raise_notice(
            f"stop:{i.pk}", Notice.Severity.CRITICAL, f"{work.deployment.name} cannot be stopped", now=now,
            url=work.deployment.get_absolute_url(), subject=work.deployment.pk, detail=f"{i.account.name} still runs {i.label}, and it accrues.",
            cause=Cause.ENDING.of(i.pk),
        )  # fmt: skip
    refusal = call(i, "stop", i.remote_id, now=now)
    if refusal is not None and not isinstance(refusal, calls.Held):
        Event.objects.create(
            deployment=work.deployment,
            instance=i,
            at=work.clock(),
            kind="stop-refused",
            reason=str(refusal)[:300],
        )


def _start(work: Step, action: d.Action) -> None:
    i, now = of(work, action), work.clock()
    error = call(i, "start", i.remote_id, now=now)
    if isinstance(error, Unauthorized):
        _block(i.account, error, now=work.clock())
        raise Later(timedelta(minutes=1)) from error
    if isinstance(error, Rejected):
        _begin_end(work, d.BeginFail(i.pk, f"it could not be started again: {error}"))
        return
    if isinstance(error, (RateLimited, Unavailable)):
        raise Later(_patience(error)) from error
    # Anything unclear: assume that it runs and bills. The list tells, and `decide` asks again.
    if error is None:
        _may_rent(i.account, now=now)
    fresh = {**_NEW_LIFE, "endpoint_url": "", "next_probe_at": now, "outbid_at": None, "bills_only": ""}
    if i.offer.serverless:
        # One worker's price until it is inspected again.
        fresh |= {"usd_per_hour": i.offer.usd_per_hour, "inspected_at": now}
    if i.status in SERVING | STARTING:
        work.move(i, State.STOPPING, action.reason)
    work.move(
        i,
        State.PROVISIONING,
        STARTED,
        observed=MachineStatus.PENDING.value,
        **fresh,
    )


def _raise_bid(work: Step, action: d.Action) -> None:
    """Hold the money for the higher bid, ask for it, and take both back when it was not taken."""
    assert isinstance(action, d.RaiseBid)  # noqa: S101 - the table below says so
    i, now = of(work, action), work.clock()
    bid, price = i.bid_usd_per_hour, i.usd_per_hour
    dearer = action.usd + i.offer.disk_usd_per_hour
    try:
        with transaction.atomic():
            work.hold(desired=Desired.RUNNING)
            budgets.reserve(i.id, dearer, until=work.deployment.stop_at, now=now)
            i.write(
                now=now,
                lease=work.token,
                bid_usd_per_hour=action.usd,
                usd_per_hour=dearer,
                bid_changed_at=now,
            )
            if action.usd != bid:
                chain.record(
                    "instance.bid", actor=None, target=i, now=now, reason=action.reason,
                    before={"usd_per_hour": str(bid)}, after={"usd_per_hour": str(action.usd)},
                )  # fmt: skip
    except budgets.OverBudget as e:
        i.write(now=now, lease=work.token, bid_changed_at=now)
        _note_bid(work, i, "bid-refused", f"the budget has no room for a higher bid: {e}")
        raise Later(d.WAITING) from e
    error = call(i, "change_bid", i.remote_id, action.usd, now=now)
    if isinstance(error, (Rejected, RateLimited, Unavailable)):
        with transaction.atomic():
            i.write(now=work.clock(), lease=work.token, bid_usd_per_hour=bid, usd_per_hour=price)
            budgets.reprice(i.id, price, now=now)
        _note_bid(work, i, "bid-refused", str(error))
    else:
        # Unclear counts as taken: the dearer price is what is held and billed once it runs.
        _note_bid(work, i, "bid", f"from ${bid} to ${action.usd} an hour")
    raise Later(d.WAITING)


def _mend(work: Step, action: d.Action) -> None:
    i, now = of(work, action), work.clock()
    error = call(i, "mend", i.remote_id, now=now)
    if isinstance(error, (RateLimited, Unavailable)):
        raise Later(_patience(error))
    kind, reason = ("mended", "") if error is None else ("mend-refused", str(error)[:300])
    Event.objects.create(deployment=work.deployment, instance=i, at=work.clock(), kind=kind, reason=reason)


ACTS: dict[type[d.Action], Callable[[Step, d.Action], None]] = {
    d.Create: _create,
    d.NewAttempt: turns.new_attempt,
    d.Alert: turns.alert,
    d.SetDesired: turns.set_desired,
    d.TakeEdge: turns.take_edge,
    d.RaiseBid: _raise_bid,
    d.Mend: _mend,
    d.Advance: _advance,
    d.Stop: _stop,
    d.Start: _start,
    d.BeginEnd: _begin_end,
    d.BeginFail: _begin_end,
    d.Expel: _begin_end,
    d.AskEnd: _ask_end,
    d.EndDuplicates: _end_duplicates,
    d.ConfirmEnd: _confirm_end,
}
ENDS_STEP = (d.AskEnd, d.EndDuplicates, d.Stop, d.Alert, d.Mend)
"""After these only the provider can bring news."""
