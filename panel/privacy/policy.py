"""The data map: what every model field holds about whom, how long, and what happens to it on request.

Read from `policy.toml`, which says how. `problems` is the system check's reason: a field without a rule, a
rule without a field, a rule that makes no sense.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from django.core.exceptions import FieldDoesNotExist
from django.db.models import Field, ForeignObjectRel, Model


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
MATCHES = {"key", "email", "pseudonym", "session"}
_SETTINGS = {"subject", "matches", "retention", "erase"}


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
    return _rule(entry, named[0]) if entry and named else None


def is_personal_or_secret(field: Field[Any, Any]) -> bool:
    """Whether the audit may name the field and not tell its value."""
    rule = rule_of(field)
    return rule is not None and (rule.category in PERSONAL or rule.category is Category.SECRET)


def retention_text(rule: Rule, policy: Mapping[str, Any] | None = None) -> str:
    """How long, as a sentence's part for a person to read."""
    return str((policy or written())["retention"][rule.retention])


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
    gone = [label for label in policy if label != "retention" and label not in by_label]
    return found + [Problem("stale", label, "there is no such model.") for label in gone]


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
    if subject not in {"", "self"} and not _leads_somewhere(model, subject):
        yield Problem("wrong", label, f"the subject's path {subject!r} leads nowhere.")


def _leads_somewhere(model: type[Model] | None, path: str) -> bool:
    for name in path.split("__"):
        if model is None:
            return False
        try:
            field = model._meta.get_field(name)
        except FieldDoesNotExist:
            return False
        related = field.related_model if isinstance(field, Field | ForeignObjectRel) else None
        model = related if isinstance(related, type) else None
    return True
