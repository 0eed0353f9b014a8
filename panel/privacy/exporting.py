"""Everything about one person as a zip: JSON for machines, HTML for people, and a manifest with their SHA-256.

A secret is named and never given. What tells of other people is left out: fields that the policy calls shared, and
their names, addresses and pseudonyms wherever a text holds them.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.core.serializers.json import DjangoJSONEncoder
from django.db.models import Field, ManyToManyField, Model
from django.template.loader import render_to_string

from panel.accounts.models import User
from panel.audit.models import Pseudonym
from panel.privacy import mentions, persons
from panel.privacy.persons import Person
from panel.privacy.policy import Export, entry_of, rule_of, text_of

SOMEBODY = "[another person]"
SHOWN = 200
"""Rows of one kind on the HTML page; the JSON holds all of them."""


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one model that are about the person."""

    label: str
    title: str
    kept: str
    withheld: list[str]
    rows: list[dict[str, Any]]

    @property
    def shown(self) -> list[dict[str, Any]]:
        return self.rows[:SHOWN]


@dataclass(frozen=True, slots=True)
class Exported:
    """The file and what it holds."""

    content: bytes
    parts: list[Part]

    @property
    def rows(self) -> int:
        return sum(len(part.rows) for part in self.parts)


def export(user: User, *, now: datetime) -> Exported:
    parts = parts_of(user)
    about = {"email": user.email, "name": user.name, "made_at": now.isoformat(), "controller": controller()}
    files = {
        "data.json": _json({"about": about, "data": [_told(part) for part in parts]}),
        "data.html": render_to_string(
            "privacy/export.html", {"about": about, "parts": parts, "now": now}
        ).encode(),
    }
    files["manifest.json"] = _json(_manifest(files, about, parts))
    return Exported(_zip(files, now=now), parts)


def controller() -> dict[str, str]:
    """Who answers for the data here."""
    return {"name": settings.CONTROLLER_NAME, "contact": settings.CONTROLLER_CONTACT}


def parts_of(user: User) -> list[Part]:
    """What there is about the person, model by model; nothing of a model without a row."""
    person, others = Person.of(user), _Others.of(user)
    found = [_part(model, person, others) for model, _ in persons.models_about_people()]
    return [part for part in found if part.rows]


def _part(model: type[Model], person: Person, others: _Others) -> Part:
    fields = [*model._meta.local_fields, *model._meta.local_many_to_many]
    rules = {field.name: rule_of(field) for field in fields}
    given = [f for f in fields if (rule := rules[f.name]) and rule.export is Export.YES]
    withheld = [n for n, rule in rules.items() if rule and rule.export is Export.WITHHELD]
    # What is withheld is not even read.
    columns = [f.name for f in given if not isinstance(f, ManyToManyField)]
    rows = model._base_manager.filter(persons.about(model, person)).order_by("pk").only("pk", *columns)
    return Part(
        label=model._meta.label,
        title=str(model._meta.verbose_name_plural).capitalize(),
        kept=text_of(entry_of(model)["retention"]),
        withheld=withheld,
        rows=[
            {f.name: _value(f, row, person, others) for f in given} for row in rows.iterator(chunk_size=500)
        ],
    )


def _value(field: Field[Any, Any], row: Model, person: Person, others: _Others) -> Any:
    if isinstance(field, ManyToManyField):
        found = getattr(row, field.name).all()
        mine = found.filter(pk=person.user.pk) if field.related_model is User else found
        return [str(one) for one in mine]
    value = field.value_from_object(row)
    if field.related_model is User and value not in {None, person.user.pk}:
        return SOMEBODY
    return others.taken_out(value)


@dataclass(frozen=True, slots=True)
class _Others:
    """Everybody else, by what a text may call them."""

    names: tuple[str, ...]
    pseudonyms: frozenset[str]

    @classmethod
    def of(cls, user: User) -> _Others:
        people = User.objects.exclude(pk=user.pk).values_list("email", "name")
        mine = {user.email.lower(), user.name.strip().lower()}
        names = {word.strip() for pair in people for word in pair}
        pseudonyms = Pseudonym.objects.exclude(user=user).values_list("pk", flat=True)
        return cls(
            tuple(sorted(name for name in names if name and name.lower() not in mine)),
            frozenset(str(pk) for pk in pseudonyms),
        )

    def taken_out(self, value: Any) -> Any:
        if isinstance(value, str) and value in self.pseudonyms:
            return SOMEBODY
        if isinstance(value, str | dict | list):
            return mentions.without(value, self.names, SOMEBODY)
        return value


def _told(part: Part) -> dict[str, Any]:
    return {
        "model": part.label, "title": part.title, "kept": part.kept,
        "withheld": part.withheld, "count": len(part.rows), "rows": part.rows,
    }  # fmt: skip


def _manifest(files: dict[str, bytes], about: dict[str, Any], parts: list[Part]) -> dict[str, Any]:
    return {
        **about,
        "files": [
            {"name": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in files.items()
        ],
        "rows": {part.label: len(part.rows) for part in parts},
        "withheld": {part.label: part.withheld for part in parts if part.withheld},
    }


def _json(value: Any) -> bytes:
    return json.dumps(value, cls=_Encoder, indent=2, ensure_ascii=False).encode()


class _Encoder(DjangoJSONEncoder):
    def default(self, o: Any) -> Any:
        # Whatever a field of some app holds: as text rather than not at all.
        try:
            return super().default(o)
        except TypeError:
            return str(o)


def _zip(files: dict[str, bytes], *, now: datetime) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name, date_time=now.timetuple()[:6])
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return out.getvalue()
