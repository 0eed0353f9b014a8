"""Every serving engine's own figures, all at once on one event loop every 15 seconds; facts only are written.

The key opens /metrics as it opens the rest of the door. Serverless endpoints are not asked: a request would wake a
worker, which bills. What cannot be read is a gap in the charts and a sentence in the row, never a made-up number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import aiohttp
from django.db import transaction
from django.db.models import Q

from deployments.certificates import request_options
from deployments.endpoints import check_url
from deployments.lifecycle import SERVING
from deployments.models import Instance, Monitor
from deployments.models.instance import SELDOM
from deployments.monitoring import metrics, samples
from deployments.monitoring.connection import TROUBLE, Target, answers, target_of, trouble
from deployments.monitoring.metrics import Reading, Unreadable

INTERVAL = timedelta(seconds=samples.RAW)
FAR = timedelta(minutes=5)
MOST_BYTES = 4 * 1024 * 1024
"""An engine's answer has 60 KB; one with 10,000 series more has 1 MB."""
_STATES = [s.value for s in SERVING]
_TYPES = ("text/plain", "application/openmetrics-text")
_WRITTEN = ("scraped_at", "scrape_failures", "scrape_detail", "counters")


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of /metrics: `reading`, or why there is none."""

    reading: Reading | None = None
    detail: str = ""


def scrape_due(*, clock: Callable[[], datetime]) -> int:
    """Scrape every engine whose time has come; returns how many."""
    mine = {m.instance_id: m for m in _claim(now=clock())}
    for found in answers({pk: target_of(m.instance) for pk, m in mine.items()}, ask):
        _note([(mine[pk], answer) for pk, answer in found.items()], now=clock())
    return len(mine)


def _claim(*, now: datetime) -> list[Monitor]:
    """Those that are due, put ahead in one transaction so that two workers ask once."""
    is_due = Q(monitor=None) | Q(monitor__next_scrape_at=None)
    is_due |= Q(monitor__next_scrape_at__lte=now) | Q(monitor__next_scrape_at__gt=now + FAR)
    due = Instance.objects.filter(is_due, state__in=_STATES).exclude(endpoint_url="")
    ids = [pk for pk, quote in due.order_by("pk").values_list("pk", "quote") if not quote.get("serverless")]
    if not ids:
        return []
    samples.monitors(ids)
    with transaction.atomic():
        mine = list(
            Monitor.objects.filter(instance__in=ids)
            .exclude(next_scrape_at__gt=now, next_scrape_at__lte=now + FAR)
            .select_related("instance__deployment", "instance__account")
            .defer(*(f"instance__{name}" for name in SELDOM))
            .order_by("pk")
            .select_for_update(of=("self",))
        )
        Monitor.objects.filter(pk__in=[m.pk for m in mine]).update(next_scrape_at=now + INTERVAL)
    return mine


async def ask(session: aiohttp.ClientSession, target: Target) -> Answer:
    """One scrape. It never raises: whatever goes wrong is the answer."""
    try:
        check_url(target.url, plaintext=target.plaintext, loopback=target.loopback)
        async with session.get(
            f"{target.url}/metrics", headers={"Authorization": f"Bearer {target.key}"},
            allow_redirects=False, **request_options(target.pin),
        ) as response:  # fmt: skip
            if response.status != 200:
                return Answer(detail=f"/metrics answered {response.status}")
            if response.content_type not in _TYPES:
                return Answer(detail=f"/metrics answered with {response.content_type[:80]}")
            return Answer(metrics.parse((await _body(response)).decode()))
    except Unreadable as e:
        return Answer(detail=str(e))
    except UnicodeDecodeError:
        return Answer(detail="/metrics cannot be read")
    except TROUBLE as e:
        return Answer(detail=trouble(e, target.pin))


async def _body(response: aiohttp.ClientResponse) -> bytes:
    pieces, size = [], 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > MOST_BYTES:
            raise Unreadable(f"/metrics has more than {MOST_BYTES // 1024**2} MB")
        pieces.append(piece)
    return b"".join(pieces)


def _note(found: list[tuple[Monitor, Answer]], *, now: datetime) -> None:
    told: list[tuple[UUID, datetime, dict[str, float]]] = []
    for m, answer in found:
        if answer.reading is None:
            m.scrape_failures, m.scrape_detail = m.scrape_failures + 1, answer.detail[:300]
            continue
        seconds = (now - m.scraped_at).total_seconds() if m.scraped_at else 0.0
        told.append((m.instance_id, now, metrics.values(metrics.thaw(m.counters), answer.reading, seconds)))
        m.scraped_at, m.scrape_failures, m.scrape_detail = now, 0, ""
        m.counters = answer.reading.freeze()
    # One statement for all. It may write over what a quicker worker wrote: the counters and their time belong
    # together in either, so the next rates are right with both.
    Monitor.objects.bulk_create(
        sorted((m for m, _ in found), key=lambda m: m.pk),
        update_conflicts=True, unique_fields=["id"], update_fields=_WRITTEN,
    )  # fmt: skip
    samples.record_many(told)
