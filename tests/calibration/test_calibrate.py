"""Calibration end to end: the choice of the method, what is refused, and that scales are those of the graph."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from drsn_edge.errors import InputError
from drsn_edge.signals.windows import Windows

pytest.importorskip("onnxscript", reason="networks are exported with torch's exporter")
pytest.importorskip("onnxruntime", reason="calibration runs the FP32 graph")

from drsn_edge.calibration import calibrate as module
from drsn_edge.calibration.calibrate import CalibrationOptions
from drsn_edge.calibration.collect import observe, tap
from drsn_edge.calibration.contract import Calibration
from drsn_edge.calibration.judge import Judge
from drsn_edge.calibration.observers import METHODS, scale_of
from drsn_edge.calibration.plan import PrecisionPlan, make_plan
from drsn_edge.calibration.quantize import quantize, quantize_as
from drsn_edge.calibration.windows import choose
from drsn_edge.exporters.graph_tools import constant

Fitted = Callable[..., Any]
Tones = Callable[..., Windows]
Run = Callable[..., Any]
FAST = CalibrationOptions(method="percentile", percentile=99.9)


@pytest.fixture(scope="module")
def found(run: Run) -> Calibration:
    result: Calibration = run()
    return result


def test_the_best_trial_is_chosen(found: Calibration) -> None:
    assert len(found.trials) == len(module._TRIALS)
    assert all(cost >= 0 and math.isfinite(cost) for cost in found.trials.values())
    assert found.trials[found.method] == min(found.trials.values())
    assert len(set(found.trials.values())) > 1
    assert {name.split()[0] for name in found.trials} == set(METHODS)


def test_every_int8_layer_has_a_float32_scale(found: Calibration) -> None:
    assert set(found.scales) == {row.layer for row in found.plan.int8}
    assert all(scale > 0 and float(np.float32(scale)) == scale for scale in found.scales.values())
    assert found.windows == 96


def test_calibration_is_deterministic(found: Calibration, run: Run) -> None:
    assert run().to_json() == found.to_json()


def test_the_method_that_was_asked_for_is_used(run: Run) -> None:
    for method in METHODS:
        result = run(options=CalibrationOptions(method=method, percentile=99.0))
        assert list(result.trials) == [result.method]
        assert result.method == ("percentile 99" if method == "percentile" else method)


def test_ranges_are_those_of_the_tensors(
    fitted: Fitted, tones: Tones, run_onnx: Callable[..., Any], run: Run, clean: Run
) -> None:
    """Min-max by hand: every tensor out of one run of the FP32 graph; behind a ReLU 254 steps share the range."""
    _, graph = fitted()
    windows = tones(128)
    result = run(data=clean(windows), options=CalibrationOptions(method="min-max"))
    tensors = {row.layer: row.tensor for row in result.plan.int8}
    outputs = run_onnx(tap(graph.to_bytes(), list(dict.fromkeys(tensors.values()))), window=windows.x)
    for layer, tensor in tensors.items():
        assert result.scales[layer] == pytest.approx(float(np.abs(outputs[tensor]).max()) / 254, rel=1e-6)
    assert set(result.full_range) == set(result.scales)
    half = run(data=clean(windows), options=CalibrationOptions(method="min-max", full_range=False))
    assert half.full_range == ()
    assert half.scales == pytest.approx({layer: 2 * scale for layer, scale in result.scales.items()}, rel=1e-6)


def test_batches_do_not_change_ranges(fitted: Fitted, tones: Tones) -> None:
    _, graph = fitted()
    plan = make_plan(graph, quantize_first=True)
    tensors = [row.tensor for row in plan.int8]
    whole, pieces = (observe(graph.to_bytes(), tones(70).x, tensors=tensors, batch=batch) for batch in (70, 9))
    for name in tensors:
        # Convolutions may add up in another order for another batch size; the histogram itself does not care.
        assert pieces[name].amax("mse") == pytest.approx(whole[name].amax("mse"), rel=0.02)
        assert pieces[name].counts.sum() + pieces[name].zeros == whole[name].counts.sum() + whole[name].zeros


@pytest.mark.parametrize("glue", ["fp16", "fp32"])
def test_scales_in_the_graph_are_the_contracts_bit_for_bit(
    fitted: Fitted, found: Calibration, quantizer: Callable[..., Any], glue: Any
) -> None:
    _, graph = fitted()
    again = Calibration.from_json(json.loads(json.dumps(found.to_json())))
    nodes = {node.name: node for node in quantize(graph, plan=again.plan, scales=again.scales, glue=glue).model.graph}
    for layer, scale in found.scales.items():
        stored = constant(quantizer(nodes[layer]).inputs[1])
        assert stored is not None
        assert stored.dtype == np.float32
        assert float(stored) == scale


def test_an_int8_network_decides_as_fp32(
    fitted: Fitted, tones: Tones, run_onnx: Callable[..., Any], found: Calibration
) -> None:
    _, graph = fitted()
    windows = tones(80, seed=9)
    wanted = run_onnx(graph.to_bytes(), window=windows.x)["logits"]
    int8 = quantize_as(graph, found, glue="fp32")
    have = run_onnx(int8.to_bytes(), window=windows.x)["logits"]
    assert (wanted.argmax(axis=1) == windows.y).mean() > 0.6, "the fixture has not learnt its tones"
    assert (have.argmax(axis=1) == wanted.argmax(axis=1)).mean() > 0.9


def test_the_first_convolution_of_a_raw_network_can_be_quantized(tones: Tones, run: Run, clean: Run) -> None:
    """Without detrending and standardisation the first convolution reads the graph's input."""
    result = run(
        network={"detrend": "none", "standardise": "none"},
        options=dataclasses.replace(FAST, method="min-max", quantize_first=True), data=clean(tones(96)),
    )  # fmt: skip
    (first,) = [row for row in result.plan.int8 if row.layer == "stem/Conv"]
    assert first.tensor == "window"
    assert result.scales["stem/Conv"] == scale_of(float(np.abs(tones(96).x).max()))


