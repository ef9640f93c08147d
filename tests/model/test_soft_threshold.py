"""Soft thresholding by itself: equation 5, equation 6, and what must hold for any numbers."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from drsn_edge.model.shrinkage import mean_magnitude, soft_threshold, spatial_mean

few = settings(max_examples=60, deadline=None)
# Magnitudes from far below to far above anything that a network holds, without subnormals.
numbers = st.one_of(st.just(0.0), st.floats(2**-20, 2**20, width=32), st.floats(-(2**20), -(2**-20), width=32))
maps = hnp.arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9)), elements=numbers)


def plain(x: Tensor, tau: Tensor) -> Tensor:
    """The same by autograd alone."""
    return torch.where(x > tau, x - tau, torch.where(x < -tau, x + tau, torch.zeros_like(x)))


def away_from_kinks(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tau = torch.rand(3, 4, 1, dtype=torch.float64, generator=generator) + 0.2
    x = torch.randn(3, 4, 7, dtype=torch.float64, generator=generator)
    near = (x.abs() - tau).abs() < 1e-2
    return torch.where(near, x * 1.5 + 0.1, x).requires_grad_(), tau.requires_grad_()


@pytest.mark.parametrize("seed", range(3))
def test_derivative_is_the_numerical_one(seed: int) -> None:
    assert torch.autograd.gradcheck(soft_threshold, away_from_kinks(seed))


@pytest.mark.parametrize("shape", [(3, 4, 1), (3, 1, 1), (1, 4, 1), (3, 4, 7)])
def test_own_backward_equals_autograd(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(3, 4, 7, dtype=torch.float64, generator=generator)
    values = torch.randn(3, 4, 7, dtype=torch.float64, generator=generator)
    limits = torch.rand(shape, dtype=torch.float64, generator=generator)
    grads = []
    for function in (soft_threshold, plain):
        x, tau = values.clone().requires_grad_(), limits.clone().requires_grad_()
        grads.append(torch.autograd.grad((function(x, tau) * weight).sum(), (x, tau)))
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-14, atol=1e-14)


def test_training_and_inference_paths_give_the_same_bits() -> None:
    x, tau = away_from_kinks(5)
    with torch.no_grad():
        inference = soft_threshold(x, tau)
    assert torch.equal(soft_threshold(x, tau).detach(), inference)


@few
@given(maps, st.floats(0, 1, width=32, allow_subnormal=False))
def test_slope_is_one_outside_and_zero_inside(x: Any, alpha: float) -> None:
    features = torch.from_numpy(x).requires_grad_()
    tau = (alpha * spatial_mean(features.detach().abs()))[..., None]
    shrunk = soft_threshold(features, tau)
    (slope,) = torch.autograd.grad(shrunk.sum(), features)
    outside = features.detach().abs() > tau
    assert torch.equal(slope, outside.to(torch.float32))
    assert torch.equal(shrunk.detach() != 0, outside)


@few
@given(maps, st.floats(0, 1, width=32, allow_subnormal=False))
def test_shrinks_towards_zero_by_the_threshold_and_never_past_it(x: Any, alpha: float) -> None:
    features = torch.from_numpy(x)
    tau = (alpha * spatial_mean(features.abs()))[..., None]
    shrunk = soft_threshold(features, tau)
    assert bool((shrunk[features.abs() <= tau] == 0).all()), "the dead zone is exactly zero"
    assert bool((shrunk * features >= 0).all()), "no sign changes"
    removed = features.abs() - shrunk.abs()
    expected = torch.minimum(features.abs(), tau.expand_as(features))
    torch.testing.assert_close(removed, expected, rtol=1e-5, atol=1e-6 * float(features.abs().max()))


@few
@given(maps, st.floats(0, 1, width=32, allow_subnormal=False))
def test_equals_equation_5_number_by_number(reference: ModuleType, x: Any, alpha: float) -> None:
    tau = alpha * np.abs(x).mean(axis=2, dtype=np.float64).astype(np.float32)
    result = soft_threshold(torch.from_numpy(x), torch.from_numpy(tau)[..., None]).numpy()
    np.testing.assert_array_equal(result, reference.soft_threshold(x, tau))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extremes_of_a_type_give_no_nan(dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    values = [0.0, -0.0, info.max, info.min, info.tiny, -info.tiny, info.tiny / 4, 1.0, -1.0]
    x = torch.tensor(values, dtype=dtype)
    for limit in (0.0, info.tiny / 4, info.tiny, 1.0, info.max):
        shrunk = soft_threshold(x, torch.tensor(limit, dtype=dtype))
        assert bool(torch.isfinite(shrunk).all()), (limit, shrunk)
        assert bool((shrunk.abs() <= x.abs()).all())


def test_infinite_features_stay_infinite_instead_of_nan() -> None:
    x = torch.tensor([torch.inf, -torch.inf])
    assert soft_threshold(x, torch.tensor(2.0)).tolist() == [torch.inf, -torch.inf]


@pytest.mark.parametrize("shape", [(2, 3, 8), (2, 3, 4, 5)])
def test_mean_magnitude_and_its_derivative(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
    np.testing.assert_allclose(
        mean_magnitude(x).detach().numpy(), np.abs(x.detach().numpy()).reshape(2, 3, -1).mean(axis=2), rtol=1e-14
    )
    assert torch.autograd.gradcheck(mean_magnitude, (x,))
