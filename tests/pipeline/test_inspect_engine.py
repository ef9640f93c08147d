"""`inspect ENGINE`: what a plan and its notes say, in a bundle and by itself; what neither says stays unknown."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from drsn_edge.cli import app
from drsn_edge.errors import InputError
from drsn_edge.files import sha256_bytes
from drsn_edge.pipeline.inspect import inspect

INFO: dict[str, Any] = {
    "format_version": 1, "backend": "tensorrt", "runner": "tensorrt", "version": "8.6.2", "platform": "linux-aarch64",
    "gpu": "Orin", "sm": "sm87", "driver": "12.2", "targets": ["sm87"], "precision": "fp16", "flags": {"set": ["FP16"]},
    "kernels": 1, "precisions": {"fp32": 0, "fp16": 1, "int8": 0},
    "layers": [{"name": "a", "type": "CaskConvolution", "onnx_nodes": ["stem/Conv"], "inputs": ["float16"],
                "outputs": ["float16"], "precision": "fp16", "tactic": "sm80_xmma"}],
}  # fmt: skip


def tensorrt_plan(*version: int) -> bytes:
    return b"ftrt" + struct.pack("<I", 0) + bytes(16) + bytes(version) + bytes(100)


def rtx_plan(extra: int = 0) -> bytes:
    head = b"vtrt" + bytes(12) + struct.pack("<Q", 140) + bytes((1, 7, 1, 116)) + bytes(4) + struct.pack("<Q", 0x0C)
    return head + bytes(100 + extra)


def write(folder: Path, plan: bytes, info: Any = None) -> Path:
    path = folder / "model.engine"
    path.write_bytes(plan)
    if info is not None:
        (folder / "engine.json").write_text(info if isinstance(info, str) else json.dumps(info))
    return path


def test_a_plan_by_itself(tmp_path: Path) -> None:
    facts = inspect(write(tmp_path, rtx_plan()))
    assert (facts["kind"], facts["backend"], facts["version"]) == ("engine", "tensorrt-rtx", "1.7.1.116")
    assert facts["targets"] == ["sm86", "sm89"]
    assert (facts["info"], facts["damaged"]) == (None, [])
    assert "precision, layers and batch sizes are not known" in facts["notes"][0]


def test_what_a_header_does_not_say_is_unknown_and_shown_so(tmp_path: Path) -> None:
    path = write(tmp_path, tensorrt_plan(8, 6, 2, 3))
    facts = inspect(path)
    assert (facts["backend"], facts["version"], facts["targets"]) == ("tensorrt", None, None)
    said = CliRunner().invoke(app, ["inspect", str(path)])
    assert said.exit_code == 0
    lines = dict(line.split(None, 1) for line in said.stdout.splitlines() if line)
    assert lines["version"].strip() == "unknown"
    assert lines["targets"].strip() == "unknown"


@pytest.mark.parametrize("folder", [True, False])
def test_a_plan_with_its_notes_shows_layers(folder: bool, tmp_path: Path) -> None:
    plan = tensorrt_plan(8, 6, 2, 3)
    info = INFO | {"plan": {"sha256": sha256_bytes(plan), "size": len(plan)}}
    path = write(tmp_path, plan, info)
    facts = inspect(tmp_path if folder else path)
    assert facts["info"] == info
    assert facts["damaged"] == []
    said = CliRunner().invoke(app, ["inspect", str(tmp_path if folder else path)])
    assert said.exit_code == 0
    for text in ("stem/Conv", "CaskConvolution", "8.6.2", "Orin", "sm87"):
        assert text in said.stdout


@pytest.mark.parametrize(
    ("plan", "info", "file", "words"),
    [
        (rtx_plan()[:-9], None, "model.engine", "not whole: 131 bytes, its header says 140"),
        (rtx_plan(3), None, "model.engine", "not whole: 143 bytes"),
        (rtx_plan(), INFO | {"plan": {"sha256": "0" * 64, "size": 1}}, "model.engine", "not the plan that engine.json"),
        (rtx_plan(), INFO | {"format_version": 2}, "engine.json", "another format version"),
        (rtx_plan(), INFO | {"plan": [1]}, "engine.json", "bad plan"),
        (rtx_plan(), "{", "engine.json", "is not JSON"),
    ],
)
def test_damage_is_named_and_is_exit_code_4(plan: bytes, info: Any, file: str, words: str, tmp_path: Path) -> None:
    path = write(tmp_path, plan, info)
    (damage,) = inspect(path)["damaged"]
    assert damage["file"] == file
    assert words in damage["problem"]
    said = CliRunner().invoke(app, ["inspect", str(path)])
    assert said.exit_code == 4
    assert f"DAMAGED  {file}" in said.stdout
    assert json.loads(CliRunner().invoke(app, ["inspect", str(path), "--json"]).stdout)["damaged"] == [damage]


def test_a_file_that_nothing_is_known_of(tmp_path: Path) -> None:
    plan = b"??" + bytes(90)
    with pytest.raises(InputError, match="no kind that is known"):
        inspect(write(tmp_path, plan))
    facts = inspect(write(tmp_path, plan, INFO))
    assert (facts["backend"], facts["version"]) == (None, None)
    assert "not with ftrt or vtrt" in facts["notes"][0]


def test_a_folder_of_several_plans_is_refused(tmp_path: Path) -> None:
    write(tmp_path, rtx_plan(), INFO)
    (tmp_path / "other.engine").write_bytes(rtx_plan())
    with pytest.raises(InputError, match="neither a bundle nor a run"):
        inspect(tmp_path)
