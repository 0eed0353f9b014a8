"""Vast.ai's OpenAPI file, and where the contract says that the real API differs from it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import yaml

from tests.emulators.common import Allowed, Conformance

_FILE = Path(__file__).parent / "openapi" / "vast.yaml"
_INSTANCE = "/api/v0/instances/{id}"
_LIST = "/api/v1/instances"
_ASK = "/api/v0/asks/{id}"
_BUNDLES = "/api/v0/bundles"
_BID = "/api/v0/instances/bid_price/{id}"

EXCEPTIONS = (
    # Requests: the SDK's form is what works.
    Allowed("POST", _BUNDLES, "request", r"body type: enum", "the SDK says on-demand, the file ondemand"),
    Allowed("POST", _BUNDLES, "request", r"body order: (min|max)Items", "any number of sort fields is taken"),
    Allowed("PUT", _ASK, "request", r"body env: type string", "the SDK sends a dict"),
    Allowed(
        "PUT", _ASK, "request",
        r"body (price|label|onstart|image_login|template_hash_id|user|jupyter_dir|args): type",
        "the SDK sends null for what was not given",
    ),
    Allowed("PUT", _ASK, "request", r"body runtype: enum", "the SDK sends jupyter_direc ssh_direc ssh_proxy"),
    Allowed("GET", _INSTANCE, "request", r"query owner: is not known", "the SDK sends owner=me"),
    Allowed("PUT", _BID, "request", r"body price: maximum 32", "the ceiling is 32 for each GPU"),
    # Answers: nulls where the schema has none, other forms, statuses that are not described.
    Allowed(
        "GET", _LIST, "answer 200",
        r"instances/\d+/(public_ipaddr|start_date|extra_env|geolocation|onstart): type",
        "null while there is none",
    ),
    Allowed("GET", _INSTANCE, "answer 200", r"instances: type object", "null once it is gone"),
    Allowed(
        "GET", _INSTANCE, "answer 200",
        r"instances/(public_ipaddr|start_date|extra_env|geolocation|dlperf\w*|score|os_version): type",
        "null while there is none",
    ),
    Allowed(
        "GET", _INSTANCE, "answer 200", r"instances/(ports|extra_env/\d+): type",
        "ports are a map and the environment pairs, as in the list",
    ),
    Allowed("GET", _INSTANCE, "answer", r"status: 404", "no_such_instance"),
    Allowed("PUT", "/api/v0/instances/reboot/{id}", "answer", r"status: 404", "no_such_instance"),
    Allowed("*", "*", "answer", r"status: 403", "the key lacks a right"),
    Allowed("*", "*", "answer", r"content type: text/plain|status: 429", "429 is often plain text"),
)  # fmt: skip


@cache
def conformance() -> Conformance:
    # The fast loader, where libyaml is there: the file has 2,600 lines.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    spec = yaml.load(_FILE.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506
    return Conformance(spec, EXCEPTIONS)
