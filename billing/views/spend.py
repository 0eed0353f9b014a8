"""The Spend page: what was spent in a range of days, by whom and on what, and as a file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.core.paginator import Paginator
from django.http import HttpResponse, QueryDict
from django.http.response import HttpResponseBase
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_safe

from billing import above, breakdown, budgets, forecast, reconcile, timeline
from billing.breakdown import Breakdown
from billing.cost import Cost, Group
from billing.exports.lines import provider_name
from billing.models import Reservation, Subject
from billing.periods import midnight
from billing.timeline import TOP, Step
from billing.views.asked import RANGES, Asked, link, read
from billing.views.figures import outlook_figures
from panel.accounts.access import requires
from panel.accounts.models import User
from panel.audit.exporting import note_export
from panel.throttle import few_exports
from panel.ui.csvfile import csv_response
from panel.ui.http import SignedInRequest
from panel.ui.live import live, wanted_fragment
from panel.ui.stacks import Stack, stack

ROWS = 25
HELD_ROWS = 50
FRAGMENTS = ("money", "breakdown")
FORMER = "former member"
_TITLES = {
    "deployment": "Deployment", "machine": "Machine", "provider": "Provider", "account": "Account", "tier": "Tier",
    "gpu": "GPU", "owner": "Owner", "component": "Component",
}  # fmt: skip
_NONE = {"account": "no account", "gpu": "no GPU", "owner": FORMER, "tier": "no tier"}
_STEPS = {Step.HOUR: "Hour", Step.DAY: "Day", Step.MONTH: "Month"}


@requires("billing.view_ledgerentry")
def spend(request: SignedInRequest) -> HttpResponse:
    """The figures (`#money` polls) and below them the breakdown that the address asks for (`#breakdown` polls)."""
    now = timezone.now()
    asked = read(request.GET, now=now)
    part = wanted_fragment(request, FRAGMENTS)
    context: dict[str, Any] = {"now": now, "asked": asked, "wrong": asked.wrong}
    if part != "breakdown":
        context |= _figures(now=now)
    if part != "money":
        context |= _breakdown(request.GET, asked, now=now)
    if part is None:
        context |= {"ranges": RANGES, "held": list(_held()), **_choices()}
    return live(request, "billing/spend.html", context, fragments=FRAGMENTS)


def _figures(*, now: datetime) -> dict[str, Any]:
    first = now.date().replace(day=1)
    found = budgets.outlook(first, now=now)
    return {
        **outlook_figures(found),
        "forecast": forecast.month(now=now, known=found.budget),
        "month_start": midnight(first),
        "runways": above.runways(now=now),
        "unexplained": reconcile.unexplained(now),
    }


def _held() -> Any:
    held = Reservation.objects.filter(released_at=None).select_related("subject")
    return held.order_by("-usd_per_hour", "pk")[:HELD_ROWS]


# -- the breakdown ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table. `css` is its colour in the chart; empty: it is drawn with the others."""

    id: str
    label: str
    sub: str
    group: Group
    cost: Cost
    css: str
    share: Decimal | None
    floor: Decimal | None


def _breakdown(query: QueryDict, asked: Asked, *, now: datetime) -> dict[str, Any]:
    found = breakdown.of(asked.days, asked.group, asked.filter, now=now)
    lines, groups = _lines(asked, found), found.groups
    names = {line.id: line.label for line in lines}
    shown = _drawn(groups)
    page = Paginator(_sorted(lines, asked), ROWS).get_page(asked.page)
    return {
        "lines": page,
        "rows": [(line, _url(query, asked.group, line.group)) for line in page.object_list],
        "whole": found.whole,
        "more": max(0, len(page.object_list) - 3),
        "chart": _chart(asked, found, shown, [names[_id(g)] for g in shown], now=now),
        "chart_label": _chart_label(asked),
        "group_title": _title(asked.group),
        "steps": [(step, _STEPS[step]) for step in asked.steps],
        "chips": _chips(query, asked),
        "columns": _columns(query, asked),
    }


def _choices() -> dict[str, Any]:
    """What the controls offer."""
    found = breakdown.choices()
    people = sorted(_names(found.owners).items(), key=lambda p: p[1].lower())
    groups = [*_TITLES.items(), *((f"tag:{key}", f"Tag: {key}") for key in sorted(found.tags))]
    providers = {key: provider_name(key) for key in sorted(found.providers)}
    return {"choices": found, "providers": providers, "people": people, "groups": groups}


