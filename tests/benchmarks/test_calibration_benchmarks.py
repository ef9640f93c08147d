"""The benchmarks of calibration in miniature: that every row is made, and that the summary is what the rows say."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the benchmarks export networks")
pytest.importorskip("onnxruntime", reason="the benchmarks run graphs")
Benchmark = Callable[..., tuple[Any, str]]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_what_calibrating_costs_in_miniature(benchmark: Benchmark) -> None:
    value, said = benchmark("calibration_cost", "--windows", "25,75", "--json")
    rows = {(row["row"], row["windows"]): row for row in value["rows"]}
    assert len(rows) == 10
    assert all(row["seconds"] > 0 and row["peak_mb"] > 0 for row in rows.values())
    ours, peer = rows["drsn-edge ranges", 75], rows["ONNX Runtime entropy", 75]
    assert (ours["tensors"], peer["tensors"]) == (25, 50)
    found = value["summary"]["drsn-edge ranges"]
    assert found["ONNX Runtime entropy"]["times_faster"] == pytest.approx(peer["seconds"] / ours["seconds"])
    assert found["growth_mb"] == pytest.approx(ours["peak_mb"] - rows["drsn-edge ranges", 25]["peak_mb"])
    assert "peak MB" in said


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited by the kernel")
def test_a_cell_that_does_not_fit_says_so(benchmark: Benchmark) -> None:
    value, said = benchmark("calibration_cost", "--windows", "25,2000", "--memory-gb", "0.7", "--json")
    rows = {(row["row"], row["windows"]): row for row in value["rows"]}
    assert rows["ONNX Runtime entropy, all operators", 2000]["seconds"] is None
    assert rows["ONNX Runtime entropy, all operators", 2000]["reason"]
    assert value["summary"]["drsn-edge ranges"]["ONNX Runtime entropy, all operators"]["times_faster"] is None
    assert rows["drsn-edge ranges", 2000]["seconds"] > 0
    assert "did not fit" in said


@pytest.mark.slow
def test_every_row_of_the_quality_of_int8_in_miniature(workshop: Any, tmp_path: Path, benchmark: Benchmark) -> None:
    """ModelOpt's environment is one that cannot import it: the document says so instead of the row."""
    from drsn_edge.pipeline.train import train

    names = {"runs": "runs", "qat": "qat-runs", "first": "qat-first-runs", "control": "control-runs"}
    for name in ("runs", "control"):
        shutil.copytree(workshop.run, tmp_path / name / "tiny")
        (tmp_path / name / "tiny" / "scores.json").write_text("{}")
    for name, first in (("qat", False), ("first", True)):
        train(
            workshop.data, out=tmp_path / name / "tiny", init=workshop.run, qat=True, quantize_first=first, epochs=1
        )  # fmt: skip
    broken = tmp_path / "modelopt" / "bin"
    broken.mkdir(parents=True)
    (broken / "python").write_text("#!/bin/sh\necho 'No module named modelopt' >&2\nexit 1\n")
    (broken / "python").chmod(0o755)
    arguments = [part for name, flag in names.items() for part in (f"--{flag}", str(tmp_path / name))]
    arguments += ["--modelopt", str(tmp_path / "modelopt"), "--data", workshop.data, "--windows", "96"]
    value, _ = benchmark("int8_quality", *arguments, "--draws", "2", "--json")
    rows = {row["row"]: row for row in value["rows"]}
    assert {"FP32", "drsn-edge learned", "ORT default, minmax", "QAT", "QAT 25/25", "fine-tuned FP32"} <= {*rows}
    assert rows["FP32"]["int8"].startswith("0/")
    assert rows["QAT"]["int8"] == rows["drsn-edge learned"]["int8"]
    assert rows["QAT 25/25"]["int8"] == rows["drsn-edge learned 25/25"]["int8"]
    assert set(rows["fine-tuned FP32"]["changed"].values()) == {0.0}, "the control is a copy of the original here"
    assert "No module named modelopt" in value["not_measured"]["ModelOpt"]
    assert value["widths"] == [4, 6]
