"""The door's key and certificate, out of environment variables."""

from __future__ import annotations

import base64
import binascii
import os
import ssl
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field

from regia_machine.exits import Exit, Unfit

KEY = "REGIA_TLS_KEY"
PIECES = tuple(f"REGIA_TLS_CERT_{number}" for number in range(1, 5))
"""Vast takes 256 characters in a value, and a certificate is longer."""


@dataclass(frozen=True, slots=True)
class Tls:
    key_pem: str = field(repr=False)
    certificate_pem: str


def read(environ: Mapping[str, str]) -> Tls:
    """Raises Unfit when something is missing, is no base64, or when key and certificate are no pair."""
    key = _pem("PRIVATE KEY", KEY, environ.get(KEY, ""))
    certificate = _pem("CERTIFICATE", f"{PIECES[0]} to _4", _joined(environ))
    _check_pair(key, certificate)
    return Tls(key, certificate)


def _joined(environ: Mapping[str, str]) -> str:
    pieces = [environ.get(name, "").strip() for name in PIECES]
    used = [piece for piece in pieces if piece]
    if pieces[: len(used)] != used:
        raise Unfit(Exit.ENVIRONMENT, f"{PIECES[0]} to _4 have a gap: fill them from _1 on, in order.")
    return "".join(used)


def _pem(label: str, name: str, text: str) -> str:
    if not text.strip():
        raise Unfit(
            Exit.ENVIRONMENT,
            f"{name} is missing: give the door its key and certificate, or set REGIA_DOOR=plain.",
        )
    try:
        der = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Unfit(Exit.ENVIRONMENT, f"{name} is not base64: give the DER form in base64.") from None
    body = "\n".join(textwrap.wrap(base64.b64encode(der).decode(), 64))
    return f"-----BEGIN {label}-----\n{body}\n-----END {label}-----\n"


def context(pair: Tls) -> ssl.SSLContext:
    """A server's, as strict as the door's own."""
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found.minimum_version = ssl.TLSVersion.TLSv1_2
    found.options |= ssl.OP_NO_TICKET
    _load(found, pair.key_pem, pair.certificate_pem)
    return found


def _load(context: ssl.SSLContext, key: str, certificate: str) -> None:
    # OpenSSL reads files only; this one is in memory and has no name.
    held = os.memfd_create("regia-tls")
    try:
        os.write(held, (key + certificate).encode())
        context.load_cert_chain(f"/proc/self/fd/{held}")
    finally:
        os.close(held)


def _check_pair(key: str, certificate: str) -> None:
    try:
        _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), key, certificate)
    except (ssl.SSLError, ValueError):
        raise Unfit(
            Exit.ENVIRONMENT,
            f"{KEY} and {PIECES[0]} to _4 are no pair: "
            "give a PKCS#8 key and the certificate that was made with it, both as base64 of their DER form.",
        ) from None
