"""Some days of `tests/bench/bench_year.py`: the panel's own tasks against the emulators' books, with what goes wrong."""

from __future__ import annotations

import os

import pytest

from tests.bench.bench_year import Year, playing

SEEDS = range(1, 21) if os.environ.get("REGIA_LONG") == "1" else [4]


@pytest.mark.parametrize("seed", SEEDS)
def test_before_reconciliation_never_below_and_after_it_equal_to_the_cent(
    transactional_db, monkeypatch, seed
):
    with playing(Year(6, 3, rounds=2, seed=seed), monkeypatch.setattr) as year:
        year.begin()
        year.appear("vast")
        year.held.advance(3600)
        year.emulators["vast"].traffic(year.live("vast")[0].remote_id, up_gb=500)
        year.traffic["vast"] += year.emulators["vast"].bill(component="bwu")
        year.run()
        year.check_equal()
        assert year.did["gap: traffic"] >= 1