def test_a_network_without_thresholds_can_be_calibrated(run: Run) -> None:
    result = run(model="resnet")
    assert result.trials[result.method] == min(result.trials.values()) > 0


def test_pictures_can_be_calibrated(fitted: Fitted, tones: Tones, run: Run, clean: Run) -> None:
    contract, _ = fitted("drsn-cw", dims=2)
    pictures = choose(tones(96, shape=contract.shape), count=96)
    result = run(network={"dims": 2}, data=pictures, held_out=clean(tones(32, shape=contract.shape)), options=FAST)
    assert result.plan.summary.startswith(f"{len(result.scales)} of")


def test_an_edited_plan_is_followed(fitted: Fitted, quantizer: Callable[..., Any], run: Run) -> None:
    _, graph = fitted()
    rows = make_plan(graph).to_json()
    edited = [row | {"precision": "fp16"} if row["layer"] == "units.0.conv1/Conv" else row for row in rows]
    plan = PrecisionPlan.from_json(json.loads(json.dumps(edited)))
    result = run(options=dataclasses.replace(FAST, plan=plan))
    assert "units.0.conv1/Conv" not in result.scales
    assert set(result.scales) == {row.layer for row in plan.int8}
    assert result.plan.differences(make_plan(graph)) == ["units.0.conv1/Conv: fp16 and int8"]
    int8 = quantize(graph, plan=result.plan, scales=result.scales)
    node = next(node for node in int8.model.graph if node.name == "units.0.conv1/Conv")
    assert quantizer(node) is None


def test_a_layer_that_an_edited_plan_adds_gets_a_scale(fitted: Fitted, run: Run) -> None:
    rows = make_plan(fitted()[1]).to_json()
    edited = [row | {"precision": "int8"} if row["layer"] == "stem/Conv" else row for row in rows]
    result = run(options=dataclasses.replace(FAST, plan=PrecisionPlan.from_json(edited)))
    assert result.scales["stem/Conv"] > 0


def test_a_method_that_breaks_the_network_is_not_chosen(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    costs = iter([math.inf, math.inf, math.inf, 0.5, 0.4, math.inf, math.inf])
    monkeypatch.setattr(Judge, "cost", lambda *_args, **_rest: next(costs))
    result = run(options=CalibrationOptions(rounding="nearest"))
    assert result.method == "percentile 99.999"
    again = Calibration.from_json(json.loads(json.dumps(result.to_json())))
    assert again.trials == result.trials, "a cost without a number must survive the file"
    monkeypatch.setattr(Judge, "cost", lambda *_args, **_rest: math.inf)
    with pytest.raises(InputError, match="no range method gives a quantized network that works") as caught:
        run()
    assert "min-max: inf" in str(caught.value.got)
    assert "finite logits" in str(caught.value.expected)


def test_the_cost_is_what_it_says(fitted: Fitted, tones: Tones, found: Calibration, run: Run) -> None:
    """The mean share of its margin that each window loses, one window after the other."""
    from drsn_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner

    _, graph = fitted()
    held_out = tones(64, seed=5).x
    int8 = quantize(graph, plan=found.plan, scales=found.scales, glue="fp32", full_range=found.full_range)
    learned = quantize_as(graph, found, glue="fp32")
    outputs = []
    for item in (graph, int8, learned):
        with OnnxRuntimeRunner(item.to_bytes()) as runner:
            outputs.append(runner.run({"window": held_out})["logits"].astype(np.float64))
    for form, cost in ((outputs[1], found.trials[found.method]), (outputs[2], found.cost)):
        shares = []
        for wanted, have in zip(outputs[0], form, strict=True):
            first = int(wanted.argmax())
            second = int(np.where(np.arange(len(wanted)) == first, -np.inf, wanted).argmax())
            margin = wanted[first] - wanted[second]
            shares.append(min(abs(have[first] - have[second] - margin) / margin, 1.0))
        assert cost == pytest.approx(np.mean(shares), rel=1e-4)
