"""What works without any optional package, and what the rest says about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HEAVY = {"torch", "onnx", "onnx_ir", "onnxscript", "matplotlib", "scipy", "pandas"}


def test_help_and_inspect_load_nothing_heavy(bare: Callable[..., Any], workshop: Any) -> None:
    commands = [["--help"], ["export", "--help"], ["--version"], ["inspect", workshop.bundle], ["doctor"]]
    said, modules = bare(*commands, missing=())
    assert [item.code for item in said] == [0] * len(commands)
    tops = {name.partition(".")[0] for name in modules}
    assert not tops & HEAVY
    # The bare names would be a second copy of each module.
    assert not tops & {"exporters", "calibration"}
    assert not [name for name in modules if name.startswith("drsn_edge.training")]


def test_no_command_imports_the_bare_top_level_names(python: Callable[..., Any], workshop: Any) -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from drsn_edge.cli import app\n"
        f"CliRunner().invoke(app, ['build', {str(workshop.bundle)!r}, '--dry-run'])\n"
        "assert 'drsn_edge.exporters' in sys.modules\n"
        "assert not {'exporters', 'calibration', 'torch', 'onnx'} & set(sys.modules)"
    )
    done = python("-c", code, cwd=Path(__file__).parents[2])
    assert done.code == 0, done.err


def test_what_works_with_nothing_installed(bare: Callable[..., Any], workshop: Any, tmp_path: Path) -> None:
    commands = [
        ["inspect", workshop.bundle],
        ["inspect", workshop.run, "--json"],
        ["inspect", workshop.run / "model.safetensors"],
        ["doctor"],
        ["data", "synthetic:seconds=1", "--window", "512"],
        ["data", workshop.data, "--window", "64"],
        ["verify", "--from", workshop.bundle / "report.json"],
    ]
    said, _ = bare(*commands)
    for command, item in zip(commands, said, strict=True):
        assert item.code == 0, (command, item.err)
    assert "drsn-cw" in said[0].out
    assert "units.0" in said[0].out
    assert said[1].json["kind"] == "run"
    assert "pip install 'drsn-edge[host]'" in said[3].out
    assert "216 recordings" in said[4].out
    assert "Within tolerance" in said[6].out
    # A saved result is judged in the same words as one that was just measured.
    assert "onnx-fp32 -> onnx-int8" in said[6].out


@pytest.fixture
def odd_files(tmp_path: Path) -> dict[str, str]:
    """Data sets whose files need a reader's package."""
    (tmp_path / "one.mat").write_bytes(b"\x89HDF\r\n\x1a\n")  # as version 7.3 begins
    (tmp_path / "one.parquet").write_bytes(b"PAR1")
    specs = {}
    for kind in ("mat", "parquet"):
        table = tmp_path / f"{kind}.csv"
        table.write_text(f"path,label,sample_rate_hz\none.{kind},a,1000\n")
        specs[kind] = f"table:{table}"
    return specs


def test_every_command_names_the_one_pip_command_that_helps(
    bare: Callable[..., Any],
    workshop: Any,
    odd_files: dict[str, str],
    tmp_path: Path,
    listing: Callable[[Path], dict[str, str]],
) -> None:
    bundle, out = workshop.bundle, tmp_path / "out"
    before = listing(tmp_path)
    cases: list[tuple[list[object], str, str]] = [
        (["demo", "--out", out], "host", "torch is not installed"),
        (["train", "synthetic", "--out", out], "host", "torch is not installed"),
        (["train", "synthetic", "--out", out, "--dry-run"], "host", "torch is not installed"),
        (["export", workshop.run, "--out", out], "host", "onnx is not installed"),
        (["export", workshop.run, "--out", out, "--plan", out], "host", "onnx is not installed"),
        (["build", bundle], "rtx", "neither is installed"),
        (["build", bundle, "--backend", "rtx"], "rtx", "tensorrt_rtx is not installed"),
        (["build", bundle, "--backend", "tensorrt"], "tensorrt", "tensorrt is not installed"),
        (["verify", bundle], "host", "onnxruntime is not installed"),
        (["verify", bundle, "--require", "engine"], "host", "onnxruntime is not installed"),
        (["verify", bundle, "--report", out], "report", "matplotlib is not installed"),
        (["inspect", bundle / "model.fp32.onnx"], "onnxruntime", "onnxruntime is not installed"),
        (["data", odd_files["mat"]], "data", "h5py is not installed"),
        (["data", odd_files["parquet"]], "data", "pyarrow is not installed"),
    ]
    said, _ = bare(*(command for command, _, _ in cases))
    for (command, extra, missing), item in zip(cases, said, strict=True):
        assert item.code == 3, (command, item)
        assert item.err.count("pip install") == 1, (command, item.err)
        assert f"pip install 'drsn-edge[{extra}]'" in item.err
        assert missing in item.err
        assert item.out == ""
    assert listing(tmp_path) == before


def test_a_check_that_can_run_nothing_does_not_pass(bare: Callable[..., Any], workshop: Any) -> None:
    (said,), _ = bare(["verify", workshop.bundle, "--json"])
    assert said.code == 3
    assert said.json["error"] == "MissingDependency"
    assert said.json["what"] == "nothing of this bundle can run here"


def test_a_device_with_onnx_runtime_alone(bare: Callable[..., Any], workshop: Any) -> None:
    """fp32 is held against what was recorded; what only onnx could make visible says so."""
    missing = ("torch", "onnx", "onnx_ir", "onnxscript", "safetensors", "scipy", "matplotlib")
    (clean, swept), modules = bare(
        ["verify", workshop.bundle, "--json"],
        ["verify", workshop.bundle, "--data", workshop.data, "--snr", "0", "--draws", "10", "--json"],
        missing=missing,
    )
    assert clean.code == swept.code == 0, (clean.err, swept.err)
    hops = {(hop["from"], hop["to"]): hop for hop in clean.json["hops"]}
    assert hops["recorded-fp32", "onnx-fp32"]["status"] == "passed"
    assert hops["pytorch", "onnx-fp32"]["status"] == "passed"
    assert hops["onnx-fp32", "onnx-int8"]["status"] == "not_run"
    assert "onnx is not installed" in hops["onnx-fp32", "onnx-int8"]["reason"]
    assert clean.json["reference"] == "pytorch"
    assert any("PyTorch is not installed; the recorded logits stand in" in note for note in clean.json["notes"])
    assert swept.json["reference"] == "onnx-fp32"
    assert "torch" not in modules


def test_new_data_need_a_reference(bare: Callable[..., Any], workshop: Any, tmp_path: Path) -> None:
    """Golden logits are of golden windows: without PyTorch and ONNX Runtime nothing else can be judged."""
    missing = ("torch", "onnxruntime")
    (said,), _ = bare(["verify", workshop.bundle, "--data", workshop.data], missing=missing)
    assert said.code == 3
    assert "pip install" in said.err
