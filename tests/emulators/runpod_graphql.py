"""RunPod's GraphQL: the balance, and what it tells without a key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.emulators.common import Answer, Call, Route
from tests.emulators.runpod_catalogue import COMMUNITY, DATA_CENTERS, LEVELS, SECURE, GpuType

if TYPE_CHECKING:
    from tests.emulators.runpod import RunPodEmulator

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[A-Za-z_$][\w$]*|-?\d+(?:\.\d+)?|[{}()\[\]:!=]')
_SPEND_LIMIT = 80


@dataclass(slots=True)
class Selection:
    name: str
    alias: str
    arguments: dict[str, Any] = field(default_factory=dict)
    fields: list[Selection] = field(default_factory=list)


class GraphQLError(Exception):
    """What Apollo answers with 400."""


class GraphQL:
    def __init__(self, emulator: RunPodEmulator) -> None:
        self.emulator = emulator

    def routes(self) -> list[Route]:
        return [Route("POST", "/graphql", _kind_of, self.query, "graphql", keyless=True, checked=False)]

    def query(self, call: Call) -> Answer:
        body = call.body if isinstance(call.body, dict) else {}
        try:
            wanted = parse(str(body.get("query", "")), body.get("variables") or {})
        except GraphQLError as e:
            return _errors(str(e), "GRAPHQL_PARSE_FAILED", 400)
        # A wrong key is refused even where none is needed.
        private = any(selection.name == "myself" for selection in wanted)
        if (private or call.key) and not self.emulator.accepts(call.key):
            return _errors("Unauthorized", "UNAUTHENTICATED", 401)
        with self.emulator.lock:
            try:
                return Answer({"data": {s.alias: self._field(call, s) for s in wanted}})
            except GraphQLError as e:
                return _errors(str(e), "GRAPHQL_VALIDATION_FAILED", 400)

    def _field(self, call: Call, selection: Selection) -> Any:
        if selection.name == "myself":
            return _pick(self._myself(call), selection, "User")
        if selection.name == "gpuTypes":
            wanted = (selection.arguments.get("input") or {}).get("id")
            gpus = [g for g in self.emulator.catalogue.values() if wanted in {None, g.id}]
            return [_pick(self._gpu(gpu, selection), selection, "GpuType") for gpu in gpus]
        if selection.name == "dataCenters":
            return [_pick(self._data_center(name), selection, "DataCenter") for name in DATA_CENTERS]
        if selection.name == "serverlessGpuPools":
            return [_pick(row, selection, "ServerlessGpuPool") for row in self._pools()]
        raise GraphQLError(f'Cannot query field "{selection.name}" on type "Query".')

    def _myself(self, call: Call) -> dict[str, Any]:
        account, now = self.emulator.account(call), self.emulator.clock.now
        balance = account.balance_now(now)
        return {
            "id": f"user_{self.emulator.keys.index(call.key)}", "clientBalance": round(float(balance), 6),
            "currentSpendPerHr": round(float(account.burn()), 6), "spendLimit": _SPEND_LIMIT,
            "underBalance": balance < 1, "minBalance": 0, "serverlessDiscount": None, "email": "team@example.org",
        }  # fmt: skip

    def _gpu(self, gpu: GpuType, selection: Selection) -> dict[str, Any]:
        lowest = next((f for f in selection.fields if f.name == "lowestPrice"), None)
        asked = (lowest.arguments.get("input") if lowest else None) or {}
        clouds = {True: [SECURE], False: [COMMUNITY]}.get(asked.get("secureCloud"), [SECURE, COMMUNITY])
        offered = [
            (gpu.price(cloud), level)
            for cloud in clouds
            for place, level in gpu.where(cloud, [asked["countryCode"]] if asked.get("countryCode") else None)
            if asked.get("dataCenterId") in {None, place.id}
        ]
        count = int(asked.get("gpuCount") or 1)
        price, level = min(offered, default=(None, "NONE"), key=lambda pair: pair[0] or 0)
        return {
            "id": gpu.id, "displayName": gpu.name, "memoryInGb": gpu.memory, "manufacturer": "Nvidia",
            "maxGpuCount": 8, "securePrice": float(gpu.secure) or None, "secureCloud": bool(gpu.secure),
            "communityPrice": float(gpu.community) or None, "communityCloud": bool(gpu.community),
            "lowestPrice": {
                "uninterruptablePrice": float(price * count) if price is not None else None,
                "minimumBidPrice": float(price * count) / 2 if price is not None else None,
                "stockStatus": _word(level),
            },
        }  # fmt: skip

    def _data_center(self, name: str) -> dict[str, Any]:
        place = DATA_CENTERS[name]
        stock = [
            {
                "gpuTypeId": gpu.id, "displayName": gpu.name, "id": f"{name}-{gpu.id}",
                "stockStatus": _word(gpu.level(SECURE, name)), "available": gpu.level(SECURE, name) != "NONE",
            }
            for gpu in self.emulator.catalogue.values()
        ]  # fmt: skip
        return {"id": name, "name": place.name, "location": place.region.title(), "gpuAvailability": stock}

    def _pools(self) -> Iterator[dict[str, Any]]:
        pools: dict[str, list[str]] = {}
        for gpu in self.emulator.catalogue.values():
            if gpu.pool:
                pools.setdefault(gpu.pool, []).append(gpu.id)
        return ({"id": pool, "gpuTypeIds": ids} for pool, ids in pools.items())


def parse(text: str, variables: Mapping[str, Any]) -> list[Selection]:
    """The fields that a query asks for. Raises GraphQLError."""
    if text.lstrip().startswith("mutation"):
        raise GraphQLError("Mutations are not emulated.")
    tokens = _TOKEN.findall(text)
    try:
        start = tokens.index("{")
        return _fields(tokens, [start + 1], variables)
    except (IndexError, ValueError) as e:
        raise GraphQLError("Syntax Error: Unexpected <EOF>.") from e


def _fields(tokens: list[str], at: list[int], variables: Mapping[str, Any]) -> list[Selection]:
    found: list[Selection] = []
    while tokens[at[0]] != "}":
        name = alias = _next(tokens, at)
        if tokens[at[0]] == ":":
            at[0] += 1
            name = _next(tokens, at)
        selection = Selection(name, alias)
        if tokens[at[0]] == "(":
            at[0] += 1
            selection.arguments = _pairs(tokens, at, variables, end=")")
        if tokens[at[0]] == "{":
            at[0] += 1
            selection.fields = _fields(tokens, at, variables)
        found.append(selection)
    at[0] += 1
    return found


def _pairs(tokens: list[str], at: list[int], variables: Mapping[str, Any], *, end: str) -> dict[str, Any]:
    made: dict[str, Any] = {}
    while tokens[at[0]] != end:
        name = _next(tokens, at)
        at[0] += 1  # The colon.
        made[name] = _value(tokens, at, variables)
    at[0] += 1
    return made


def _value(tokens: list[str], at: list[int], variables: Mapping[str, Any]) -> Any:
    token = _next(tokens, at)
    if token == "{":
        return _pairs(tokens, at, variables, end="}")
    if token == "[":
        items = []
        while tokens[at[0]] != "]":
            items.append(_value(tokens, at, variables))
        at[0] += 1
        return items
    if token.startswith("$"):
        return variables.get(token[1:])
    try:
        return json.loads(token)
    except ValueError:
        return token


def _next(tokens: list[str], at: list[int]) -> str:
    at[0] += 1
    return tokens[at[0] - 1]


def _pick(row: Mapping[str, Any], selection: Selection, kind: str) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for wanted in selection.fields:
        if wanted.name not in row:
            raise GraphQLError(f'Cannot query field "{wanted.name}" on type "{kind}".')
        value = row[wanted.name]
        if wanted.fields and isinstance(value, list):
            value = [_pick(item, wanted, wanted.name) for item in value]
        elif wanted.fields and isinstance(value, Mapping):
            value = _pick(value, wanted, wanted.name)
        made[wanted.alias] = value
    return made


def _word(level: str) -> str | None:
    return level.title() if level in LEVELS and level != "NONE" else None


def _errors(message: str, code: str, status: int) -> Answer:
    return Answer({"errors": [{"message": message, "extensions": {"code": code}}]}, status)


def _kind_of(request: web.Request, body: Any) -> str:
    return "balance" if "myself" in str(body) else "quotes"
