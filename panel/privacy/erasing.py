"""Erasing one person: the plan, the act in one transaction, and the same act again after a restore."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.apps import apps
from django.db import transaction
from django.db.models import F, Model, Q

from panel.accounts.models import User
from panel.accounts.roles import ADMINISTRATOR
from panel.audit import chain
from panel.audit.models import AuditEvent
from panel.context import unaddressed
from panel.privacy import mentions, persons, receipts
from panel.privacy.models import ErasureReceipt, LegalHold
from panel.privacy.persons import Person
from panel.privacy.policy import PERSONAL, Erase, Link, entry_of, links_of, rule_of, text_of

NAMELESS = "Only the audit's pseudonym for the person stands there, and the row that says whose it is goes: it names nobody."
BACKUPS = (
    "Backups that were made before hold the person until they are thrown away. A restored one is erased again"
    " when the panel starts, by the receipts in erasures.jsonl."
)
SAME_NAME = (
    "Somebody else here has the same name, so text that says it stays as it is; the address is taken out."
)
LOGS = "The panel logs ids instead of names, and takes addresses out."
_FIRST = ("deployments", "billing")
"""Rows are written in the order in which the panel's other transactions lock them."""


class Blocked(Exception):
    """They cannot be erased now; the sentence says why and what to do."""


@dataclass(frozen=True, slots=True)
class Step:
    """What becomes of some rows. `act` is an `Erase`, or "words" for text that names the person."""

    model: type[Model]
    act: str
    rows: int
    why: str
    link: Link | None = None

    @property
    def title(self) -> str:
        return title_of(self.model)

    @property
    def told(self) -> dict[str, Any]:
        return {
            "model": self.model._meta.label,
            "what": self.title,
            "rows": self.rows,
            "act": self.act,
            "why": self.why,
        }


@dataclass(slots=True)
class Plan:
    """What erasing the person would do now. `blocked` says why it cannot be done; empty: it can."""

    steps: list[Step]
    blocked: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def going(self) -> list[Step]:
        return [step for step in self.steps if step.act != Erase.KEEP]

    @property
    def kept(self) -> list[Step]:
        return [step for step in self.steps if step.act == Erase.KEEP]


def title_of(model: type[Model]) -> str:
    """What the rows are called on a page."""
    return str(model._meta.verbose_name_plural).capitalize()


def plan_of(user: User, *, now: datetime, names: bool = True) -> Plan:
    """What would be done. `names`: their name is also taken out of text, not their addresses alone."""
    person = Person.of(user)
    return Plan(
        steps=[*_steps(person), *_word_steps(_words(person, names=names), person)],
        blocked=blocked(user, now=now),
        notes=[*_running(user), *_same_name(user), BACKUPS, LOGS],
    )


def blocked(user: User, *, now: datetime) -> str:
    """Why they cannot be erased, and what to do; empty: they can."""
    others = User.objects.filter(is_active=True).exclude(pk=user.pk)
    runs = user.is_superuser or user.groups.filter(name=ADMINISTRATOR).exists()
    if runs and not others.filter(Q(is_superuser=True) | Q(groups__name=ADMINISTRATOR)).exists():
        return (
            "This is the last administrator, and without one nobody could run the panel: make another"
            " administrator under Admin, Users first."
        )
    hold = LegalHold.objects.active(now).filter(person=user).first()
    if hold:
        until = f"until {hold.until:%-d %B %Y}" if hold.until else "until an administrator ends it"
        return f"A legal hold keeps their data {until}. It can be ended under Admin, Legal holds."
    return ""


def erase(
    user: User, *, reason: str, actor: User | None, now: datetime, names: bool = True
) -> ErasureReceipt:
    """Erase the person and keep the receipt. Raises Blocked; nothing is done then."""
    words = _words(Person.of(user), names=names)
    # Before the transaction: looking through every text takes a while, and nobody should wait for it.
    found = mentions.find(words)
    with transaction.atomic(), unaddressed(when=actor == user):
        user, by = User.objects.select_for_update().get(pk=user.pk), _name_of(actor)
        if why := blocked(user, now=now):
            raise Blocked(why)
        steps = [*_carry_out(Person.of(user)), *_replace(found, words)]
        told = _told(steps, notes=_same_name(user), themselves=actor == user)
        receipt = receipts.make(user, told, by=by, reason=reason, now=now)
        _delete(user)
        after = {"receipt": str(receipt.pk), "themselves": actor == user, "rows": sum(s.rows for s in steps)}
        chain.record("privacy.erase", actor=actor, target=user, after=after, reason=reason, now=now)
    receipts.keep_outside()
    return receipt


def reapply(*, now: datetime) -> list[ErasureReceipt]:
    """Erase again whom a restored backup brought back; the receipts of those. Nothing to do: nothing is done."""
    receipts.keep_outside()
    known = {line["person_key"]: line for line in receipts.lines()}
    again = []
    for user in User.objects.order_by("pk") if known else ():
        keys = [receipts.person_key(user, key) for key in receipts.keys_now()]
        line = next((known[key] for key in keys if key in known), None)
        if line is not None:
            again.append(_again(user, line, now=now))
    return again


