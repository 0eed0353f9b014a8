"""Messages arrive at a real receiver, signed, at least once, in order; and nowhere they must not go."""

from __future__ import annotations

import json
import os
import signal
import socket
from contextlib import suppress
from datetime import timedelta
from queue import SimpleQueue

import pytest
from django.db import connections
from django.utils import timezone
from standardwebhooks import Webhook, WebhookVerificationError

from panel.alerts import delivering, webhook
from panel.alerts.models import Channel, Delivery
from panel.outbound import Refused
from tests.alerts import made

pytestmark = pytest.mark.django_db


@pytest.fixture
def receiver(settings):
    settings.ALERTS_ALLOW_PRIVATE = True
    with made.receiver() as found:
        yield found


class Clock:
    def __init__(self, now):
        self.now = now

    def __call__(self):
        return self.now

    def forward(self, **span):
        self.now += timedelta(**span)


@pytest.fixture
def clock():
    # A receiver's library refuses what is signed at another time than its own clock's.
    return Clock(timezone.now())


def send(channel: Channel, clock) -> int:
    return delivering.send(channel.pk, clock=clock)


def test_it_arrives_with_a_signature_that_a_receivers_library_accepts(receiver, clock, settings):
    settings.PUBLIC_URL = "https://panel.example.com"
    hook = made.channel(url=receiver.url)
    delivery = made.waiting(hook, now=clock())
    assert send(hook, clock) == 1
    ((headers, body),) = receiver.got
    told = Webhook(made.KEY).verify(body, headers)
    assert (told["type"], told["data"]["title"]) == ("notice.raised", "chat is down")
    assert told["data"]["link"] == "https://panel.example.com/deployments/"
    assert headers["webhook-id"] == f"msg_{delivery.message_id.hex}"
    with pytest.raises(WebhookVerificationError):
        Webhook(made.KEY).verify(body.replace(b"chat", b"cash"), headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(webhook.new_key()).verify(body, headers)
    delivery.refresh_from_db()
    hook.refresh_from_db()
    assert (delivery.state, delivery.tries, delivery.sent_at) == ("sent", 1, clock())
    assert (hook.last_ok_at, hook.lease) == (clock(), None)
    assert send(hook, clock) == 0


def test_what_fails_is_tried_again_later_under_the_same_id(receiver, clock):
    receiver.statuses = [500, 503, 204]
    hook = made.channel(url=receiver.url)
    delivery = made.waiting(hook, now=clock())
    assert send(hook, clock) == 0
    delivery.refresh_from_db()
    assert (delivery.state, delivery.error) == ("waiting", "It answered 500.")
    assert timedelta(seconds=5) <= delivery.next_try_at - clock() <= timedelta(seconds=6)
    assert send(hook, clock) == 0
    assert len(receiver.got) == 1, "not before its time"
    clock.forward(seconds=7)
    assert send(hook, clock) == 0
    clock.forward(seconds=19)
    assert send(hook, clock) == 1
    assert len(set(receiver.ids)) == 1
    assert len({body for _, body in receiver.got}) == 1
    delivery.refresh_from_db()
    assert (delivery.state, delivery.tries, delivery.error) == ("sent", 3, "")


def test_it_is_given_up_in_the_end_and_the_header_of_every_page_says_so(receiver, clock, client):
    from tests import factories

    receiver.statuses = [500]
    hook = made.channel(url=receiver.url)
    delivery = made.waiting(hook, now=clock())
    for _ in range(len(delivering.BACKOFF) + 1):
        send(hook, clock)
        clock.forward(hours=10)
    delivery.refresh_from_db()
    assert (delivery.state, delivery.tries) == ("failed", len(delivering.BACKOFF) + 1)
    assert send(hook, clock) == 0
    client.force_login(factories.viewer())
    assert "1 alert could not be delivered." in client.get("/spend/").text
    Delivery.objects.update(state="dropped")
    assert "could not be delivered" not in client.get("/spend/").text


def test_a_receiver_may_ask_to_be_left_alone(receiver, clock):
    receiver.statuses, receiver.headers = [429], {"Retry-After": "120"}
    hook = made.channel(url=receiver.url)
    delivery = made.waiting(hook, now=clock())
    send(hook, clock)
    delivery.refresh_from_db()
    assert delivery.next_try_at - clock() == timedelta(seconds=120)


def test_a_receiver_that_is_down_holds_its_channel_and_no_other(receiver, clock):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{s.getsockname()[1]}/"
    down, up = made.channel("down", url=nobody), made.channel("up", url=receiver.url)
    for _ in range(3):
        made.waiting(down, now=clock())
        made.waiting(up, now=clock())
    send(down, clock)
    assert sorted(Delivery.objects.filter(channel=down).values_list("tries", flat=True)) == [0, 0, 1]
    down.refresh_from_db()
    assert (down.last_error, down.failures) == ("It cannot be connected to.", 1)
    assert list(delivering.due(now=clock())) == [up]
    assert send(up, clock) == 3
    clock.forward(seconds=7)
    assert list(delivering.due(now=clock())) == [down]


def test_a_refused_message_does_not_stop_the_next(receiver, clock):
    receiver.statuses = [400, 204]
    hook = made.channel(url=receiver.url)
    for _ in range(2):
        made.waiting(hook, now=clock())
    assert send(hook, clock) == 1
    assert sorted(Delivery.objects.values_list("state", flat=True)) == ["sent", "waiting"]


def test_the_end_of_a_notice_is_never_told_before_its_beginning(receiver, clock):
    receiver.statuses = [400, 204]
    hook, notice = made.channel(url=receiver.url), made.notice()
    began = made.waiting(hook, notice=notice, now=clock())
    ended = made.waiting(hook, notice=notice, now=clock(), occasion="resolved")
    other = made.waiting(hook, now=clock())
    assert send(hook, clock) == 1
    clock.forward(seconds=7)
    assert send(hook, clock) == 2
    order = [f"msg_{d.message_id.hex}" for d in (began, other, began, ended)]
    assert receiver.ids == order


def test_killed_after_sending_it_is_sent_again_under_the_same_id(receiver, clock, monkeypatch):
    hook = made.channel(url=receiver.url)
    made.waiting(hook, now=clock())

    def killed(*args, **kwargs):
        webhook.send(*args, **kwargs)
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setitem(delivering.SENDERS, "webhook", killed)
        with pytest.raises(SystemExit):
            send(hook, clock)
    assert Delivery.objects.get().state == "waiting"
    Channel.objects.update(lease=made.uuid.uuid4(), lease_until=clock() + delivering.LEASE)
    assert send(hook, clock) == 0, "the dead task's lease still holds"
    clock.forward(seconds=delivering.LEASE.seconds + 1)
    assert send(hook, clock) == 1
    assert receiver.ids == [receiver.ids[0]] * 2
    assert Delivery.objects.get().tries == 2


@pytest.mark.django_db(transaction=True)
def test_its_process_is_killed_dead_between_sending_and_noting(receiver, clock, rung):
    """A process of its own and a real SIGKILL, at the moment when the receiver has it and nobody has noted it."""
    hook = made.channel(url=receiver.url)
    made.rule(hook)
    made.notice(now=clock())
    delivering.tick(clock=clock)
    started: SimpleQueue[int] = SimpleQueue()
    receiver.then = lambda: os.kill(started.get(timeout=10), signal.SIGKILL)
    connections.close_all()
    pid = os.fork()
    if pid == 0:
        with suppress(BaseException):
            send(hook, clock)
        os._exit(0)
    started.put(pid)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    receiver.then = lambda: None
    delivery = Delivery.objects.get()
    assert (delivery.state, delivery.tries, len(receiver.got)) == ("waiting", 1, 1)
    # The worker is started again. The dead one's claim runs out, the clock rings, and it is sent once more.
    delivering.tick(clock=clock)
    assert rung == [(delivering.SEND, (hook.pk,))], "not while the dead one may still be at it"
    clock.forward(seconds=delivering.LEASE.seconds + 1)
    delivering.tick(clock=clock)
    assert rung == [(delivering.SEND, (hook.pk,))] * 2
    assert send(hook, clock) == 1
    (first, body), (second, again) = receiver.got
    assert (first["webhook-id"], body) == (second["webhook-id"], again), (
        "by which its receiver drops the repeat"
    )
    assert Webhook(made.KEY).verify(again, second)
    delivering.tick(clock=clock)
    assert send(hook, clock) == 0
    assert Delivery.objects.get().state == "sent"


def test_two_tasks_do_not_send_for_one_channel_at_once(receiver, clock):
    hook = made.channel(url=receiver.url)
    made.waiting(hook, now=clock())
    Channel.objects.update(lease=made.uuid.uuid4(), lease_until=clock() + timedelta(seconds=60))
    assert list(delivering.due(now=clock())) == []
    assert send(hook, clock) == 0
    # A clock that was a year ahead when the lease was taken does not hold it for a year.
    Channel.objects.update(lease_until=clock() + timedelta(days=365))
    assert send(hook, clock) == 1


def test_a_fault_of_ours_is_a_failure_like_another_and_shows_no_secret(receiver, clock, caplog):
    hook = made.channel(url=receiver.url, signing_key="")
    made.waiting(hook, now=clock())
    send(hook, clock)
    delivery = Delivery.objects.get()
    assert (delivery.state, delivery.tries) == ("waiting", 1)
    assert (receiver.got, "could not be sent" in caplog.text) == ([], True)
    for text in (delivery.error, caplog.text):
        assert "in-the-address" not in text


def test_after_a_key_was_changed_both_verify_for_a_day(receiver, clock):
    new = webhook.new_key()
    hook = made.channel(url=receiver.url, signing_key=new, old_signing_key=made.KEY, key_changed_at=clock())
    made.waiting(hook, now=clock())
    send(hook, clock)
    ((headers, body),) = receiver.got
    for key in (new, made.KEY):
        Webhook(key).verify(body, headers)
    clock.forward(hours=25)
    assert " " not in made.signed(hook, Delivery.objects.get(), now=clock())["webhook-signature"]


# -- where it must not go -----------------------------------------------------------------------------


def test_a_redirect_is_not_followed(receiver, clock):
    with made.receiver() as elsewhere:
        receiver.statuses, receiver.headers = [307], {"Location": elsewhere.url}
        hook = made.channel(url=receiver.url)
        made.waiting(hook, now=clock())
        assert send(hook, clock) == 0
        assert (len(receiver.got), elsewhere.got) == (1, [])
    assert Delivery.objects.get().error == "It answered 307, a redirect: those are not followed."


def test_a_private_receiver_gets_nothing_unless_it_is_allowed(receiver, clock, settings):
    settings.ALERTS_ALLOW_PRIVATE = False
    address = receiver.url.replace("http://", "https://")
    for n, url in enumerate((receiver.url, address, address.replace("127.0.0.1", "localhost"))):
        hook = made.channel(f"hook {n}", url=url)
        made.waiting(hook, now=clock())
        assert send(hook, clock) == 0
        delivery = hook.deliveries.get()
        assert "private network" in delivery.error or "not encrypted" in delivery.error
        assert "127.0.0.1" not in delivery.error
    assert receiver.got == []


@pytest.mark.parametrize(
    "url",
    [
        "http://alerts.example.com/", "ftp://alerts.example.com/", "https://", "https://user:word@alerts.example.com/",
        "https://127.0.0.1/", "https://[::1]/", "https://10.0.0.1/", "https://169.254.169.254/latest/meta-data/",
        "https://[::ffff:169.254.169.254]/", "https://[64:ff9b::a00:1]/", "https://2130706433/", "https://0/",
        "https://１２７.0.0.1/", "https://alerts.example.com:99999/", "https://alerts.example.com/a b",
    ],
)  # fmt: skip
def test_addresses_that_are_refused(url):
    with pytest.raises(Refused) as refused:
        webhook.check_address(url, private=False)
    assert "example" not in str(refused.value)


@pytest.mark.parametrize("url", ["https://169.254.169.254/", "https://[fe80::1]/", "https://224.0.0.1/"])
def test_not_even_with_the_setting_does_it_ask_a_clouds_metadata(url):
    with pytest.raises(Refused):
        webhook.check_address(url, private=True)
    assert webhook.check_address("http://10.0.0.1:9000/in", private=True) == "10.0.0.1"
    assert webhook.check_address("https://alerts.example.com/in", private=False) == "alerts.example.com"


@pytest.mark.parametrize("text", ["whsec_", "whsec_c2hvcnQ=", "not base64!", "whsec_" + "A" * 200])
def test_a_signing_key_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="signing key"):
        webhook.check_key(text)
    assert webhook.check_key(webhook.new_key()).startswith("whsec_")


# -- the rest -----------------------------------------------------------------------------------------


def test_one_round_writes_and_rings_and_a_worker_sends(receiver, clock, rung):
    hook = made.channel(url=receiver.url)
    made.rule(hook)
    made.notice(now=clock())
    delivering.tick(clock=clock)
    assert rung == [(delivering.SEND, (hook.pk,))]
    send(hook, clock)
    assert json.loads(receiver.got[0][1])["type"] == "notice.raised"
    delivering.tick(clock=clock)
    assert len(rung) == 1, "nothing is left to send"
