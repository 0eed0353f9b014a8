"""What holds a key or a machine's environment does not show it, wherever it is printed."""

from decimal import Decimal

from deployments.monitoring.probe import Target
from deployments.playground.admission import _Serving
from deployments.playground.upstream import Engine
from deployments.providers.http import Answer

KEY = "sk-a-key-that-nobody-may-read"


def test_no_value_with_a_key_shows_it() -> None:
    serving = _Serving("https://e", KEY, {}, Decimal(1), "chat", "qwen3-4b", 4096, False, KEY)
    values = [
        Target("https://e", KEY, False, False),
        Engine("https://e", KEY),
        serving,
        Answer(200, {}, KEY.encode()),
    ]
    assert KEY not in repr(values)
