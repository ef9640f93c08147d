"""Timing in turns: a drift meets every row alike, a percentile has the calls that it needs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drsn_edge.errors import UsageError
from drsn_edge.runtime.timing import TimingOptions, measure, summarise


class Machine:
    """A clock that only calls move; a machine that gets slower with every call."""

    def __init__(self, slower: float = 0.0) -> None:
        self.now, self.slower, self.order = 0.0, slower, []  # type: ignore[var-annotated]

    def clock(self) -> float:
        return self.now

    def case(self, name: str, seconds: float):  # type: ignore[no-untyped-def]
        def call() -> None:
            self.order.append(name)
            self.now += seconds * (1 + self.slower * len(self.order))

        return call


def test_exact_times() -> None:
    machine = Machine()
    options = TimingOptions(iterations=100, warmup=3, seconds=1000, rounds=10)
    one, two = measure([machine.case("a", 0.001), machine.case("b", 0.004)], options=options, clock=machine.clock)
    assert (one.p50_ms, two.p50_ms, two.p99_ms) == pytest.approx((1.0, 4.0, 4.0))
    assert one.iterations == two.iterations == 100
    assert one.drift == pytest.approx(1.0)
    # Three calls each before, and one more at the start of every turn.
    assert machine.order.count("a") == 100 + 3 + 10


def test_a_drift_meets_all_rows_alike() -> None:
    machine = Machine(slower=0.001)
    options = TimingOptions(iterations=200, warmup=1, seconds=1000, rounds=10)
    one, two = measure([machine.case("a", 0.001), machine.case("b", 0.001)], options=options, clock=machine.clock)
    assert one.drift > 1.1
    assert one.p50_ms == pytest.approx(two.p50_ms, rel=0.01)
    after_each_other = [np.arange(200) + 200 * row for row in (0, 1)]
    ratio = (1 + 0.001 * np.median(after_each_other[1])) / (1 + 0.001 * np.median(after_each_other[0]))
    assert ratio > 1.15  # what measuring one after the other would have said of two equal rows


def test_time_ends_a_row_that_is_slow() -> None:
    machine = Machine()
    options = TimingOptions(iterations=1000, warmup=1, seconds=2.0, rounds=4)
    (row,) = measure([machine.case("a", 0.4)], options=options, clock=machine.clock)
    assert row.iterations == 8  # two in each of four turns of half a second
    assert row.p95_ms is None
    assert row.p99_ms is None


@given(st.lists(st.lists(st.floats(1e-6, 1), min_size=1, max_size=30), min_size=1, max_size=12))
def test_percentiles_are_numpys_and_ordered(rounds: list[list[float]]) -> None:
    found = summarise(rounds)
    calls = 1e3 * np.concatenate(rounds)
    assert found.p50_ms == pytest.approx(np.median(calls))
    assert (found.p95_ms is None) == (len(calls) < 20)
    assert (found.p99_ms is None) == (len(calls) < 100)
    ordered = [value for value in (found.p50_ms, found.p95_ms, found.p99_ms) if value is not None]
    assert ordered == sorted(ordered)
    assert len(found.rounds_ms) == len(rounds)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"iterations": 1}, "iterations"), ({"warmup": 0}, "warmup"), ({"rounds": 0}, "rounds"), ({"seconds": 0.0}, "0")],
)
def test_what_measures_nothing_is_refused(options: dict[str, float], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        TimingOptions(**options)  # type: ignore[arg-type]
