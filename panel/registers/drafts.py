"""Drafts of activities, processors and transfers, made from what actually ran. A person confirms them.

A record that is there is never overwritten, be it confirmed or not: only `seen`, which no person writes, is renewed.
One that does not apply is marked so and kept, so that it does not come back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.db import transaction

from panel.accounts.models import User
from panel.alerts.models import Channel
from panel.audit import chain
from panel.audit.models import AuditEvent
from panel.registers import above, versions
from panel.registers.models import ProcessingActivity, Processor, Record, Transfer


@dataclass(frozen=True, slots=True)
class Draft:
    """A record that ought to be there. `values` are what is known of it when it is made."""

    model: type[Record]
    key: str
    seen: str
    values: dict[str, Any] = field(default_factory=dict)
    after: tuple[str, str] = ("", "")
    """(field, source key) of the processor that it points to."""


@transaction.atomic
def draft(*, actor: User | None, now: datetime) -> list[Record]:
    """Add what ran and has no record yet; returns the new ones. Run again it adds nothing twice."""
    made = []
    for wish in (*_processors(), *_transfers(), *_activities()):
        known = wish.model._default_manager.filter(source_key=wish.key)
        if known.exists():
            known.exclude(seen=wish.seen).update(seen=wish.seen)
        else:
            made.append(_make(wish, actor=actor, now=now))
    if made:
        after = {"made": [f"{row._meta.model_name} {row.pk}" for row in made]}
        chain.record("registers.draft", actor=actor, after=after, now=now)
    return made


def _make(wish: Draft, *, actor: User | None, now: datetime) -> Record:
    values = dict(wish.values)
    name, key = wish.after
    if name:
        values[name] = Processor.objects.filter(source_key=key).first()
    row = wish.model._default_manager.create(source_key=wish.key, seen=wish.seen, **values)
    versions.keep(row, by=actor, now=now)
    return row


# -- processors -----------------------------------------------------------------------------------------


def _processors() -> Iterator[Draft]:
    for company in above.companies():
        yield Draft(Processor, f"company:{company.key}", _ran(company), {
            "legal_name": company.legal_name, "country": company.country, "service": company.service,
            "hosting_countries": ", ".join(company.countries),
        })  # fmt: skip
        if company.hosts:
            yield Draft(Processor, f"hosts:{company.key}", _ran(company), {
                "legal_name": f"Hosts of {company.name}", "role": Processor.Role.SUB, "service": company.hosts,
                "hosting_countries": ", ".join(company.countries),
            }, after=("engaged_by", f"company:{company.key}"))  # fmt: skip
    yield from _ways_out()


def _ways_out() -> Iterator[Draft]:
    """Who is given what the panel tells: the mail server, and the receivers of the alerts."""
    if settings.MAIL_CONFIGURED:
        host = str(settings.MAILERS["default"].get("OPTIONS", {}).get("host", "")) or "this computer"
        yield Draft(Processor, f"mail:{host}"[:160], f"Mail leaves through {host}.", {
            "legal_name": f"Whoever runs the mail server {host}"[:160],
            "service": "Carries alerts and sign-in mail to members of the team.",
        })  # fmt: skip
    for channel in Channel.objects.exclude(kind=Channel.Kind.MAIL).order_by("pk"):
        to = urlsplit(channel.leads_to).hostname or channel.leads_to
        yield Draft(Processor, f"channel:{channel.pk}", f"The alert channel {channel.name} leads to {to}.", {
            "legal_name": f"Whoever runs {to or channel.name}"[:160],
            "service": "Receives alerts: names of deployments and accounts, and what is wrong with them.",
        })  # fmt: skip


def _ran(company: above.Company) -> str:
    ended = f"until {company.until:%Y-%m-%d}" if company.until else "until today"
    where = ", ".join(company.countries) or "an unknown country"
    sites = f" ({', '.join(company.sites)})" if company.sites else ""
    return f"{company.name} {', '.join(company.tiers)}: machines in {where}{sites}, from {company.since:%Y-%m-%d} {ended}."


# -- transfers and activities -----------------------------------------------------------------------------


def _transfers() -> Iterator[Draft]:
    for company in above.companies():
        if company.outside_eea:
            yield Draft(Transfer, f"transfer:{company.key}", _ran(company), {
                "name": f"{company.legal_name}, {company.country}", "importer": company.legal_name,
                "country": company.country,
                "data": "Prompts and answers while they are processed, if the company can reach its machines from "
                f"{company.country}; the account's own data (who rents, what, when).",
            }, after=("processor", f"company:{company.key}"))  # fmt: skip


def _activities() -> Iterator[Draft]:
    companies = above.companies()
    if companies or above.places():
        names = ", ".join(c.legal_name for c in companies) or "Nobody outside: machines of our own"
        yield Draft(ProcessingActivity, "activity:serving", "Machines served a model.", {
            "name": "Serving the language model", "recipients": names,
            "purposes": "Answering what users of our applications write to the model.",
            "subject_categories": "Users of our applications, and people whom they write about.",
            "data_categories": "Prompts and answers. The panel stores neither.",
            "erasure": "Prompts and answers are not stored: they are in memory while they are answered.",
            "measures": "TLS to each machine with a certificate of its own, a key per machine, no logs of requests, the "
            "residency guard (docs/privacy.md, docs/image.md).",
        })  # fmt: skip
    if User.objects.exists():
        yield Draft(ProcessingActivity, "activity:team", "Members of the team sign in.", _TEAM)
    if AuditEvent.objects.exists():
        yield Draft(ProcessingActivity, "activity:audit", "Acts are audited.", _AUDIT)


_TEAM: dict[str, Any] = {
    "name": "Accounts and sign-in of the team",
    "purposes": "Letting members of the team sign in, with the rights of their role; protecting accounts from misuse.",
    "subject_categories": "Members of the team.",
    "data_categories": "Name, e-mail address, role, time of the last sign-in, addresses of failed sign-ins.",
    "special_categories": "none",
    "erasure": "With the account; see the data map (panel/privacy/policy.toml).",
    "measures": "Passwords hashed, sign-in throttled, secrets encrypted at rest, every act audited.",
}
_AUDIT: dict[str, Any] = {
    "name": "Audit of what is done in the panel",
    "purposes": "Proof of who did what, for security and accountability (Art. 5(2), 32).",
    "subject_categories": "Members of the team.",
    "data_categories": "A pseudonym, the act and its time; apart from it the address it came from.",
    "special_categories": "none",
    "erasure": "The chain stays; the row that tells who a pseudonym is goes with the person, the address after its period.",
    "measures": "Append-only, each row carries the hash of the one before, the head is anchored outside.",
}
