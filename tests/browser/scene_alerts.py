"""The scene's alerts: three channels, two rules, planned work, and a message that does not arrive."""

from __future__ import annotations

from datetime import datetime, time, timedelta

from deployments.models import Deployment
from panel.accounts.models import User
from panel.alerts import message, webhook
from panel.alerts.models import Channel, Delivery, Rule, Window
from panel.audit import chain
from panel.notices.models import Notice
from panel.notices.notify import acknowledge, raise_notice


def build(
    administrator: User, notice: Notice, ready: Deployment, *, now: datetime
) -> tuple[Channel, Rule, Window, Delivery]:
    mail = Channel.objects.create(
        name="The team", kind="mail", mailbox="rota@example.com", created_at=now - timedelta(days=20),
        last_ok_at=now - timedelta(minutes=4),
    )  # fmt: skip
    mail.people.add(administrator)
    hook = Channel.objects.create(
        name="Paging service", kind="webhook", address="https://events.example.com/in/7f3a", leads_to="events.example.com",
        signing_key=webhook.new_key(), created_at=now - timedelta(days=20), last_ok_at=now - timedelta(days=2), failures=3,
        last_error="It answered 503.", key_changed_at=now - timedelta(days=3),
    )  # fmt: skip
    chat = Channel.objects.create(
        name="Ops room", kind="chat", address="slack://A/B/C", leads_to="Slack", created_at=now
    )
    first = Rule.objects.create(
        name="Everything to the team", severity="warning", created_at=now, quiet_from=time(22), quiet_until=time(7),
        time_zone="Europe/Berlin",
    )  # fmt: skip
    first.channels.set([mail, chat])
    boss = Rule.objects.create(
        name="Page when nobody looks", severity="critical", after_minutes=15, created_at=now, subjects=[str(ready.pk)]
    )  # fmt: skip
    boss.channels.set([hook])
    other = raise_notice(
        "scene:key", "critical", "Vast.ai refused its key", now=now - timedelta(minutes=31),
        detail="Nothing is rented there, and what runs goes on accruing unverified.", url="/accounts/providers/",
    )  # fmt: skip
    acknowledge(other.pk, by=chain.pseudonym_of(administrator), now=now - timedelta(minutes=12))
    window = Window.objects.create(
        starts_at=now - timedelta(minutes=5), ends_at=now + timedelta(hours=2), subjects=[str(ready.pk)],
        reason="New weights for support-assistant", created_by=chain.pseudonym_of(administrator),
    )  # fmt: skip
    Delivery.objects.create(
        notice=notice, channel=mail, rule=first, occasion="raised", severity="warning", created_at=notice.raised_at,
        message=message.of_notice(notice, "raised"), state="sent", tries=1, tried_at=notice.raised_at,
        next_try_at=notice.raised_at, sent_at=notice.raised_at,
    )  # fmt: skip
    lost = Delivery.objects.create(
        notice=other, channel=hook, rule=boss, occasion="escalated", severity="critical", tries=3, error="It answered 503.",
        created_at=now - timedelta(minutes=16), message=message.of_notice(other, "escalated"), tried_at=now,
        next_try_at=now + timedelta(minutes=5),
    )  # fmt: skip
    return hook, first, window, lost
