"""The Compare page: one need, priced on every provider and tier, and what each policy would rent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlencode
from uuid import UUID

from django.http import HttpResponse
from django.urls import reverse
from django.utils import timezone

from deployments import compare as comparison
from deployments import history, offers, price_list, public_prices, rank, shelf
from deployments.compare import Candidate, Verdict
from deployments.fit import MIB
from deployments.judging import RUN_HOURS, Judge, OfferView, Wish
from deployments.models import Deployment, ProviderAccount
from deployments.price_list import PriceList
from deployments.tiers import PROVIDERS
from deployments.views.compare_form import Asked, CompareForm
from panel.accounts.access import requires
from panel.ui.http import SignedInRequest
from panel.ui.live import live

NOT_LISTED = "The document has no price for it."
DEVELOPMENT = Deployment.Purpose.DEVELOPMENT


@requires("deployments.view_deployment")
def compare(request: SignedInRequest) -> HttpResponse:
    """`#comparison` is the part that follows the form. `?prices=2026-01` prices a dated list, not the live offers."""
    now = timezone.now()
    form = CompareForm.from_query(request.GET)
    asked = form.asked()
    listed = price_list.load(asked.prices) if asked.prices else None
    candidates, sources = _listed(listed, asked) if listed else _live(asked, now=now)
    priced = comparison.price(asked.need, candidates)
    known = {c.provider for c in candidates}
    missing = {s.provider: s.text for s in sources if s.missing and s.provider not in known}
    context = {
        "form": form,
        "asked": asked,
        "list": listed,
        "needed_mb": asked.model.memory_needed(asked.context, sequences=asked.concurrency) // MIB,
        "sources": sources,
        "lines": comparison.lines(
            asked.need, priced, missing=missing, absent=NOT_LISTED if listed else comparison.NOT_OFFERED
        ),
        "verdicts": [(v, launch_address(asked, v)) for v in comparison.verdicts(asked.need, priced)],
        "model_changed": request.GET.get("shown_model", asked.model.key) != asked.model.key,
        "now": now,
    }
    response = live(request, "deployments/compare.html", context, fragments=("comparison",))
    response["HX-Replace-Url"] = address(asked)
    return response


def _listed(listed: PriceList, asked: Asked) -> tuple[list[Candidate], list[Source]]:
    found = price_list.candidates(
        listed, asked.model, context=asked.context, concurrency=asked.concurrency, allowed=asked.allowed
    )
    named = {c.provider for c in found}
    silent = [
        Source(p, title, "warn", NOT_LISTED, missing=True) for p, title in PROVIDERS.items() if p not in named
    ]
    return found, silent


def _live(asked: Asked, *, now: datetime) -> tuple[list[Candidate], list[Source]]:
    """Every known offer, and every account's state: three queries, however many rows there are."""
    accounts = offers.accounts()
    # What rules an offer out for the need is told apart from what stands in the way of renting it today.
    wish = Wish(
        asked.model, asked.context, asked.allowed, purpose=DEVELOPMENT, hours=0, concurrency=asked.concurrency
    )
    judge = Judge(wish, accounts, history.recent(now))
    known = shelf.known()
    offered = Counter(k.account_id for k in known)
    states = provider_states(accounts.values(), offered, now=now)
    return [_candidate(judge(k)) for k in known], states


def _candidate(view: OfferView) -> Candidate:
    known, account, reasons, verdict, fits, seen = view
    quote, price = known.quote, known.price
    against: tuple[str, ...] = fits.reasons if verdict.allowed else (verdict.reason, *fits.reasons)
    if reasons:
        reasons = tuple(r for r in reasons if r not in against)
    if known.longest < RUN_HOURS:
        against = *against, f"It can be rented for {known.longest:.0f} h at most."
    return Candidate(
        account.backend, quote, price.hour, account.name, rank.place(quote, seen) if seen else known.place, against, reasons,
        known.pk, price.held, seen,
    )  # fmt: skip


def address(asked: Asked) -> str:
    """The page's own address for what is asked, to be kept or sent to somebody."""
    query = {
        "model": asked.model.key, "context": asked.context, "concurrency": asked.concurrency, "purpose": asked.purpose,
        "where": asked.where, "countries": asked.allowed if asked.where == "some" else (),
        "budget": asked.budget, "busy_hours": asked.busy_hours, "prices": asked.prices,
    }  # fmt: skip
    return f"{reverse('compare')}?{urlencode({k: v for k, v in query.items() if v not in ('', None)}, doseq=True)}"


def launch_address(asked: Asked, verdict: Verdict) -> str:
    """The Launch page with the verdict's offer chosen; empty without one that can be launched."""
    pick = verdict.pick
    if pick is None or pick.candidate.offer_id is None or public_prices.is_dated(pick.candidate.quote.key):
        return ""
    wish = {
        "model": asked.model.key, "context": asked.context, "concurrency": asked.concurrency, "purpose": asked.purpose,
        "policy": verdict.policy, "countries": () if asked.where == "eea" else asked.allowed, "offer": pick.candidate.offer_id,
    }  # fmt: skip
    return f"{reverse('launch')}?{urlencode(wish, doseq=True)}"


@dataclass(frozen=True, slots=True)
class Source:
    """A provider's offers as they stand: how many and how old, or why there are none. `missing`: none are known."""

    provider: str
    title: str
    tone: str
    text: str
    as_of: datetime | None = None
    missing: bool = False


def provider_states(
    accounts: Collection[ProviderAccount], offered: Counter[UUID], *, now: datetime
) -> list[Source]:
    """One for every account, and one for every provider without any: none is left out."""
    without = set(PROVIDERS) - {a.backend for a in accounts}
    return [_state(a, offered[a.pk], now=now) for a in accounts] + [
        Source(p, title, "warn", "No account is set up, so its prices are not known.", missing=True)
        for p, title in PROVIDERS.items()
        if p in without
    ]


def _state(account: ProviderAccount, offered: int, *, now: datetime) -> Source:
    # Offers of an account that never told any are the dated prices.
    dated = bool(offered) and account.offers_at is None
    tone, text = _words(account, offered, dated=dated, now=now)
    as_of = account.offers_at if offered and not dated else None
    return Source(account.backend, account.name, tone, text, as_of, missing=not offered)


def _words(account: ProviderAccount, offered: int, *, dated: bool, now: datetime) -> tuple[str, str]:
    count = f"{offered or 'no'} offer{'' if offered == 1 else 's'}".capitalize()
    if dated:
        count = f"{offered} prices of {public_prices.words()}, not live"
    if not account.enabled:
        return "warn", f"{count}. The account is switched off."
    if account.offers_error:
        return "critical", f"{count}. The last fetch failed: {account.offers_error}"
    if account.offers_at is None:
        return "warn", f"{count}. Its offers were never fetched; they come within a minute."
    if not offered:
        return "warn", "It answers and offers nothing now."
    if account.blocked:
        return "warn", f"{count}. {account.blocked}"
    if now - account.offers_at > offers.STALE:
        return "warn", f"{count}, not up to date"
    return "ok", count
