"""Where one person is: the rows of any app that are about them, found by the policy through Django's registry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any

from allauth.account.models import EmailAddress
from django.apps import apps
from django.contrib.sessions.models import Session
from django.db.models import Model, Q

from panel.accounts.models import User
from panel.audit.chain import SYSTEM
from panel.audit.models import Pseudonym
from panel.privacy.policy import Link, links_of

_USER = "accounts.user"
_NOBODY = Q(pk__in=[])


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with an account, by everything that rows may hold of them. `pseudonym` is empty before their first act."""

    user: User
    addresses: tuple[str, ...]
    pseudonym: str

    @classmethod
    def of(cls, user: User) -> Person:
        more = EmailAddress.objects.filter(user=user).values_list("email", flat=True)
        pseudonym = Pseudonym.objects.filter(user=user).values_list("pk", flat=True).first()
        return cls(user, tuple(dict.fromkeys([user.email, *more])), str(pseudonym or ""))

    @property
    def names(self) -> tuple[str, ...]:
        """What text may call them: their addresses and their name."""
        return (*self.addresses, *([self.user.name.strip()] if self.user.name.strip() else []))


def models_about_people() -> Iterator[tuple[type[Model], list[Link]]]:
    """Every model that may be about somebody, with the ways there."""
    for model in sorted(apps.get_models(include_auto_created=True), key=lambda m: m._meta.label):
        if links := links_of(model):
            yield model, links


def about(model: type[Model], person: Person) -> Q:
    """Which rows of the model are about the person, by whatever way."""
    return reduce(or_, (by_link(link, person) for link in links_of(model)), _NOBODY)


def by_link(link: Link, person: Person) -> Q:
    """Which rows are about the person by this way."""
    match link.matches:
        case "email":
            return _any(Q(**{f"{link.path}__iexact": address}) for address in person.addresses)
        case "pseudonym":
            return Q(**{link.path: person.pseudonym}) if person.pseudonym else _NOBODY
        case "session":
            return Q(pk__in=_sessions(person.user))
        case "target" | "attempt":
            return _as_target(link, person)
        case _:
            return Q(**{"pk" if link.path == "self" else link.path: person.user.pk})


def _as_target(link: Link, person: Person) -> Q:
    """What was done to their account; an attempt is what the system noted about it."""
    base = link.path.removesuffix("target_id")
    found = Q(**{f"{base}target_type": _USER, link.path: str(person.user.pk)})
    return found & Q(**{f"{base}actor": SYSTEM}) if link.matches == "attempt" else found


def _sessions(user: User) -> list[Any]:
    """A session says in its signed data alone whose it is."""
    mine = str(user.pk)
    rows = Session.objects.only("session_key", "session_data").iterator(chunk_size=500)
    return [row.pk for row in rows if row.get_decoded().get("_auth_user_id") == mine]


def _any(conditions: Iterable[Q]) -> Q:
    return reduce(or_, conditions, _NOBODY)
