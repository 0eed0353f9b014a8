"""The one time range that drives every chart of a page, as it stands in the page's address. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

from panel.ui.format import short_moment

PRESETS = {
    "1h": (timedelta(hours=1), "the last hour"),
    "6h": (timedelta(hours=6), "the last 6 hours"),
    "24h": (timedelta(hours=24), "the last 24 hours"),
    "7d": (timedelta(days=7), "the last 7 days"),
    "30d": (timedelta(days=30), "the last 30 days"),
}
DEFAULT = "1h"
SHORTEST = timedelta(minutes=1)
LONGEST = timedelta(days=366)


@dataclass(frozen=True, slots=True)
class TimeRange:
    """From `since` to `until`, UTC. With a `preset` it ends now and moves on with the clock."""

    since: datetime
    until: datetime
    now: datetime
    preset: str = ""

    @property
    def span(self) -> timedelta:
        return self.until - self.since

    @property
    def words(self) -> str:
        if self.preset:
            return PRESETS[self.preset][1]
        return f"{short_moment(self.since).removesuffix(' UTC')} to {short_moment(self.until)}"

    @property
    def query(self) -> str:
        """What stands in the address: "?range=6h", or "?from=…&to=…" to the second."""
        values = (
            {"range": self.preset} if self.preset else {"from": _text(self.since), "to": _text(self.until)}
        )
        return f"?{urlencode(values, safe=':')}"

    def nearer(self) -> TimeRange:
        """The middle half."""
        return _custom(self.since + self.span / 4, self.until - self.span / 4, now=self.now)

    def wider(self) -> TimeRange:
        """Twice the span around the same middle, as far as that is not in the future."""
        return _custom(self.since - self.span / 2, self.until + self.span / 2, now=self.now)

    def earlier(self) -> TimeRange:
        return _custom(self.since - self.span / 2, self.until - self.span / 2, now=self.now)

    def later(self) -> TimeRange | None:
        """Half a span on; None when it ends now already."""
        if self.until >= self.now:
            return None
        return _custom(self.since + self.span / 2, self.until + self.span / 2, now=self.now)


def read(values: Mapping[str, str], *, now: datetime, default: str = DEFAULT) -> tuple[TimeRange, str]:
    """The range that the address asks for, and a sentence when what it says cannot be shown as it stands."""
    if "from" in values or "to" in values:
        since, until = _moment(values.get("from", "")), _moment(values.get("to", ""))
        if since is None or until is None or since >= until or since >= now:
            return _preset(default, now), f"That time range cannot be read. Shown is {PRESETS[default][1]}."
        return _custom(since, until, now=now), ""
    asked = values.get("range", default)
    return _preset(asked if asked in PRESETS else default, now), ""


def _preset(key: str, now: datetime) -> TimeRange:
    return TimeRange(now - PRESETS[key][0], now, now, key)


def _custom(since: datetime, until: datetime, *, now: datetime) -> TimeRange:
    """The range within what can be shown: not in the future, a minute at least, a year at most."""
    span = min(max(until - since, SHORTEST), LONGEST)
    if until > now:
        since, until = now - span, now
    elif until - since != span:
        middle = since + (until - since) / 2
        until = min(middle + span / 2, now)
        since = until - span
    return TimeRange(since.replace(microsecond=0), until.replace(microsecond=0), now)


def _moment(text: str) -> datetime | None:
    """A moment in ISO 8601; one without a zone is in UTC."""
    try:
        found = datetime.fromisoformat(text.strip()[:40])
        found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    # Years that no arithmetic around them overflows.
    return found if 1971 <= found.year < 2200 else None


def _text(when: datetime) -> str:
    return f"{when.astimezone(UTC):%Y-%m-%dT%H:%M:%S}Z"
