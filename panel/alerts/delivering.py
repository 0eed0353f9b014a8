"""Sends what waits: one task for each channel at a time, at least once, with back-off, never in a transaction.

A message is marked as tried before and as sent after. Killed in between, it is sent again under the same id,
by which its receiver knows it. A receiver that is down holds its channel, not a worker for each message.
"""

from __future__ import annotations

import logging
import random
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from time import monotonic

from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.utils import timezone

from panel.alerts import chat, mail, webhook
from panel.alerts.failure import Undelivered
from panel.alerts.models import Channel, Delivery
from panel.alerts.routing import route
from panel.celery import app

logger = logging.getLogger(__name__)

type Clock = Callable[[], datetime]

SEND = "panel.alerts.tasks.send"
BACKOFF = tuple(timedelta(seconds=s) for s in (5, 15, 60, 300, 900, 1800, 3600, 7200, 14400, 28800))
"""Between one try and the next, each with up to a fifth more; after the last the message is given up: 16 hours."""
HOLD = timedelta(minutes=5)
"""The longest that a channel is held by a receiver that is down, so that its return is noticed."""
BATCH_SECONDS = 45.0
LEASE = timedelta(seconds=120)
"""Longer than a batch and the longest single try after it."""
SLICE = 500
SENDERS = {Channel.Kind.MAIL: mail.send, Channel.Kind.WEBHOOK: webhook.send, Channel.Kind.CHAT: chat.send}


def tick(*, clock: Clock = timezone.now) -> None:
    """Write what is to be told, and ring for each channel that has something to send."""
    route(now=clock())
    for pk in due(now=clock()).values_list("pk", flat=True):
        ring(pk)


def due(*, now: datetime) -> QuerySet[Channel]:
    """The channels that have a message to send now and nobody who sends it."""
    waiting = Delivery.objects.filter(
        channel=OuterRef("pk"), state=Delivery.State.WAITING, next_try_at__lte=now
    )
    return _free(Channel.objects.filter(Exists(waiting), enabled=True), now=now).order_by("pk")


def ring(pk: int) -> None:
    """Ask a worker to send. A bell that is lost is rung again by the clock."""
    try:
        app.send_task(SEND, args=(pk,), expires=30, retry=False)
    except Exception:  # whatever the broker's client raises: the row stands, and the clock looks at it
        logger.warning("The broker did not take the alerts of channel %s; the clock will.", pk)


def send(channel_pk: int, *, clock: Clock = timezone.now) -> int:
    """Send what the channel has to send now, in order; how many arrived. Nothing when another task does."""
    lease = uuid.uuid4()
    mine = _free(Channel.objects.filter(pk=channel_pk, enabled=True), now=clock())
    if not mine.update(lease=lease, lease_until=clock() + LEASE):
        return 0
    try:
        return _batch(Channel.objects.get(pk=channel_pk), clock=clock)
    finally:
        Channel.objects.filter(pk=channel_pk, lease=lease).update(lease=None, lease_until=None)


def _free(channels: QuerySet[Channel], *, now: datetime) -> QuerySet[Channel]:
    # A lease that ends further in the future than any can was written by a clock that has been set back since.
    free = Q(lease_until=None) | Q(lease_until__lte=now) | Q(lease_until__gt=now + 2 * LEASE)
    held = Q(held_until__gt=now, held_until__lte=now + 2 * HOLD)
    return channels.filter(free).exclude(held)


def _batch(channel: Channel, *, clock: Clock) -> int:
    began, arrived = monotonic(), 0
    blocked: set[int] = set()
    for delivery in list(channel.deliveries.filter(state=Delivery.State.WAITING).order_by("pk")[:SLICE]):
        if monotonic() - began > BATCH_SECONDS:
            break
        # That it is over is not told before that it began.
        if delivery.next_try_at > clock() or delivery.notice_id in blocked:
            blocked.update({delivery.notice_id} if delivery.notice_id else ())
            continue
        error = _try(channel, delivery, clock=clock)
        if error is None:
            arrived += 1
            continue
        blocked.update({delivery.notice_id} if delivery.notice_id else ())
        if error.down:
            break
    return arrived


def _try(channel: Channel, delivery: Delivery, *, clock: Clock) -> Undelivered | None:
    now = clock()
    waiting = Delivery.objects.filter(pk=delivery.pk, state=Delivery.State.WAITING)
    if not waiting.update(tries=F("tries") + 1, tried_at=now):
        return None  # Dropped meanwhile.
    try:
        SENDERS[Channel.Kind(channel.kind)](channel, delivery, now=now)
    except Undelivered as e:
        _failed(channel, delivery, e, now=clock())
        return e
    except Exception:
        # A fault of ours must not send the same message for ever, nor stop the others.
        logger.exception("The message %s could not be sent", delivery.message_id)
        error = Undelivered("It could not be sent: the panel's log says why.")
        _failed(channel, delivery, error, now=clock())
        return error
    now = clock()
    Delivery.objects.filter(pk=delivery.pk).update(state=Delivery.State.SENT, sent_at=now, error="")
    Channel.objects.filter(pk=channel.pk).update(failures=0, held_until=None, last_ok_at=now, last_error="")
    return None


def _failed(channel: Channel, delivery: Delivery, error: Undelivered, *, now: datetime) -> None:
    sentence = str(error)[:300]
    tries = delivery.tries + 1
    wait = max(_backoff(tries), error.after or timedelta())
    over = tries > len(BACKOFF)
    Delivery.objects.filter(pk=delivery.pk, state=Delivery.State.WAITING).update(
        state=Delivery.State.FAILED if over else Delivery.State.WAITING,
        next_try_at=now + wait,
        error=sentence,
    )
    held = {"held_until": now + min(wait, HOLD)} if error.down else {}
    Channel.objects.filter(pk=channel.pk).update(failures=F("failures") + 1, last_error=sentence, **held)


def _backoff(tries: int) -> timedelta:
    """After so many tries; never all at the same moment."""
    return BACKOFF[min(tries, len(BACKOFF)) - 1] * random.uniform(1, 1.2)  # noqa: S311


def undelivered() -> QuerySet[Delivery]:
    """Messages that have not arrived: given up, or tried in vain more than once and still waiting."""
    stuck = Q(state=Delivery.State.WAITING, tries__gte=2, channel__enabled=True)
    return Delivery.objects.filter(Q(state=Delivery.State.FAILED) | stuck)
