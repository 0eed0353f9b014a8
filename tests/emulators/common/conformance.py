"""Checks of requests and answers against a provider's OpenAPI file, both ways."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

_LONGEST_LIST = 40


@dataclass(frozen=True, slots=True)
class Allowed:
    """A violation that is right: the provider's API differs from its file there.

    `side` is request or answer; `pattern` a regular expression found in `where: what`.
    """

    method: str
    path: str
    side: str
    pattern: str
    why: str


@dataclass(frozen=True, slots=True)
class Operation:
    method: str
    path: str
    spec: Mapping[str, Any]
    shared: Sequence[Mapping[str, Any]]


class Conformance:
    """`spec` is an OpenAPI 3.0 or 3.1 document."""

    def __init__(self, spec: Mapping[str, Any], allowed: Iterable[Allowed] = ()) -> None:
        self._spec = _modern(spec)
        self._allowed = list(allowed)
        resource = Resource(contents=self._spec, specification=DRAFT202012)
        self._registry = Registry().with_resource("urn:spec", resource)
        self._operations = list(self._list_operations())

    def request(self, method: str, path: str, query: str, body: Any, *, has_body: bool) -> list[str]:
        """What of the request breaks the file. `query` is the raw query string, `body` parsed JSON."""
        operation = self._find(method, path)
        if operation is None:
            return [f"{method} {path}: no such operation"]
        problems = [*self._query(operation, query), *self._body(operation, body, has_body=has_body)]
        return self._judge(operation, "request", problems)

    def answer(self, method: str, path: str, status: int, body: Any, *, content_type: str) -> list[str]:
        """What of the answer breaks the file. Only JSON is looked into."""
        operation = self._find(method, path)
        if operation is None:
            return []
        responses = operation.spec["responses"]
        described = responses.get(str(status), responses.get("default"))
        if described is None:
            return self._judge(operation, "answer", [f"status: {status} is not described"])
        content = self._resolve(described).get("content") or {}
        kind = content_type.partition(";")[0]
        if not content:
            problems = [] if body is None else ["body: there should be none"]
        elif kind not in content:
            problems = [f"content type: {kind} is not one of {sorted(content)}"]
        elif "json" not in kind:
            problems = []
        else:
            problems = list(self._validate(content[kind].get("schema", {}), shorten(body)))
        return self._judge(operation, f"answer {status}", problems)

    def _list_operations(self) -> Iterable[Operation]:
        for path, methods in self._spec["paths"].items():
            shared = methods.get("parameters", [])
            for method, spec in methods.items():
                if method in {"get", "put", "post", "patch", "delete"}:
                    yield Operation(method.upper(), path, spec, shared)

    def _find(self, method: str, path: str) -> Operation | None:
        """A fixed path wins over a template; a trailing slash makes no difference."""
        found = [o for o in self._operations if o.method == method and _matches(o.path, path)]
        return min(found, key=lambda o: o.path.count("{"), default=None)

    def _query(self, operation: Operation, query: str) -> Iterable[str]:
        given: dict[str, list[str]] = {}
        for name, value in parse_qsl(query, keep_blank_values=True):
            given.setdefault(name, []).append(value)
        parameters = [self._resolve(p) for p in [*operation.shared, *operation.spec.get("parameters", [])]]
        known = {p["name"]: p for p in parameters if p["in"] == "query"}
        for name in sorted(set(given) - set(known)):
            yield f"query {name}: is not known"
        for name, parameter in known.items():
            if name in given:
                yield from self._parameter(parameter, given[name])
            elif parameter.get("required"):
                yield f"query {name}: is missing"

    def _parameter(self, parameter: Mapping[str, Any], values: list[str]) -> Iterable[str]:
        schema = parameter.get("schema")
        if schema is None:
            schema = next(iter(parameter.get("content", {}).values()), {}).get("schema", {})
        resolved = self._resolve(schema)
        if _is(resolved, "array") and not parameter.get("explode", True):
            values = [part for value in values for part in value.split(",")]
        item = self._resolve(resolved.get("items", {})) if _is(resolved, "array") else resolved
        coerced = [_coerce(value, item) for value in values]
        value = coerced if _is(resolved, "array") and "{" not in values[0] else coerced[-1]
        for problem in self._validate(schema, value):
            yield f"query {parameter['name']}: {problem}"

    def _body(self, operation: Operation, body: Any, *, has_body: bool) -> Iterable[str]:
        described = self._resolve(operation.spec.get("requestBody") or {})
        if not has_body:
            return ["body: is missing"] if described.get("required") else []
        content = described.get("content") or {}
        if not content:
            return [] if body in (None, {}) else ["body: none is described"]
        schema = content.get("application/json", {}).get("schema", {})
        return (f"body {problem}" for problem in self._validate(schema, body))

    def _validate(self, schema: Mapping[str, Any], value: Any) -> Iterable[str]:
        validator = Draft202012Validator(_absolute(schema), registry=self._registry)
        for error in validator.iter_errors(value):
            deepest = error
            while deepest.context:
                deepest = min(deepest.context, key=lambda e: (-len(e.absolute_path), str(e.message)))
            where = "/".join(str(part) for part in deepest.absolute_path)
            # The rule and not the value: values may be secret.
            yield f"{where or '.'}: {deepest.validator} {_name_of(deepest)}".strip()

    def _resolve(self, node: Mapping[str, Any]) -> Mapping[str, Any]:
        while "$ref" in node:
            target: Any = self._spec
            for part in node["$ref"].removeprefix("urn:spec").removeprefix("#/").split("/"):
                target = target[part.replace("~1", "/").replace("~0", "~")]
            node = target
        return node

    def _judge(self, operation: Operation, side: str, problems: Iterable[str]) -> list[str]:
        return [
            f"{operation.method} {operation.path} {side}: {problem}"
            for problem in problems
            if not any(self._allows(a, operation, side, problem) for a in self._allowed)
        ]

    def _allows(self, allowed: Allowed, operation: Operation, side: str, problem: str) -> bool:
        return (
            allowed.method in {"*", operation.method}
            and allowed.path in {"*", operation.path}
            and side.startswith(allowed.side)
            and re.search(allowed.pattern, problem) is not None
        )


def _name_of(error: Any) -> str:
    if error.validator in {"required", "additionalProperties", "unevaluatedProperties"}:
        return ", ".join(re.findall(r"'([A-Za-z_][\w.-]*)'", error.message)) or "?"
    if error.validator in {"type", "enum", "const", "minimum", "maximum", "minLength", "maxLength", "format"}:
        return str(error.validator_value)
    return ""


def _matches(template: str, path: str) -> bool:
    pattern = re.sub(r"\\\{[^/]+?\\\}", "[^/]+", re.escape(template.rstrip("/")))
    return re.fullmatch(pattern, path.rstrip("/")) is not None


def _is(schema: Mapping[str, Any], name: str) -> bool:
    kind = schema.get("type")
    return kind == name or (isinstance(kind, list) and name in kind)


def _coerce(value: str, schema: Mapping[str, Any]) -> Any:
    """A query's text as the type that the schema asks for; the text when it is none."""
    try:
        if _is(schema, "integer"):
            return int(value)
        if _is(schema, "number"):
            return float(value)
        if _is(schema, "boolean"):
            return {"true": True, "false": False}.get(value, value)
        if _is(schema, "object") or _is(schema, "array"):
            return json.loads(value)
    except ValueError:
        pass
    return value


