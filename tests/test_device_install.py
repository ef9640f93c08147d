"""On a device: the wheel in an environment of its own, without torch and onnx, from install to a verified bundle.

Takes a minute for each Python and needs a package index, so it is slow and skips without one.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.conftest import Workshop

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.10", "3.12")  # JetPack 6 and 7
IMPORT_ALL = """
import importlib, json, pkgutil, sys
import drsn_edge, drsn_edge.bundle
parts = ["runtime", "parity", "signals"] + (["stream"] if importlib.util.find_spec("drsn_edge.stream") else [])
names = [
    item.name
    for part in parts
    for item in pkgutil.walk_packages(importlib.import_module(f"drsn_edge.{part}").__path__, f"drsn_edge.{part}.")
]
for name in names:
    importlib.import_module(name)
heavy = sorted({"torch", "onnx", "onnx_ir", "scipy", "onnxruntime", "matplotlib"} & set(sys.modules))
print(json.dumps({"modules": len(names), "heavy": heavy}))
"""


def interpreter(version: str) -> str:
    """A CPython of this version: on the path, or among those of pyenv."""
    found = shutil.which(f"python{version}")
    folders = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    for candidate in (*map(str, folders), found):
        if candidate and subprocess.run([candidate, "--version"], capture_output=True, check=False).returncode == 0:
            return candidate
    pytest.skip(f"needs CPython {version}")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("setuptools", minversion="77", reason="needs setuptools 77 for SPDX licence strings")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("drsn_edge", "exporters", "calibration"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*command, "--wheel-dir", out, source], check=True, capture_output=True, text=True)
    (found,) = out.glob("*.whl")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("version", PYTHONS)
def test_from_the_wheel_to_a_verified_bundle(version: str, wheel: Path, workshop: Workshop, tmp_path: Path) -> None:
    home = tmp_path / "device"
    subprocess.run([interpreter(version), "-m", "venv", home], check=True, capture_output=True)
    pip: list[str | Path] = [home / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, "-c", ROOT / "constraints.txt", f"{wheel}[onnxruntime]"], capture_output=True, text=True, check=False
    )
    if done.returncode and "No matching distribution" in done.stderr:
        pytest.skip("needs a package index")
    assert done.returncode == 0, done.stderr

    def run(*command: object, code: int = 0) -> str:
        words = [str(word) for word in command]
        said = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env={"PATH": ""}, check=False)
        assert said.returncode == code, (words, said.stdout, said.stderr)
        return said.stdout

    python, cli = home / "bin" / "python", home / "bin" / "drsn-edge"
    listed = {item["name"] for item in json.loads(run(python, "-m", "pip", "list", "--format", "json"))}
    assert not {"torch", "onnx", "onnx-ir", "onnxscript", "scipy", "safetensors"} & listed
    imported = json.loads(run(python, "-W", "error", "-c", IMPORT_ALL))
    assert imported["heavy"] == []
    assert imported["modules"] > 50
    bundle = workshop.copy(tmp_path)
    assert "drsn-edge" in run(cli, "--version")
    assert json.loads(run(cli, "doctor", "--json"))["ok"] is True
    facts: dict[str, Any] = json.loads(run(cli, "inspect", bundle, "--json"))
    assert facts["damaged"] == []
    result = json.loads(run(cli, "verify", bundle, "--json"))
    assert result["passed"] is True
    passed = {hop["to"] for hop in result["hops"] if hop["status"] == "passed"}
    assert "onnx-fp32" in passed
    # Neither TensorRT is there: the message is the command that brings one.
    assert json.loads(run(cli, "build", bundle, "--dry-run", "--json", code=3))["hint"].startswith("pip install")
    size = sum(path.stat().st_size for path in home.rglob("*") if path.is_file() and not path.is_symlink())
    own = sum(path.stat().st_size for path in home.rglob("drsn_edge/**/*.py"))
    assert own < 3e6
    assert size < 400e6, "NumPy, ONNX Runtime and pip itself are most of it"
