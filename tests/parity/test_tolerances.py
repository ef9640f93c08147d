from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from drsn_edge.errors import InputError
from drsn_edge.files import dump_json
from drsn_edge.parity.ledger import HopError, compare
from drsn_edge.parity.tolerances import FP32_MAX_REL, Tolerance, derive, just_passes

LAYERS = 24
Array = NDArray[Any]


class Chain:
    """Residual layers with 8-bit fake quantization of inputs and weights, to try tolerances on real rounding."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.x = rng.normal(size=(256, 64))
        self.weights = rng.normal(0, 0.7 / 8, (LAYERS, 64, 64))
        self.head = rng.normal(0, 1, (64, 10))
        self.scales = np.ones((LAYERS, 2))
        self.logits(np.float64, self._observe)

    def _observe(self, layer: int, which: int, value: Array) -> Array:
        self.scales[layer, which] = np.abs(value).max() / 127
        return value

    def logits(self, dtype: Any, rounding: Callable[[int, int, Array], Array]) -> Array:
        x = self.x.astype(dtype)
        for layer in range(LAYERS):
            a = rounding(layer, 0, np.maximum(x, 0))
            w = rounding(layer, 1, self.weights[layer].astype(dtype))
            x = x + a.astype(dtype) @ w.astype(dtype)
        return np.asarray(x @ self.head.astype(dtype))

    def quantized(self, dtype: Any, scales: Array | None = None) -> Array:
        used = (self.scales if scales is None else scales).astype(dtype)

        def rounding(layer: int, which: int, value: Array) -> Array:
            scale = used[layer, which]
            return np.asarray(np.clip(np.rint(value / scale), -128, 127) * scale)

        return self.logits(dtype, rounding)


@pytest.fixture(scope="module")
def chain() -> Chain:
    return Chain()


@pytest.fixture(scope="module")
def fp32(chain: Chain) -> Array:
    return chain.logits(np.float32, lambda layer, which, value: value)


@pytest.fixture(scope="module")
def fp64(chain: Chain) -> Array:
    return chain.logits(np.float64, lambda layer, which, value: value)


def test_fp32_hop_is_the_design_rule() -> None:
    tolerance = derive("export", "fp32")
    reference = np.array([[25.0, 24.0], [3.0, 1.0]])
    edge = 25.0 * FP32_MAX_REL
    assert not tolerance.violations(compare(reference, reference + np.array([[0.99 * edge, 0], [0, 0]])))
    broken = tolerance.violations(compare(reference, reference + np.array([[1.01 * edge, 0], [0, 0]])))
    assert [item.figure for item in broken] == ["max_rel"]
    assert broken[0].limit == 2e-5
    swapped = np.array([[1.0, 1.0 - 1e-6]])
    assert [item.figure for item in tolerance.violations(compare(swapped, swapped[:, ::-1]))] == ["top1_agreement"]


def test_real_fp32_noise_passes_the_fp32_hop(fp32: Array, fp64: Array) -> None:
    assert not derive("export", "fp32").violations(compare(fp64, fp32))


def test_the_same_int8_graph_in_other_arithmetic_passes(chain: Chain, fp32: Array) -> None:
    recorded = chain.quantized(np.float32)
    tolerance = derive("recorded", "int8", reference=fp32, recorded=recorded)
    rebuilt = compare(recorded, chain.quantized(np.float64))
    assert rebuilt.max_abs > 0  # roundings did fall differently
    assert not tolerance.violations(rebuilt)


@pytest.mark.parametrize("which", [0, 1], ids=["activations", "weights"])
@pytest.mark.parametrize("factor", [3.0, 1 / 3])
def test_one_scale_three_times_off_fails(chain: Chain, fp32: Array, which: int, factor: float) -> None:
    recorded = chain.quantized(np.float32)
    tolerance = derive("recorded", "int8", reference=fp32, recorded=recorded)
    assert tolerance.rmse is not None
    for layer in range(LAYERS):
        scales = chain.scales.copy()
        scales[layer, which] *= factor
        error = compare(recorded, chain.quantized(np.float32, scales))
        assert error.rmse > 1.2 * tolerance.rmse, f"layer {layer} of {LAYERS}"
        assert tolerance.violations(error)


def test_a_sound_int8_graph_passes_its_precision_hop_and_a_random_one_fails(chain: Chain, fp32: Array) -> None:
    tolerance = derive("precision", "int8", reference=fp32)
    assert not tolerance.violations(compare(fp32, chain.quantized(np.float32)))
    assert tolerance.violations(compare(fp32, chain.quantized(np.float32, chain.scales / 30)))
    assert tolerance.violations(compare(fp32, np.roll(fp32, 1, axis=1)))


def test_fp16_passes_its_precision_hop_and_coarser_rounding_fails(chain: Chain, fp32: Array, fp64: Array) -> None:
    tolerance = derive("precision", "fp16", reference=fp32, fp64=fp64)

    def half(layer: int, which: int, value: Array) -> Array:
        return value.astype(np.float16).astype(value.dtype)

    assert not tolerance.violations(compare(fp32, chain.logits(np.float32, half)))
    assert tolerance.violations(compare(fp32, chain.quantized(np.float32, chain.scales * 10)))


def test_a_lucky_noise_floor_does_not_fail_a_sound_fp16_graph() -> None:
    """Figures of a small trained network whose FP16 graph is sound: the margins are 20 times the error."""
    fp32 = np.tile(np.array([[8.0, -8.0]]), (96, 1))
    floor, half = np.zeros_like(fp32), np.zeros_like(fp32)
    floor[83, 0], half[83, 0] = 1.9e-6, 0.017
    tolerance = derive("precision", "fp16", reference=fp32, fp64=fp32 + floor)
    assert not tolerance.violations(compare(fp32, fp32 + half))
    assert tolerance.violations(compare(fp32, fp32 + 2 * half))


def test_an_engine_may_be_as_loud_as_the_quantization_itself(chain: Chain, fp32: Array) -> None:
    recorded = chain.quantized(np.float32)
    tolerance = derive("engine", "int8", reference=fp32, recorded=recorded)
    assert tolerance.rmse == pytest.approx(compare(fp32, recorded).rmse)
    assert not tolerance.violations(compare(recorded, chain.quantized(np.float64)))
    assert tolerance.violations(compare(recorded, recorded * 1.5))


def test_engine_and_recorded_fp32_need_no_golden_logits() -> None:
    assert derive("engine", "fp32").max_rel == 1e-4
    assert derive("recorded", "fp32").max_rel == 2e-5
    # What adds up one sample after the other is off by more over longer silences.
    assert derive("export", "fp32", samples=64).max_rel == 2e-5
    assert derive("export", "fp32", samples=8192).max_rel == derive("recorded", "fp32", samples=8192).max_rel == 8e-5


def test_a_precision_without_any_error_of_its_own_is_judged_as_fp32(fp32: Array) -> None:
    tolerance = derive("recorded", "int8", reference=fp32, recorded=fp32)
    assert not tolerance.violations(compare(fp32, fp32 * (1 + 1e-6)))
    assert tolerance.violations(compare(fp32, fp32 * (1 + 1e-3)))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_not_finite_passes_nothing(fp32: Array, bad: float) -> None:
    candidate = fp32.copy()
    candidate[0, 0] = bad
    error = compare(fp32, candidate)
    assert [item.figure for item in Tolerance().violations(error)] == ["nonfinite"]
    with pytest.raises(InputError) as caught:
        just_passes(error)
    assert "1" in str(caught.value)
    assert "a finite candidate" in str(caught.value)


def test_a_nan_figure_fails() -> None:
    error = dataclasses.replace(compare(np.eye(2), np.eye(2)), rmse=math.nan)
    assert Tolerance(rmse=1.0).violations(error)


WORSE: dict[str, float] = {
    "max_abs": 1.001,
    "max_rel": 1.001,
    "rmse": 1.001,
    "sqnr_db": 0.999,
    "cosine": 0.999,
    "top1_agreement": 0.999,
    "margin_eaten": 1.001,
}


@pytest.mark.parametrize("figure", WORSE)
def test_just_passes_passes_just(figure: str, fp32: Array) -> None:
    error = compare(fp32, fp32 + 0.02 * np.sin(fp32))
    tolerance = just_passes(error)
    assert not tolerance.violations(error)
    worse: HopError = dataclasses.replace(error, **{figure: getattr(error, figure) * WORSE[figure]})
    assert [item.figure for item in tolerance.violations(worse)] == [figure]


def test_just_passes_for_identical_logits(fp32: Array) -> None:
    tolerance = just_passes(compare(fp32, fp32))
    assert not tolerance.violations(compare(fp32, fp32))
    assert tolerance.violations(compare(fp32, fp32 + 1e-6))


def test_round_trip(fp32: Array) -> None:
    tolerance = derive("recorded", "int8", reference=fp32, recorded=fp32 + 0.1)
    assert Tolerance.from_json(json.loads(dump_json(tolerance.to_json()))) == tolerance


@pytest.mark.parametrize(
    ("kind", "precision", "words"),
    [
        ("precision", "int8", ["no reference logits", "reference golden logits"]),
        ("precision", "fp16", ["no fp64 logits", "fp64 golden logits"]),
        ("recorded", "int8", ["no recorded logits", "recorded golden logits"]),
    ],
)
def test_what_a_tolerance_needs(kind: Any, precision: Any, words: list[str], fp32: Array) -> None:
    with pytest.raises(InputError) as caught:
        derive(kind, precision, reference=None if "reference" in words[0] else fp32)
    for word in words:
        assert word in str(caught.value)


def test_precision_hop_to_fp32_makes_no_sense(fp32: Array) -> None:
    with pytest.raises(InputError) as caught:
        derive("precision", "fp32", reference=fp32)
    assert "fp32" in str(caught.value)
    assert "fp16 or int8" in str(caught.value)


def test_recorded_logits_must_be_finite(fp32: Array) -> None:
    with pytest.raises(InputError) as caught:
        derive("recorded", "int8", reference=fp32, recorded=fp32 * np.nan)
    assert str(fp32.size) in str(caught.value)
    assert "finite golden logits" in str(caught.value)
