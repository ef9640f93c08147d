"""`doctor`: what this machine has, and what a bundle needs of it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

from drsn_edge._version import __version__
from drsn_edge.extras import EXTRAS, available, install_hint
from drsn_edge.pipeline.doctor_board import board_findings, gpu_finding
from drsn_edge.pipeline.doctor_bundle import bundle_findings
from drsn_edge.pipeline.finding import Finding
from drsn_edge.runtime.board import read_board
from drsn_edge.runtime.preflight import describe_here

__all__ = ["Finding", "doctor", "to_json"]

_DISTRIBUTIONS = {"cuda": "cuda-bindings", "onnx_ir": "onnx-ir", "tensorrt_rtx": "tensorrt-rtx"}
# What each package is for, so that its absence can be judged.
_PURPOSES = {
    "torch": "training and exporting",
    "onnx": "exporting",
    "onnx_ir": "exporting",
    "onnxscript": "exporting",
    "safetensors": "checkpoints",
    "onnxruntime": "running graphs on the CPU",
    "scipy": "decimating the healthy recordings of cwru:",
    "h5py": "reading .mat v7.3",
    "soundfile": "reading .wav of unusual kinds",
    "pyarrow": "reading .parquet",
    "matplotlib": "the report",
    "distributed": "scoring archives on several machines",
    "cuda": "running engines",
}


def doctor(bundle: Path | str | None = None, *, root: Path = Path("/")) -> tuple[Finding, ...]:
    """Look at this machine, and at what a bundle needs.

    Args:
        bundle: A folder, to say whether its needs are met.
        root: Where the board's files are read from.

    Raises:
        InputError: `bundle` is none, or damaged.
    """
    findings = [
        Finding("drsn-edge", "ok", __version__),
        Finding("Python", "ok", f"{platform.python_version()} at {sys.executable}"),
        Finding("machine", "ok", f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"),
    ]
    here, board = describe_here(), read_board(root)
    findings += [*board_findings(board, here), *_packages()]
    for backend in here.backends.values():
        if backend.version is not None and backend.problem is None:
            findings.append(Finding(backend.kind, "ok", backend.version))
        else:
            findings.append(Finding(backend.kind, "missing", backend.problem or "not installed", backend.hint or ""))
    findings.append(gpu_finding(board, here))
    usage = shutil.disk_usage(Path.cwd())
    findings.append(Finding("disk", "ok" if usage.free > 1e9 else "problem", f"{usage.free / 1e9:.0f} GB free here",
                            "" if usage.free > 1e9 else "free some space"))  # fmt: skip
    if bundle is not None:
        findings += bundle_findings(Path(bundle), here)
    return tuple(findings)


def to_json(findings: tuple[Finding, ...]) -> dict[str, Any]:
    """Plain JSON values."""
    return {
        "format_version": 1,
        "ok": not any(finding.level == "problem" for finding in findings),
        "findings": [vars(finding) for finding in findings],
    }


def _packages() -> list[Finding]:
    findings = []
    for module, purpose in _PURPOSES.items():
        if available(module):
            try:
                version = importlib.metadata.version(_DISTRIBUTIONS.get(module, module))
            except importlib.metadata.PackageNotFoundError:
                version = "installed"
            findings.append(Finding(module, "ok", version))
        else:
            findings.append(Finding(module, "missing", f"not installed: {purpose}", install_hint(EXTRAS[module])))
    return findings
