"""The purge: takes the rows whose time in the policy is over, but for those that a legal hold keeps.

Once a day, in slices that each hold a lock for a moment. What another part purges by its own hand (`purged_by` in
the policy) registers here, so that a dry run counts it and a run does it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.apps import apps
from django.contrib.auth.base_user import AbstractBaseUser
from django.db import transaction
from django.db.models import Model, Q, QuerySet
from django.utils import timezone

from panel.audit import chain
from panel.notices.models import Notice
from panel.notices.notify import clear_notice, raise_notice
from panel.privacy import persons
from panel.privacy.models import LegalHold, PurgeRun
from panel.privacy.policy import Term, entry_of, term_of

logger = logging.getLogger(__name__)

SLICE = 500
EVERY = timedelta(days=1)
_KEY = "privacy:purge"


@dataclass(frozen=True, slots=True)
class Hand:
    """A purge of another part: how many rows would go now, and the taking of them (how many went)."""

    count: Callable[[datetime], int]
    purge: Callable[[datetime], int]


_hands: dict[str, Hand] = {}


def register(name: str, hand: Hand) -> None:
    """Called once, when the app that purges by its own hand is ready; `name` is its `purged_by`."""
    _hands[name] = hand


@dataclass(slots=True)
class Report:
    """Rows by model's label; `errors` are sentences."""

    by_model: dict[str, int] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(self.by_model.values())


def duties() -> list[tuple[type[Model], Term]]:
    """Every model whose rows end by time, with when."""
    found = ((model, term_of(model)) for model in apps.get_models(include_auto_created=True))
    return [(model, term) for model, term in found if term]


def over(model: type[Model], term: Term, *, now: datetime) -> QuerySet[Any]:
    """The rows whose time is over, held ones among them."""
    before = now if term.until else now - term.period
    return model._base_manager.filter(**{f"{term.anchor}__lt": before})


def held(model: type[Model], *, now: datetime) -> Q | None:
    """Which rows of the model a legal hold keeps; None when there is none, an empty Q: all of them."""
    found: Q | None = None
    for hold in LegalHold.objects.active(now).select_related("person"):
        if hold.model and hold.model != model._meta.label:
            continue
        if hold.person is None:
            return Q()
        about = persons.about(model, persons.Person.of(hold.person))
        found = about if found is None else found | about
    return found


def dry_run(*, now: datetime) -> Report:
    """What a run would take now. It changes nothing."""
    report = Report()
    for model, term in duties():
        rows, kept = over(model, term, now=now), held(model, now=now)
        report.by_model[model._meta.label] = _free(rows, kept).count()
        if kept is not None:
            report.held[model._meta.label] = rows.filter(kept).count()
    for model, hand in _by_hand():
        report.by_model[model._meta.label] = 0 if held(model, now=now) is not None else hand.count(now)
    return report


def run(*, now: datetime, actor: AbstractBaseUser | None = None) -> PurgeRun:
    """Take what is over. Another model goes on when one fails; the run tells what went wrong."""
    kept_run = PurgeRun.objects.create(started_at=now, asked_by=chain.pseudonym_of(actor) if actor else "")
    report = Report()
    for model, term in duties():
        _guarded(report, model, partial(_purge, model, term, report, now=now))
    for model, hand in _by_hand():
        _guarded(report, model, partial(_purge_by_hand, model, hand, report, now=now))
    _finish(kept_run, report, actor=actor, now=now)
    return kept_run


def due(*, now: datetime) -> PurgeRun | None:
    """Run, when the last run began a day ago or there was none."""
    last = PurgeRun.objects.order_by("-started_at").values_list("started_at", flat=True).first()
    # A clock that was set back does not put it off.
    return None if last and timedelta(0) <= now - last < EVERY else run(now=now)


def _by_hand() -> Iterator[tuple[type[Model], Hand]]:
    for model in apps.get_models(include_auto_created=True):
        if (name := entry_of(model).get("purged_by")) in _hands:
            yield model, _hands[name]


def _guarded(report: Report, model: type[Model], take: Callable[[], None]) -> None:
    try:
        take()
    except Exception as e:
        # Whatever it is: a model that cannot be purged keeps no other one's rows.
        logger.exception("The purge of %s failed", model._meta.label)
        report.errors[model._meta.label] = f"{type(e).__name__}: the panel's log says why."


def _purge(model: type[Model], term: Term, report: Report, *, now: datetime) -> None:
    label, rows, kept = model._meta.label, over(model, term, now=now), held(model, now=now)
    if kept is not None:
        report.held[label] = rows.filter(kept).count()
    free = _free(rows, kept)
    while keys := list(free.order_by("pk").values_list("pk", flat=True)[:SLICE]):
        # Of these keys, those that are still over: somebody may have touched a row since.
        gone = model._base_manager.filter(pk__in=over(model, term, now=now).filter(pk__in=keys).values("pk"))
        count = gone.count()
        gone.delete()
        report.by_model[label] = report.by_model.get(label, 0) + count
        if not count:
            break


def _purge_by_hand(model: type[Model], hand: Hand, report: Report, *, now: datetime) -> None:
    label = model._meta.label
    if held(model, now=now) is not None:
        report.held[label] = hand.count(now)
    elif count := hand.purge(now):
        report.by_model[label] = count


def _free(rows: QuerySet[Any], kept: Q | None) -> QuerySet[Any]:
    if kept is None:
        return rows
    # By the keys: an exclude over a join would also drop rows whose path is empty.
    return rows.exclude(pk__in=rows.model._base_manager.filter(kept).values("pk"))


def _finish(kept_run: PurgeRun, report: Report, *, actor: AbstractBaseUser | None, now: datetime) -> None:
    told = [f"{label}: {count}" for label, count in sorted(report.by_model.items()) if count]
    after = {
        "rows": report.rows,
        "held": sum(report.held.values()),
        "errors": len(report.errors),
        "models": told,
    }
    _tell(report, now=now)
    with transaction.atomic():
        PurgeRun.objects.filter(pk=kept_run.pk).update(
            ended_at=timezone.now(), rows=report.rows,
            by_model={label: count for label, count in report.by_model.items() if count},
            held={label: count for label, count in report.held.items() if count}, errors=report.errors,
        )  # fmt: skip
        chain.record("privacy.purge", actor=actor, target=kept_run, after=after, now=now)
    kept_run.refresh_from_db()


def _tell(report: Report, *, now: datetime) -> None:
    if not report.errors:
        clear_notice(_KEY, now=now)
        return
    raise_notice(
        _KEY, Notice.Severity.WARNING, "Old data was not purged", now=now, url="/privacy/retention/",
        detail=f"These rows are older than the privacy page says: {', '.join(sorted(report.errors))}.",
    )  # fmt: skip
