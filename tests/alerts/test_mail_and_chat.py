"""By mail through Django and to chat services through Apprise, in its own guarded process."""

from __future__ import annotations

import json
import signal
import socket
import socketserver
import threading
from pathlib import Path
from typing import ClassVar

import pytest
from django.core.mail import EmailMessage

from panel.accounts.models import User
from panel.alerts import chat, chat_processes, delivering, mail
from panel.alerts.failure import Undelivered
from panel.alerts.models import Delivery
from tests import factories
from tests.alerts import made
from tests.conftest import NOW

pytestmark = pytest.mark.django_db


@pytest.fixture
def mailing(settings):
    settings.MAIL_CONFIGURED = True
    settings.MAILERS = {"default": {"BACKEND": "django.core.mail.backends.locmem.EmailBackend"}}


def team(*people: User, mailbox: str = ""):
    found = made.channel("team", kind="mail", address="", signing_key="", mailbox=mailbox)
    found.people.set(people)
    return found


def test_a_mail_goes_to_its_people_who_do_not_see_each_other(mailing, mailoutbox):
    ada, bob = factories.operator(), factories.operator()
    channel = team(ada, bob, mailbox="rota@example.com")
    made.waiting(channel, notice=made.notice())
    assert delivering.send(channel.pk, clock=lambda: NOW) == 1
    sent: EmailMessage = mailoutbox[0]
    assert sorted(sent.recipients()) == sorted([ada.email, bob.email, "rota@example.com"])
    assert ada.email not in str(sent.message())
    assert sent.subject == "[Regia critical] chat is down"
    assert sent.message()["Auto-Submitted"] == "auto-generated"
    assert Delivery.objects.get().message_id.hex in sent.message()["Message-ID"]


def test_who_is_let_go_gets_nothing_more(mailing, mailoutbox):
    ada = factories.operator()
    channel = team(ada)
    User.objects.filter(pk=ada.pk).update(is_active=False)
    with pytest.raises(Undelivered, match="Nobody is left"):
        mail.send(channel, made.waiting(channel), now=NOW)
    assert mailoutbox == []


def test_without_a_mail_server_it_says_what_is_missing(settings):
    settings.MAIL_CONFIGURED = False
    channel = team(factories.operator())
    with pytest.raises(Undelivered, match="REGIA_EMAIL_BACKEND"):
        mail.send(channel, made.waiting(channel), now=NOW)


def test_a_mail_server_that_is_down_is_told_without_its_address(settings):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    settings.MAIL_CONFIGURED = True
    settings.MAILERS = {
        "default": {
            "BACKEND": "django.core.mail.backends.smtp.EmailBackend",
            "OPTIONS": {"host": "127.0.0.1", "port": port, "timeout": 5},
        }
    }
    channel = team(factories.operator())
    with pytest.raises(Undelivered) as failed:
        mail.send(channel, made.waiting(channel), now=NOW)
    assert (str(failed.value), failed.value.down) == (
        "The mail server was not reached (ConnectionRefusedError).", True,
    )  # fmt: skip


class Mailbox(socketserver.StreamRequestHandler):
    """As much of a mail server as a client asks for. It takes mail for example.com alone."""

    got: ClassVar[list[bytes]] = []

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        while line := self.rfile.readline():
            verb = line[:4].upper()
            if verb == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                lines = []
                while (line := self.rfile.readline()) != b".\r\n":
                    lines.append(line)
                self.got.append(b"".join(lines))
            refused = verb == b"RCPT" and b"@example.com" not in line
            self.wfile.write(b"550 not here\r\n" if refused else b"250 well\r\n")
            if verb == b"QUIT":
                return


def test_a_real_mail_server_takes_it_or_says_why_not(settings):
    settings.MAIL_CONFIGURED = True
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mailbox) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        options = {"host": "127.0.0.1", "port": server.server_address[1], "timeout": 5}
        backend = "django.core.mail.backends.smtp.EmailBackend"
        settings.MAILERS = {"default": {"BACKEND": backend, "OPTIONS": options}}
        channel = team(mailbox="rota@example.com")
        mail.send(channel, made.waiting(channel), now=NOW)
        assert b"Subject: [Regia critical] chat is down" in Mailbox.got.pop()
        channel.mailbox = "rota@elsewhere.example.net"
        with pytest.raises(Undelivered, match="takes mail for none of its addresses"):
            mail.send(channel, made.waiting(channel), now=NOW)
        server.shutdown()


