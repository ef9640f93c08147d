"""The benchmarks of calibration in miniature: that every row is made, and that the summary is what the rows say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the benchmarks export networks")
pytest.importorskip("onnxruntime", reason="the benchmarks run graphs")
ROOT = Path(__file__).parents[2]


def run(name: str, *arguments: str) -> tuple[Any, str]:
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_what_calibrating_costs_in_miniature() -> None:
    value, said = run("calibration_cost", "--windows", "25,75", "--json")
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
def test_a_cell_that_does_not_fit_says_so() -> None:
    value, said = run("calibration_cost", "--windows", "25,2000", "--memory-gb", "0.7", "--json")
    rows = {(row["row"], row["windows"]): row for row in value["rows"]}
    assert rows["ONNX Runtime entropy, all operators", 2000]["seconds"] is None
    assert rows["ONNX Runtime entropy, all operators", 2000]["reason"]
    assert value["summary"]["drsn-edge ranges"]["ONNX Runtime entropy, all operators"]["times_faster"] is None
    assert rows["drsn-edge ranges", 2000]["seconds"] > 0
    assert "did not fit" in said
