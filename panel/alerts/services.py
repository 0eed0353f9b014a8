"""The verbs of the Alerts pages: each changes rows and records who did it, in one transaction."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from django.db import transaction

from panel.accounts.models import User
from panel.alerts import message, webhook
from panel.alerts.delivering import ring, undelivered
from panel.alerts.models import Channel, Delivery, Rule, Window
from panel.audit import chain
from panel.notices import notify
from panel.notices.models import Notice

CHANNEL, RULE, WINDOW, DELIVERY = "alert_channel", "alert_rule", "maintenance_window", "alert_delivery"


@dataclass(frozen=True, slots=True)
class ChannelWish:
    """What the form says. An empty `address` keeps the one that is stored."""

    name: str
    kind: str
    people: tuple[User, ...] = ()
    mailbox: str = ""
    address: str = ""
    leads_to: str = ""
    signing_key: str = ""


def acknowledge(notice: Notice, *, actor: User, now: datetime) -> bool:
    """`actor` sees to it. False when it is over or somebody else does."""
    with transaction.atomic():
        done = notify.acknowledge(notice.pk, by=chain.pseudonym_of(actor), now=now)
        if done:
            chain.record("notice.acknowledge", actor=actor, target=notice, after={"key": notice.key}, now=now)
    return done


# -- channels -----------------------------------------------------------------------------------------


def add_channel(wish: ChannelWish, *, actor: User, now: datetime) -> Channel:
    """A webhook without a key of the asker's gets one of ours."""
    key = (wish.signing_key or webhook.new_key()) if wish.kind == Channel.Kind.WEBHOOK else ""
    with transaction.atomic():
        channel = Channel.objects.create(
            name=wish.name, kind=wish.kind, address=wish.address, leads_to=wish.leads_to, signing_key=key,
            mailbox=wish.mailbox, created_at=now,
        )  # fmt: skip
        channel.people.set(wish.people)
        chain.record(f"{CHANNEL}.create", actor=actor, target=channel, after=_of_channel(channel), now=now)
    return channel


def change_channel(channel: Channel, wish: ChannelWish, *, actor: User, now: datetime) -> None:
    with transaction.atomic():
        channel = Channel.objects.select_for_update().get(pk=channel.pk)
        before = _of_channel(channel)
        fields = ["name", "mailbox"]
        channel.name, channel.mailbox = wish.name, wish.mailbox
        if wish.address:
            # Another receiver: what the old one did is no reason to hold back.
            channel.address, channel.leads_to = wish.address, wish.leads_to
            channel.failures, channel.held_until, channel.last_error = 0, None, ""
            fields += ["address", "leads_to", "failures", "held_until", "last_error"]
        channel.save(update_fields=fields)
        channel.people.set(wish.people)
        after = {**_of_channel(channel), "address_changed": bool(wish.address)}
        chain.record(f"{CHANNEL}.change", actor=actor, target=channel, before=before, after=after, now=now)


def renew_key(channel: Channel, *, actor: User, now: datetime) -> str:
    """A new signing key; for 24 hours messages carry the old one's signature too."""
    with transaction.atomic():
        channel = Channel.objects.select_for_update().get(pk=channel.pk)
        key = webhook.new_key()
        Channel.objects.filter(pk=channel.pk).update(
            signing_key=key, old_signing_key=channel.signing_key, key_changed_at=now
        )
        chain.record(f"{CHANNEL}.rotate", actor=actor, target=channel, now=now)
    return key


def switch_channel(channel: Channel, *, on: bool, actor: User, now: datetime) -> None:
    """Switched off, what waits for it is dropped: nobody wants yesterday's alarms when it is on again."""
    with transaction.atomic():
        Channel.objects.filter(pk=channel.pk).update(enabled=on, failures=0, held_until=None, last_error="")
        if not on:
            _drop(Delivery.objects.filter(channel=channel, state=Delivery.State.WAITING))
        verb = "enable" if on else "disable"
        chain.record(f"{CHANNEL}.{verb}", actor=actor, target=channel, now=now)


def delete_channel(channel: Channel, *, actor: User, now: datetime) -> None:
    """With its messages; the audit keeps what it was."""
    with transaction.atomic():
        before = _of_channel(channel)
        chain_target = Channel(pk=channel.pk)
        Channel.objects.filter(pk=channel.pk).delete()
        chain.record(f"{CHANNEL}.delete", actor=actor, target=chain_target, before=before, now=now)


