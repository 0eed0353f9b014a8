"""A machine's own certificate: what is ordered with it, and that nothing else is trusted in its place."""

from __future__ import annotations

import asyncio
import base64
import importlib
import ssl
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from cryptography.x509.oid import NameOID
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from deployments import certificates, observe
from deployments.models import Deployment, Instance
from deployments.monitoring import connection, probe
from deployments.playground import upstream
from deployments.providers import runpod_orders, vast_order
from deployments.providers.base import Machine as ListedMachine
from deployments.providers.base import MachineStatus
from tests import factories
from tests.deployments.door import BIRTH, Door, fresh, machine, opened, ordered, server_context
from tests.playground import sse

pytestmark = pytest.mark.usefixtures("on_this_computer")
IMAGE = Path(__file__).resolve().parents[2] / "inference_image"
MACHINE = uuid4()
PAIR = certificates.make(MACHINE, now=timezone.now())
PIN = certificates.Pin(PAIR.certificate, certificates.name_of(MACHINE))


@pytest.fixture
def door(tmp_path: Path):
    with opened(server_context(tmp_path, PAIR)) as running:
        yield running


# -- what is made, and what the machine is told of it


def test_it_is_a_p256_certificate_of_one_machine_and_no_authority() -> None:
    made = x509.load_pem_x509_certificate(PAIR.certificate.encode())
    key = load_der_private_key(base64.b64decode(PAIR.key), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert (key.curve.name, key.public_key()) == ("secp256r1", made.public_key())
    made.verify_directly_issued_by(made)
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [f"{MACHINE.hex}.machine.invalid"]
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    left = made.not_valid_after_utc - timezone.now()
    assert timedelta(days=1820) < left < timedelta(days=1830)
    assert certificates.make(MACHINE, now=timezone.now()).key != PAIR.key


def test_no_value_is_longer_than_vast_takes() -> None:
    told = certificates.environment(PAIR.key, PAIR.certificate)
    assert len(told["REGIA_TLS_KEY"]) == 184
    assert [n for n in told if n.startswith("REGIA_TLS_CERT_")] == [f"REGIA_TLS_CERT_{n}" for n in (1, 2, 3)]
    assert max(map(len, told.values())) <= vast_order.LONGEST_VALUE


def test_a_certificate_that_is_too_long_is_never_cut() -> None:
    with pytest.raises(ValueError, match="longer"):
        certificates.environment(PAIR.key, "x" * 1025)


def test_neither_key_shows_itself() -> None:
    assert PAIR.key not in repr(PAIR)


def test_a_context_is_made_once_for_each_certificate() -> None:
    assert PIN.context is certificates.Pin(PIN.certificate, "another.machine.invalid").context
    other = certificates.make(uuid4(), now=timezone.now())
    assert certificates.Pin(other.certificate, "x").context is not PIN.context


@pytest.mark.django_db
@pytest.mark.parametrize("was", [True, False])
def test_its_address_speaks_tls_as_it_was_ordered_whatever_the_setting_says_today(
    settings, was: bool
) -> None:
    settings.INFERENCE_IMAGE_TLS = was
    made, _ = ordered("vast")
    settings.INFERENCE_IMAGE_TLS = not was
    listed = ListedMachine(
        "1", made.label, MachineStatus.RUNNING, endpoint_url="https://192.0.2.1:9", own_door=True
    )
    assert observe._facts(made, listed, [])["endpoint_url"] == f"http{'s' if was else ''}://192.0.2.1:9"
    proxied = replace(listed, own_door=False)
    assert observe._facts(made, proxied, [])["endpoint_url"] == "https://192.0.2.1:9"
    nowhere = replace(listed, endpoint_url=None)
    assert observe._facts(made, nowhere, [])["endpoint_url"] == ""


@pytest.mark.django_db
def test_a_machine_on_a_raw_port_gets_a_certificate_and_vast_takes_the_order() -> None:
    made, order = ordered("vast")
    told = order.container_environment()
    assert made.pin == certificates.Pin(made.tls_certificate, certificates.name_of(made.pk))
    assert (told["REGIA_DOOR"], told["REGIA_TLS_KEY"]) == ("tls", made.tls_key)
    assert told["REGIA_LEASE_SECONDS"] == "7200"
    assert told["REGIA_REASONING_PARSER"] == "qwen3"
    assert vast_order.environment(order).items() > told.items()
    assert max(map(len, told.values())) <= vast_order.LONGEST_VALUE
    assert len(told) < runpod_orders.MOST_VARIABLES - 10


@pytest.mark.django_db
def test_the_image_reads_what_is_ordered(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(IMAGE))
    environment = importlib.import_module("regia_machine.environment")
    made, order = ordered("vast")
    read = environment.read(order.container_environment())
    assert read.tls.certificate_pem.split() == made.tls_certificate.split()
    assert (read.api_key, read.lease_seconds) == (made.api_key, 7200)
    assert (read.model, read.revision, read.served_name) == (
        order.repository,
        order.revision,
        order.served_name,
    )


@pytest.mark.django_db
def test_where_a_proxy_ends_tls_the_door_is_plain_behind_it() -> None:
    made, order = ordered("runpod", key="secure:EU-CZ-1:NVIDIA L4")
    assert (made.tls_key, made.pin) == ("", None)
    assert order.environment["REGIA_DOOR"] == "plain"
    assert order.environment["REGIA_LEASE_SECONDS"] == "7200"


@pytest.mark.django_db
def test_without_tls_in_the_image_or_a_lease_it_is_told_so(settings) -> None:
    settings.INFERENCE_IMAGE_TLS, settings.INFERENCE_LEASE_SECONDS = False, 0
    made, order = ordered("vast")
    assert (made.pin, made.lease_seconds) == (None, 0)
    assert (order.environment["REGIA_DOOR"], order.environment["REGIA_LEASE_SECONDS"]) == ("plain", "0")


@pytest.mark.django_db
@pytest.mark.parametrize(("backend", "other"), [("runpod", "serverless"), ("local", "own_machine")])
def test_what_does_not_run_our_image_is_told_nothing_of_it(backend: str, other: str) -> None:
    made, order = ordered(backend, **{other: True})
    assert (made.pin, made.lease_seconds, dict(order.environment)) == (None, 0, {})


@pytest.mark.django_db
def test_the_keys_stand_in_the_database_only_encrypted() -> None:
    from django.db import connection as database

    made, _ = ordered("vast")
    with database.cursor() as cursor:
        cursor.execute("SELECT tls_key, birth_key, next_key FROM deployments_instance")
        [(key, *unused)] = cursor.fetchall()
    assert key.startswith("gAAAA")
    assert made.tls_key not in key
    assert unused == ["", ""]


# -- what is trusted


def probed(door: Door, pin: certificates.Pin | None, **fields) -> probe.Result:
    target = connection.Target(door.url, BIRTH, False, True, pin)
    [result] = asyncio.run(connection.ask_all([replace(target, **fields)], probe.probe))
    return result


def signed_by_an_authority(folder: Path, name: str) -> ssl.SSLContext:
    """A certificate with the right name, and a chain to an authority that anybody could have."""
    now, keys = timezone.now(), [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "An authority")])

    def built(subject: x509.Name, key, *extensions) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
        )
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(keys[0], hashes.SHA256())

    root = built(issuer, keys[0], x509.BasicConstraints(ca=True, path_length=None))
    names = x509.SubjectAlternativeName([x509.DNSName(name)])
    leaf = built(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), keys[1], names)
    path = folder / "chain.pem"
    secret = keys[1].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(secret + leaf.public_bytes(Encoding.PEM) + root.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


def test_the_machine_with_its_own_certificate_is_connected_to(door: Door) -> None:
    assert probed(door, PIN) == probe.Result(ok=True, seen=True, detail="")


def test_another_machines_certificate_is_refused(door: Door) -> None:
    other = certificates.make(MACHINE, now=timezone.now())
    result = probed(door, certificates.Pin(other.certificate, PIN.name))
    assert "another certificate than this machine was given" in result.detail
    assert (result.ok, result.seen, door.asked) == (False, False, 0)


def test_the_right_certificate_under_another_name_is_refused(door: Door) -> None:
    result = probed(door, certificates.Pin(PIN.certificate, certificates.name_of(uuid4())))
    assert "another machine's name" in result.detail
    assert door.asked == 0


def test_a_certificate_of_an_authority_is_refused_even_with_the_right_name(tmp_path: Path) -> None:
    with opened(signed_by_an_authority(tmp_path, PIN.name)) as door:
        assert "a certificate of an authority" in probed(door, PIN).detail
        assert door.asked == 0


def test_a_certificate_that_the_machines_own_key_signed_for_another_name_is_refused(tmp_path: Path) -> None:
    """Whoever broke into the machine has its key: it signs for nobody else."""
    stolen = load_der_private_key(base64.b64decode(PAIR.key), password=None)
    own = x509.load_pem_x509_certificate(PAIR.certificate.encode())
    key, victim = ec.generate_private_key(ec.SECP256R1()), certificates.name_of(uuid4())
    forged = (
        x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(own.subject).public_key(key.public_key())
        .serial_number(7).not_valid_before(own.not_valid_before_utc).not_valid_after(own.not_valid_after_utc)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(victim)]), critical=True).sign(stolen, hashes.SHA256())
    )  # fmt: skip
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    chain = forged.public_bytes(Encoding.PEM).decode() + PAIR.certificate
    pair = certificates.Pair(base64.b64encode(der).decode(), chain)
    with opened(server_context(tmp_path, pair)) as door:
        assert not probed(door, certificates.Pin(PIN.certificate, victim)).ok
        assert door.asked == 0