# -- chat: starting its process takes a second ---------------------------------------------------------


def room(receiver: made.Receiver):
    """A Mattermost room at the receiver."""
    port = receiver.url.split(":")[2].split("/")[0]
    return made.channel(
        "room", kind="chat", address=f"mmost://127.0.0.1:{port}/a-token-of-the-room", signing_key=""
    )


def test_a_message_arrives_in_the_room(settings):
    settings.ALERTS_ALLOW_PRIVATE = True
    with made.receiver() as receiver:
        receiver.statuses = [200]
        channel = room(receiver)
        made.waiting(channel)
        assert delivering.send(channel.pk, clock=lambda: NOW) == 1
    assert receiver.paths == ["/hooks/a-token-of-the-room"]
    text = json.loads(receiver.got[0][1])["text"]
    assert "chat is down" in text
    assert "Since 24 Nov 2026" in text


def test_neither_a_private_room_nor_a_redirect_is_followed(settings):
    settings.ALERTS_ALLOW_PRIVATE = False
    with made.receiver() as receiver, made.receiver() as elsewhere:
        channel = room(receiver)
        made.waiting(channel)
        assert delivering.send(channel.pk, clock=lambda: NOW) == 0
        assert receiver.got == []
        settings.ALERTS_ALLOW_PRIVATE = True
        receiver.statuses, receiver.headers = [307], {"Location": elsewhere.url}
        with pytest.raises(Undelivered) as failed:
            chat.send(channel, Delivery.objects.get(), now=NOW)
        assert (len(receiver.got), elsewhere.got) == (1, [])
    assert "private network" in Delivery.objects.get().error
    assert str(failed.value) == "Mattermost answered 307."
    assert "a-token" not in Delivery.objects.get().error + str(failed.value)


def test_one_process_sends_many_messages_and_is_ended_when_it_has_none(settings):
    settings.ALERTS_ALLOW_PRIVATE = True
    with made.receiver() as receiver:
        receiver.statuses = [200]
        channel = room(receiver)
        delivery = made.waiting(channel)
        chat.send(channel, delivery, now=NOW)
        (child,) = chat_processes._idle
        chat.send(channel, delivery, now=NOW)
        assert chat_processes._idle == [child], "the same sends the next"
        command = Path(f"/proc/{child.process.pid}/cmdline").read_bytes()
        surroundings = Path(f"/proc/{child.process.pid}/environ").read_bytes()
        assert b"a-token" not in command + surroundings
        assert b"REGIA" not in surroundings
        chat_processes.end_idle(since=chat_processes.KEPT)
        assert child.process.poll() is None, "its minute is not over"
        # One that died is replaced, and one that hangs is ended: neither costs the next message.
        child.process.kill()
        child.process.wait()
        chat.send(channel, delivery, now=NOW)
    assert len(receiver.got) == 3
    (second,) = chat_processes._idle
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat_processes, "TIMEOUT", 0.05)
        second.process.send_signal(signal.SIGSTOP)
        with pytest.raises(Undelivered, match="did not answer within"):
            chat.send(channel, delivery, now=NOW)
    assert (chat_processes._idle, second.process.poll()) == ([], -signal.SIGKILL)
    assert not Path(second.home).exists()


def test_an_address_is_understood_before_it_is_stored():
    found = chat.check_address("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/", private=False)
    assert found == "Slack"
    with pytest.raises(chat.BadAddress, match="does not understand") as refused:
        chat.check_address("tgram://not-a-bots-token/", private=False)
    assert "not-a-bots" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("syslog://", "none of the chat services"),
        ("json://127.0.0.1/", "none of the chat services"),
        ("mmost://chat.example.com/token", "Write mmosts"),
        ("msteams://a/b/c/?template=/etc/passwd", "none of the chat services"),
        ("slack://A/B/C/?TEMPLATE=/etc/passwd", "template is not allowed"),
        ("mmosts://chat.example.com/token?verify=no", "verify is not allowed"),
        ("slack://[", "cannot be read"),
        ("", "none of the chat services"),
    ],
)
def test_addresses_that_read_files_or_go_in_the_clear_are_refused(url, sentence):
    with pytest.raises(chat.BadAddress, match=sentence):
        chat.check_address(url, private=False)