def _again(user: User, line: dict[str, Any], *, now: datetime) -> ErasureReceipt:
    words = _words(Person.of(user), names=True)
    found = mentions.find(words)
    with transaction.atomic():
        # They were erased after whatever held them: the backup is from before its end.
        LegalHold.objects.active(now).filter(person=user).update(until=now)
        steps = [*_carry_out(Person.of(user)), *_replace(found, words)]
        receipt = receipts.restored(line)
        ErasureReceipt.objects.filter(pk=receipt.pk).update(reapplied=F("reapplied") + 1, reapplied_at=now)
        _delete(user)
        after = {"receipt": str(receipt.pk), "rows": sum(step.rows for step in steps)}
        chain.record("privacy.reapply", actor=None, target=user, after=after, now=now)
    return receipt


# -- what there is to do ------------------------------------------------------------------------------


def _steps(person: Person) -> Iterator[Step]:
    """What becomes of the rows about the person, in the order in which it is done; the account itself last."""
    for model, link in _ways():
        rows = model._base_manager.filter(persons.by_link(link, person))
        if count := rows.count():
            yield Step(model, str(link.erase), count, _why(model, link), link)


def _ways() -> list[tuple[type[Model], Link]]:
    found = [(model, link) for model, links in persons.models_about_people() for link in links]
    return sorted(found, key=lambda way: _rank(way[0]))


def _rank(model: type[Model]) -> tuple[int, bool]:
    app = model._meta.app_label
    return (_FIRST.index(app) if app in _FIRST else len(_FIRST)), model is User


def _why(model: type[Model], link: Link) -> str:
    if link.erase is not Erase.KEEP:
        return _ACTS[link.erase]
    if link.matches in {"pseudonym", "target"}:
        return NAMELESS
    return f"Kept {text_of(entry_of(model)['retention'])}."


_ACTS = {
    Erase.DELETE: "The rows go.",
    Erase.BLANK: "What is theirs in the rows goes.",
    Erase.UNLINK: "The rows stay and no longer say whose they are.",
}


def _words(person: Person, *, names: bool) -> list[str]:
    """What text may call them. A name that somebody else has too proves nothing, and stays."""
    names = names and not _shares_name(person.user)
    return [word for word in person.names if names or word in person.addresses]


def _shares_name(user: User) -> bool:
    name = user.name.strip()
    return bool(name) and User.objects.filter(name__iexact=name).exclude(pk=user.pk).exists()


def _word_steps(words: Sequence[str], person: Person) -> Iterator[Step]:
    for found in mentions.find(words):
        mine = found.model._base_manager.filter(persons.about(found.model, person), pk__in=found.keys)
        going = {link.erase for link in links_of(found.model)} & {Erase.DELETE}
        rows = len(found.keys) - (mine.count() if going else 0)
        if rows:
            yield Step(found.model, "words", rows, _WORDS)
    yield from _kept_words(words)


def _kept_words(words: Sequence[str]) -> Iterator[Step]:
    for found in mentions.kept(words):
        why = _IN_AUDIT if found.model is AuditEvent else _AS_PROOF
        yield Step(found.model, str(Erase.KEEP), len(found.keys), why)


_WORDS = "Text that names them says [erased] instead."
_AS_PROOF = "Text that names them stays as proof that the law was kept (Arts. 5(2) and 17(3) GDPR)."
_IN_AUDIT = "Somebody wrote the name into a reason. The audit is a chain: to change one event would break it."


def _running(user: User) -> list[str]:
    """Through the registry: the panel imports nothing of the apps above it."""
    rows = apps.get_model("deployments", "Deployment")._default_manager.filter(owner=user, desired="running")
    names = ", ".join(rows.order_by("name").values_list("name", flat=True)[:10])
    return [f"These deployments go on running and billing, without an owner: {names}."] if names else []


def _same_name(user: User) -> list[str]:
    return [SAME_NAME] if _shares_name(user) else []


# -- doing it -----------------------------------------------------------------------------------------


def _carry_out(person: Person) -> list[Step]:
    steps = list(_steps(person))
    for step in steps:
        if step.link and step.model is not User:
            _do(step.model, step.link, person)
    return steps


def _do(model: type[Model], link: Link, person: Person) -> None:
    rows = model._base_manager.filter(persons.by_link(link, person))
    if link.erase is Erase.DELETE:
        # By the keys: a delete over a join is not every database's.
        model._base_manager.filter(pk__in=list(rows.values_list("pk", flat=True))).delete()
    elif link.erase is Erase.BLANK:
        rows.update(**{f.name: None if f.null else "" for f in _personal(model)})
    elif link.erase is Erase.UNLINK:
        rows.update(**{link.path: None})


def _personal(model: type[Model]) -> list[Any]:
    rules = ((f, rule_of(f)) for f in model._meta.concrete_fields)
    return [f for f, rule in rules if rule and rule.category in PERSONAL]


def _replace(found: Sequence[mentions.Mention], words: Sequence[str]) -> list[Step]:
    changed = ((mention.model, mentions.take_out(mention, words)) for mention in found)
    steps = [Step(model, "words", rows, _WORDS) for model, rows in changed if rows]
    return [*steps, *_kept_words(words)]


def _delete(user: User) -> None:
    User.objects.filter(pk=user.pk).delete()


def _told(steps: Sequence[Step], *, notes: Sequence[str], themselves: bool) -> dict[str, Any]:
    plan = Plan(list(steps))
    return {
        "asked_by": "the person themselves" if themselves else "an administrator",
        "done": [step.told for step in plan.going],
        "kept": [step.told for step in plan.kept],
        "notes": [*notes, BACKUPS, LOGS],
    }


def _name_of(actor: User | None) -> str:
    return chain.pseudonym_of(actor) if actor else ""
