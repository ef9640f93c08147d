from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve

from drsn_edge.errors import InputError
from drsn_edge.parity.calibration_error import CalibrationTally, probabilities
from drsn_edge.parity.temperature import HIGHEST, LOWEST, fit_temperature


def drawn(count: int, classes: int, seed: int, sharpness: float = 2.0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits of a network that is exactly as sure as it should be, and classes drawn by them."""
    rng = np.random.default_rng(seed)
    logits = sharpness * rng.standard_normal((count, classes))
    chance = probabilities(logits)
    y = (rng.random((count, 1)) > np.cumsum(chance, axis=1)).sum(axis=1)
    return logits, np.minimum(y, classes - 1)


def slow_error(logits: NDArray[np.float64], y: NDArray[np.int64], bins: int, temperature: float) -> float:
    """The definition, decision by decision."""
    inside: dict[int, list[tuple[float, bool]]] = {}
    for row, true in zip(logits, y, strict=True):
        top = max(row)
        weights = [math.exp((value - top) / temperature) for value in row]
        confidence = max(weights) / sum(weights)
        place = next(index for index in range(bins) if confidence <= (index + 1) / bins or index == bins - 1)
        inside.setdefault(place, []).append((confidence, int(np.argmax(row)) == true))
    return sum(
        len(items) / len(y) * abs(sum(right for _, right in items) / len(items) - sum(c for c, _ in items) / len(items))
        for items in inside.values()
    )


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 60), st.integers(2, 8), st.integers(0, 10_000), st.integers(1, 20), st.floats(0.1, 9.0)
)  # fmt: skip
def test_equals_the_definition(count: int, classes: int, seed: int, bins: int, temperature: float) -> None:
    logits, y = drawn(count, classes, seed)
    tally = CalibrationTally(bins=bins, temperature=temperature)
    half = count // 2
    tally.add(logits[:half], y[:half])
    tally.add(logits[half:], y[half:])
    assert tally.error == pytest.approx(slow_error(logits, y, bins, temperature), abs=1e-12)


def test_bins_are_those_of_scikit_learn() -> None:
    logits, y = drawn(4000, 5, 1)
    tally = CalibrationTally()
    tally.add(logits, y)
    confidence = probabilities(logits).max(axis=1)
    share, mean = calibration_curve(logits.argmax(axis=1) == y, confidence, n_bins=15, strategy="uniform")
    filled = tally.count > 0
    np.testing.assert_allclose(tally.right[filled] / tally.count[filled], share)
    np.testing.assert_allclose(tally.confidence[filled] / tally.count[filled], mean)
    assert tally.error == pytest.approx(np.sum(tally.count[filled] * np.abs(share - mean)) / len(y))


def test_a_network_that_is_as_sure_as_it_should_be_has_next_to_no_error() -> None:
    logits, y = drawn(200_000, 4, 2)
    honest, sure = CalibrationTally(), CalibrationTally(temperature=0.4)
    honest.add(logits, y)
    sure.add(logits, y)
    assert honest.error < 0.005
    assert sure.error > 0.1


def test_what_is_no_number_is_in_no_bin() -> None:
    tally = CalibrationTally()
    with pytest.raises(InputError, match=r"(?s)no confidence.*0 decisions.*at least one"):
        _ = tally.error
    tally.add(np.array([[np.nan, 0.0], [9.0, -9.0]]), np.array([0, 0]))
    assert tally.count.sum() == 1
    assert tally.error == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_temperatures_that_cannot_be(temperature: float) -> None:
    with pytest.raises(InputError, match=rf"(?s)temperature.*{temperature}.*positive"):
        CalibrationTally(temperature=temperature)


def test_bins_that_cannot_be() -> None:
    with pytest.raises(InputError, match=r"(?s)bins.*0.*at least 1"):
        CalibrationTally(bins=0)


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.5, 6.0])
def test_the_temperature_recovers_a_known_scale(scale: float) -> None:
    logits, y = drawn(40_000, 6, 3)
    found = fit_temperature(scale * logits, y)
    assert found.value == pytest.approx(scale, rel=0.03)
    assert found.nll_after <= found.nll_before
    exact = -np.log(probabilities(scale * logits, found.value)[np.arange(len(y)), y]).mean()
    assert found.nll_after == pytest.approx(exact)


@settings(deadline=None, max_examples=25)
@given(st.integers(20, 200), st.integers(2, 6), st.integers(0, 10_000), st.floats(0.2, 5.0))
def test_it_is_the_minimum(count: int, classes: int, seed: int, scale: float) -> None:
    optimize = pytest.importorskip("scipy.optimize", reason="the oracle is scipy's bounded minimisation")
    logits, y = drawn(count, classes, seed)
    logits = scale * logits

    def nll(temperature: float) -> float:
        shifted = logits - logits.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(shifted / temperature).sum(axis=1))
        return float(np.mean(log_sum - shifted[np.arange(count), y] / temperature))

    best = optimize.minimize_scalar(lambda log: nll(math.exp(log)), bounds=(math.log(LOWEST), math.log(HIGHEST)))
    found = fit_temperature(logits, y)
    assert found.nll_after <= best.fun + 1e-9
    assert found.nll_after <= found.nll_before + 1e-12


def test_where_nothing_is_wrong_it_stops_at_its_limit() -> None:
    logits = 5 * np.eye(3)[np.arange(30) % 3]
    assert fit_temperature(logits, np.arange(30) % 3).value == pytest.approx(LOWEST)
    assert fit_temperature(logits, (np.arange(30) + 1) % 3).value == pytest.approx(HIGHEST)


@pytest.mark.parametrize(
    ("logits", "y", "words"),
    [
        (np.zeros((0, 3)), np.zeros(0, dtype=int), r"float64\[0, 3\].*at least 1"),
        (np.zeros((4, 3)), np.zeros(5, dtype=int), r"\[4, 3\].*y \[5\]"),
        (np.zeros((2, 3)), np.array([0, 3]), r"of 0 to 3.*0 to classes - 1"),
        (np.full((2, 3), np.nan), np.array([0, 1]), "6 not finite.*finite logits"),
    ],
)
def test_logits_that_cannot_be_fitted(logits: NDArray[np.float64], y: NDArray[np.int64], words: str) -> None:
    with pytest.raises(InputError, match=f"(?s){words}"):
        fit_temperature(logits, y)
