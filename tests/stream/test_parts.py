"""Ring, smoothing, confidence, quality, resampling, timeline: against NumPy, SciPy and properties."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drsn_edge.errors import InputError
from drsn_edge.stream.counters import Latencies
from drsn_edge.stream.decimals import decimal_rows
from drsn_edge.stream.drift import FIGURES, DriftWatch, TelemetryRange
from drsn_edge.stream.quality import examine
from drsn_edge.stream.resample import Resampler, resample
from drsn_edge.stream.ring import Ring
from drsn_edge.stream.smoothing import UNKNOWN, Smoother, SmoothingOptions, confidences
from drsn_edge.stream.timeline import Timeline


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 30)), max_size=40))
def test_a_ring_is_the_end_of_what_came(moves: list[tuple[int, int]]) -> None:
    """Appended and taken at will, it holds what a plain array holds, and counts what it dropped."""
    ring, stream, taken = Ring(2, 25), np.zeros((2, 0), np.float32), 0
    for count, take in moves:
        new = np.arange(2 * count, dtype=np.float32).reshape(2, count) + stream.shape[1]
        stream = np.concatenate([stream, new], axis=1)
        held = len(ring)
        lost = ring.append(new)
        assert lost == max(0, held + count - 25)
        taken += lost
        assert (ring.position, ring.end) == (taken, stream.shape[1])
        if len(ring):
            np.testing.assert_array_equal(ring.windows(len(ring), 1, 1)[0], stream[:, taken:])
        if len(ring) > 6:
            wanted = np.lib.stride_tricks.sliding_window_view(stream[:, taken:], 3, axis=1)[:, ::2].swapaxes(0, 1)
            np.testing.assert_array_equal(ring.windows(3, 2, len(wanted)), wanted)
        step = min(take, len(ring))
        ring.advance(step)
        taken += step


def test_a_ring_never_grows() -> None:
    ring = Ring(1, 100)
    memory = ring._data
    for _ in range(1000):
        ring.append(np.ones((1, 37), np.float32))
        ring.advance(min(37, len(ring)))
    assert ring._data is memory


@given(st.lists(st.sampled_from(["a", "b", "c", UNKNOWN]), max_size=60), st.integers(2, 5))
def test_a_state_needs_its_votes_and_holds_on(said: list[str], votes: int) -> None:
    options = SmoothingOptions(votes=votes, of=2 * votes - 1, release=votes - 1, min_confidence=0.5)
    smoother = Smoother(options)
    for index, label in enumerate(said):
        before = smoother.state
        shown, ended = smoother.vote("a" if label == UNKNOWN else label, 0.1 if label == UNKNOWN else 0.9)
        assert shown == label
        last = said[max(0, index + 1 - options.of) : index + 1]
        assert ended == (None if smoother.state == before else before)
        if ended is not None and smoother.state != UNKNOWN:
            assert last.count(smoother.state) >= votes
        if ended is not None and before != UNKNOWN:
            assert last.count(before) < options.release
        copy = Smoother(options)
        copy.restore(smoother.to_json())
        assert copy.to_json() == smoother.to_json()


def test_one_wild_window_changes_nothing() -> None:
    smoother = Smoother(SmoothingOptions())
    for label in "aaaaabaacaaa":
        smoother.vote(label, 0.99)
    assert smoother.state == "a"


def test_confidence_is_that_of_scipy() -> None:
    special = pytest.importorskip("scipy.special", reason="an independent softmax")
    logits = np.random.default_rng(0).standard_normal((50, 4)) * 30
    best, confidence = confidences(logits.astype(np.float32), 2.5)
    wanted = special.softmax(logits / 2.5, axis=1)
    np.testing.assert_array_equal(best, wanted.argmax(axis=1))
    np.testing.assert_allclose(confidence, wanted.max(axis=1), rtol=1e-5)
    logits[3, 1] = np.nan
    assert confidences(logits, 1.0)[1][3] == 0.0


def test_damage_is_named() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((7, 2, 64)).astype(np.float32)
    x[1, 0, 5] = np.nan
    x[2, 1, 63] = -np.inf
    x[3, 1] = 0.25
    x[4, 0] = np.clip(x[4, 0], -1, 0.5)
    x[5] /= 10 * np.abs(x[5]).max()
    x[6, 1, 3] = -2.0
    found = examine(x, [None, None, None, None, None, 1.0, 2.0])
    assert np.flatnonzero(found.nan).tolist() == [1, 2]
    assert np.flatnonzero(found.flat).tolist() == [3]
    assert np.flatnonzero(found.clipped).tolist() == [4, 6]
    assert np.flatnonzero(found.good).tolist() == [0, 4, 5, 6]
    assert (found.reason(1), found.reason(3)) == ("nan", "flat")


@pytest.mark.parametrize(("rate", "wanted"), [(48000, 12000), (44100, 12000), (8000, 12000), (12800, 12000)])
def test_resampling_keeps_tones_and_stops_aliases(rate: int, wanted: int) -> None:
    """Against the very tones at the other rate; a tone above the lower Nyquist frequency is gone."""
    seconds, low = 0.5, 0.4 * min(rate, wanted)
    t, u = np.arange(int(seconds * rate)) / rate, np.arange(int(seconds * wanted)) / wanted
    found = resample(np.sin(2 * np.pi * low * t)[None].astype(np.float32), rate, wanted)
    assert found.shape == (1, len(u))
    middle = slice(len(u) // 4, -len(u) // 4)
    np.testing.assert_allclose(found[0, middle], np.sin(2 * np.pi * low * u)[middle], atol=2e-3)
    if rate > 1.5 * wanted:
        alias = resample(np.sin(2 * np.pi * 0.6 * wanted * t)[None].astype(np.float32), rate, wanted)
        assert np.abs(alias[0, middle]).max() < 2e-3


@given(st.lists(st.integers(0, 300), min_size=1, max_size=12))
def test_resampling_in_pieces_is_resampling_at_once(pieces: list[int]) -> None:
    total = sum(pieces)
    signal = np.random.default_rng(total).standard_normal((2, total)).astype(np.float32)
    stream = Resampler(2, 1600, 1000)
    at, found = 0, []
    for index, count in enumerate(pieces):
        found.append(stream.feed(signal[:, at : at + count], last=index == len(pieces) - 1))
        at += count
    np.testing.assert_allclose(np.concatenate(found, axis=1), resample(signal, 1600, 1000), atol=1e-6)


def test_a_ratio_that_is_no_fraction_is_refused() -> None:
    with pytest.raises(InputError, match="fraction"):
        Resampler(1, 1000 * np.pi, 1000)


def test_a_slow_crystal_is_no_gap_and_a_pause_is_one() -> None:
    """100 ppm for a day; then three seconds are missing, of which the clock is right to a few samples."""
    timeline, rate, sent = Timeline(1000.0), 1000.0 * (1 - 1e-4), 0
    for second in range(1, 86_400):
        count = int(second * rate) - sent
        assert timeline.missing(sent + count, float(second), fresh=False, drained=True) == 0
        sent += count
    lost = timeline.missing(sent + 1000, 86_400.0 + 3.0, fresh=False, drained=True)
    assert abs(lost - 3000) < 20
    assert timeline.missing(sent + lost + 2000, 86_400.0 + 4.0, fresh=False, drained=True) == 0


def test_a_late_burst_is_no_gap() -> None:
    """Samples that waited somewhere: as long as more are behind them nothing is judged."""
    timeline = Timeline(1000.0)
    assert timeline.missing(1000, 10.0, fresh=False, drained=True) == 0
    for index in range(5):
        assert timeline.missing(2000 + 1000 * index, 15.0, fresh=False, drained=index == 4) == 0


def test_percentiles_are_those_of_numpy() -> None:
    latencies, values = Latencies(), np.random.default_rng(0).lognormal(-5, 1, 5000)
    for value in values:
        latencies.add(float(value))
    for share in (0.5, 0.95, 0.99):
        found = latencies.percentile(share)
        assert found is not None
        assert 1.0 <= found / np.quantile(values, share, method="inverted_cdf") < 1.06


def test_drift_is_said_once_and_cleared_once() -> None:
    outputs = {name: np.linspace(0, 1, 20)[:, None] * np.ones((1, 2)) for name in ("threshold", "zero_share")}
    known = TelemetryRange.measured(outputs, ("u0", "u1"), None)
    watch = DriftWatch(TelemetryRange.from_json(known.to_json(), ("u0", "u1")), windows=4)
    inside, outside = np.array([0.5, 0.5]), np.array([0.5, 3.0])
    steps = np.array([(inside if step < 8 or step >= 16 else outside, inside) for step in range(40)])
    said = sorted(watch.add(steps).items())
    assert [item["event"] for _, item in said] == ["raised", "cleared"]
    assert said[0][0] in (8, 9)
    assert (said[0][1]["unit"], said[0][1]["figure"]) == ("u1", "threshold")
    assert said[0][1]["range"] == [-0.05, 1.05]
    flicker = DriftWatch(known, windows=4)
    steps = np.array([(np.array([0.5, 1.06 + 0.02 * (-1) ** (step // 3)]), inside) for step in range(200)])
    assert len(flicker.add(steps)) == 1


@given(st.lists(st.floats(0, 2, width=16), min_size=1, max_size=60), st.lists(st.integers(1, 9), max_size=20))
def test_drift_is_the_same_in_any_batches(values: list[float], sizes: list[int]) -> None:
    """One window at a time and in pieces; and what is said agrees with running means by NumPy."""
    known = TelemetryRange(
        ("u0",), {name: np.zeros(1) for name in FIGURES}, {name: np.ones(1) for name in FIGURES}, windows=10
    )
    telemetry = np.array(values)[:, None, None] * np.array([[1.0], [0.0]])
    single, pieces = DriftWatch(known, windows=4), DriftWatch(known, windows=4)
    told = {step: item for step in range(len(values)) for item in single.add(telemetry[step : step + 1]).values()}
    at, found = 0, dict[int, Any]()
    for size in [*sizes, len(values)]:
        found |= {at + place: item for place, item in pieces.add(telemetry[at : at + size]).items()}
        at += size
    assert found == told
    means = np.convolve(values, np.full(4, 0.25), "valid") if len(values) >= 4 else np.zeros(0)
    first = next((step + 3 for step, mean in enumerate(means) if mean > 1.05 + 1e-9), None)
    assert next(iter(sorted(found)), None) == first or any(abs(mean - 1.05) <= 1e-9 for mean in means)


@given(
    st.lists(st.lists(st.floats(-2, 3000, allow_nan=False), min_size=3, max_size=3), max_size=8)
    | st.lists(st.lists(st.floats(0, 3e-4), min_size=3, max_size=3), max_size=8)
)
def test_decimals_are_those_of_json(rows: list[list[float]]) -> None:
    values = np.array(rows, np.float64).reshape(-1, 3).round(6)
    assert decimal_rows(values) == [json.dumps(row, separators=(",", ":"))[1:-1] for row in values.tolist()]


def test_every_millionth_is_that_of_json() -> None:
    values = np.concatenate([np.arange(100_000), np.arange(0, 999_999_999, 10_007)])[:199_900].reshape(-1, 10) / 1e6
    assert decimal_rows(values) == [json.dumps(row, separators=(",", ":"))[1:-1] for row in values.tolist()]
    assert decimal_rows(np.array([[np.nan, 1.5, np.inf]])) == ["null,1.5,null"]


@given(st.integers(1, 4), st.integers(1, 3), st.data())
def test_clipping_is_counted_as_by_hand(count: int, channels: int, data: st.DataObject) -> None:
    levels = data.draw(st.lists(st.integers(-3, 3), min_size=30 * count * channels, max_size=30 * count * channels))
    x = np.array(levels, np.float32).reshape(count, channels, 30)
    full = data.draw(st.lists(st.sampled_from([None, 3.0]), min_size=count, max_size=count))
    found = examine(x, full)
    for row in range(count):
        often = max(np.unique(one, return_counts=True)[1][place] for one in x[row] for place in (0, -1))
        wanted = often >= 8 if full[row] is None else np.abs(x[row]).max() == 3
        assert found.clipped[row] == (wanted and not found.flat[row])
