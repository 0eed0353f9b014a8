"""Whatever is sent to whichever address, no page fails with an error of its own.

Every address of test_urls_by_role.py, with odd values under odd names and under the names that its forms have, as an
administrator. A few values in every run; with REGIA_LONG many, drawn from a list by a seed.
"""

from __future__ import annotations

import json
import os
import random
import re
from typing import Any
from urllib.parse import urlencode

import pytest
from django.db import transaction
from django.http import QueryDict
from django.test import Client
from django.utils import timezone

from panel import throttle
from panel.audit import chain
from tests import urls
from tests.browser import scene
from tests.test_urls_by_role import path_of, table

LONG = bool(os.environ.get("REGIA_LONG"))
ROUNDS = 40 if LONG else 1
ODD = [
    "", " ", "0", "-1", "1.5", "1e400", "9" * 19, "9" * 5000, "NaN", "-Infinity", "a\0b", "\ud83d", "\u202e<b>", "é" * 3000,
    "٣", "None", "null", "[]", "{}", "[[[[", "true", "00000000-0000-0000-0000-000000000000", "not-a-uuid", "2026-02-30",
    "0000-00-00", "9999-12-31T23:59", "2026-13", "25:61", "../../etc/passwd", "' OR 1=1 --", "%00", "{{7*7}}", "=1+1",
    "javascript:alert(1)", "https://[::1", "//evil.example/", "\r\nSet-Cookie: a=b", "EU", "on",
]  # fmt: skip
NAMES = [
    "q", "page", "range", "from", "to", "month", "sort", "show", "tab", "group", "next", "id", "tag", "provider", "source",
    "after", "level", "prices", "ids", "o", "p", "e", "_popup", "action", "object_id", "_saved_next", "days", "reason",
]  # fmt: skip
_FIELD = re.compile(r"<(?:input|select|textarea|button)[^>]*?\sname=\"([^\"]+)\"")
UNLIKE = {"account_logout", "admin:logout"}
"""They end the session that the walk needs."""


@pytest.fixture
def made(db) -> scene.Scene:
    chain.record("thing.done", actor=None, now=timezone.now())
    return scene.build(now=timezone.now())


@pytest.fixture
def client(made) -> Client:
    found = Client(raise_request_exception=False)
    found.force_login(made.administrator)
    return found


def bodies(names: list[str], chance: random.Random) -> list[dict[str, Any]]:
    """The ways in which one form is sent: as keyword arguments of the test client."""
    pick = lambda: chance.choice(ODD)  # noqa: E731
    form = QueryDict(mutable=True)
    for name in names:
        form.setlist(name, [pick() for _ in range(chance.choice((1, 1, 2)))])
    text = "&".join(urlencode({n: v.encode("utf-8", "surrogatepass")}) for n, vs in form.lists() for v in vs)
    one = "application/x-www-form-urlencoded"
    told = json.dumps({n: chance.choice([pick(), 1e308, None, [], {"a": [pick()]}]) for n in names})
    return [
        {"data": text, "content_type": one},
        {"data": told, "content_type": "application/json"},
        chance.choice(
            [
                {"data": b"", "content_type": one},
                {"data": b"\xff\xfe%zz=%", "content_type": one},
                {"data": b"not a part", "content_type": "multipart/form-data; boundary=x"},
                {"data": b"[" * 50_000, "content_type": "application/json"},
                {"data": "&".join(f"a{n}=1" for n in range(1200)), "content_type": one},
            ]
        ),
    ]


def ask(client: Client, method: str, path: str, **kwargs: Any) -> Any:
    """The answer, with whatever the request did undone."""
    cookies = client.cookies.copy()
    with transaction.atomic():
        answer = getattr(client, method)(path, **kwargs)
        if answer.streaming:
            list(answer)
        transaction.set_rollback(True)
    client.cookies = cookies
    return answer


def test_no_address_fails_whatever_it_is_sent(made, client, monkeypatch):
    # A test is one person who asks for very many files.
    monkeypatch.setattr(throttle, "exports", throttle.Often(10**9, 1.0))
    rows, failed = table(made), []
    chance = random.Random(int(os.environ.get("REGIA_SEED", "7")))
    expected_503 = {"readyz"}
    for address in urls.addresses():
        if address.name in UNLIKE:
            continue
        path = path_of(address, rows[address.name])
        page = ask(client, "get", path)
        text = b"" if page.streaming else page.content
        names = sorted({*_FIELD.findall(text.decode(errors="replace")), *chance.sample(NAMES, 6)})[:80]
        for _ in range(ROUNDS):
            asked = {
                name: chance.choice(ODD).encode("utf-8", "surrogatepass") for name in {*names[:30], *NAMES}
            }
            tries = [("get", f"{path}?{urlencode(asked)}", {})]
            tries += [("post", path, kwargs) for kwargs in bodies(names, chance)]
            for method, where, kwargs in tries:
                status = ask(client, method, where, **kwargs).status_code
                if status >= 500 and not (status == 503 and address.name in expected_503):
                    failed.append(f"{status} {method.upper()} {where[:200]} {str(kwargs)[:600]}")
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize(
    "value", [value for value in ODD if value and not set(value) & set("/\\.?#%")][:: 1 if LONG else 4]
)
def test_no_address_fails_for_an_odd_part_of_it(made, client, value):
    from urllib.parse import quote

    failed = []
    for template in (
        "/deployments/{}/", "/deployments/{}/logs/", "/incidents/{}/", "/spend/machine/{}/", "/spend/statements/{}/",
        "/spend/export/{}.csv", "/spend/reconciliation/{}/", "/alerts/channels/{}/", "/alerts/channels/add/{}/", "/radar/{}/hide/",
        "/sign-in/{}/", "/playground/{}/", "/admin/accounts/user/{}/change/", "/admin/billing/budget/{}/change/", "/accounts/providers/{}/rotate/",
    ):  # fmt: skip
        path = template.format(quote(value.encode("utf-8", "surrogatepass")))
        for method in ("get", "post"):
            status = ask(client, method, path).status_code
            if status >= 500:
                failed.append(f"{status} {method} {path[:200]}")
    assert not failed, "\n".join(failed)
