"""The system check that keeps the data map true: no field without a rule, no rule without a field."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.core.checks import CheckMessage, Error, register

from panel.privacy.policy import Problem, problems

_IDS = {"missing": "privacy.E001", "stale": "privacy.E002", "wrong": "privacy.E003"}
_HINT = "Name it in panel/privacy/policy.toml, or take the name out."


@register("privacy")
def every_field_has_a_rule(**_: Any) -> list[CheckMessage]:
    """All models at once, whichever apps are asked for: the policy is one file."""
    return [_message(problem) for problem in problems(apps.get_models(include_auto_created=True))]


def _message(problem: Problem) -> CheckMessage:
    return Error(f"{problem.where}: {problem.text}", hint=_HINT, id=_IDS[problem.kind])
