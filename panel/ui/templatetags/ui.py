"""`{% load ui %}`: icons, money, ages and charts for every template."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from typing import Any

from django import template
from django.forms import BoundField
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from lucide.templatetags.lucide import lucide

from panel.ui import charts, format

register = template.Library()
HOURS_PER_MONTH = 730


@lru_cache(maxsize=256)
def _icon(name: str, size: int) -> SafeString:
    return SafeString(lucide(name, size=size, aria_hidden="true", focusable="false"))


@register.simple_tag
def icon(name: str, size: int = 16) -> SafeString:
    """A lucide icon, inline and silent to a screen reader: a word always stands beside it."""
    return _icon(str(name), size)


@register.filter
def usd(value: Decimal | None) -> str:
    return format.usd(value)


@register.filter
def usd_up(value: Decimal | None) -> str:
    """USD to the cent, never less than it is: for a bound."""
    cent = Decimal("0.01")
    return format.UNKNOWN if value is None else f"${value.quantize(cent, rounding=ROUND_CEILING):,}"


@register.filter
def usd_exact(value: Decimal | None) -> str:
    """USD to the hundredth of a cent: for figures that are watched as they grow."""
    return format.UNKNOWN if value is None else f"${value:,.4f}"


@register.filter
def price(value: Decimal | None) -> str:
    return format.price(value)


@register.filter
def per_hour(value: Decimal | None) -> str:
    """ "$0.43/h" with its unit muted."""
    if value is None:
        return format.UNKNOWN
    return format_html('{}<span class="unit muted">/h</span>', format.price(value))


@register.filter
def per_hour_text(value: Decimal | None) -> str:
    """ "$0.43/h" without markup."""
    return format.UNKNOWN if value is None else f"{format.price(value)}/h"


@register.filter
def per_day(value: Decimal | None) -> str:
    """USD per hour as USD per day of 24 hours."""
    return format.usd(None if value is None else value * 24)


@register.filter
def per_month(value: Decimal | None) -> str:
    """USD per hour as USD per month of 730 hours."""
    return format.usd(None if value is None else value * HOURS_PER_MONTH)


@register.filter
def duration(value: timedelta | float | None) -> str:
    return format.duration(timedelta(seconds=value) if isinstance(value, int | float) else value)


@register.filter
def memory(megabytes: int | None) -> str:
    return format.memory(megabytes)


@register.filter
def memory_exact(megabytes: int) -> str:
    """ "6.7 GB"."""
    return f"{megabytes / 1024:.1f} GB"


@register.filter
def gigabytes(size: int) -> str:
    """Bytes as "8.1 GB" (10^9)."""
    return f"{size / 1e9:.1f} GB"


@register.filter
def share_of(part: Decimal, whole: Decimal) -> str:
    """ "42 %" of the whole; "n/a" of nothing."""
    return f"{part / whole * 100:.0f} %" if whole else format.UNKNOWN


@register.filter
def moment(when: datetime | None) -> str:
    return format.short_moment(when)


@register.filter
def percent(value: float | None) -> str:
    return format.UNKNOWN if value is None else f"{value * 100:.1f} %"


def _time(context: template.Context, when: datetime | None, kind: str) -> str:
    if when is None:
        return format.UNKNOWN
    now = context.get("now") or timezone.now()
    text = format.age(now - when) + (" ago" if kind == "ago" else "")
    return format_html(
        '<time datetime="{}" title="{}" data-age="{}">{}</time>',
        when.isoformat(), format.moment(when), kind, text,
    )  # fmt: skip


@register.simple_tag(takes_context=True)
def ago(context: template.Context, when: datetime | None) -> str:
    """ "14 s ago", ticking; the exact time on hover."""
    return _time(context, when, "ago")


@register.simple_tag(takes_context=True)
def since(context: template.Context, when: datetime | None) -> str:
    """ "14 s", ticking."""
    return _time(context, when, "since")


@register.simple_tag
def at(when: datetime | None) -> str:
    """ "24 Nov, 12:05 UTC" as a `<time>`."""
    if when is None:
        return format.UNKNOWN
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        when.isoformat(),
        format.moment(when),
        format.short_moment(when),
    )


@register.filter
def weekday_at(when: datetime | None) -> str:
    """ "Thu 26 Nov, 14:00 UTC" as a `<time>`."""
    if when is None:
        return format.UNKNOWN
    return format_html(
        '<time datetime="{}" title="{}">{} {}</time>',
        when.isoformat(), format.moment(when), f"{when.astimezone(UTC):%a}", format.short_moment(when),
    )  # fmt: skip


def _day(when: datetime) -> str:
    utc = when.astimezone(UTC)
    return f"{utc.day} {utc:%b}"


@register.simple_tag
def day_of(when: datetime | None) -> str:
    """ "30 Nov" as a `<time>`; midnight is the end of the day before."""
    if when is None:
        return format.UNKNOWN
    day = _day(when - timedelta(microseconds=1))
    return format_html('<time datetime="{}" title="{}">{}</time>', when.isoformat(), format.moment(when), day)


@register.inclusion_tag("ui/bars.html")
def bar_chart(
    rows: Sequence[tuple[str, Decimal]], *, label: str, first: str, id: str, height: int = 132
) -> dict[str, Any]:
    """Bars of (label, USD) with their table (a `<details>` of that id); `first` heads the table's first column."""
    shown = [(name, value, format.usd(value)) for name, value in rows]
    return {"chart": charts.bars(shown, height=height), "label": label, "first": first, "id": id}


