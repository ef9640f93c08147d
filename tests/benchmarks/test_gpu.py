"""benchmarks/gpu.py in miniature: parts that meet in a folder, rows of PyTorch and ONNX Runtime, goals and figures."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu import main, summarise
from drsn_edge.runtime.driver import probe_device


@pytest.fixture(scope="module")
def work(workshop: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the part `graphs` leaves, of the small network of the tests."""
    load_file = pytest.importorskip("safetensors.numpy", reason="weights are read with it").load_file
    folder = tmp_path_factory.mktemp("gpu")
    shutil.copytree(workshop.bundle, folder / "tiny.drsn")
    weights: dict[str, Any] = load_file(workshop.bundle / "model.safetensors")
    np.savez(folder / "tiny.npz", **weights)
    (folder / "graphs.json").write_text(
        json.dumps({"rows": [], "elements_per_window": {"tiny": 1000}, "device": {}, "part": "graphs"})
    )
    return folder


QUICK = ["--presets", "tiny", "--batches", "1,4", "--iterations", "5", "--json"]


@pytest.fixture(scope="module")
def document(work: Path) -> dict[str, Any]:
    """The summary of all parts."""
    for part in ("torch", "onnxruntime", "tensorrt", "summary"):
        code = main(["--work", str(work), "--part", part, *QUICK])
        assert code == 0
    torch, ort, trt = (json.loads((work / f"{part}.json").read_text()) for part in ("torch", "onnxruntime", "tensorrt"))
    return summarise({"graphs": json.loads((work / "graphs.json").read_text()), "torch": torch, "onnxruntime": ort,
                      "tensorrt": trt})  # fmt: skip


def test_rows_of_what_runs_here(document: dict[str, Any]) -> None:
    if probe_device().device is not None:
        pytest.skip("this machine has a GPU: its rows are others")
    found = {(row["way"], row["precision"], row["batch"]) for row in document["rows"]}
    assert found == {("torch-eager-cpu", "fp32", batch) for batch in (1, 4)} | {
        ("onnxruntime-cpu", precision, batch) for precision in ("fp32", "fp16", "int8") for batch in (1, 4)
    }
    for row in document["rows"]:
        assert row["p50_ms"] > 0
        if row["precision"] == "fp32":
            assert row["parity"]["top1_agreement"] == 1.0
            assert row["parity"]["max_rel"] < 2e-5
    assert any("no GPU" in line for line in document["summary"]["not_run"])
    assert document["summary"]["rtx"].startswith("not tried")


def test_goals_without_a_gpu_are_not_measured(document: dict[str, Any]) -> None:
    if probe_device().device is not None:
        pytest.skip("this machine has a GPU")
    assert document["summary"]["goals"]
    assert all(goal["measured"] is None and goal["met"] is None for goal in document["summary"]["goals"])


def row(way: str, precision: str, batch: int, p50_ms: float) -> dict[str, Any]:
    return {"preset": "edge", "way": way, "precision": precision, "batch": batch, "p50_ms": p50_ms}


def test_goals_are_computed_from_rows() -> None:
    rows = [
        row("torch-eager-cuda", "fp32", 1, 8.0), row("torch-compile-cuda", "fp32", 1, 1.0),
        row("torch-eager-cuda", "fp32", 4096, 40.0), row("tensorrt", "fp16", 1, 0.5), row("tensorrt", "int8", 1, 0.6),
        row("tensorrt", "fp16", 4096, 10.0),
    ]  # fmt: skip
    parts: dict[str, Any] = {
        "graphs": {"rows": [], "device": {}, "elements_per_window": {"edge": 1000}},
        "torch": {"rows": rows[:3], "device": {}, "bandwidth_bytes_per_s": 1e9, "launch_s": 2e-6},
        "tensorrt": {"rows": rows[3:], "device": {}, "rtx": "runs",
                     "engines": [{"preset": "edge", "precision": "fp16", "kernels": 70}]},
    }  # fmt: skip
    made = summarise(parts)
    goals = {goal["goal"]: (goal["measured"], goal["met"]) for goal in made["summary"]["goals"]}
    assert goals["batch 1, p50 over eager"] == (0.0625, True)
    assert goals["batch 1, p50 over compiled"] == (0.5, True)
    assert goals["batch 4096, speed over eager"] == (4.0, True)
    assert goals["batch 1, int8 speed over fp16"] == (pytest.approx(0.5 / 0.6), False)
    # 1000 elements of two bytes for 4096 windows at 1 GB/s: 8.192 ms of the 10 that were taken.
    assert goals["batch 4096, fp16, share of the bandwidth limit"] == (pytest.approx(0.8192), True)
    limits = [item["limit_launches_ms"] for item in made["rows"] if item["way"] == "tensorrt"]
    assert limits == [pytest.approx(0.14), None, pytest.approx(0.14)]


def test_the_tensorrt_part_needs_no_torch_onnx_or_typer(work: Path) -> None:
    code = (
        "import sys\n"
        "class Blocker:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        blocked = {'torch', 'onnx', 'onnx_ir', 'onnxruntime', 'typer', 'rich', 'safetensors'}\n"
        "        if name.split('.')[0] in blocked:\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Blocker())\n"
        "from benchmarks.gpu import main\n"
        f"sys.exit(main(['--work', {str(work)!r}, '--part', 'tensorrt', *{QUICK!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False,
                          cwd=Path(__file__).parents[2])  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["part"] == "tensorrt"