def _lines(asked: Asked, found: Breakdown) -> list[Line]:
    """A line for each group, the dearest first."""
    groups, whole = found.groups, found.whole
    people = _names({g.key[0] for g in groups}) if asked.group == "owner" else {}
    colours = {g.key: f"s{i}" for i, g in enumerate(_drawn(groups))}
    return [
        Line(
            _id(g), _label(asked.group, g, people), _sub(asked.group, g), g, g.cost,
            colours.get(g.key, ""), g.cost.usd / whole.usd if whole.usd > 0 else None,
            # Of several kinds of machine together, the best hour of one says nothing of the others.
            g.cost.floor if asked.group in ("deployment", "machine", "gpu") else None,
        )
        for g in groups
    ]  # fmt: skip


def _drawn(groups: list[Group]) -> list[Group]:
    return [g for g in groups[:TOP] if g.cost.nano["usd"] > 0]


def _id(g: Group) -> str:
    return "-".join(str(part) for part in g.key)


def _names(owners: Collection[int | None]) -> dict[int, str]:
    found = User.objects.filter(pk__in=[o for o in owners if o])
    return {user.pk: str(user) for user in found.only("name", "email")}


def _title(group: str) -> str:
    return _TITLES.get(group) or f"Tag {group.removeprefix('tag:')}"


def _label(group: str, g: Group, people: dict[int, str]) -> str:
    if group == "owner":
        return people.get(g.key[0], FORMER)
    if group == "tier":
        return g.key[1] or _NONE["tier"]
    if group == "provider":
        return provider_name(g.key[0])
    if group.startswith("tag:"):
        return str(g.key[0] or f"no {group[4:]}")
    return g.label or str(g.key[0] or _NONE.get(group, "none"))


def _sub(group: str, g: Group) -> str:
    return ", ".join(map(provider_name, _providers(group, g)))


def _providers(group: str, g: Group) -> list[str]:
    return [g.key[0]] if group == "tier" else sorted(g.providers)


def _url(query: QueryDict, group: str, g: Group) -> str:
    """Where the row leads: to what it is made of."""
    if group == "machine":
        return reverse("spend_machine", args=[g.key[0]])
    value = str(g.key[0] or "")
    if group == "deployment":
        return link(query, deployment=value, group="machine", sort=None)
    if group == "owner":
        return link(query, owner=value or "0", group=None, sort=None)
    if group == "tier" and g.key[1]:
        return link(query, provider=value, tier=g.key[1], group=None, sort=None)
    if group.startswith("tag:"):
        pair = (("tag", f"{group[4:]}={value}"),)
        return f"{link(query, group=None, sort=None)}&{urlencode(pair)}"
    if group in ("provider", "account", "gpu") and value:
        return link(query, **{group: value, "group": None, "sort": None})
    return ""


_SORT_BY: dict[str, Callable[[Line], Any]] = {
    "name": lambda line: line.label.lower(),
    "usd": lambda line: line.cost.nano["usd"],
    "hours": lambda line: line.cost.seconds,
    "compute": lambda line: line.cost.compute,
    "disk": lambda line: line.cost.disk,
    "traffic": lambda line: line.cost.traffic,
    "adjusted": lambda line: line.cost.adjusted,
    "idle": lambda line: line.cost.idle,
    "unit": lambda line: line.cost.per_million,
    "rate": lambda line: line.cost.rate,
}


def _sorted(lines: list[Line], asked: Asked) -> list[Line]:
    """By the column that is asked for; what nobody knows comes last either way."""
    key = _SORT_BY[asked.column]
    known = [line for line in lines if key(line) is not None]
    known.sort(key=key, reverse=asked.sort.startswith("-"))
    return known + [line for line in lines if key(line) is None]


def _columns(query: QueryDict, asked: Asked) -> list[dict[str, str]]:
    """The heads of the table: what a click on each sorts by, and how it is sorted now."""
    found = []
    for name, title, about in (
        ("name", _title(asked.group), ""),
        ("hours", "Hours", "for which compute was charged"),
        ("compute", "Compute", ""),
        ("disk", "Disk", "disks and volumes, of stopped machines too"),
        ("traffic", "Traffic", ""),
        ("adjusted", "Adjusted", "corrections of closed periods"),
        ("idle", "Idle", "of the time watched: minutes without a request"),
        ("unit", "Per 1M tokens", "all that was charged, over tokens read and written; below it the cost in its best hour"),
        ("rate", "Rate now", ""),
        ("usd", "Cost", "and its share"),
    ):  # fmt: skip
        falls = asked.sort.startswith("-")
        is_mine = asked.column == name
        after = name if (is_mine and falls) or (name == "name" and not is_mine) else f"-{name}"
        sorted_now = ("descending" if falls else "ascending") if is_mine else ""
        url = f"{link(query, sort=after)}#breakdown"
        found.append({"name": name, "title": title, "about": about, "url": url, "sorted": sorted_now})
    return found


