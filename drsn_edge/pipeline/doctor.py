"""`doctor`: what this machine has, and what a bundle needs of it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from drsn_edge._version import __version__
from drsn_edge.bundle import Bundle
from drsn_edge.extras import EXTRAS, available, install_hint
from drsn_edge.runtime.plan import read_plan_header
from drsn_edge.runtime.preflight import Here, describe_here, preflight

Level = Literal["ok", "missing", "problem"]
_DISTRIBUTIONS = {"cuda": "cuda-bindings", "onnx_ir": "onnx-ir", "tensorrt_rtx": "tensorrt-rtx"}
# What each package is for, so that its absence can be judged.
_PURPOSES = {
    "torch": "training and exporting",
    "onnx": "exporting",
    "onnx_ir": "exporting",
    "onnxscript": "exporting",
    "safetensors": "checkpoints",
    "onnxruntime": "running graphs on the CPU",
    "scipy": "reading .mat",
    "h5py": "reading .mat v7.3",
    "soundfile": "reading .wav of unusual kinds",
    "pyarrow": "reading .parquet",
    "matplotlib": "the report",
    "cuda": "running engines",
}


@dataclass(frozen=True)
class Finding:
    """One line of the doctor.

    Attributes:
        subject: What was looked at.
        level: `ok`, `missing` (something optional is not there) or `problem` (something asked for cannot work).
        found: What was found.
        fix: What to do; empty for `ok`.
    """

    subject: str
    level: Level
    found: str
    fix: str = ""


def doctor(bundle: Path | str | None = None) -> tuple[Finding, ...]:
    """Look at this machine, and at what a bundle needs.

    Raises:
        InputError: `bundle` is none, or damaged.
    """
    findings = [
        Finding("drsn-edge", "ok", __version__),
        Finding("Python", "ok", f"{platform.python_version()} at {sys.executable}"),
        Finding("machine", "ok", f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"),
        _l4t(),
        *_packages(),
    ]
    here = describe_here()
    for backend in here.backends.values():
        if backend.version is not None and backend.problem is None:
            findings.append(Finding(backend.kind, "ok", backend.version))
        else:
            findings.append(Finding(backend.kind, "missing", backend.problem or "not installed", backend.hint or ""))
    gpu = here.device.device
    findings.append(
        Finding("GPU", "ok", f"{gpu.name}, {gpu.sm}, CUDA {gpu.driver}, {gpu.memory_bytes / 1e9:.0f} GB")
        if gpu is not None
        else Finding("GPU", "missing", here.device.reason or "none", "engines run on an NVIDIA GPU; all else works")
    )
    usage = shutil.disk_usage(Path.cwd())
    findings.append(Finding("disk", "ok" if usage.free > 1e9 else "problem", f"{usage.free / 1e9:.0f} GB free here",
                            "" if usage.free > 1e9 else "free some space"))  # fmt: skip
    if bundle is not None:
        findings += _bundle(Path(bundle), here)
    return tuple(finding for finding in findings if finding.found)


def to_json(findings: tuple[Finding, ...]) -> dict[str, Any]:
    """Plain JSON values."""
    return {
        "format_version": 1,
        "ok": not any(finding.level == "problem" for finding in findings),
        "findings": [vars(finding) for finding in findings],
    }


def _l4t() -> Finding:
    """Jetson Linux release, from the file that NVIDIA's package writes."""
    release = Path("/etc/nv_tegra_release")
    text = release.read_text(errors="replace").splitlines()[0].lstrip("# ") if release.is_file() else ""
    return Finding("Jetson Linux", "ok", text)


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


def _bundle(path: Path, here: Here) -> list[Finding]:
    bundle = Bundle.open(path)
    bundle.check()
    findings = [Finding("bundle", "ok", f"{len(bundle.files)} files, all as listed; sha256 {bundle.digest}")]
    engines = bundle.engines()
    if not engines:
        findings.append(Finding("engine", "missing", "the bundle holds none", f"drsn-edge build {path}"))
    reasons = {
        key: preflight(read_plan_header(bundle.file(plan)), bundle.read_json(f"engines/{key}/engine.json"), here)
        for key, plan in engines.items()
    }
    # A bundle may hold an engine for each of several devices: one that fits is enough.
    misfit: Level = "missing" if not all(reasons.values()) else "problem"
    for key, found in reasons.items():
        if not found:
            findings.append(Finding(f"engine {key}", "ok", "fits this machine"))
        else:
            # Without a GPU nothing that is built here could run here either.
            fix = f"drsn-edge build {path}" if here.device.device is not None else "run it on the device it is for"
            findings.append(Finding(f"engine {key}", misfit, "; ".join(found), fix))
    return findings
