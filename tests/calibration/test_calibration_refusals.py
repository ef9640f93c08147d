"""What calibration refuses, and in which words."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drsn_edge.errors import InputError, UsageError
from drsn_edge.signals.windows import Windows

pytest.importorskip("onnxscript", reason="networks are exported with torch's exporter")
pytest.importorskip("onnxruntime", reason="calibration runs the FP32 graph")

from drsn_edge.calibration import calibrate as module
from drsn_edge.calibration.calibrate import CalibrationOptions
from drsn_edge.calibration.collect import observe, tap
from drsn_edge.calibration.observers import RangeObserver
from drsn_edge.calibration.plan import PrecisionPlan, make_plan
from drsn_edge.calibration.windows import MINIMUM

Fitted = Callable[..., Any]
Tones = Callable[..., Windows]
Run = Callable[..., Any]
FAST = CalibrationOptions(method="percentile", percentile=99.9)


def test_a_plan_that_quantizes_a_threshold_is_refused_before_anything_runs(
    fitted: Fitted, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    rows = make_plan(fitted()[1]).to_json()
    edited = [row | {"precision": "int8"} if row["kind"] == "threshold branch" else row for row in rows]
    monkeypatch.setattr(module, "observe", lambda *_args, **_rest: pytest.fail("the graph was run"))
    with pytest.raises(InputError, match="a threshold branch is never quantized") as caught:
        run(options=dataclasses.replace(FAST, plan=PrecisionPlan.from_json(edited)))
    assert caught.value.got == "int8 for units.0/threshold"


def test_too_few_windows_are_refused(tones: Tones, run: Run, clean: Run) -> None:
    with pytest.raises(InputError, match="the calibration data is too small") as caught:
        run(data=clean(tones(63)))
    assert (caught.value.got, caught.value.expected) == ("63 windows", "at least 64")
    with pytest.raises(InputError, match="the held-out data is too small") as caught:
        run(held_out=clean(tones(15)))
    assert (caught.value.got, caught.value.expected) == ("15 windows", "at least 16")


def test_the_minimum_is_the_measured_one() -> None:
    """From it on thresholds err at most a quarter more than with the most windows of their kind, in every kind."""
    path = Path(__file__).parents[2] / "docs" / "results" / "calibration-windows.json"
    value = json.loads(path.read_text())
    errors = {(row["kind"], row["windows"]): row["threshold"] for row in value["points"]}
    kinds = {kind for kind, _ in errors}
    assert {"stratified", "clean", "lowest SNR", "unbalanced", "random"} == kinds
    limit = {kind: 1.25 * errors[kind, max(count for name, count in errors if name == kind)] for kind in kinds}
    assert value["summary"]["minimum"] == MINIMUM
    assert all(error <= limit[kind] for (kind, count), error in errors.items() if count >= MINIMUM)
    assert any(error > limit[kind] for (kind, count), error in errors.items() if count < MINIMUM)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("which", ["data", "held_out"])
def test_samples_that_are_no_numbers_are_refused(tones: Tones, bad: float, which: str, run: Run, clean: Run) -> None:
    windows = tones(96)
    windows.x[40, 0, 7] = bad
    name = "the calibration data" if which == "data" else "the held-out data"
    with pytest.raises(InputError, match=f"{name} has samples that are not numbers") as caught:
        run(**{which: clean(windows)})
    assert (caught.value.got, caught.value.expected) == ("NaN or infinity", "finite samples")


def test_constant_data_is_refused(tones: Tones, run: Run, clean: Run) -> None:
    windows = tones(96)
    windows.x[:50] = 0.3
    with pytest.raises(InputError, match="is constant") as caught:
        run(data=clean(windows))
    assert caught.value.got == "50 of 96 windows do not vary"
    assert caught.value.expected == "recorded signals"


def test_one_class_is_refused(tones: Tones, run: Run, clean: Run) -> None:
    windows = tones(400)
    with pytest.raises(InputError, match="one class only") as caught:
        run(data=clean(windows.select(windows.y == 2)))
    assert caught.value.got == "tone 2"
    assert "tone 0, tone 1, tone 2, tone 3" in str(caught.value.expected)


def test_random_data_is_refused(tones: Tones, run: Run, clean: Run) -> None:
    windows = tones(128)
    noise = np.random.default_rng(0).standard_normal(windows.x.shape, dtype=np.float32)
    with pytest.raises(InputError, match="means nothing to this network") as caught:
        run(data=clean(dataclasses.replace(windows, x=noise)))
    assert "its FP32 accuracy is" in str(caught.value.got)
    assert "128 windows" in str(caught.value.got)
    assert "above chance, 25.0%" in str(caught.value.expected)
    assert "random data" in str(caught.value.hint)


def test_a_majority_class_is_no_skill(tones: Tones, run: Run, clean: Run) -> None:
    """Three windows of four are of one class, and the network is as blind as in the test above."""
    windows = tones(128)
    y = np.where(np.arange(128) % 4 == 0, windows.y, 1)
    noise = np.random.default_rng(0).standard_normal(windows.x.shape, dtype=np.float32)
    with pytest.raises(InputError, match="means nothing to this network") as caught:
        run(data=clean(dataclasses.replace(windows, x=noise, y=y)))
    assert "above chance, 7" in str(caught.value.expected)


def test_a_tensor_that_is_not_there_is_refused(fitted: Fitted) -> None:
    with pytest.raises(InputError, match="the graph has no such tensor") as caught:
        tap(fitted()[1].to_bytes(), ["units.9/Relu:0"])
    assert caught.value.got == "units.9/Relu:0"
    with pytest.raises(InputError) as caught:
        tap(fitted()[1].to_bytes(), [""])
    assert caught.value.got == "no name"
    assert "computes" in str(caught.value.expected)


def test_a_network_that_overflows_is_refused_by_the_name_of_the_tensor(fitted: Fitted, tones: Tones) -> None:
    _, graph = fitted("drsn-cw", detrend="none", standardise="none")
    windows = tones(64)
    windows.x[5] *= np.float32(1e38)
    tensors = [row.tensor for row in make_plan(graph).int8]
    with pytest.raises(InputError, match=r"units\.\d/Relu\S* is not finite during calibration") as caught:
        observe(graph.to_bytes(), windows.x, tensors=tensors)
    assert caught.value.got in ("inf", "nan")
    assert caught.value.what.split()[0] in tensors


def test_observers_are_one_for_each_tensor(fitted: Fitted, tones: Tones) -> None:
    _, graph = fitted()
    tensor = make_plan(graph).int8[0].tensor
    found = observe(graph.to_bytes(), tones(8).x, tensors=[tensor, tensor])
    assert list(found) == [tensor]
    assert isinstance(found[tensor], RangeObserver)


@pytest.mark.parametrize(
    ("options", "got", "expected"),
    [({"method": "median"}, "median", "auto, min-max"), ({"percentile": 50}, "50", "above 50"),
     ({"percentile": 100.1}, "100.1", "at most 100"), ({"percentile": float("nan")}, "nan", "at most 100")],
)  # fmt: skip
def test_options_that_cannot_be(options: dict[str, Any], got: str, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        CalibrationOptions(**options)
    assert caught.value.got == got
    assert expected in str(caught.value.expected)
