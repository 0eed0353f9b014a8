"""The certificate of one machine's door, and the trust in exactly that one. Pure.

A machine on a raw port has no name that an authority would certify. So the panel makes it a key and a certificate
of its own, hands both over with the order, and connects only to what proves that certificate under that machine's name.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from textwrap import wrap
from typing import Any
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = timedelta(days=5 * 365)
PIECE, PIECES = 256, 4
"""Vast.ai takes 256 characters in a variable's value, and our image joins four of them."""
_EARLY = timedelta(days=1)
"""It holds from a day ago on, for a panel whose clock is put back meanwhile."""
_CONTEXTS = 1024
"""Some 20 KB each."""


@dataclass(frozen=True, slots=True)
class Pair:
    """What the machine gets."""

    key: str = field(repr=False)
    """Base64 of the DER form, PKCS#8."""
    certificate: str
    """PEM."""


@dataclass(frozen=True, slots=True)
class Pin:
    """What the panel trusts instead of the public authorities: this one certificate, under this name."""

    certificate: str
    """PEM."""
    name: str

    @property
    def context(self) -> ssl.SSLContext:
        return _context(self.certificate)


def name_of(machine: UUID) -> str:
    """The name in the machine's certificate. No DNS knows it: `.invalid` is reserved for that (RFC 2606)."""
    return f"{machine.hex}.machine.invalid"


def make(machine: UUID, *, now: datetime) -> Pair:
    """A fresh P-256 key and its self-signed certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = name_of(machine)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    # No authority: whoever takes the key from the machine can stand for that machine, and for no other name.
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLY)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return Pair(base64.b64encode(der).decode(), certificate.public_bytes(Encoding.PEM).decode())


def environment(key: str, certificate: str) -> dict[str, str]:
    """What our image is told of its door; without a certificate, that its provider ends TLS before it."""
    if not certificate:
        return {"REGIA_DOOR": "plain"}
    body = "".join(line for line in certificate.splitlines() if not line.startswith("-----"))
    pieces = wrap(body, PIECE)
    if len(pieces) > PIECES:
        raise ValueError(f"This certificate is longer than {PIECES} variables.")
    numbered = {f"REGIA_TLS_CERT_{n}": piece for n, piece in enumerate(pieces, start=1)}
    return {"REGIA_DOOR": "tls", "REGIA_TLS_KEY": key, **numbered}


def request_options(pin: Pin | None) -> Mapping[str, Any]:
    """How aiohttp is to connect. Without a pin: as to anybody, by the public authorities."""
    return {} if pin is None else {"ssl": pin.context, "server_hostname": pin.name}


@lru_cache(maxsize=_CONTEXTS)
def _context(certificate: str) -> ssl.SSLContext:
    # It requires a certificate and its name, and begins with no authority at all.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=certificate)
    return context


# -- what is wrong with what was shown, in a sentence -------------------------------------------------

_EXPIRED, _NOT_YET, _SELF_SIGNED, _WRONG_NAME = 10, 9, 18, 62
"""OpenSSL's codes (X509_V_ERR_…)."""
_OF_AN_AUTHORITY = {2, 19, 20, 21}


def refusal(error: BaseException, pin: Pin | None) -> str:
    """Why what answered is not connected to. `error` is aiohttp's or ssl's."""
    inner = getattr(error, "certificate_error", error)
    code = getattr(inner, "verify_code", 0)
    if pin is None:
        return "The engine's certificate could not be verified, so nothing was sent."
    if code in _PINNED:
        return _PINNED[code]
    if code in _OF_AN_AUTHORITY:
        return (
            "What answers has a certificate of an authority, not the one that this machine was given, "
            "so nothing was sent: another machine may have its address."
        )
    return "What answers does not prove to be this machine, so nothing was sent."


_PINNED = {
    _SELF_SIGNED: "What answers has another certificate than this machine was given, so nothing was sent: "
    "another machine may have its address.",
    _WRONG_NAME: "What answers has a certificate with another machine's name, so nothing was sent.",
    _EXPIRED: "The machine's certificate has expired, so nothing was sent. Replace the machine.",
    _NOT_YET: "The machine's certificate does not hold yet by this computer's clock, so nothing was sent.",
}