def shorten(value: Any) -> Any:
    """Long lists are judged by their first rows: thousands would take seconds."""
    if isinstance(value, list):
        return [shorten(item) for item in value[:_LONGEST_LIST]]
    if isinstance(value, dict):
        return {name: shorten(item) for name, item in value.items()}
    return value


def _absolute(node: Any) -> Any:
    """References into the document, made absolute."""
    if isinstance(node, Mapping):
        return {
            name: f"urn:spec{item}" if name == "$ref" and str(item).startswith("#") else _absolute(item)
            for name, item in node.items()
        }
    return [_absolute(item) for item in node] if isinstance(node, list) else node


def _modern(node: Any) -> Any:
    """OpenAPI 3.0's `nullable` and examples as JSON Schema 2020-12 says them."""
    if isinstance(node, list):
        return [_modern(item) for item in node]
    if not isinstance(node, Mapping):
        return node
    made = {str(name): _modern(item) for name, item in node.items()}
    if made.pop("nullable", False) is True:
        if "type" not in made:
            return {"anyOf": [made, {"type": "null"}]}
        kinds = made["type"] if isinstance(made["type"], list) else [made["type"]]
        made["type"] = [*kinds, "null"]
        if isinstance(made.get("enum"), list) and None not in made["enum"]:
            made["enum"] = [*made["enum"], None]
    for limit, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if made.get(limit) is True:
            made[limit] = made.pop(bound)
        elif made.get(limit) is False:
            del made[limit]
    return made
