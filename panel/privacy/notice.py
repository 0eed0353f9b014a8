"""What the published privacy page says, read from the policy: what is kept about people, why and how long."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.apps import apps
from django.db.models import Field, Model

from panel.privacy.policy import (
    PERSONAL,
    Category,
    Erase,
    Link,
    entry_of,
    links_of,
    rule_of,
    text_of,
    written,
)

_FALLBACK = "operation"
_WORDS = {
    Category.IDENTITY: "who you are",
    Category.CONTACT: "how to reach you",
    Category.TECHNICAL: "technical data of your device and connection",
    Category.BEHAVIOUR: "what you did, and when",
    Category.SECRET: "secrets of yours, only as hashes or encrypted",
}
_ON_ERASURE = {
    Erase.KEEP: "stays, and no longer says that it was you",
    Erase.DELETE: "goes",
    Erase.BLANK: "your part of it goes",
    Erase.UNLINK: "stays without your name",
}


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of rows about people."""

    label: str
    title: str
    holds: list[str]
    fields: list[str]
    kept: str
    on_erasure: str


@dataclass(frozen=True, slots=True)
class Purpose:
    """Why some of it is kept, on which basis and who gets it."""

    key: str
    title: str
    why: str
    basis: str
    recipients: str
    kinds: list[Kind]


def purposes() -> list[Purpose]:
    """Those for which something about people is kept, in the policy's order."""
    kinds: dict[str, list[Kind]] = {}
    for model, links in _models():
        kinds.setdefault(purpose_of(model), []).append(_kind(model, links))
    return [
        Purpose(key, said["title"], said["why"], said["basis"], said["recipients"], kinds[key])
        for key, said in _table().items()
        if key in kinds
    ]


def purpose_of(model: type[Model]) -> str:
    """What the model's entry names, else the purpose of its app."""
    if named := entry_of(model).get("purpose"):
        return str(named)
    of_app = (key for key, said in _table().items() if model._meta.app_label in said.get("apps", ()))
    return next(of_app, _FALLBACK)


def _table() -> Mapping[str, Any]:
    table: Mapping[str, Any] = written()["purpose"]
    return table


def _models() -> Iterator[tuple[type[Model], list[Link]]]:
    """Those that say something of a person. Tables that only join two others are told of with them."""
    for model in apps.get_models():
        links = links_of(model)
        if links and entry_of(model)["retention"] not in {"unused", "program"}:
            yield model, links


def _kind(model: type[Model], links: list[Link]) -> Kind:
    rules = [(f, rule) for f in model._meta.local_fields if (rule := rule_of(f))]
    personal = [(f, rule) for f, rule in rules if rule.category in PERSONAL]
    held = {rule.category for _, rule in rules} & _WORDS.keys()
    return Kind(
        label=model._meta.label,
        title=str(model._meta.verbose_name_plural).capitalize(),
        holds=[words for category, words in _WORDS.items() if category in held],
        fields=[_name(f) for f, _ in personal],
        kept=text_of(entry_of(model)["retention"]),
        on_erasure=_ON_ERASURE[links[0].erase],
    )


def _name(field: Field[Any, Any]) -> str:
    return "number" if field.primary_key and field.name == "id" else str(field.verbose_name).lower()