@register.simple_tag
def by_moment(when: datetime | None) -> str:
    """Until when, to be read after "by": "1 Dec" as "the end of 30 Nov", other moments with their time."""
    if when is None:
        return format.UNKNOWN
    midnight = when.astimezone(UTC).time() == time.min
    words = f"the end of {_day(when - timedelta(microseconds=1))}" if midnight else format.short_moment(when)
    return format_html(
        '<time datetime="{}" title="{}">{}</time>', when.isoformat(), format.moment(when), words
    )


@register.simple_tag
def sparkline(values: Sequence[float], *, label: str) -> str:
    drawn = charts.points(values)
    if not drawn:
        return ""
    return format_html(
        '<svg class="sparkline" width="96" height="24" role="img" aria-label="{}">'
        '<polyline points="{}" fill="none" stroke="currentColor" stroke-width="1.5"/></svg>',
        label, drawn,
    )  # fmt: skip


@register.simple_tag
def meter(spent: Decimal, whole: Decimal, held: Decimal = Decimal(0), *, label: str) -> str:
    """A bar of what is spent and what is held of the whole. The label says it in words."""
    used, kept = charts.share(spent, whole), charts.share(spent + held, whole)
    kind = "critical" if used >= 100 else "warn" if used >= 80 else ""
    return format_html(
        '<svg class="bar {}" height="6" role="img" aria-label="{}"><rect class="track" width="100%" height="6"/>'
        '<rect class="held" width="{}%" height="6"/><rect class="spent" width="{}%" height="6"/></svg>',
        kind, label, f"{kept:.2f}", f"{used:.2f}",
    )  # fmt: skip


@register.simple_tag
def rung_meter(
    spent: Decimal, whole: Decimal, held: Decimal, rungs: Sequence[int], forecast: Decimal, *, label: str
) -> str:
    """The same bar with a mark at each rung (percent of the whole) and a tick at the forecast, where it is within."""
    marks = [("rung", float(rung)) for rung in rungs if 0 < rung < 100]
    if 0 < forecast < whole:
        marks.append(("tick", charts.share(forecast, whole)))
    lines = format_html_join(
        "", '<line class="{}" x1="{}%" x2="{}%" y1="0" y2="14"/>', ((name, f"{at:.2f}", f"{at:.2f}") for name, at in marks)
    )  # fmt: skip
    used, kept = charts.share(spent, whole), charts.share(spent + held, whole)
    kind = "critical" if used >= 100 else "warn" if used >= 80 else ""
    return format_html(
        '<svg class="bar marked {}" height="14" role="img" aria-label="{}"><rect class="track" y="4" width="100%" height="6"/>'
        '<rect class="held" y="4" width="{}%" height="6"/><rect class="spent" y="4" width="{}%" height="6"/>{}</svg>',
        kind, label, f"{kept:.2f}", f"{used:.2f}", lines,
    )  # fmt: skip


_TONES = {"success": ("ok", "circle-check"), "warning": ("warn", "triangle-alert"), "error": ("critical", "octagon-alert"),
          "critical": ("critical", "octagon-alert")}  # fmt: skip


@register.filter
def tone(level: str) -> str:
    """The class of an alert for a message's or a notice's level."""
    return _TONES.get(level.rpartition(" ")[2], ("info", "info"))[0]


@register.filter
def tone_icon(level: str) -> str:
    return _TONES.get(level.rpartition(" ")[2], ("info", "info"))[1]


@register.simple_tag(takes_context=True)
def query(context: template.Context, **changes: Any) -> str:
    """The page's query string with `changes`; None takes a key away."""
    params = context["request"].GET.copy()
    for key, value in changes.items():
        if value is None:
            params.pop(key, None)
        else:
            params[key] = str(value)
    return f"?{params.urlencode()}"


@register.filter
def without_help(field: BoundField) -> BoundField:
    """The field without its help text."""
    field.help_text = ""
    field.field.help_text = ""
    return field


@register.filter
def of(values: dict[Any, Any], key: Any) -> Any:
    """`values[key]`, None without it."""
    return values.get(key)
