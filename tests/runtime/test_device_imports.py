"""On a device there is neither torch nor onnx: what runs there must not want them."""

from __future__ import annotations

import subprocess
import sys

BLOCKED = ("torch", "onnx", "onnx_ir", "onnxscript", "safetensors", "scipy", "matplotlib")
MODULES = (
    "drsn_edge.runtime",
    "drsn_edge.runtime.cuda",
    "drsn_edge.runtime.driver",
    "drsn_edge.runtime.onnxruntime_runner",
    "drsn_edge.runtime.plan",
    "drsn_edge.runtime.preflight",
    "drsn_edge.runtime.rtx_runner",
    "drsn_edge.runtime.tensorrt_runner",
    "drsn_edge.runtime.trt_log",
    "drsn_edge.exporters.trt_engine",
    "drsn_edge.exporters.trt_sidecar",
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


def test_runtime_and_engine_builder_need_neither_torch_nor_onnx() -> None:
    done = python(SCRIPT)
    assert done.returncode == 0, done.stderr
    assert "-" in done.stdout


def test_the_blocker_blocks() -> None:
    done = python(SCRIPT + "\nimport onnx\n")
    assert done.returncode != 0
    assert "onnx is blocked" in done.stderr
