"""Learned rounding: against exhaustive search, NumPy's covariance and torch's convolutions."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("onnxscript", reason="networks are exported with torch's exporter")
pytest.importorskip("torch", reason="convolutions are compared with torch's")

import onnx_ir as ir
import torch

from drsn_edge.calibration import rounding as module
from drsn_edge.calibration.observers import LEVELS, weight_scales
from drsn_edge.calibration.offsets import full_range_layers, offset_of
from drsn_edge.calibration.patches import convolve_constant, patches
from drsn_edge.calibration.plan import make_plan
from drsn_edge.calibration.quantize import quantize
from drsn_edge.calibration.rounding import Moments, descend, learn_rounding, restored
from drsn_edge.errors import InputError
from drsn_edge.exporters.graph_tools import constant
from drsn_edge.signals.windows import Windows


def problem(size: int, seed: int) -> tuple[Any, Any]:
    """Weights in steps, and the covariance of strongly correlated inputs."""
    rng = np.random.default_rng(seed)
    factors = rng.standard_normal((size, 2)) @ rng.standard_normal((2, 200)) + 0.3 * rng.standard_normal((size, 200))
    return rng.uniform(-20, 20, (3, size)), factors @ factors.T / 200


def cost(q: Any, target: Any, second: Any) -> Any:
    return np.einsum("ri,ij,rj->r", q - target, second, q - target)


@settings(max_examples=30)
@given(size=st.integers(1, 7), seed=st.integers(0, 999))
def test_the_descent_ends_where_no_single_weight_helps_and_near_the_best_of_all(size: int, seed: int) -> None:
    target, second = problem(size, seed)
    nearest = np.rint(target)
    found = descend(target, second, nearest)
    assert np.all(np.abs(found - target) < 1), "no weight moves by a whole step"
    assert np.all(cost(found, target, second) <= cost(nearest, target, second) + 1e-9)
    for column in range(size):
        other = found.copy()
        other[:, column] = np.floor(target[:, column]) + np.ceil(target[:, column]) - found[:, column]
        assert np.all(cost(other, target, second) >= cost(found, target, second) - 1e-9)
    best = np.full(3, np.inf)
    for up in itertools.product((0, 1), repeat=size):
        best = np.minimum(best, cost(np.floor(target) + np.array(up), target, second))
    assert np.all(best <= cost(found, target, second) + 1e-9)


def test_the_descent_is_far_better_than_nearest_for_correlated_inputs() -> None:
    ratios = []
    for seed in range(20):
        target, second = problem(24, seed)
        nearest = np.rint(target)
        found = descend(target, second, nearest)
        ratios.append(cost(found, target, second).sum() / cost(nearest, target, second).sum())
    assert np.mean(ratios) < 0.3


def test_a_weight_that_is_an_integer_but_for_rounding_stays() -> None:
    target = np.array([[126.9999999, -127.0000001, 3.0000001, 4.0]])
    found = descend(target, np.ones((4, 4)) + np.eye(4), np.clip(np.rint(target), -LEVELS, LEVELS))
    assert found.tolist() == [[127, -127, 3, 4]]


def test_moments_are_those_of_the_whole() -> None:
    x = np.random.default_rng(0).standard_normal((2, 5, 300)).astype(np.float32) + 1
    moments = Moments.empty(2, 5)
    for start in range(0, 300, 37):
        moments.add(x[..., start : start + 37])
    assert moments.count == 300
    for group in range(2):
        np.testing.assert_allclose(moments.mean[group], x[group].mean(axis=1), rtol=1e-5)
        np.testing.assert_allclose(moments.covariance[group], np.cov(x[group], bias=True), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("dims", "stride", "pads", "dilation"),
    [(1, 1, (1, 1), 1), (1, 2, (1, 1), 1), (1, 2, (2, 0), 3), (2, 2, (1,) * 4, 1)],
)
def test_patches_are_what_a_convolution_multiplies(
    dims: int, stride: int, pads: tuple[int, ...], dilation: int
) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 3, *(11,) * dims)).astype(np.float32)
    weight = rng.standard_normal((4, 3, *(3,) * dims)).astype(np.float32)
    node = ir.node(
        "Conv", [ir.val("x"), ir.val("w")],
        attributes={"pads": list(pads), "strides": [stride] * dims, "dilations": [dilation] * dims},
    )  # fmt: skip
    sides = [side for axis in reversed(range(dims)) for side in (pads[axis], pads[dims + axis])]

    def convolve(values: Any) -> Any:
        compute = torch.nn.functional.conv1d if dims == 1 else torch.nn.functional.conv2d
        padded = torch.nn.functional.pad(torch.from_numpy(values), sides)
        return compute(padded, torch.from_numpy(weight), stride=stride, dilation=dilation).numpy()

    wanted = convolve(x)
    seen = patches(node, x, weight.shape[2:])
    found = (weight.reshape(4, -1) @ seen.reshape(-1, seen.shape[-1])).reshape(4, 2, *wanted.shape[2:])
    np.testing.assert_allclose(np.moveaxis(found, 0, 1), wanted, rtol=1e-4, atol=1e-5)
    ones = convolve(np.full((1, 3, *(11,) * dims), 0.7, np.float32))[0]
    np.testing.assert_allclose(convolve_constant(node, weight, 0.7, (11,) * dims), ones, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("glue", ["fp32", "fp16"])
@pytest.mark.parametrize("options", [{}, {"dims": 2}])
def test_a_full_range_gives_back_what_it_takes_off_the_borders_included(
    fitted: Callable[..., Any],
    tones: Callable[..., Windows],
    run_onnx: Callable[..., Any],
    quantizer: Any,
    options: Any,
    glue: Any,
) -> None:
    """Convolution by convolution: of the very activations that the pair gives, with offset, by torch."""
    from drsn_edge.exporters.precision import emulated

    contract, graph = fitted("drsn-cw", **options)
    plan = make_plan(graph)
    scales = {row.layer: 0.02 for row in plan.int8}
    layers = full_range_layers(graph, list(scales))
    assert set(layers) == set(scales), "every int8 convolution stands behind a ReLU"
    model = quantize(graph, plan=plan, scales=scales, glue=glue, full_range=layers).model
    nodes: dict[str, Any] = {node.name or "": node for node in model.graph}
    taps = {}
    for name in layers:
        taps[name] = nodes[f"{name}.input/Sub"].inputs[0].name, nodes[f"{name}.offset/Add"].outputs[0].name
        for value in (nodes[f"{name}.input/Sub"].inputs[0], nodes[f"{name}.offset/Add"].outputs[0]):
            if not value.is_graph_output():
                model.graph.outputs.append(value)
    found = run_onnx(emulated(ir.to_proto(model).SerializeToString()), window=tones(4, shape=contract.shape).x)
    for name, (before, after) in taps.items():
        node = nodes[name]
        weight, bias = constant(quantizer(node, 1).inputs[0]), constant(node.inputs[2])
        assert weight is not None
        x = restored(found[before].astype(np.float32), 0.02, shifted=True)
        assert x.min() == 0, "zero is a level"
        compute: Any = torch.nn.functional.conv1d if weight.ndim == 3 else torch.nn.functional.conv2d
        stride = node.attributes.get_ints("strides")[0]
        pad = node.attributes.get_ints("pads")[0]
        tensors = (torch.from_numpy(np.array(item)).double() for item in (x, weight, bias))
        wanted = compute(*tensors, stride=stride, padding=pad).numpy()
        assert np.abs(found[after] - wanted).max() <= 2e-5 * np.abs(wanted).max(), name


def test_learned_weights_are_within_a_step_and_the_mean_is_kept(
    fitted: Callable[..., Any], tones: Callable[..., Windows]
) -> None:
    _, graph = fitted()
    plan = make_plan(graph)
    scales = {row.layer: 0.02 for row in plan.int8}
    options: dict[str, Any] = {"plan": plan, "scales": scales, "full_range": list(scales), "windows": tones(48).x}
    found = learn_rounding(graph, **options)
    again = learn_rounding(graph, **options)
    assert {name: item.digest for name, item in found.items()} == {name: item.digest for name, item in again.items()}
    changed = 0
    for node in graph.model.graph:
        if node.name in found:
            weight = constant(node.inputs[1])
            assert weight is not None
            steps = weight_scales(weight).reshape(-1, 1, 1)
            assert np.abs(found[node.name].integers * steps - weight).max() <= steps.max() * (1 + 1e-6)
            changed += int((found[node.name].integers != np.rint(weight / steps)).sum())
    assert changed > 0


def test_an_offset_for_what_may_be_negative_is_refused(fitted: Callable[..., Any]) -> None:
    _, graph = fitted("drsn-cw", detrend="none", standardise="none")
    plan = make_plan(graph, quantize_first=True)
    scales = {row.layer: 0.02 for row in plan.int8}
    assert "stem/Conv" not in full_range_layers(graph, list(scales))
    with pytest.raises(InputError) as caught:
        quantize(graph, plan=plan, scales=scales, full_range=["stem/Conv"])
    assert "the input of stem/Conv may be negative" in str(caught.value.got)
    assert offset_of(0.5) == 63.5


def test_of_many_windows_a_draw_is_used(
    fitted: Callable[..., Any], tones: Callable[..., Windows], unit_scales: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """As many as the limit says, the same every time, from all over the data."""
    _, graph = fitted()
    plan, scales = unit_scales(graph)
    seen: list[Moments] = []
    monkeypatch.setattr(module, "_MOST", 32)
    monkeypatch.setattr(module, "_round", lambda _node, moments: seen.append(moments))
    x = np.concatenate([tones(48).x, np.zeros((48, 1, 64), np.float32)])
    for windows in (x, x, x[:32]):
        learn_rounding(graph, plan=plan, scales=scales, full_range=(), windows=windows)
    many, again, few = seen[:: len(plan.int8)]
    assert many.count == few.count
    assert np.array_equal(many.second, again.second)
    assert not np.array_equal(many.second, few.second), "the second half, which is silent, was left out"
