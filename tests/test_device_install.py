"""On a device: the wheel in an environment of its own, without torch and onnx, from install to a verified bundle.

Takes a minute for each Python and needs a package index, so it is slow and skips without one. With `-s` it says how
large each environment is.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import wave
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from drsn_edge.bundle import Bundle

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


def page_commands(title: str) -> list[list[str]]:
    """What a section of docs/jetson.md tells its reader to type, but for what needs another machine."""
    section = (ROOT / "docs" / "jetson.md").read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^```console\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    return [line for line in lines if line[0] not in ("scp", "pip") and line[1] != "push"]


def lend(home: Path, *packages: str) -> bool:
    """Let an environment see packages of this one, as a board lets one see JetPack's; whether they are here."""
    specs = [importlib.util.find_spec(name) for name in packages]
    (site,) = home.glob("lib/python*/site-packages")
    for spec in specs:
        if spec is None or spec.origin is None:
            return False
        folder = Path(spec.origin).parent
        (site / folder.name).symlink_to(folder)
    return True


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


def environment(version: str, wheel: Path, folder: Path) -> Path:
    """A fresh one with the wheel and ONNX Runtime."""
    home = folder / "device"
    subprocess.run([interpreter(version), "-m", "venv", home], check=True, capture_output=True)
    pip: list[str | Path] = [home / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, "-c", ROOT / "constraints.txt", f"{wheel}[onnxruntime]"], capture_output=True, text=True, check=False
    )
    if done.returncode and "No matching distribution" in done.stderr:
        pytest.skip("needs a package index")
    assert done.returncode == 0, done.stderr
    return home


@pytest.mark.slow
@pytest.mark.parametrize("version", PYTHONS)
def test_from_the_wheel_to_a_verified_bundle(version: str, wheel: Path, workshop: Workshop, tmp_path: Path) -> None:
    home = environment(version, wheel, tmp_path)

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
    print(f"CPython {version}: {size / 1e6:.0f} MB, {own / 1e6:.2f} MB of it drsn-edge")  # noqa: T201 - for -s
    assert own < 3e6
    assert size < 400e6, "NumPy, ONNX Runtime and pip itself are most of it"


def as_it_left_the_host(bundle: Path) -> None:
    """Without engines."""
    opened = Bundle.open(bundle)
    opened.update({}, remove=tuple(name for name in opened.files if name.startswith("engines/")))


@pytest.mark.slow
def test_the_jetson_page_from_a_fresh_environment(wheel: Path, workshop: Workshop, tmp_path: Path) -> None:
    """From `pip install` to the first verified decision, by the page's own commands."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    home = environment(version, wheel, tmp_path)
    built = lend(home, "tensorrt_rtx", "tensorrt_rtx_bindings", "tensorrt_rtx_libs")
    bundle = workshop.copy(tmp_path).rename(tmp_path / "cw.drsn")
    as_it_left_the_host(bundle)
    with wave.open(str(tmp_path / "pump.wav"), "wb") as file:
        file.setparams((1, 2, 1000, 0, "NONE", ""))
        file.writeframes((np.sin(2 * np.pi * 9 * np.arange(2000) / 64) / 2 * 32767).astype("<i2").tobytes())

    def follow(title: str, codes: dict[str, int]) -> dict[str, Any]:
        """Each command with `--json`; what it printed."""
        said: dict[str, Any] = {}
        for program, *words in page_commands(title):
            assert program == "drsn-edge"
            call = [str(home / "bin" / program), *words, "--json"]
            done = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path, env={"PATH": ""}, check=False)
            assert done.returncode == codes.get(words[0], 0), (words, done.stdout, done.stderr)
            said[words[0]] = json.loads(done.stdout)
        return said

    # On this machine no engine can run; one is built ahead of time where TensorRT for RTX is here.
    code = 0 if built else 3
    board = follow("Copy, look, build, verify", {"build": code, "verify": 3})
    assert list(board) == ["doctor", "build", "verify", "run"]
    assert built or board["build"]["hint"]
    (tmp_path / "decisions.jsonl").unlink()
    as_it_left_the_host(bundle)
    here = follow("The same without a Jetson", {"build": code})
    assert list(here) == ["doctor", "build", "verify", "run"]
    hops = {hop["to"]: hop for hop in here["verify"]["hops"]}
    assert here["verify"]["passed"]
    assert hops["onnx-fp32"]["status"] == "passed"
    if built:
        assert hops["engine-fp16"]["status"] == "not_run"
        assert hops["engine-fp16"]["reason"]
        assert [path.name for path in bundle.glob("engines/*/*.engine")] == ["model.fp16.engine"]
    lines = [json.loads(line) for line in (tmp_path / "decisions.jsonl").read_text().splitlines()]
    labels = [item["label"] for item in lines if item["type"] == "decision"]
    assert len(labels) == (2000 - 64) // 32 + 1
    assert labels.count("middle") > 0.9 * len(labels)
    assert here["run"]["runner"] == "onnx-fp32"
