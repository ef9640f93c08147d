"""Sensitivity and the plan within a budget: a seeded fault must be found, left out, and paid for by nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from drsn_edge.calibration.contract import Calibration, digest
from drsn_edge.errors import UsageError
from drsn_edge.signals.windows import Windows

pytest.importorskip("onnxscript", reason="networks are exported with torch's exporter")
pytest.importorskip("onnxruntime", reason="calibration runs the FP32 graph")

from drsn_edge.calibration.calibrate import CalibrationOptions
from drsn_edge.calibration.quantize import quantize_as
from drsn_edge.calibration.sensitivity import reduce_plan

BAD = "units.1.conv1/Conv"


@pytest.fixture(scope="module")
def spoilt(run: Callable[..., Any]) -> Calibration:
    """A calibration with one scale that clips nearly everything."""
    found: Calibration = run(options=CalibrationOptions(method="min-max"))
    return dataclasses.replace(found, scales=dict(found.scales) | {BAD: found.scales[BAD] / 40})


def test_the_layer_that_does_the_damage_is_named_and_left_out(
    spoilt: Calibration, fitted: Callable[..., Any], tones: Callable[..., Windows], run_onnx: Callable[..., Any]
) -> None:
    _, graph = fitted()
    held_out = tones(120, seed=6).x
    found = reduce_plan(graph, spoilt, held_out, max_changed=0.02)
    worst = max(found.sensitivity, key=lambda row: row.margin)
    assert worst.layer == BAD
    assert worst.changed == max(row.changed for row in found.sensitivity) > 0.02
    assert worst.logits == max(row.logits for row in found.sensitivity)
    assert all(row.thresholds > 0 for row in found.sensitivity)
    assert sum(row.work for row in found.sensitivity) == pytest.approx(1)
    left = {row.layer: row for row in found.calibration.plan.layers}
    assert left[BAD].precision == "fp16"
    assert "sensitive: alone it changes" in left[BAD].reason
    assert "more than 2.00%" in left[BAD].reason
    assert len(found.calibration.plan.int8) >= 1, "the others stay"
    assert found.changed <= 0.02
    int8 = quantize_as(graph, found.calibration, glue="fp32")
    wanted = run_onnx(graph.to_bytes(), window=held_out)["logits"].argmax(axis=1)
    have = run_onnx(int8.to_bytes(), window=held_out)["logits"].argmax(axis=1)
    assert found.changed == pytest.approx(np.mean(wanted != have))


def test_what_is_left_is_a_calibration_that_can_be_written_and_read(
    spoilt: Calibration, fitted: Callable[..., Any], tones: Callable[..., Windows]
) -> None:
    _, graph = fitted()
    found = reduce_plan(graph, spoilt, tones(64, seed=6).x, max_changed=0.02).calibration
    again = Calibration.from_json(found.to_json())
    assert again == found
    assert again.bindings.plan == digest(found.plan.to_json())
    assert BAD not in {*again.scales, *again.rounded, *again.full_range}


def test_a_budget_that_everything_keeps_changes_no_layer(
    run: Callable[..., Any], fitted: Callable[..., Any], tones: Callable[..., Windows]
) -> None:
    found = run(options=CalibrationOptions(method="min-max", rounding="nearest"))
    reduced = reduce_plan(fitted()[1], found, tones(64, seed=6).x, max_changed=0.999)
    assert reduced.calibration.scales == found.scales
    assert reduced.calibration.plan.differences(found.plan) == []


@pytest.mark.parametrize("budget", [0.0, 1.0, -0.1, float("nan")])
def test_a_budget_that_is_none_is_refused(spoilt: Calibration, fitted: Callable[..., Any], budget: float) -> None:
    with pytest.raises(UsageError, match="the budget of changed decisions cannot be used") as caught:
        reduce_plan(fitted()[1], spoilt, np.zeros((1, 1, 64), np.float32), max_changed=budget)
    assert (caught.value.got, caught.value.expected) == (str(budget), "between 0 and 1")


def test_the_command_says_what_a_budget_needs() -> None:
    from drsn_edge.cli import app

    said = CliRunner().invoke(app, ["export", "x", "--out", "x.drsn", "--precision", "auto"])
    assert said.exit_code == 2
    assert "--precision auto without --calibrate" in said.stderr
    said = CliRunner().invoke(app, ["export", "x", "--out", "x.drsn", "--max-changed", "0.01"])
    assert said.exit_code == 2
    assert "--precision fp32,fp16,int8" in said.stderr
