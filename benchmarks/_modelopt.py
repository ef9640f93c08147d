"""NVIDIA's ModelOpt in an environment of its own: its packages do not agree with those of drsn-edge.

It pins another onnx and brings ONNX Runtime for GPUs. PyTorch is not installed a second time: the environment sees that
of the running one, behind its own packages.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_PACKAGE = "nvidia-modelopt[onnx]"
_LAST = 400


def environment(folder: Path) -> tuple[Path | None, str]:
    """The Python of an environment with ModelOpt; made in `folder` if it is not there.

    Returns:
        It and nothing; or None and why there is none.
    """
    python = folder / "bin" / "python"
    if not python.is_file():
        for command in (
            [sys.executable, "-m", "venv", str(folder)],
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", _PACKAGE],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                return None, f"{' '.join(command[1:])} failed: {done.stderr.strip()[-_LAST:]}"
            _see_torch(folder)
    done = _run(python, "-c", "import modelopt.onnx.quantization")
    return (python, "") if done.returncode == 0 else (None, f"it cannot be imported: {done.stderr.strip()[-_LAST:]}")


def _see_torch(folder: Path) -> None:
    """A path file: what the environment lacks it finds where the running one has it."""
    for packages in folder.glob("lib/python*/site-packages"):
        (packages / "drsn_edge_torch.pth").write_text(sysconfig.get_path("purelib") + "\n")


def quantized(
    python: Path, graph: bytes, windows: NDArray[np.float32], *, method: str | None
) -> tuple[bytes | None, str]:
    """A graph as ModelOpt's command quantizes it to int8.

    Args:
        python: Of its environment.
        graph: FP32.
        windows: That calibrate.
        method: Of calibration; None leaves it at what it does by default.

    Returns:
        The graph and nothing; or None and why there is none.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in.onnx").write_bytes(graph)
        np.savez(folder / "windows.npz", window=windows)
        command = [
            "-m",
            "modelopt.onnx.quantization",
            "--onnx_path",
            str(folder / "in.onnx"),
            "--quantize_mode",
            "int8",
        ]
        command += ["--calibration_data_path", str(folder / "windows.npz"), "--output_path", str(folder / "out.onnx")]
        # FP32 between the integers, as in all rows: only the quantizer is compared.
        command += ["--high_precision_dtype", "fp32", "--calibration_eps", "cpu"]
        done = _run(python, *command, *([] if method is None else ["--calibration_method", method]))
        if done.returncode or not (folder / "out.onnx").is_file():
            return None, f"modelopt.onnx.quantization failed: {(done.stderr or done.stdout).strip()[-_LAST:]}"
        return (folder / "out.onnx").read_bytes(), ""


def _run(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Without the paths of the running program: its onnx is another.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([str(python), *arguments], capture_output=True, text=True, check=False, env=env)
