"""Evidence for whoever audits: (headers, rows) of plain values, for a period where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from django.apps import apps
from django.db.models import Model, Q

from panel.audit import chain
from panel.privacy.models import ErasureReceipt, LegalHold, PurgeRun
from panel.privacy.policy import entry_of, links_of, rule_of, term_of, text_of, words_of

type Row = list[object]
type Table = tuple[list[str], list[Row]]


def purge_runs(start: datetime, end: datetime) -> Table:
    """A row for each model of each run that began in the period; one without a model when nothing went."""
    runs = PurgeRun.objects.filter(started_at__gte=start, started_at__lt=end).order_by("started_at")
    headers = ["run", "started_at", "ended_at", "asked_by", "model", "rows", "held", "error"]
    return headers, [row for run in runs for row in _of_run(run)]


def _of_run(run: PurgeRun) -> Iterator[Row]:
    for label in sorted({*run.by_model, *run.held, *run.errors}) or [""]:
        told = [run.by_model.get(label, 0), run.held.get(label, 0), run.errors.get(label, "")]
        yield [run.pk, run.started_at, run.ended_at, run.asked_by, label, *told]


def legal_holds(start: datetime, end: datetime) -> Table:
    """Every hold that was in force at some time of the period. A person is their number here, never a name."""
    holds = LegalHold.objects.filter(Q(until=None) | Q(until__gte=start), since__lt=end).order_by(
        "since", "pk"
    )
    headers = ["hold", "person", "model", "reason", "since", "until", "set_by"]
    return headers, [[h.pk, h.person_id, h.model, h.reason, h.since, h.until, h.set_by] for h in holds]


def erasure_receipts(start: datetime, end: datetime) -> Table:
    """Every erasure of the period. The receipts name nobody."""
    receipts = ErasureReceipt.objects.filter(at__gte=start, at__lt=end).order_by("at")
    headers = ["receipt", "at", "by", "reason", "document_sha256", "page_sha256", "reapplied", "reapplied_at"]
    return headers, [
        [str(r.pk), r.at, r.by, r.reason, r.document_sha256, r.page_sha256, r.reapplied, r.reapplied_at]
        for r in receipts
    ]


def data_map() -> Table:
    """Every field of every model as the policy has it now."""
    headers = [
        "model", "field", "category", "subjects", "retention", "period", "counted_from", "export", "erase",
    ]  # fmt: skip
    models = sorted(apps.get_models(include_auto_created=True), key=lambda m: m._meta.label)
    return headers, [row for model in models for row in _of_model(model)]


def _of_model(model: type[Model]) -> Iterator[Row]:
    term, subjects = term_of(model), ", ".join(link.path for link in links_of(model))
    when = [words_of(term.period), term.anchor] if term else ["", ""]
    for field in (*model._meta.local_fields, *model._meta.local_many_to_many):
        if rule := rule_of(field):
            kept = text_of(entry_of(model)["retention"])
            of_field = [model._meta.label, field.name, str(rule.category), subjects, kept]
            yield [*of_field, *when, str(rule.export), str(rule.erase)]


def who(pseudonym: str) -> str:
    """Whom a pseudonym names now, for a page; a pack for an auditor keeps the pseudonym."""
    return chain.name_of(pseudonym) if pseudonym else "the clock"
