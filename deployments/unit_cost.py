"""What machines gave for their money, day by day: tokens, busy time, the best hour. Told to billing by its samples.

The samples' rates come from the engines' counters, with their resets handled (`monitoring.metrics`); a minute's mean
rate times sixty seconds is what was counted in it. A minute is busy when a request ran or waited or a token moved. What
nobody scraped (serverless workers, a machine that does not answer) is not watched, and told as such.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from django.db import connection

from billing import rollup
from billing.periods import DAY, midnight, utc
from billing.rollup import Output
from deployments.models import Heartbeat, Monitor, Sample
from deployments.monitoring.samples import HOUR, KEPT, MINUTE

NAME = "unit-cost"
"""Its heartbeat: up to when the days are told."""
BACK = KEPT[MINUTE] - timedelta(days=1)
"""How far back the first round reaches, and one after a long pause: days whose minutes are all there."""
LATE = timedelta(hours=2)
"""So long after midnight the day before is told again: its last minutes are written after it."""
_SOME = 200
"""Machines in one transaction."""


def tell(now: datetime) -> int:
    """Tell the days since the last round, today as far as it has come; how many machine-days. May be repeated."""
    now = utc(now)
    last = Heartbeat.objects.filter(name=NAME).values_list("at", flat=True).first()
    since = max(min(last or now - BACK, now) - LATE, now - BACK)
    day, told = since.date(), 0
    while day <= now.date():
        told += _tell_day(day)
        # Each day is kept at once: after a pause of weeks a round that is broken off has not been for nothing.
        Heartbeat.beat(NAME, min(midnight(day + DAY) + LATE, now))
        day += DAY
    return told


def _tell_day(day: date) -> int:
    found = dict(_outputs(day))
    machines = sorted(found)
    for i in range(0, len(machines), _SOME):
        rollup.give(day, {pk: found[pk] for pk in machines[i : i + _SOME]})
    return len(found)


def _outputs(day: date) -> Iterator[tuple[UUID, Output]]:
    """What each machine that was watched gave on that day (UTC)."""
    first = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
    table, monitors = Sample._meta.db_table, Monitor._meta.db_table
    tokens = "COALESCE(s.tokens_in_rate, 0) + COALESCE(s.tokens_out_rate, 0)"
    busy = f"COALESCE(s.running, 0) > 0 OR COALESCE(s.waiting, 0) > 0 OR {tokens} > 0"
    # Through the monitors: each is a walk in the key. By the hour first, for the best one of them.
    hours = (
        f"SELECT m.instance_id AS machine, s.bucket / {HOUR} AS hour, "  # noqa: S608 (our own names)
        f"SUM(COALESCE(s.tokens_in_rate, 0)) * {MINUTE} AS taken, SUM(COALESCE(s.tokens_out_rate, 0)) * {MINUTE} AS given, "
        f"SUM(CASE WHEN {busy} THEN {MINUTE} ELSE 0 END) AS busy, COUNT(*) * {MINUTE} AS watched "
        f"FROM {monitors} m JOIN {table} s ON s.monitor_id = m.id AND s.resolution = {MINUTE} "
        "AND s.bucket >= %s AND s.bucket < %s "
        "WHERE m.scraped_at >= %s AND (s.running IS NOT NULL OR s.tokens_out_rate IS NOT NULL) "
        f"GROUP BY m.instance_id, s.bucket / {HOUR}"
    )
    sums = (
        "SELECT machine, SUM(taken), SUM(given), SUM(busy), SUM(watched), MAX(taken + given) "  # noqa: S608
        f"FROM ({hours}) h GROUP BY machine"
    )
    began = connection.ops.adapt_datetimefield_value(midnight(day))
    with connection.cursor() as cursor:
        cursor.execute(sums, [first, first + 86_400, began])
        for machine, *values in cursor.fetchall():
            numbers = [round(float(v)) for v in values]
            yield machine if isinstance(machine, UUID) else UUID(machine), Output(*numbers)
