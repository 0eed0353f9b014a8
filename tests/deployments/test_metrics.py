"""What an engine's /metrics says, read from captures of the real ones and from what may go wrong with them."""

from __future__ import annotations

import json
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.monitoring import metrics
from deployments.monitoring.metrics import Reading, Unreadable
from tests.deployments.engine import LLAMA, VLLM

VLLM_AT_FIRST = (
    VLLM.replace('generation_tokens_total{engine="0",model_name="Qwen/Qwen3-4B"} 48.0',
                 'generation_tokens_total{engine="0",model_name="Qwen/Qwen3-4B"} 18.0')
)  # fmt: skip


def test_vllms_figures_are_read() -> None:
    reading = metrics.parse(VLLM)
    assert reading.gauges == {"running": 0.0, "waiting": 0.0, "kv_use": 0.0}
    assert reading.counters == {
        "tokens_in": 64.0, "tokens_out": 48.0, "finished_stop": 0.0, "finished_length": 6.0,
        "finished_abort": 0.0, "finished_error": 0.0,
    }  # fmt: skip
    assert reading.histograms["ttft"][inf] == 6.0
    assert reading.histograms["itl"][0.025] == 42.0
    assert reading.started == 1795524390.33


def test_llamas_figures_are_read_under_the_same_names() -> None:
    reading = metrics.parse(LLAMA)
    assert reading.gauges == {"running": 0.0, "waiting": 0.0}
    # 49 that it processed and 130 that it had in its cache: the whole prompts, as vLLM counts them.
    assert reading.counters == {"tokens_in": 179.0, "tokens_out": 283.0}
    assert reading.histograms == {}


def test_rates_and_quantiles_are_of_what_happened_in_between() -> None:
    values = metrics.values(metrics.parse(VLLM_AT_FIRST), metrics.parse(VLLM), 15.0)
    assert values["tokens_out_rate"] == 2.0
    assert values["tokens_in_rate"] == 0.0
    assert values["finished_length"] == 0.0
    assert "ttft_p50" not in values  # nobody waited for a first token meanwhile


def test_finished_requests_are_told_by_the_minute() -> None:
    later = VLLM.replace('finished_reason="length",model_name="Qwen/Qwen3-4B"} 6.0',
                         'finished_reason="length",model_name="Qwen/Qwen3-4B"} 9.0')  # fmt: skip
    assert metrics.values(metrics.parse(VLLM), metrics.parse(later), 15.0)["finished_length"] == 12.0


def test_the_first_reading_has_gauges_only() -> None:
    assert metrics.values(None, metrics.parse(VLLM), 0.0) == {"running": 0.0, "waiting": 0.0, "kv_use": 0.0}


@pytest.mark.parametrize("elapsed", [0.0, -3600.0, 7200.0])
def test_a_clock_that_jumps_makes_no_rate(elapsed: float) -> None:
    values = metrics.values(metrics.parse(VLLM_AT_FIRST), metrics.parse(VLLM), elapsed)
    assert values.keys() == {"running", "waiting", "kv_use"}


def test_an_engine_whose_clock_is_wrong_is_read_like_any_other() -> None:
    skewed = VLLM.replace("1.7955244", "4.2").replace(
        'model_name="Qwen/Qwen3-4B"} 48.0\n', 'model_name="Qwen/Qwen3-4B"} 48.0 99\n'
    )
    assert metrics.parse(skewed).counters == metrics.parse(VLLM).counters


def test_counters_that_begin_anew_count_what_they_show_since() -> None:
    before = Reading(
        counters={"tokens_in": 900.0, "tokens_out": 900.0}, histograms={"ttft": {0.1: 8.0, inf: 9.0}}
    )
    after = Reading(
        counters={"tokens_in": 950.0, "tokens_out": 30.0}, histograms={"ttft": {0.1: 3.0, inf: 3.0}}
    )
    values = metrics.values(before, after, 10.0)
    # One of them fell, so all began anew, also the one that has passed its old value already.
    assert (values["tokens_out_rate"], values["tokens_in_rate"]) == (3.0, 95.0)
    assert values["ttft_count"] == 3.0


def test_an_engine_that_says_it_began_anew_is_believed() -> None:
    before = Reading(counters={"tokens_out": 10.0}, started=1.0)
    after = Reading(counters={"tokens_out": 20.0}, started=2.0)
    assert metrics.values(before, after, 10.0)["tokens_out_rate"] == 2.0


