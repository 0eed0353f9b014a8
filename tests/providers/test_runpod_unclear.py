"""What RunPod says that decides nothing: a create that timed out on the way, a time that no calendar holds."""

from deployments.providers.base import Unavailable, Unknown
from deployments.providers.http import Answer
from deployments.providers.runpod_api import refusal
from deployments.providers.runpod_machines import moment


def test_a_create_that_somebody_gave_up_waiting_for_may_have_been_done() -> None:
    answer = Answer(408, {}, b'{"title": "Request Timeout", "status": 408}')
    assert isinstance(refusal(answer, changes=True), Unknown)
    assert isinstance(refusal(answer, changes=False), Unavailable)


def test_a_time_before_the_calendar_is_no_time() -> None:
    assert moment("0001-01-01T00:00:00+23:59") is None
