"""Ranges: the streaming histogram against all values at once, NumPy and brute force."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from drsn_edge.calibration.observers import LEVELS, METHODS, RangeObserver, round_weights, scale_of, weight_scales
from drsn_edge.errors import InputError, UsageError

Values = NDArray[np.float32]
Draw = Callable[[np.random.Generator, int], NDArray[Any]]

DRAWS: dict[str, Draw] = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "relu of normal": lambda rng, n: np.maximum(rng.standard_normal(n), 0),
    "laplace": lambda rng, n: rng.laplace(size=n),
    "uniform": lambda rng, n: rng.uniform(-1, 1, n),
    "student, 3 degrees": lambda rng, n: rng.standard_t(3, n),
    "log-normal": lambda rng, n: rng.lognormal(0, 1, n),
}


def observed(*batches: NDArray[Any]) -> RangeObserver:
    observer = RangeObserver()
    for batch in batches:
        observer.update(batch)
    return observer


def sample(name: str, count: int = 50_000, seed: int = 0) -> Values:
    return DRAWS[name](np.random.default_rng(seed), count).astype(np.float32)


def squared_error(values: NDArray[Any], amax: float) -> float:
    """What int8 does to values, without a histogram."""
    scale = np.float64(amax) / LEVELS
    return float(np.mean((values - np.clip(np.rint(values / scale), -LEVELS, LEVELS) * scale) ** 2))


finite = st.floats(-(2.0**99), 2.0**99, width=32)


@settings(max_examples=30)
@given(arrays(np.float32, st.integers(1, 200), elements=finite), st.lists(st.integers(0, 200), max_size=6))
def test_batches_and_their_order_do_not_matter(values: Values, cuts: list[int]) -> None:
    whole = observed(values)
    pieces = np.split(values, sorted(min(cut, len(values)) for cut in cuts))
    for order in (pieces, pieces[::-1]):
        parts = observed(*order)
        assert np.array_equal(parts.counts, whole.counts)
        assert (parts.zeros, parts.largest, parts.limit) == (whole.zeros, whole.largest, whole.limit)
        assert [parts.amax(method) for method in METHODS] == [whole.amax(method) for method in METHODS]


@given(st.lists(arrays(np.float32, array_shapes(max_dims=3, max_side=6), elements=finite), max_size=8))
def test_no_value_is_lost_when_the_range_doubles(batches: list[Values]) -> None:
    observer = observed(*batches)
    values = np.concatenate([batch.ravel() for batch in batches]) if batches else np.zeros(0, np.float32)
    assert observer.zeros == np.count_nonzero(values == 0)
    assert observer.counts.sum() == np.count_nonzero(values)
    assert (observer.counts >= 0).all()
    assert observer.limit > observer.largest or not values.any()
    assert observer.limit <= max(2 * observer.largest, 2.0**-100)


def test_memory_is_constant() -> None:
    observer = RangeObserver()
    size = observer.counts.nbytes
    for step in range(60):
        observer.update(np.full((3, 5), 1.7**step, np.float32))
    assert observer.counts.nbytes == size < 200_000
    assert observer.counts.sum() == 60 * 15


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9, 99.99, 100.0])
def test_percentile_is_numpys_within_a_bin(name: str, percentile: float) -> None:
    values = sample(name, 49_999)  # no percentile lies on the border between two of them
    observer = observed(*np.array_split(values, 10))
    wanted = np.percentile(np.abs(values[values != 0]), percentile, method="inverted_cdf")
    width = observer.limit / len(observer.counts)
    assert wanted <= observer.amax("percentile", percentile=percentile) <= wanted + width


def test_percentile_of_sparse_values_is_theirs_and_not_zero() -> None:
    values = np.zeros(1_000_000, np.float32)
    values[:50] = np.linspace(1, 2, 50)
    observer = observed(values)
    assert observer.zeros == 999_950
    assert observer.amax("percentile", percentile=90.0) == pytest.approx(np.percentile(values[:50], 90), abs=0.05)


@pytest.mark.parametrize("name", DRAWS)
def test_mse_is_as_good_as_brute_force(name: str) -> None:
    values = sample(name)
    top = float(np.abs(values).max())
    best = min(squared_error(values, share * top) for share in np.linspace(0.02, 1, 400))
    found = observed(values).amax("mse")
    assert 0 < found <= top
    assert squared_error(values, found) <= 1.03 * best


def test_mse_clips_a_tail_and_leaves_a_uniform_distribution() -> None:
    assert observed(sample("uniform")).amax("mse") > 0.98
    heavy = sample("laplace")
    found, top = observed(heavy).amax("mse"), float(np.abs(heavy).max())
    assert found < 0.9 * top
    assert squared_error(heavy, found) < 0.9 * squared_error(heavy, top)


def test_entropy_clips_a_tail_and_leaves_a_uniform_distribution() -> None:
    assert observed(sample("uniform", 200_000)).amax("entropy") > 0.9
    heavy = sample("student, 3 degrees", 200_000)
    found = observed(heavy).amax("entropy")
    assert np.percentile(np.abs(heavy), 95) < found < 0.8 * np.abs(heavy).max()


@pytest.mark.parametrize("method", METHODS)
def test_zeros_do_not_move_a_range(method: str) -> None:
    values = sample("relu of normal")
    found = observed(values, np.zeros(10**6, np.float32)).amax(method)
    assert found == observed(values[values != 0]).amax(method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", DRAWS)
def test_every_range_lies_within_the_values(method: str, name: str) -> None:
    values = sample(name, 5_000)
    assert 0 < observed(values).amax(method) <= np.abs(values).max()


@settings(max_examples=20)
@given(st.integers(-40, 40))
def test_a_power_of_two_scales_every_range_with_it(exponent: int) -> None:
    values = sample("laplace", 2_000)
    factor = np.float32(2.0**exponent)
    for method in METHODS:
        assert observed(values * factor).amax(method) == observed(values).amax(method) * factor


@pytest.mark.parametrize("method", METHODS)
def test_nothing_but_zeros_has_a_scale(method: str) -> None:
    observer = observed(np.zeros((4, 7), np.float32))
    assert (observer.largest, observer.limit, observer.zeros) == (0.0, 0.0, 28)
    assert scale_of(observer.amax(method)) > 0


@pytest.mark.parametrize("tiny", [1e-45, 1e-38, 1e-25])
def test_tiny_values_have_a_scale_that_float32_can_multiply(tiny: float) -> None:
    observer = observed(np.full(9, tiny, np.float32))
    for method in METHODS:
        scale = np.float32(scale_of(observer.amax(method)))
        assert scale > 0
        assert scale * scale > np.finfo(np.float32).tiny


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_by_name(bad: float) -> None:
    with pytest.raises(InputError, match=r"units\.3/Relu:0 is not finite") as caught:
        observed().update(np.array([1.0, bad], np.float32), name="units.3/Relu:0")
    assert caught.value.got in ("nan", "inf")
    assert caught.value.expected == "finite values"


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown range method") as caught:
        observed(np.ones(3)).amax("median")
    assert caught.value.got == "median"
    assert all(method in str(caught.value.expected) for method in METHODS)


def test_scale_is_a_float32_number() -> None:
    for amax in (1.0, 0.1, 3.7e5, 12.345678901):
        assert float(np.float32(scale_of(amax))) == scale_of(amax)
        assert scale_of(amax) == pytest.approx(amax / 127, rel=1e-7)


@given(arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3)), elements=finite))
def test_weight_scales_are_positive_and_reach_the_largest_weight(weight: Values) -> None:
    scales = weight_scales(weight)
    assert scales.dtype == np.float32
    assert scales.shape == (len(weight),)
    assert (scales > 0).all()
    levels = np.abs(weight).reshape(len(weight), -1) / scales[:, None]
    assert levels.max() <= LEVELS * (1 + 1e-6)
    used = np.abs(weight).reshape(len(weight), -1).max(axis=1) > 1e-15
    assert (levels.max(axis=1)[used] > LEVELS * (1 - 1e-6)).all()


def test_a_channel_of_zeros_has_scale_one() -> None:
    weight = np.zeros((3, 2, 3), np.float32)
    weight[1] = 0.5
    assert weight_scales(weight).tolist() == [1.0, np.float32(0.5) / np.float32(127), 1.0]
    assert np.array_equal(round_weights(weight)[[0, 2]], weight[[0, 2]])


@given(arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3)), elements=finite))
def test_rounded_weights_round_to_the_same_integers_by_division_and_by_multiplication(weight: Values) -> None:
    scales = weight_scales(weight).reshape(-1, 1, 1)
    integers = np.clip(np.rint(weight / scales), -127, 127)
    rounded = round_weights(weight)
    assert rounded.dtype == np.float32
    assert np.array_equal(np.rint(rounded / scales), integers)
    # TensorRT's kernels multiply by the reciprocal.
    assert np.array_equal(np.rint(rounded * (np.float32(1) / scales)), integers)
    assert (np.abs(rounded - weight) <= scales * np.float32(0.5001)).all()
