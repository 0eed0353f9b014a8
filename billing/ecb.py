"""The European Central Bank's daily exchange rates: fetched over the guarded way, parsed with limits.

Source: https://www.ecb.europa.eu/stats/eurofxref/ (eurofxref-daily.xml, and -hist-90d for the days before).
Published on working days at about 16:00 CET: 1 euro in each currency. The answer is not trusted: it may be cut,
huge or made to harm, and then nothing of it is kept and the last known rates stand, with their age.
"""

from __future__ import annotations

import asyncio
import logging
import re
from datetime import date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any
from urllib.parse import urlsplit
from xml.parsers import expat  # declarations, the way in for what harms, are refused below

import aiohttp
from django.conf import settings

from billing import fx
from billing.models import DisplayCurrency, ExchangeRate
from billing.periods import utc
from panel.outbound import GuardedResolver, Refused, is_allowed, is_disguised, is_ip

logger = logging.getLogger(__name__)

EVERY = timedelta(hours=6)
AGAIN = timedelta(hours=1)
"""How long after a try that failed the next one is."""
TIMEOUT = 20.0
LARGEST = 1_000_000
"""Bytes; 90 days are about 60 kB."""
MOST_DAYS, MOST_CURRENCIES = 100, 100
_CURRENCY = re.compile(r"[A-Z]{3}")
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?")

type Day = tuple[date, dict[str, Decimal]]
"""A day and what one euro was on it."""


class BadRates(Exception):
    """What was fetched is not the bank's file, or did not come. The text is a sentence for operators."""


def parse(document: bytes) -> list[Day]:
    """The days in the file, each with its rates for one euro, the dollar always among them. Raises BadRates."""
    if len(document) > LARGEST:
        raise BadRates("The bank's file is far larger than it ever was, so it was not read.")
    reader = _Reader()
    parser = expat.ParserCreate()
    parser.StartElementHandler = reader.element
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = _refuse
    try:
        parser.Parse(document, True)  # noqa: FBT003
    except (expat.ExpatError, LookupError, ValueError):
        raise BadRates("The bank's file is cut or is not XML, so nothing of it was kept.") from None
    days = [(day, rates) for day, rates in reader.days if fx.RECORD in rates]
    if not days:
        raise BadRates("The bank's file names no rate of the dollar, so nothing of it was kept.")
    return days


class _Reader:
    def __init__(self) -> None:
        self.days: list[Day] = []

    def element(self, name: str, attributes: dict[str, str]) -> None:
        if name.rpartition(":")[2] != "Cube":
            return
        if "time" in attributes:
            self._day(attributes["time"])
        if "currency" in attributes:
            self._rate(attributes["currency"], attributes.get("rate", ""))

    def _day(self, text: str) -> None:
        try:
            day = date.fromisoformat(text)
        except ValueError:
            raise BadRates("The bank's file has a day that is none, so nothing of it was kept.") from None
        if day < fx.FIRST_DAY or len(self.days) >= MOST_DAYS:
            raise BadRates("The bank's file holds days that it cannot, so nothing of it was kept.")
        self.days.append((day, {}))

    def _rate(self, currency: str, text: str) -> None:
        if not self.days or not _CURRENCY.fullmatch(currency) or not _NUMBER.fullmatch(text):
            raise BadRates("The bank's file has a rate that is none, so nothing of it was kept.")
        rates = self.days[-1][1]
        try:
            rates[currency] = Decimal(text)
        except InvalidOperation:
            raise BadRates("The bank's file has a rate that is none, so nothing of it was kept.") from None
        if not rates[currency] or len(rates) > MOST_CURRENCIES:
            raise BadRates("The bank's file has a rate that is none, so nothing of it was kept.")


def _refuse(*_: Any) -> None:
    raise BadRates("The bank's file declares entities, which it never did, so it was not read.")


def is_due(row: DisplayCurrency, *, now: datetime) -> bool:
    """Whether the bank is to be asked: six hours after the last answer, an hour after a try without one."""
    if row.tried_at is None or row.tried_at > now:
        return True
    return now - row.tried_at >= (AGAIN if row.fetch_error else EVERY)


def follow(*, now: datetime) -> int:
    """Fetch the rates when they are due; how many were new. A failure is kept for the pages and is no error.

    After days without an answer, or before the first one, the file of 90 days fills what is missing.
    """
    if not settings.ECB_RATES_URL:
        return 0
    now = utc(now)
    row, _ = DisplayCurrency.objects.get_or_create(pk=DisplayCurrency.ONLY)
    if not is_due(row, now=now):
        return 0
    # Of two workers that come at once, one asks.
    mine = DisplayCurrency.objects.filter(pk=row.pk, tried_at=row.tried_at).update(tried_at=now)
    if not mine:
        return 0
    try:
        found = fx.record_ecb(parse(fetch(_address(now=now))), now=now)
    except BadRates as error:
        DisplayCurrency.objects.filter(pk=row.pk).update(fetch_error=str(error)[:200])
        logger.warning("The exchange rates could not be fetched: %s", error)
        return 0
    DisplayCurrency.objects.filter(pk=row.pk).update(fetched_at=now, fetch_error="")
    return found


def fetch(url: str) -> bytes:
    """The file at `url`, an https address outside of private networks. Raises BadRates with a sentence."""
    try:
        _check(url)
        return asyncio.run(_get(url))
    except TimeoutError:
        raise BadRates(f"The bank did not answer within {TIMEOUT:.0f} s.") from None
    except Refused as error:
        raise BadRates(str(error)) from None
    except (aiohttp.ClientError, OSError, UnicodeError) as error:
        raise BadRates(f"The bank cannot be reached ({type(error).__name__}).") from None


def _address(*, now: datetime) -> str:
    url: str = settings.ECB_RATES_URL
    ecb = ExchangeRate.objects.filter(source=ExchangeRate.Source.ECB, currency=fx.EURO)
    last = ecb.order_by("-day").values_list("day", flat=True).first()
    # A long weekend has four days; with more, a file was missed.
    return url if last and now.date() - last <= timedelta(days=4) else url.replace("-daily", "-hist-90d")


def _check(url: str) -> None:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        raise Refused("The address of the rates cannot be read: set REGIA_ECB_RATES_URL.") from None
    here = host in ("127.0.0.1", "localhost") and settings.ALLOW_INSECURE_ENDPOINTS
    if not host or is_disguised(host) or (parts.scheme != "https" and not (here and parts.scheme == "http")):
        raise Refused("The address of the rates is not an https address: set REGIA_ECB_RATES_URL.")
    if is_ip(host) and not is_allowed(host, loopback=here):
        raise Refused("The address of the rates lies inside a private network: set REGIA_ECB_RATES_URL.")


async def _get(url: str) -> bytes:
    resolver = GuardedResolver(loopback=settings.ALLOW_INSECURE_ENDPOINTS, whose="The bank's")
    connector = aiohttp.TCPConnector(resolver=resolver, force_close=True)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    async with (
        aiohttp.ClientSession(
            connector=connector, timeout=timeout, trust_env=False, cookie_jar=aiohttp.DummyCookieJar()
        ) as session,
        session.get(url, allow_redirects=False, headers={"user-agent": "Regia"}) as answer,
    ):
        if answer.status != 200:
            raise BadRates(f"The bank answered {answer.status}.")
        body = bytearray()
        async for chunk in answer.content.iter_chunked(64 * 1024):
            body += chunk
            if len(body) > LARGEST:
                raise BadRates("The bank's file is far larger than it ever was, so it was not read.")
        return bytes(body)
