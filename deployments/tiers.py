"""The tiers of the providers, in words: what speaks for each and what against. Pure.

Sources: the providers' contracts as the adapters keep them (billing, stop, bids, data centres), read on
2026-11-24. Facts of one offer (its price, its reliability score) stand with the offer, not here.
"""

from __future__ import annotations

from dataclasses import dataclass

PROVIDERS = {"runpod": "RunPod", "vast": "Vast.ai", "local": "This computer"}
BALANCED = "serverless-lb"
"""The serverless tier whose workers run our own image."""


@dataclass(frozen=True, slots=True)
class Tier:
    """A way to rent at a provider. `development_only`: advised for development and tests alone."""

    provider: str
    key: str
    title: str
    pros: tuple[str, ...]
    cons: tuple[str, ...]
    stopped: str
    """What a stop means for the bill."""
    development_only: bool = False

    @property
    def name(self) -> str:
        """ "RunPod secure", "This computer"."""
        provider = PROVIDERS.get(self.provider, self.provider)
        return provider if self.title == provider else f"{provider} {self.title.lower()}"


_POD_STOP = "Without a volume a stop wipes the disk and saves nothing over ending the pod."
_VAST_STOP = "The disk bills until the machine is destroyed; its GPU may be rented to others."

TIERS: tuple[Tier, ...] = (
    Tier(
        "runpod", "secure", "Secure",
        pros=("A data centre that answers for its uptime", "You choose the data centre; nobody outbids you"),
        cons=("Dearer than community", "At a balance of $0 pods without a network volume are terminated"),
        stopped=_POD_STOP,
    ),
    Tier(
        "runpod", "serverless-active", "Serverless active",
        pros=("Always on: no cold start", "More workers come by themselves in a burst"),
        cons=("No public price: estimated from the flex price", "Bills without a pause; idle for 7 days, RunPod scales it to 0"),
        stopped="No workers: nothing bills.",
    ),
    Tier(
        "runpod", "serverless-flex", "Serverless flex",
        pros=("Scales to zero: idle hours cost nothing", "Billed per second, from a worker's start to its full stop"),
        cons=("A cold start loads the weights first, and bills", "The dearest hour while it works; idle for 7 days, RunPod scales it to 0"),
        stopped="No workers: nothing bills.",
    ),
    Tier(
        "runpod", "community", "Community",
        pros=("Often cheaper than secure", "Billed per second; nobody outbids you"),
        cons=("No SLA: machines of peers", "Pinned to a country at best, and checked after the launch"),
        stopped=_POD_STOP, development_only=True,
    ),
    Tier(
        "vast", "datacenter", "Datacenter",
        pros=("Hosts with ISO 27001, a registered business and a signed agreement", "Rented on demand: no bid interrupts it"),
        cons=("No SLA: a reliability score instead", "The disk bills when stopped, traffic bills always; the host sets an end date"),
        stopped=_VAST_STOP,
    ),
    Tier(
        "vast", "community", "Community",
        pros=("Cheap, and a large choice of hosts that passed Vast's check", "Rented on demand: no bid interrupts it"),
        cons=("No SLA: anybody may be the host, who can read disk and environment", "The disk bills when stopped, traffic bills always"),
        stopped=_VAST_STOP, development_only=True,
    ),
    Tier(
        "vast", "interruptible", "Interruptible",
        pros=("The lowest price of compute: your bid", "Outbid, it keeps its disk and comes back by itself"),
        cons=("A higher bid or an on-demand renter stops it at any moment", "The disk bills on while it is stopped or outbid"),
        stopped=_VAST_STOP, development_only=True,
    ),
    Tier(
        "local", "local", "This computer",
        pros=("Nothing leaves your machine; no provider, no rent", "Exempt from the residency guard"),
        cons=("Nobody answers for its uptime but you", "Its price is the rate that you set"),
        stopped="Nothing is rented: nothing bills.",
    ),
)  # fmt: skip

OPTIONAL: tuple[Tier, ...] = (
    Tier(
        "runpod", BALANCED, "Serverless load balancer",
        pros=("Scales to zero, with the panel's own image and its door", "Requests go straight to a worker, without a queue"),
        cons=("Not proved on a real account (RUNPOD_LOAD_BALANCER)", "A request waits 2 minutes for a worker, an answer is cut after 5.5"),
        stopped="No workers: nothing bills.",
    ),
)  # fmt: skip
"""Offered only where a setting switches them on: nobody is told of their absence."""

_BY_KEY = {(t.provider, t.key): t for t in (*TIERS, *OPTIONAL)}


def described(provider: str, key: str) -> Tier:
    """The tier; one that is not known here says so."""
    unknown = "This tier is not described here yet."
    return _BY_KEY.get((provider, key)) or Tier(
        provider, key, key.capitalize(), pros=(), cons=(unknown,), stopped=""
    )
