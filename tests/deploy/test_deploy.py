"""What is shipped for devices: the unit, the image, the program in C++ that needs TensorRT alone."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from tests.conftest import Workshop

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


# --- systemd


def unit() -> dict[str, dict[str, list[str]]]:
    """Sections of the unit, every key with all its values."""
    found: dict[str, dict[str, list[str]]] = {}
    section = ""
    for line in (DEPLOY / "drsn-edge@.service").read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
            found[section] = {}
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found[section].setdefault(key, []).append(value)
    return found


def test_the_unit_restarts_and_is_watched() -> None:
    service = unit()["Service"]
    assert service["Restart"] == ["on-failure"]
    assert service["Type"] == ["notify"]
    assert int(service["WatchdogSec"][0]) >= 10
    assert service["RestartPreventExitStatus"] == ["2 3 4"]
    assert "User" in service
    program, command, *arguments = shlex.split(service["ExecStart"][0])
    assert (Path(program).name, command) == ("drsn-edge", "run")
    assert arguments[0].endswith(".drsn")
    writable = (*service["ReadWritePaths"], "/tmp")
    state = arguments[arguments.index("--state") + 1]
    assert state.startswith(writable), "with ProtectSystem=strict nothing else can be written"


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    text = (DEPLOY / "drsn-edge@.service").read_text()
    path = tmp_path / "drsn-edge@.service"

    def problems(content: str) -> str:
        path.write_text(content)
        done = subprocess.run(
            ["systemd-analyze", "verify", str(path)], capture_output=True, text=True, timeout=60, check=False
        )
        return done.stderr

    here = text.replace("/opt/drsn/bin/drsn-edge", shutil.which("true") or "/bin/true")
    assert "drsn-edge@" not in problems(here)
    assert "Failed to parse sec value" in problems(here.replace("WatchdogSec=60", "WatchdogSec=often")), (
        "it would see a mistake"
    )


# --- the image


def instructions() -> list[tuple[str, str]]:
    """Instructions of the Dockerfile: joined lines, without comments."""
    text = re.sub(r"(?m)^\s*#.*\n", "", (DEPLOY / "Dockerfile").read_text()).replace("\\\n", " ")
    lines = [line.split(None, 1) for line in text.splitlines() if line.strip()]
    return [(name, rest.strip()) for name, rest in lines]


def test_the_image_is_made_of_what_there_is() -> None:
    steps = instructions()
    names = [name for name, _ in steps]
    assert set(names) <= {"ARG", "FROM", "RUN", "WORKDIR", "COPY", "USER", "ENV", "ENTRYPOINT", "CMD"}
    assert names[:2] == ["ARG", "FROM"]
    assert re.fullmatch(r"BASE=nvcr\.io/nvidia/l4t-[\w-]+:r[\w.-]+", steps[0][1])
    copied = [Path(word.removeprefix("./")) for name, rest in steps if name == "COPY" for word in rest.split()[:-1]]
    assert all((ROOT / path).exists() for path in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    mapped = set(project["tool"]["setuptools"]["package-dir"].values())
    assert mapped | {"pyproject.toml", project["project"]["readme"], "LICENSE"} <= {str(path) for path in copied}
    (installed,) = (rest for name, rest in steps if name == "RUN" and "pip install" in rest)
    extras = re.search(r"\.\[([\w,]+)\]", installed)
    assert extras is not None
    assert set(extras[1].split(",")) <= set(project["project"]["optional-dependencies"])
    assert "tensorrt" not in extras[1], "the image has its own, which pip must not hide"
    assert "--system-site-packages" in installed
    users = [rest for name, rest in steps if name == "USER"]
    assert users
    assert users[-1] != "root"
    assert json.loads(dict(steps)["ENTRYPOINT"]) == ["/opt/drsn/bin/drsn-edge"]
    assert json.loads(dict(steps)["CMD"]) == ["doctor"]
    for name, rest in steps:
        if name == "RUN":
            shlex.split(rest)
            assert subprocess.run(["sh", "-n", "-c", rest], check=False).returncode == 0


# --- C++


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled against the declarations beside this test: NVIDIA's headers are in no package."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    path = tmp_path_factory.mktemp("cpp") / "check_plan"
    include = Path(__file__).parent / "include"
    words = [compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", "-I", str(include)]
    words.append(str(DEPLOY / "cpp" / "check_plan.cpp"))
    done = subprocess.run([*words, "-o", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return path


def check_plan(
    program: Path, folder: Path, bundle: Path, precision: str, change: float, *, largest: int = 256
) -> tuple[int, str]:
    """What it says of an engine that answers as the graph did, plus `change` times the precision's own error."""
    with zipfile.ZipFile(bundle / "golden.npz") as archive:
        archive.extractall(folder / "golden")
        names = archive.namelist()
    assert "windows.npy" in names
    wanted = np.load(folder / "golden" / f"logits.onnx-{precision}.npy").astype(np.float64)
    single = np.load(folder / "golden" / "logits.onnx-fp32.npy").astype(np.float64)
    own = wanted - single if precision != "fp32" else 1e-4 * np.abs(wanted).max() * np.ones_like(wanted)
    (folder / "answers.bin").write_bytes((wanted + change * own).astype(np.float32).tobytes())
    shape = np.load(folder / "golden" / "windows.npy").shape
    (folder / "plan").write_text(f"fake {largest} {shape[1]} {shape[2]} {folder / 'answers.bin'}\n")
    words = [str(program), str(folder / "plan"), str(folder / "golden"), precision]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_golden_check_in_c(program: Path, workshop: Workshop, tmp_path: Path, precision: str) -> None:
    """The same verdict as `drsn_edge.parity` on either side of the limit."""
    from drsn_edge.golden import Golden
    from drsn_edge.parity.ledger import compare
    from drsn_edge.parity.tolerances import derive

    golden = Golden.from_bytes((workshop.bundle / "golden.npz").read_bytes())
    wanted, single = golden.logits[f"onnx-{precision}"], golden.logits["onnx-fp32"]
    tolerance = derive("engine", precision, reference=single, recorded=wanted)  # type: ignore[arg-type]
    for change, largest in ((0.0, 256), (0.5, 7), (40.0, 256)):
        code, said = check_plan(program, tmp_path, workshop.bundle, precision, change, largest=largest)
        answers = np.frombuffer((tmp_path / "answers.bin").read_bytes(), np.float32).reshape(wanted.shape)
        error = compare(wanted, answers)
        assert (code == 0) == (not tolerance.violations(error)), said
        assert code == (5 if change == 40.0 else 0), said
        assert "96 windows" in said
        shown = re.search(r"largest difference (\S+)", said)
        assert shown is not None
        assert float(shown[1]) == pytest.approx(error.max_abs, rel=1e-2)