def _chips(query: QueryDict, asked: Asked) -> list[tuple[str, str, str]]:
    """What is asked for: (of what, which, the address without it)."""
    f, found = asked.filter, []
    if f.deployment:
        label = _called(f.deployment, scope="scope_label")
        found.append(("Deployment", label, link(query, deployment=None)))
    for name, value in (("provider", f.provider), ("tier", f.tier), ("gpu", f.gpu)):
        if value is not None:
            shown = provider_name(value) if name == "provider" else value
            found.append((_TITLES[name], shown, link(query, **{name: None})))
    if f.account:
        found.append(("Account", _called(f.account, account="account_label"), link(query, account=None)))
    if f.owner is not None:
        found.append(("Owner", _names({f.owner}).get(f.owner, FORMER), link(query, owner=None)))
    for pair in f.tags:
        others = [("tag", f"{k}={v}") for k, v in f.tags if (k, v) != pair]
        rest = f"&{urlencode(others)}" if others else ""
        found.append((pair[0], pair[1] or "none", link(query, tag=None) + rest))
    return found


def _called(id: UUID, **field: str) -> str:
    """What the ledger called it last: `field` names the column of the id and that of its label."""
    ((column, label),) = field.items()
    labels = Subject.objects.filter(**{column: id}).order_by("-created_at").values_list(label, flat=True)
    return str(labels.first() or id)


# -- the chart ----------------------------------------------------------------------------------------


def _chart(asked: Asked, found: Breakdown, shown: list[Group], names: list[str], *, now: datetime) -> Stack:
    starts, series = timeline.chart(found, asked.step, shown, now=now)
    named = [(f"s{i}", names[i], values) for i, values in enumerate(series[:-1])]
    if any(series[-1]) or not named:
        named.append(("rest", "Others" if named else "USD", series[-1]))
    present = [i for i, start in enumerate(starts) if start <= now]
    is_now = asked.days.end > now.date()
    return stack(
        [_bar(start, asked.step) for start in starts],
        named,
        partial=present[-1] if present and is_now else None,
    )


def _bar(start: datetime, step: Step) -> str:
    if step is Step.HOUR:
        return f"{start:%H:00}" if start.hour else f"{start.day} {start:%b}"
    return f"{start:%b %Y}" if step is Step.MONTH else f"{start.day} {start:%b}"


def _chart_label(asked: Asked) -> str:
    return f"USD by {asked.step}, {asked.words}, stacked by {_title(asked.group).lower()}"


# -- the file -----------------------------------------------------------------------------------------

HEADER = (
    "from", "to", "group", "name", "id", "provider", "hours", "compute_usd", "disk_usd", "volume_usd", "traffic_usd",
    "other_usd", "adjustments_usd", "total_usd", "share", "idle_share", "tokens_in", "tokens_out", "usd_per_1m_tokens",
    "usd_per_1m_tokens_best_hour", "usd_per_hour_now",
)  # fmt: skip


@requires("billing.view_ledgerentry")
@require_safe
@few_exports
def spend_csv(request: SignedInRequest) -> HttpResponseBase:
    """The table of the page with the same address, all of its rows in its order; amounts exact, times UTC."""
    now = timezone.now()
    asked = read(request.GET, now=now)
    lines = _lines(asked, breakdown.of(asked.days, asked.group, asked.filter, now=now))
    note_export(request, "spend", start=str(asked.days.start), last=str(asked.last), group=asked.group)
    name = f"spend-{asked.days.start}-to-{asked.last}-by-{asked.group.replace(':', '-')}.csv"
    return csv_response(name, HEADER, _cells(_sorted(lines, asked), asked))


def _cells(lines: list[Line], asked: Asked) -> Iterator[tuple[object, ...]]:
    for line in lines:
        c = line.cost
        yield (
            asked.days.start, asked.last, asked.group, line.label, line.id, ", ".join(_providers(asked.group, line.group)), _number(c.hours, 4),
            *(_number(usd) for usd in (c.compute, c.disk - c.volume, c.volume, c.traffic, c.other, c.adjusted, c.usd)),
            _number(line.share, 6), _number(c.idle, 4), c.tokens_in, c.tokens_out, _number(c.per_million),
            _number(line.floor), _number(c.usd_per_hour),
        )  # fmt: skip


def _number(value: Decimal | float | None, places: int = 9) -> Decimal | None:
    """Rounded, without an exponent or needless zeros; empty for what is not known."""
    return None if value is None else Decimal(f"{round(Decimal(value), places).normalize():f}")
