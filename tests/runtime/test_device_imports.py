"""On a device there is neither torch nor onnx: what runs there must not want them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BLOCKED = ("torch", "onnx", "onnx_ir", "onnxscript", "safetensors", "scipy", "matplotlib")
ROOT = Path(__file__).parents[2]
# Parts that run on a device, and the builder of engines.
PARTS = ("runtime", "parity", "signals", "stream")
MODULES = (
    "drsn_edge.bundle",
    "drsn_edge.golden",
    *sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for part in PARTS
        for path in (ROOT / "drsn_edge" / part).rglob("*.py")
    ),
    *sorted(f"drsn_edge.exporters.{path.stem}" for path in (ROOT / "exporters").glob("trt_*.py")),
    *(f"drsn_edge.pipeline.{name}" for name in ("build", "doctor", "engine_check", "inspect", "verify")),
    "drsn_edge.cli",
)
SCRIPT = """
import importlib, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocker())
for module in MODULES:
    importlib.import_module(module)
heavy = {"onnxruntime", "tensorrt", "tensorrt_rtx", "cuda"} & {name.split(".")[0] for name in sys.modules}
assert not heavy, f"loaded at import: {heavy}"
from drsn_edge.exporters.trt_engine import EngineOptions, build_engine
from drsn_edge.runtime.preflight import describe_here
print(describe_here().platform)
"""


def python(script: str) -> subprocess.CompletedProcess[str]:
    header = f"BLOCKED = {BLOCKED!r}\nMODULES = {MODULES!r}\n"
    command = [sys.executable, "-W", "error", "-c", header + script]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_part_is_looked_at() -> None:
    for name in ("runtime.verification", "parity.gate", "signals.readers.mat5", "signals.datasets.cwru"):
        assert f"drsn_edge.{name}" in MODULES
    assert len(MODULES) > 60


def test_runtime_and_engine_builder_need_neither_torch_nor_onnx() -> None:
    done = python(SCRIPT)
    assert done.returncode == 0, done.stderr
    assert "-" in done.stdout


def test_the_blocker_blocks() -> None:
    done = python(SCRIPT + "\nimport onnx\n")
    assert done.returncode != 0
    assert "onnx is blocked" in done.stderr