def send_test(channel: Channel, *, actor: User, now: datetime) -> Delivery:
    with transaction.atomic():
        made = Delivery.objects.create(
            channel=channel, occasion=Delivery.Occasion.TEST, severity=Notice.Severity.INFO,
            message=message.of_test(channel.name, now=now), created_at=now, next_try_at=now,
        )  # fmt: skip
        Channel.objects.filter(pk=channel.pk).update(held_until=None)
        transaction.on_commit(partial(ring, channel.pk))
        chain.record(f"{CHANNEL}.test", actor=actor, target=channel, now=now)
    return made


def _of_channel(channel: Channel) -> dict[str, Any]:
    """For the audit: no address of a person, no token. A webhook's host is neither."""
    people = channel.people.count() + bool(channel.mailbox)
    return {
        "name": channel.name,
        "kind": channel.kind,
        "enabled": channel.enabled,
        "leads_to": channel.leads_to,
        "recipients": people,
    }


# -- rules and windows --------------------------------------------------------------------------------

RULE_FIELDS = (
    "name", "enabled", "severity", "subjects", "after_minutes", "tells_end", "quiet_from", "quiet_until", "time_zone",
    "critical_passes",
)  # fmt: skip


def save_rule(
    rule: Rule, values: dict[str, Any], channels: Iterable[Channel], *, actor: User, now: datetime
) -> Rule:
    """A new rule, or a changed one."""
    with transaction.atomic():
        new = rule.pk is None
        before = None if new else _of_rule(Rule.objects.get(pk=rule.pk))
        for name in RULE_FIELDS:
            setattr(rule, name, values[name])
        if new:
            rule.created_at = now
        rule.save()
        rule.channels.set(channels)
        verb = "create" if new else "change"
        chain.record(f"{RULE}.{verb}", actor=actor, target=rule, before=before, after=_of_rule(rule), now=now)
    return rule


def delete_rule(rule: Rule, *, actor: User, now: datetime) -> None:
    with transaction.atomic():
        before, target = _of_rule(rule), Rule(pk=rule.pk)
        Rule.objects.filter(pk=rule.pk).delete()
        chain.record(f"{RULE}.delete", actor=actor, target=target, before=before, now=now)


def _of_rule(rule: Rule) -> dict[str, Any]:
    channels = list(rule.channels.order_by("pk").values_list("pk", flat=True))
    return {**{name: getattr(rule, name) for name in RULE_FIELDS}, "channels": channels}


def add_window(
    starts_at: datetime, ends_at: datetime, subjects: list[str], reason: str, *, actor: User, now: datetime
) -> Window:
    with transaction.atomic():
        window = Window.objects.create(
            starts_at=starts_at, ends_at=ends_at, subjects=subjects, reason=reason,
            created_by=chain.pseudonym_of(actor),
        )  # fmt: skip
        chain.record(
            f"{WINDOW}.create", actor=actor, target=window, reason=reason, now=now,
            after={"starts_at": starts_at, "ends_at": ends_at, "subjects": subjects},
        )  # fmt: skip
    return window


def end_window(window: Window, *, actor: User, now: datetime) -> None:
    """Now, or before it began. What it held back is told if it is still open."""
    with transaction.atomic():
        ended = Window.objects.filter(pk=window.pk, ends_at__gt=now).update(ends_at=now)
        if ended:
            chain.record(f"{WINDOW}.end", actor=actor, target=window, now=now)


# -- messages -----------------------------------------------------------------------------------------


def retry(delivery: Delivery, *, actor: User, now: datetime) -> bool:
    """Send it again from the first try on. False when it has arrived or was dropped."""
    with transaction.atomic():
        lost = Delivery.objects.filter(
            pk=delivery.pk, state__in=[Delivery.State.WAITING, Delivery.State.FAILED]
        )
        done = bool(lost.update(state=Delivery.State.WAITING, tries=0, next_try_at=now, error=""))
        if done:
            Channel.objects.filter(pk=delivery.channel_id).update(held_until=None)
            transaction.on_commit(partial(ring, delivery.channel_id))
            chain.record(f"{DELIVERY}.retry", actor=actor, target=delivery, now=now)
    return done


def drop_undelivered(*, actor: User, now: datetime) -> int:
    """Give up on every message that does not arrive; how many."""
    with transaction.atomic():
        count = _drop(undelivered())
        if count:
            chain.record(f"{DELIVERY}.drop", actor=actor, after={"messages": count}, now=now)
    return count


def _drop(deliveries: Any) -> int:
    keys = list(deliveries.values_list("pk", flat=True))
    return int(Delivery.objects.filter(pk__in=keys).update(state=Delivery.State.DROPPED))