def test_a_counter_that_is_new_says_nothing_yet() -> None:
    after = Reading(counters={"tokens_out": 1e9}, histograms={"itl": {0.1: 5.0, inf: 5.0}})
    assert metrics.values(Reading(), after, 10.0) == {}


def test_what_is_kept_for_the_next_rates_comes_back_from_json() -> None:
    reading = metrics.parse(VLLM)
    frozen = json.loads(json.dumps(reading.freeze(), allow_nan=False))
    assert metrics.thaw(frozen) == Reading({}, reading.counters, reading.histograms, reading.started)


@pytest.mark.parametrize(
    "frozen", [{}, {"counters": 1}, {"counters": {}, "histograms": {"ttft": [[1], []]}, "started": 0}]
)
def test_what_cannot_be_thawed_is_no_reading(frozen) -> None:
    assert metrics.thaw(frozen) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"), ("\n \n", "empty"), (VLLM[: len(VLLM) // 2], "cut off"),
        ("<html><body>Hello</body></html>\n", "nothing that is known"),
        ("process_start_time_seconds 1\n", "nothing that is known"),
        ("vllm:num_requests_running{engine= 1\n", "cannot be read"),
        ("vllm:num_requests_running one\n", "cannot be read"),
        (f"vllm:num_requests_running {'9' * 4000}\n", "cannot be read"),
        ('vllm:time_to_first_token_seconds_bucket{le="x"} 1\n', "cannot be read"),
    ],
)  # fmt: skip
def test_what_is_no_metrics_is_told_in_words(text: str, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        metrics.parse(text)


def test_values_that_are_none_are_left_out() -> None:
    reading = metrics.parse(
        "vllm:num_requests_running NaN\nvllm:num_requests_waiting 2\nvllm:kv_cache_usage_perc -1\n"
    )
    assert reading.gauges == {"waiting": 2.0}


def test_ten_thousand_series_are_read() -> None:
    strange = "".join(f'other_total{{n="{n}"}} 1\n' for n in range(10_000))
    own = "".join(f'vllm:generation_tokens_total{{engine="{n}"}} 2\n' for n in range(10_000))
    assert metrics.parse(VLLM + strange).counters == metrics.parse(VLLM).counters
    assert metrics.parse(own).counters == {"tokens_out": 20_000.0}


def test_more_lines_than_any_engine_has_are_refused() -> None:
    with pytest.raises(Unreadable, match="more than"):
        metrics.parse('vllm:generation_tokens_total{engine="0"} 2\n' * (metrics.MOST_LINES + 1))


def test_replicas_are_summed_and_the_fullest_cache_counts() -> None:
    reading = metrics.parse(VLLM + VLLM.replace('engine="0"', 'engine="1"').replace(
        'kv_cache_usage_perc{engine="1",model_name="Qwen/Qwen3-4B"} 0.0',
        'kv_cache_usage_perc{engine="1",model_name="Qwen/Qwen3-4B"} 0.9'))  # fmt: skip
    assert reading.counters["tokens_out"] == 96.0
    assert reading.histograms["ttft"][inf] == 12.0
    assert reading.gauges["kv_use"] == 0.9


def test_a_latency_under_two_names_counts_once() -> None:
    old = VLLM.replace("inter_token_latency_seconds", "time_per_output_token_seconds")
    assert metrics.parse(old).histograms["itl"][inf] == 42.0
    assert metrics.parse(old + VLLM).histograms["itl"][inf] == 42.0


@pytest.mark.parametrize(("q", "seconds"), [(0.25, 0.1), (0.5, 0.2), (0.65, 0.3), (0.9, 0.4), (1.0, 0.4)])
def test_a_quantile_is_told_as_prometheus_tells_it(q: float, seconds: float) -> None:
    # 5 up to 0.1 s, 5 more up to 0.2 s, 6 more up to 0.4 s, 4 beyond.
    assert metrics.quantile(q, [0.1, 0.2, 0.4, inf], [5, 10, 16, 20]) == pytest.approx(seconds)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_quantile_lies_in_the_bucket_that_the_true_one_lies_in(observed: list[float], q: float) -> None:
    bounds = [0.5, 1.0, 5.0, 20.0, 50.0, inf]
    counts = [sum(x <= bound for x in observed) for bound in bounds]
    told = metrics.quantile(q, bounds, [float(c) for c in counts])
    rank = q * len(observed)
    at = next(n for n, c in enumerate(counts) if c >= rank and c)
    low = bounds[at - 1] if at else 0.0
    assert low <= told <= (bounds[at] if bounds[at] != inf else low)
