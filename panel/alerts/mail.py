"""Alerts by e-mail, through Django's mailer. Recipients do not see each other."""

from __future__ import annotations

import smtplib
from datetime import datetime

from django.conf import settings
from django.core.mail import EmailMessage, InvalidMailer

from panel.alerts import message
from panel.alerts.failure import Undelivered
from panel.alerts.models import Channel, Delivery

_DOMAIN = "alerts.regia.invalid"


def send(channel: Channel, delivery: Delivery, *, now: datetime) -> None:
    """Mail it to the channel's people who may sign in and to its mailbox. Raises Undelivered."""
    if not settings.MAIL_CONFIGURED:
        raise Undelivered("No mail server is set up (REGIA_EMAIL_BACKEND).", down=True)
    to = recipients(channel)
    if not to:
        raise Undelivered("Nobody is left who would get it: its people cannot sign in any more.")
    try:
        sent = _mail(delivery, to).send()
    except smtplib.SMTPResponseException as e:
        raise Undelivered(f"The mail server answered {e.smtp_code}.", down=True) from None
    except smtplib.SMTPRecipientsRefused:
        raise Undelivered("The mail server takes mail for none of its addresses.") from None
    except (OSError, smtplib.SMTPException, InvalidMailer) as e:
        raise Undelivered(f"The mail server was not reached ({type(e).__name__}).", down=True) from None
    if not sent:
        raise Undelivered("The mail server did not take it.")


def recipients(channel: Channel) -> list[str]:
    people = channel.people.filter(is_active=True).order_by("email").values_list("email", flat=True)
    return list(dict.fromkeys([*people, *([channel.mailbox] if channel.mailbox else [])]))


def _mail(delivery: Delivery, to: list[str]) -> EmailMessage:
    values = delivery.message
    headers = {
        # The same in every try, so that what arrives twice is recognised.
        "Message-ID": f"<{delivery.message_id.hex}@{_DOMAIN}>",
        "Auto-Submitted": "auto-generated",
    }
    if delivery.notice_id:
        # One thread for each notice; the first message of it need not be known.
        headers["References"] = f"<notice-{delivery.notice_id}@{_DOMAIN}>"
    one = to if len(to) == 1 else []
    return EmailMessage(
        message.subject_of(values), message.text_of(values), to=one, bcc=[] if one else to, headers=headers
    )
