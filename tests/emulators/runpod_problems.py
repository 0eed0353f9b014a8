"""RunPod's errors: RFC 9457 problems."""

from __future__ import annotations

from http import HTTPStatus

from tests.emulators.common import Answer

NO_INSTANCES = "There are no longer any instances available with the requested specifications. Please refresh and try again."


def problem(status: int, detail: str, *, errors: list[str] | None = None) -> Answer:
    body = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    if errors:
        body["errors"] = errors
    return Answer(body, status, content_type="application/problem+json")
