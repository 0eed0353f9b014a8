"""The data map: what every model field holds about whom, how long, and what happens to it on request.

Read from `policy.toml`, which says how, and the one place that says how long. `problems` is the system check's
reason: a field without a rule, a rule without a field, a rule that makes no sense, a period that nothing acts on.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from django.core.exceptions import FieldDoesNotExist
from django.db.models import DateField, Field, ForeignObjectRel, Model


class Category(StrEnum):
    NONE = "none"
    IDENTITY = "identity"
    CONTACT = "contact"
    TECHNICAL = "technical"
    BEHAVIOUR = "behaviour"
    SECRET = "secret"  # noqa: S105
    FINANCIAL = "financial"
    OPERATIONAL = "operational"


class Export(StrEnum):
    """What a person gets who asks for their data (Art. 15 and 20 GDPR)."""

    YES = "yes"
    WITHHELD = "withheld"  # a secret: that it exists is said, its value is not
    NO = "no"  # not about a person


class Erase(StrEnum):
    """What happens when a person is erased (Art. 17 GDPR)."""

    KEEP = "keep"
    DELETE = "delete"
    BLANK = "blank"
    UNLINK = "unlink"


PERSONAL = {Category.IDENTITY, Category.CONTACT, Category.TECHNICAL, Category.BEHAVIOUR}
MATCHES = {"key", "email", "pseudonym", "session", "target", "attempt"}
_SETTINGS = {
    "subject", "matches", "retention", "erase", "also", "shared", "purpose", "anchor", "until", "purged_by", "words",
}  # fmt: skip
_UNITS = ("days", "hours", "minutes")
TABLES = ("retention", "purpose")
"""The tables of the policy that are no models."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What the policy says of one field. `subject` is empty when it is about nobody."""

    category: Category
    subject: str
    matches: str
    retention: str
    export: Export
    erase: Erase


@dataclass(frozen=True, slots=True)
class Link:
    """One way from a row to somebody whom it is about, and what becomes of the row when they are erased."""

    path: str
    matches: str
    erase: Erase


@dataclass(frozen=True, slots=True)
class Term:
    """How long rows are kept after `anchor`; with `until` the field itself says when they go."""

    period: timedelta
    anchor: str
    until: bool


@dataclass(frozen=True, slots=True)
class Problem:
    """`where` names a model ("app.Model") or field ("app.Model.field"); `kind` is missing, stale or wrong."""

    kind: str
    where: str
    text: str


@cache
def written() -> dict[str, Any]:
    """The policy as it stands in the file."""
    return tomllib.loads(Path(__file__).with_name("policy.toml").read_text())


def rule_of(field: Field[Any, Any], policy: Mapping[str, Any] | None = None) -> Rule | None:
    """The field's rule; None when the policy does not name it."""
    entry = (policy or written()).get(field.model._meta.label)
    named = [c for c in Category if entry and field.name in entry.get(c, [])]
    if not entry or not named:
        return None
    rule = _rule(entry, named[0])
    return replace(rule, export=Export.NO) if field.name in entry.get("shared", []) else rule


def is_personal_or_secret(field: Field[Any, Any]) -> bool:
    """Whether the audit may name the field and not tell its value."""
    rule = rule_of(field)
    return rule is not None and (rule.category in PERSONAL or rule.category is Category.SECRET)


def retention_text(rule: Rule, policy: Mapping[str, Any] | None = None) -> str:
    """How long, as a sentence's part for a person to read."""
    return text_of(rule.retention, policy)


def text_of(word: str, policy: Mapping[str, Any] | None = None) -> str:
    """What the word of the table of retentions means; its period and those of other words are put in."""
    table = (policy or written())["retention"]
    entry = table[word]
    if isinstance(entry, str):
        return entry
    periods = {name: words_of(found) for name in table if (found := period(name, policy))}
    return str(entry.get("text", "{period}")).format(period=periods.get(word, ""), **periods)


def period(word: str, policy: Mapping[str, Any] | None = None) -> timedelta | None:
    """The word's period; None for one that ends by something else than time."""
    entry = (policy or written())["retention"][word]
    units = {} if isinstance(entry, str) else {unit: entry[unit] for unit in _UNITS if unit in entry}
    return timedelta(**units) if units else None


