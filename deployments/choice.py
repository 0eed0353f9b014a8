"""Which offer the next attempt goes to, and what the attempts before it say about that."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import takewhile

from deployments import bids, offers
from deployments.lifecycle import TERMINAL, State
from deployments.models import Deployment, Instance, Offer
from deployments.models.instance import InstanceQuerySet
from deployments.offers import OfferView

HOUR = timedelta(hours=1)
REFUSED = "refused"
"""How the reason of an attempt begins that its provider did not take: a definite no."""
REFUSAL_LASTS = timedelta(minutes=10)
"""An offer that said no is left out for this long."""
CREATES_APART = timedelta(minutes=2)
"""Where two creates on one offer clash, the second waits for this long."""


def attempts(deployment: Deployment, *, now: datetime) -> int:
    """How many attempts of its settings were made in the last hour."""
    return _recent(deployment, now=now).count()


def counted(deployment: Deployment, *, now: datetime) -> tuple[int, int]:
    """Of the last hour: how many attempts came to something, and how many of the newest in a row were refused."""
    rows = list(_recent(deployment, now=now).order_by("-attempt").only("state", "remote_id", "reason"))
    noes = [_was_refused(i) for i in rows]
    return noes.count(False), sum(1 for _ in takewhile(bool, noes))


def _recent(deployment: Deployment, *, now: datetime) -> InstanceQuerySet:
    return deployment.instances.filter(created_at__gt=now - HOUR, generation=deployment.generation)


def _was_refused(i: Instance) -> bool:
    return i.status is State.FAILED and not i.remote_id and i.reason.startswith(REFUSED)


def has_moved(deployment: Deployment, *, now: datetime) -> bool:
    """Whether it moved away from a higher bid within the hour in which attempts are counted."""
    return deployment.instances.filter(failure=bids.MOVED, created_at__gt=now - HOUR).exists()


def next_offer(deployment: Deployment, *, now: datetime) -> Offer | None:
    """The best offer whose host did not fail us in this hour and that did not say no a moment ago.

    When only such are left, the best of those that did not refuse; the best at all when all did.
    """
    suitable = [
        v for v in offers.for_deployment(deployment, now=now) if v.suitable and _affordable(v, deployment)
    ]
    refused, failed = _refused_keys(deployment, now=now), _failed_hosts(deployment, now=now)
    if has_moved(deployment, now=now):
        # It was outbid a moment ago: what nobody can outbid comes first.
        suitable.sort(key=lambda v: v.quote.interruptible)
    unrefused = [v for v in suitable if (v.known.account_id, v.quote.key) not in refused]
    elsewhere = [v for v in unrefused if not v.quote.host or v.quote.host not in failed]
    best = next(iter(elsewhere or unrefused or suitable), None)
    return best.offer if best else None


def _affordable(view: OfferView, deployment: Deployment) -> bool:
    quote = view.quote
    ceiling = bids.ceiling(deployment.bid_ceiling, deployment.price_ceiling, quote.disk_usd_per_hour)
    return not quote.interruptible or ceiling is None or quote.compute_usd_per_hour <= ceiling


def _refused_keys(deployment: Deployment, *, now: datetime) -> set[tuple[object, str]]:
    recent = deployment.instances.filter(
        state=State.FAILED, remote_id="", created_at__gt=now - REFUSAL_LASTS
    ).values_list("account_id", "quote")
    return {(account, quote["key"]) for account, quote in recent}


def _failed_hosts(deployment: Deployment, *, now: datetime) -> set[str]:
    """Who ran the machines that failed us: stuck, dead or in the wrong place. To be outbid is no fault of theirs."""
    failed = deployment.instances.filter(ended_at__gt=now - HOUR).exclude(failure__in=["", bids.MOVED])
    # Nor is it theirs that a drill killed it.
    failed = failed.exclude(drills__killed_at__isnull=False)
    return set(failed.exclude(host="").exclude(remote_id="").values_list("host", flat=True))


def is_taken(i: Instance, *, now: datetime) -> bool:
    """Whether another create on the same offer of the account is under way."""
    others = Instance.objects.filter(
        account_id=i.account_id, create_sent_at__gt=now - CREATES_APART, create_sent_at__lte=now
    )
    rows = (
        others.exclude(pk=i.pk).exclude(state__in=[s.value for s in TERMINAL]).values_list("quote", flat=True)
    )
    return any(quote["key"] == i.quote["key"] for quote in rows)