def test_an_expired_certificate_is_refused_and_says_so(tmp_path: Path) -> None:
    old = certificates.make(MACHINE, now=timezone.now() - timedelta(days=6 * 365))
    with opened(server_context(tmp_path, old)) as door:
        assert "has expired" in probed(door, certificates.Pin(old.certificate, PIN.name)).detail


def test_without_a_pin_a_machines_own_certificate_is_refused(door: Door) -> None:
    assert "could not be verified" in probed(door, None).detail
    assert door.asked == 0


def test_what_speaks_no_tls_is_told_apart() -> None:
    with opened() as door:
        result = probed(door, PIN, url=door.url.replace("http:", "https:"))
    assert result.detail == "it does not speak TLS"


@pytest.mark.django_db
def test_a_machine_with_a_certificate_is_never_asked_in_the_clear(settings) -> None:
    settings.ALLOW_INSECURE_ENDPOINTS = False
    with opened() as door:
        made = machine(
            door, endpoint_url="http://8.8.8.8:8000", tls_key=PAIR.key, tls_certificate=PAIR.certificate
        )
        Deployment.objects.update(allow_plaintext=True)
        probe.probe_due(clock=timezone.now)
    assert "not encrypted" in fresh(made).probe_detail


@pytest.mark.django_db
def test_a_probe_of_a_row_pins(tmp_path: Path) -> None:
    with opened() as plain:
        made = machine(plain, id=MACHINE, tls_key=PAIR.key, tls_certificate=PAIR.certificate)
    with opened(server_context(tmp_path, PAIR)) as door:
        Instance.objects.update(endpoint_url=door.url)
        probe.probe_due(clock=timezone.now)
        assert (fresh(made).probe_detail, fresh(made).probe_failures) == ("", 0)
        assert fresh(made).probe_ok_at
        other = certificates.make(MACHINE, now=timezone.now())
        Instance.objects.update(tls_certificate=other.certificate, next_probe_at=None)
        probe.probe_due(clock=timezone.now)
    assert "another certificate" in fresh(made).probe_detail