def kept_for(word: str) -> timedelta:
    """The period of a word that has one. Raises LookupError for another."""
    found = period(word)
    if found is None:
        raise LookupError(f"the retention {word!r} has no period")
    return found


def words_of(length: timedelta) -> str:
    """ "30 days", "48 hours", "one year"."""
    years, rest = divmod(length, timedelta(days=365))
    if years and not rest:
        return f"{years} years" if years > 1 else "one year"
    for unit, size in (
        ("day", timedelta(days=1)),
        ("hour", timedelta(hours=1)),
        ("minute", timedelta(minutes=1)),
    ):
        count, rest = divmod(length, size)
        if count and not rest and not (unit == "day" and count < 3):
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return str(length)


def entry_of(model: type[Model], policy: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    """What the policy says of a model; empty when it says nothing."""
    found: Mapping[str, Any] = (policy or written()).get(model._meta.label, {})
    return found


def links_of(model: type[Model], policy: Mapping[str, Any] | None = None) -> list[Link]:
    """Every way from a row to a person, the main one first."""
    entry = entry_of(model, policy)
    if not entry.get("subject"):
        return []
    also = entry.get("also", {}).items()
    main = Link(entry["subject"], entry.get("matches", "key"), Erase(entry.get("erase", "keep")))
    return [main, *(Link(path, said["matches"], Erase(said["erase"])) for path, said in also)]


def term_of(model: type[Model], policy: Mapping[str, Any] | None = None) -> Term | None:
    """When the purge takes a row; None where time alone does not end it or something else purges it."""
    entry = entry_of(model, policy)
    length = period(entry["retention"], policy) if entry else None
    path = entry.get("until") or entry.get("anchor", "")
    return Term(length, path, until="until" in entry) if length and path else None


def _rule(entry: Mapping[str, Any], category: Category) -> Rule:
    subject = entry.get("subject", "")
    if category is Category.SECRET:
        export = Export.WITHHELD if subject else Export.NO
    else:
        export = Export.YES if subject and category is not Category.NONE else Export.NO
    return Rule(
        category=category,
        subject=subject,
        matches=entry.get("matches", "key"),
        retention=entry["retention"],
        export=export,
        erase=Erase(entry.get("erase", "keep")) if subject else Erase.KEEP,
    )


def problems(models: Iterable[type[Model]], policy: Mapping[str, Any] | None = None) -> list[Problem]:
    """Everything that keeps the policy from being true of `models` (all that are installed)."""
    policy = policy or written()
    by_label = {model._meta.label: model for model in models}
    found = [p for model in by_label.values() for p in _of_model(model, policy)]
    gone = [label for label in policy if label not in TABLES and label not in by_label]
    return [
        *_of_tables(policy),
        *found,
        *(Problem("stale", label, "there is no such model.") for label in gone),
    ]


def _of_tables(policy: Mapping[str, Any]) -> Iterator[Problem]:
    for word, entry in policy["retention"].items():
        if isinstance(entry, str):
            continue
        where = f"retention.{word}"
        for key in entry.keys() - {"text", *_UNITS}:
            yield Problem("wrong", where, f"{key!r} is neither text nor one of {list(_UNITS)}.")
        try:
            text_of(word, policy)
        except (LookupError, TypeError, ValueError) as e:
            yield Problem("wrong", where, f"its text or period cannot be read: {e}.")


def _of_model(model: type[Model], policy: Mapping[str, Any]) -> Iterator[Problem]:
    label = model._meta.label
    fields = {f.name for f in (*model._meta.local_fields, *model._meta.local_many_to_many)}
    entry = policy.get(label, {})
    named = [name for category in Category for name in entry.get(category, [])]
    for name in sorted(fields - set(named)):
        yield Problem("missing", f"{label}.{name}", "no rule says what it holds about whom, and how long.")
    for name in sorted(set(named) - fields):
        yield Problem("stale", f"{label}.{name}", "there is no such field.")
    for name in sorted({name for name in named if named.count(name) > 1}):
        yield Problem("wrong", f"{label}.{name}", "it is named more than once.")
    if entry:
        yield from _of_entry(model, entry, policy)


def _of_entry(model: type[Model], entry: Mapping[str, Any], policy: Mapping[str, Any]) -> Iterator[Problem]:
    label, subject = model._meta.label, entry.get("subject", "")
    for key in entry.keys() - _SETTINGS - set(Category):
        yield Problem("wrong", label, f"{key!r} is neither a category nor a setting.")
    if entry.get("retention") not in policy["retention"]:
        yield Problem(
            "wrong", label, f"retention {entry.get('retention')!r} is not in the table of retentions."
        )
    if entry.get("matches", "key") not in MATCHES:
        yield Problem("wrong", label, f"matches {entry['matches']!r} is not one of {sorted(MATCHES)}.")
    if entry.get("erase", "keep") not in set(Erase):
        yield Problem("wrong", label, f"erase {entry['erase']!r} is not one of {sorted(Erase)}.")
    if not subject and any(entry.get(category) for category in PERSONAL):
        yield Problem("wrong", label, "it holds personal data and names no subject.")
    if subject and "erase" not in entry:
        yield Problem("wrong", label, "it is about a person and does not say what erasing them does.")
    if subject not in {"", "self"} and _end_of(model, subject) is None:
        yield Problem("wrong", label, f"the subject's path {subject!r} leads nowhere.")
    if entry.get("purpose", "") not in {"", *policy.get("purpose", {})}:
        yield Problem("wrong", label, f"purpose {entry['purpose']!r} is not in the table of purposes.")
    if entry.get("words", "keep") != "keep":
        yield Problem("wrong", label, f"words {entry['words']!r} is not 'keep'.")
    yield from _of_others(model, entry)
    if entry.get("retention") in policy["retention"]:
        yield from _of_term(model, entry, policy)


def _of_others(model: type[Model], entry: Mapping[str, Any]) -> Iterator[Problem]:
    """Its further subjects, and the fields that are not given to one person because they tell of others."""
    label = model._meta.label
    for path, said in entry.get("also", {}).items():
        if not entry.get("subject"):
            yield Problem("wrong", label, "it names further subjects and no first one.")
        if _end_of(model, path) is None:
            yield Problem("wrong", label, f"the subject's path {path!r} leads nowhere.")
        if said.get("matches") not in MATCHES or said.get("erase") not in set(Erase):
            yield Problem(
                "wrong", label, f"also {path!r} does not say what it matches and what erasing does."
            )
    fields = {f.name for f in (*model._meta.local_fields, *model._meta.local_many_to_many)}
    for name in sorted(set(entry.get("shared", [])) - fields):
        yield Problem("stale", f"{label}.{name}", "there is no such field.")


def _of_term(model: type[Model], entry: Mapping[str, Any], policy: Mapping[str, Any]) -> Iterator[Problem]:
    label, word = model._meta.label, entry["retention"]
    named = [key for key in ("anchor", "until", "purged_by") if key in entry]
    try:
        length = period(word, policy)
    except TypeError:
        return  # Told of the table itself.
    if length and not named:
        text = f"{word!r} is a period, and nothing says from when: name an anchor, or an until."
        yield Problem("wrong", label, text)
    if len(named) > 1:
        yield Problem("wrong", label, f"{' and '.join(named)} are named; one of them is enough.")
    if named and named != ["purged_by"] and not length:
        yield Problem("wrong", label, f"it names its {named[0]}, and {word!r} has no period.")
    for key in ("anchor", "until"):
        if key in entry and not isinstance(_end_of(model, entry[key]), DateField):
            yield Problem("wrong", label, f"the {key} {entry[key]!r} is no date or time.")


def _end_of(model: type[Model] | None, path: str) -> Any:
    """The field at the end of a path; None when it leads nowhere."""
    field: Any = None
    for name in path.split("__"):
        if model is None:
            return None
        try:
            field = model._meta.get_field(name)
        except FieldDoesNotExist:
            return None
        related = field.related_model if isinstance(field, Field | ForeignObjectRel) else None
        model = related if isinstance(related, type) else None
    return field