def test_what_the_program_refuses(program: Path, workshop: Workshop, tmp_path: Path) -> None:
    assert check_plan(program, tmp_path, workshop.bundle, "fp16", float("nan"))[0] == 5
    golden, plan = tmp_path / "golden", tmp_path / "plan"

    def run(*words: object) -> tuple[int, str]:
        done = subprocess.run([str(program), *map(str, words)], capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    assert run(plan, golden)[0] == 2
    assert run(tmp_path / "none", golden, "fp16")[0] == 4
    other = tmp_path / "other"
    other.write_text("ftrt")
    code, said = run(other, golden, "fp16")
    assert (code, "build it here" in said) == (3, True)
    whole = (golden / "windows.npy").read_bytes()
    for data in (whole[:50], whole[:-4], b"\x93NUMPY\x02\0" + whole[8:], whole.replace(b"<f4", b"<i4", 1)):
        (golden / "windows.npy").write_bytes(data)
        code, said = run(plan, golden, "fp16")
        assert (code, "windows.npy" in said) == (4, True)


def test_run_tells_systemd_that_it_is_ready(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The unit's Type=notify and watchdog, with the options of its command."""
    import socket

    from typer.testing import CliRunner

    from drsn_edge.cli import app

    name = str(tmp_path / "notify")
    np.save(tmp_path / "pump.npy", np.sin(np.arange(640, dtype=np.float32)))
    sources = f'sources = ["{tmp_path}/pump.npy,rate=1000"]\n'
    (tmp_path / "pump.toml").write_text(f'{sources}events = "{tmp_path}/events.jsonl"\nrunner = "onnxruntime"\n')
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    arguments = [str(workshop.bundle), "--config", str(tmp_path / "pump.toml"), "--state", str(tmp_path / "pump.json")]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(name)
        server.settimeout(5)
        said = CliRunner().invoke(app, ["run", *arguments])
        assert said.exit_code == 0, said.output
        assert [server.recv(100), server.recv(100)] == [b"READY=1", b"WATCHDOG=1"]
    assert (tmp_path / "events.jsonl").read_text()
