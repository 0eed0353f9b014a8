"""Periods of the law as dates. Pure but for the rows that say how long they are.

Months: EDPB Guidelines 01/2022 on access, section 5.3 (the same day of a later month, else its last day), and
Regulation 1182/71, Art. 3(4): a period not in hours that would end on a Saturday, Sunday or public holiday ends with
the next working day. Periods in hours have no such rule: weekends count.
"""

from __future__ import annotations

import calendar
from collections.abc import Collection
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from django.conf import settings


def add_months(day: date, months: int) -> date:
    """The same day of a later month; its last day when it has no such day."""
    years, month = divmod(day.month - 1 + months, 12)
    year, month = day.year + years, month + 1
    return date(year, month, min(day.day, calendar.monthrange(year, month)[1]))


def working_day(day: date, holidays: Collection[date] = ()) -> date:
    """The day itself, or the next one that is neither a Saturday, a Sunday nor a holiday."""
    while day.weekday() >= calendar.SATURDAY or day in holidays:
        day += timedelta(days=1)
    return day


def end_of(day: date) -> datetime:
    """The midnight that ends the day where the team works (REGIA_OFFICE_TIME_ZONE)."""
    return datetime.combine(day + timedelta(days=1), time.min, ZoneInfo(settings.OFFICE_TIME_ZONE))


def today(now: datetime) -> date:
    """The date where the team works."""
    return now.astimezone(ZoneInfo(settings.OFFICE_TIME_ZONE)).date()
