"""What the address of the Spend page asks for: which days, grouped by what, of whom, in which order. Pure.

What cannot be read is left out, and a sentence says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.http import QueryDict

from billing import tags
from billing.breakdown import GROUPS, Days, Filter, span_of
from billing.periods import DAY, utc
from billing.rollup import first_of
from billing.timeline import LONGEST, Step, step_for

RANGES = {
    "today": "Today",
    "month": "This month",
    "last-month": "Last month",
    "30d": "30 days",
    "90d": "90 days",
    "12m": "12 months",
}
USUAL = "month"
FIRST = date(2015, 1, 1)
"""No bill of a rented GPU is older."""
SORTS = ("name", "usd", "hours", "compute", "disk", "traffic", "adjusted", "idle", "unit", "rate")
LONG = LONGEST[Step.MONTH]


@dataclass(slots=True)
class Asked:
    days: Days
    range: str
    """A key of RANGES, or "custom"."""
    group: str
    step: Step
    filter: Filter
    sort: str
    """A column of SORTS, with a minus before it when the largest comes first."""
    page: int
    wrong: list[str] = field(default_factory=list)
    """Sentences about what could not be read."""

    @property
    def column(self) -> str:
        return self.sort.removeprefix("-")

    @property
    def steps(self) -> list[Step]:
        """Those that the range can be told by."""
        return [step for step in Step if self.days.count <= LONGEST[step]]

    @property
    def pairs(self) -> list[str]:
        """The tags that are asked for, as they are written."""
        return [f"{key}={value}" for key, value in self.filter.tags]

    @property
    def last(self) -> date:
        return self.days.end - DAY

    @property
    def words(self) -> str:
        """ "1 to 28 Nov 2026"."""
        a, b = self.days.start, self.last
        if a == b:
            return f"{b.day} {b:%b %Y}"
        if a.year != b.year:
            return f"{a.day} {a:%b %Y} to {b.day} {b:%b %Y}"
        return f"{a.day}{'' if a.month == b.month else f' {a:%b}'} to {b.day} {b:%b %Y}"


def read(query: QueryDict, *, now: datetime) -> Asked:
    wrong: list[str] = []
    name, days = _days(query, wrong, now=now)
    group = query.get("group", GROUPS[0])
    if group not in GROUPS and not (group.startswith("tag:") and tags.is_key(group[4:])):
        wrong.append("That is nothing to group by. Shown is each deployment.")
        group = GROUPS[0]
    sort = query.get("sort", "-usd")
    if sort.removeprefix("-") not in SORTS:
        sort = "-usd"
    page = query.get("page", "1")
    return Asked(
        days, name, group, step_for(days, query.get("by", "")), _filter(query, wrong), sort,
        min(int(page), 100_000) if page.isascii() and page.isdigit() and len(page) < 9 else 1, wrong,
    )  # fmt: skip


def _days(query: QueryDict, wrong: list[str], *, now: datetime) -> tuple[str, Days]:
    name = query.get("range", "")
    if name == "custom" or (not name and (query.get("from") or query.get("to"))):
        custom = _custom(query.get("from", ""), query.get("to", ""), now=now)
        if isinstance(custom, Days):
            return "custom", custom
        wrong.append(f"{custom} Shown is this month.")
    return (name, preset(name, now=now)) if name in RANGES else (USUAL, preset(USUAL, now=now))


def preset(name: str, *, now: datetime) -> Days:
    """The days of a key of RANGES; the one that runs is its last, but for the last month."""
    today = utc(now).date()
    month = first_of(today)
    if name == "today":
        return Days(today, today + DAY)
    if name == "last-month":
        return Days(first_of(month - DAY), month)
    if name == "12m":
        # The months' own totals: eleven before this one.
        return Days(_back(month, 11), today + DAY)
    if name in ("30d", "90d"):
        return span_of(now, timedelta(days=int(name[:-1])))
    return Days(month, today + DAY)


def _back(month: date, months: int) -> date:
    at = month.year * 12 + month.month - 1 - months
    return date(at // 12, at % 12 + 1, 1)


def _custom(first: str, last: str, *, now: datetime) -> Days | str:
    """The days from `first` to `last`, both included; or what is wrong with them, a sentence."""
    today = utc(now).date()
    read = []
    for text in (first, last or today.isoformat()):
        try:
            read.append(date.fromisoformat(text.strip()[:20]))
        except ValueError:
            return (
                f"“{text[:20]}” is no day. Write it as {today.isoformat()}."
                if text
                else "The range has no first day."
            )
    start, end = read
    if start > end:
        return "That range ends before it begins."
    if start > today:
        return "That range lies ahead: nothing is spent there yet."
    if start < FIRST:
        return f"That range begins before {FIRST.year}, when there was nothing to rent."
    if (end - start).days >= LONG:
        return f"That range is longer than {LONG // 366} years."
    return Days(start, min(end, today) + DAY)


def _filter(query: QueryDict, wrong: list[str]) -> Filter:
    found: dict[str, Any] = {name: query.get(name) or None for name in ("provider", "tier", "gpu")}
    for name in ("deployment", "account"):
        if text := query.get(name):
            try:
                found[name] = UUID(text)
            except ValueError:
                wrong.append(f"There is no such {name}. It was left out.")
    if owner := query.get("owner"):
        if owner.isascii() and owner.isdigit() and len(owner) < 16:
            found["owner"] = int(owner)
        else:
            wrong.append("There is no such owner. It was left out.")
    pairs = []
    for text in query.getlist("tag")[: tags.MOST]:
        key, equals, value = text.partition("=")
        if equals and tags.is_key(key):
            pairs.append((key, value))
        elif text:
            wrong.append("That is no tag. Write it as team=search.")
    return Filter(**found, tags=tuple(dict.fromkeys(pairs)))


def link(query: QueryDict, **changes: str | None) -> str:
    """The query string with `changes` (None takes one away), and without a page and what is empty."""
    kept = [(k, v) for k, values in query.lists() for v in values if v and k != "page" and k not in changes]
    kept += [(k, v) for k, v in changes.items() if v]
    return f"?{urlencode(kept)}"
