"""Why the charts of a deployment get no new figures of its engine, and what to do about it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from deployments.lifecycle import SERVING, STARTING, State
from deployments.models import Instance, Monitor
from deployments.monitoring.scrape import INTERVAL

STALE = 4 * INTERVAL
"""One reading that fails is a gap that nobody sees; after so long it is told."""
_PROBED = "Probes and test chats go on."
_ADVICE = (
    ("answered 401", "The endpoint refuses the key that it was started with: rotate the key."),
    ("answered 403", "The endpoint refuses the key that it was started with: rotate the key."),
    ("answered 404", "Its door or its engine has no /metrics: launch it anew with the present image."),
    ("answered 5", "The engine itself fails at it: see its log."),
    ("refused", "Nothing listens there: see its log, and whether it still runs at its provider."),
    ("no answer within", "The engine is too busy or hangs: see its log and the requests that wait."),
)
_OTHERWISE = "See its log."


@dataclass(frozen=True, slots=True)
class Silence:
    words: str
    """A sentence without its full stop: with `since`, the age stands at its end."""
    meaning: str
    since: datetime | None = None
    tone: str = ""
    """warn for what somebody should look at, else empty: nothing is wrong."""
    said: str = ""
    """What the endpoint answered last."""
    failures: int = 0
    """In a row."""


def of(instance: Instance | None, *, now: datetime) -> Silence | None:
    """None while figures come."""
    if instance is None:
        return Silence("There is no machine yet", "Figures come once one is ready.")
    if instance.status not in SERVING:
        return _not_serving(instance)
    if instance.offer.serverless:
        return Silence(
            "The engines of a serverless endpoint are not read",
            "The request would wake a worker, which bills. Test chats are told below where they are switched on.",
        )
    monitor: Monitor | None = getattr(instance, "monitor", None)
    return _unread(instance, monitor, now=now)


def _not_serving(instance: Instance) -> Silence:
    if instance.status in STARTING | {State.REQUESTED}:
        return Silence("No figures yet: the machine is on its way up", "The first come once it is ready.")
    why = _WHY.get(instance.status, f"is {instance.status.word.lower()}")
    return Silence(f"No new figures: the machine {why}", "What it told before is kept.")


_WHY = {
    State.FAILED: "has failed",
    State.OUTBID: "was outbid",
    State.TERMINATED: "is gone",
    State.TERMINATING: "is being ended",
    State.UNKNOWN: "may not exist",
}


def _unread(instance: Instance, monitor: Monitor | None, *, now: datetime) -> Silence | None:
    read_at = monitor.scraped_at if monitor else None
    since = read_at or instance.ready_at or instance.state_since
    if now - since <= STALE:
        # It has only just become ready, or one reading failed.
        return None if read_at else Silence("No figures yet", "The engine is read every 15 seconds.")
    if not instance.endpoint_url:
        return Silence("No figures: the machine has no address yet", _PROBED, tone="warn")
    words = "No figures of the engine for" if read_at else "No figures of the engine since it became ready,"
    if monitor is None or not monitor.scrape_failures:
        meaning = "Nobody has asked for them: see whether the worker runs."
        return Silence(words, meaning, since=since, tone="warn")
    said = monitor.scrape_detail
    meaning = next((advice for part, advice in _ADVICE if part in said), _OTHERWISE)
    return Silence(
        words, f"{meaning} {_PROBED}", since=since, tone="warn", said=said, failures=monitor.scrape_failures
    )
