"""The command line as a user meets it: in this process, and in one of its own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from drsn_edge.cli import app

# Everything that an extra brings.
OPTIONAL = (
    "torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "safetensors", "scipy", "h5py", "soundfile", "pyarrow",
    "matplotlib", "tensorrt", "tensorrt_rtx", "cuda",
)  # fmt: skip


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on stdout: fails when there is anything else."""
        return json.loads(self.out)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads of PyTorch on a shared machine are slower than one."""
    torch = pytest.importorskip("torch", reason="commands are run with everything installed")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cli() -> Callable[..., Said]:
    """Run a command in this process; a traceback fails the test."""

    def run(*args: object) -> Said:
        result = CliRunner().invoke(app, [str(arg) for arg in args])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        assert "Traceback" not in result.stderr
        return Said(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture(scope="session")
def python() -> Callable[..., Said]:
    """Run Python in a process of its own, as `python ARGS`."""

    def run(*args: object, cwd: Path | None = None, **environment: str) -> Said:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80", **environment}
        done = subprocess.run(
            [sys.executable, *map(str, args)],
            capture_output=True,
            text=True,
            env=env,
            cwd=cwd,
            timeout=120,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    return run


_BARE = """
import json, sys

blocked = set(sys.argv[1].split(","))

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Finder())
from typer.testing import CliRunner
from drsn_edge.cli import app

said = []
for args in json.loads(sys.argv[2]):
    result = CliRunner().invoke(app, args)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    said.append([result.exit_code, result.stdout, result.stderr])
print(json.dumps({"said": said, "modules": sorted(sys.modules)}))
"""


@pytest.fixture(scope="session")
def bare(python: Callable[..., Said]) -> Callable[..., tuple[list[Said], list[str]]]:
    """Run commands where optional packages are missing; what each said, and the modules that were imported."""

    def run(*commands: list[object], missing: tuple[str, ...] = OPTIONAL) -> tuple[list[Said], list[str]]:
        text = json.dumps([[str(arg) for arg in command] for command in commands])
        done = python("-c", _BARE, ",".join(missing), text)
        assert done.code == 0, done.err
        return [Said(*item) for item in done.json["said"]], done.json["modules"]

    return run


@pytest.fixture(scope="session")
def listing() -> Callable[[Path], dict[str, str]]:
    """Every file and folder below a path, hidden ones too, with the hash of what is in it."""

    def look(folder: Path) -> dict[str, str]:
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
            for path in sorted(folder.rglob("*"))
        }

    return look


@pytest.fixture(scope="session")
def rehash() -> Callable[[Path, str, bytes], None]:
    """Replace a file of a bundle and its entry in the manifest, as somebody would who means to deceive."""

    def replace(bundle: Path, name: str, data: bytes) -> None:
        (bundle / name).write_bytes(data)
        manifest = json.loads((bundle / "manifest.json").read_text())
        manifest["files"][name] |= {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        (bundle / "manifest.json").write_text(json.dumps(manifest))

    return replace