# -- chat


@pytest.mark.asyncio
async def test_a_chat_goes_only_to_the_machine_itself(door: Door) -> None:
    engine = upstream.Engine(door.url, BIRTH, loopback=True, pin=PIN)
    async with upstream.new_session(loopback=True) as session:
        response = await upstream.open_stream(session, engine, {})
        assert (await response.read()).endswith(b"[DONE]\n\n")
        asked = door.asked
        wrong = replace(engine, pin=certificates.Pin(PIN.certificate, "x.machine.invalid"))
        with pytest.raises(upstream.EngineRefused, match="another machine's name"):
            await upstream.open_stream(session, wrong, {})
        with pytest.raises(upstream.EngineRefused, match="could not be verified"):
            await upstream.open_stream(session, replace(engine, pin=None), {})
        plain = replace(engine, url=door.url.replace("https:", "http:"))
        with pytest.raises(upstream.EngineRefused):
            await upstream.open_stream(session, plain, {})
    assert door.asked == asked


@pytest.mark.django_db
def test_the_playground_pins_by_the_row(client: Client, door: Door) -> None:
    made = machine(door, id=MACHINE, tls_key=PAIR.key, tls_certificate=PAIR.certificate)
    client.force_login(factories.operator())
    address = reverse("chat_stream", args=[made.deployment_id])
    hello = {"messages": [{"role": "user", "content": "Hello"}]}
    answer = sse.read(client.post(address, hello, content_type="application/json").content)
    assert (answer.text, answer.error) == ("www", "")
    Instance.objects.update(tls_certificate=certificates.make(MACHINE, now=timezone.now()).certificate)
    refused = client.post(address, hello, content_type="application/json")
    assert refused.status_code == 502
    assert "another certificate" in refused.json()["error"]
