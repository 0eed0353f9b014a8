"""How complete the registers are, and what in them is due."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from django.urls import reverse
from django.utils.text import capfirst

from panel.registers.models import (
    DPIA,
    Breach,
    ProcessingActivity,
    Processor,
    Record,
    State,
    SubjectRequest,
    Transfer,
)

REGISTERS: tuple[type[Any], ...] = (ProcessingActivity, Processor, Transfer, DPIA, Breach, SubjectRequest)
SOON = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Standing:
    """One register. `score` is the mean of its records in percent; None without any."""

    title: str
    url: str
    records: int
    drafts: int
    score: int | None
    due: int
    """Records whose review is overdue or was never planned, or whose agreement ends soon."""
    worst: tuple[str, ...]
    """What is missing, of the records that miss most."""


def standings(*, today: date) -> list[Standing]:
    return [_standing(model, today=today) for model in REGISTERS]


def _standing(model: type[Any], *, today: date) -> Standing:
    rows = list(_living(model))
    scores = [(row.score, row) for row in rows]
    worst = sorted((pair for pair in scores if pair[0] < 100), key=lambda pair: pair[0])[:2]
    return Standing(
        title=capfirst(str(model._meta.verbose_name_plural)),
        url=reverse(f"admin:{model._meta.label_lower.replace('.', '_')}_changelist"),
        records=len(rows),
        drafts=sum(getattr(row, "state", "") == State.DRAFT for row in rows),
        score=round(sum(score for score, _ in scores) / len(scores)) if scores else None,
        due=sum(any(due(row, today=today)) for row in rows),
        worst=tuple(f"{row}: {_listed(row.missing)}" for _, row in worst),
    )


def _living(model: type[Any]) -> Any:
    rows = model._default_manager.order_by("pk")
    rows = rows.exclude(state=State.RETIRED) if issubclass(model, Record) else rows
    return rows.select_related("processor") if model is Transfer else rows


def _listed(words: list[str]) -> str:
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")


def due(row: Any, *, today: date) -> Iterator[str]:
    """What is due of a record, in words."""
    review = getattr(row, "next_review", None)
    if review and review < today:
        yield f"its review was due on {review}"
    ends = getattr(row, "dpa_expires_on", None)
    if ends and ends < today + SOON:
        yield f"its agreement {'ended' if ends < today else 'ends'} on {ends}"
