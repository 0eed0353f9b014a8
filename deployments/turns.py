"""The acts that concern a deployment as a whole: what is wanted of it, and its next attempt."""

from __future__ import annotations

from datetime import timedelta

from django.db import transaction

from billing import budgets
from deployments import choice, crash, services
from deployments import decide as d
from deployments.lifecycle import Desired
from deployments.models import BUDGET_WORD, Cause, Deployment, StaleWrite
from deployments.step import Later, Step
from panel.notices.models import Notice
from panel.notices.notify import clear_notice, raise_notice


def new_attempt(work: Step, action: d.Action) -> None:
    deployment, now = work.deployment, work.clock()
    offer = choice.next_offer(deployment, now=now)
    if offer is None:
        alert(work, d.Alert(reason="No offer suits it now: see the reasons on the Launch page."))
        raise Later(timedelta(minutes=1))
    try:
        with transaction.atomic():
            work.hold(desired=Desired.RUNNING)
            services.add_attempt(deployment, offer, now=now)
    except budgets.OverBudget as e:
        if deployment.protected:
            # No budget ends it: it is wanted, and is tried again when there is room.
            alert(work, d.Alert(reason=f"It failed, and the budget has no room to replace it: {e}"))
            raise Later(timedelta(minutes=1)) from e
        set_desired(work, d.SetDesired(reason=f"It failed, and the budget has no room to replace it: {e}"))
    crash.point(1)


def alert(work: Step, action: d.Action) -> None:
    raise_notice(
        f"relaunch:{work.deployment.pk}", Notice.Severity.CRITICAL, f"{work.deployment.name} is down", now=work.clock(),
        detail=action.reason, url=work.deployment.get_absolute_url(), subject=work.deployment.pk,
        cause=Cause.DEPLOYMENT.of(work.deployment.pk),
    )  # fmt: skip


def set_desired(work: Step, action: d.Action) -> None:
    """The system's own stop or end: a date or the budget."""
    assert isinstance(action, d.SetDesired)  # noqa: S101 - the table below says so
    now, before = work.clock(), Desired(work.deployment.desired)
    ends = action.desired is Desired.TERMINATED
    verb, word = (services.terminate, "terminated") if ends else (services.stop, "stopped")
    try:
        with transaction.atomic():
            work.hold(desired=before)
            verb(work.deployment, actor=None, now=now, reason=action.reason)
    except services.ActionRefused:
        raise StaleWrite("desired") from None
    raise_notice(
        f"stopped:{work.deployment.pk}", Notice.Severity.WARNING, f"{work.deployment.name} was {word}", now=now,
        detail=action.reason, url=work.deployment.get_absolute_url(), subject=work.deployment.pk,
        # Its date is nobody's trouble but its own.
        cause=Cause.BUDGET if BUDGET_WORD in action.reason else "",
    )  # fmt: skip


def take_edge(work: Step, action: d.Action) -> None:
    """An edge of the schedule is carried out once: a start that is refused waits for the next one or a person."""
    assert isinstance(action, d.TakeEdge)  # noqa: S101 - the table below says so
    edge = action.edge
    assert edge is not None  # noqa: S101 - decide gives one
    deployment, now = work.deployment, work.clock()
    verb, wanted = (services.start, Desired.RUNNING) if edge.runs else (services.stop, Desired.STOPPED)
    past = edge.runs and deployment.stop_at and deployment.stop_at <= now
    with transaction.atomic():
        work.hold(desired=Desired(deployment.desired))
        Deployment.objects.filter(pk=deployment.pk).update(schedule_at=edge.at)
        if deployment.desired == wanted or past:
            return
        try:
            verb(deployment, actor=None, now=now, reason="its schedule")
        except services.ActionRefused as e:
            raise_notice(
                f"schedule:{deployment.pk}", Notice.Severity.WARNING,
                f"{deployment.name} was not started by its schedule", now=now, detail=str(e),
                url=deployment.get_absolute_url(), subject=deployment.pk,
            )  # fmt: skip
        else:
            clear_notice(f"schedule:{deployment.pk}", now=now)
