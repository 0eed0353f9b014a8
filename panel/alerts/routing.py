"""From notices to messages: every round looks at what is open or just over and writes what is to be told.

Level-triggered, like the reconciler: a notice is its own outbox, written in the transaction of what it tells
of, so nothing is lost with a process, and asking twice writes nothing twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime

from django.db import transaction
from django.db.models import Prefetch

from panel.alerts import message
from panel.alerts.models import Channel, Delivery, Rule, Window
from panel.alerts.rules import Plan, Route, Told, plan
from panel.notices.models import Notice
from panel.notices.notify import is_waiting

AT_ONCE = 500
"""Notices in one round; the rest comes with the next."""


def route(*, now: datetime) -> int:
    """Write the messages that are due now; how many. No rule: nothing is told, and the notices are done with."""
    unsettled = Notice.objects.filter(settled_at=None).exclude(is_waiting(now=now))
    notices = list(unsettled.order_by("raised_at")[:AT_ONCE])
    if not notices:
        return 0
    routes, windows, told = _routes(), _windows(now), _told(notices)
    plans = {n.pk: plan(n, routes, windows, told[n.pk], now=now) for n in notices}
    return _write(notices, plans, now=now)


def _routes() -> list[Route]:
    on = Prefetch("channels", Channel.objects.filter(enabled=True).only("pk").order_by("pk"))
    rules = Rule.objects.filter(enabled=True).prefetch_related(on).order_by("after_minutes", "pk")
    return [Route(rule, tuple(channel.pk for channel in rule.channels.all())) for rule in rules]


def _windows(now: datetime) -> list[Window]:
    return list(Window.objects.filter(starts_at__lte=now, ends_at__gt=now))


def _told(notices: Iterable[Notice]) -> dict[int, list[Told]]:
    out: dict[int, list[Told]] = defaultdict(list)
    rows = Delivery.objects.filter(notice__in=list(notices)).order_by("pk")
    for key, channel, rule, occasion, severity in rows.values_list(
        "notice_id", "channel_id", "rule_id", "occasion", "severity"
    ):
        out[key or 0].append(Told(channel, rule, occasion, severity))
    return out


def _write(notices: list[Notice], plans: dict[int, Plan], *, now: datetime) -> int:
    new = [n.pk for n in notices if n.routed_at is None]
    over = [n.pk for n in notices if plans[n.pk].settled]
    rows = [
        Delivery(
            notice=n, channel_id=wish.channel, rule_id=wish.rule, occasion=wish.occasion, severity=wish.severity,
            message=message.of_notice(n, wish.occasion), created_at=now, next_try_at=now,
        )
        for n in notices
        for wish in plans[n.pk].wishes
    ]  # fmt: skip
    if not (new or over or rows):
        return 0
    with transaction.atomic():
        Delivery.objects.bulk_create(rows, ignore_conflicts=True)
        Notice.objects.filter(pk__in=new).update(routed_at=now)
        Notice.objects.filter(pk__in=over).update(settled_at=now)
    return len(rows)
