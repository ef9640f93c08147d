"""What the doctor says of the board: system, TensorRT and where it comes from, power, clocks, memory, permissions."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

from drsn_edge.pipeline.finding import Finding
from drsn_edge.runtime.board import Board
from drsn_edge.runtime.preflight import Here

# A process with NumPy and an engine's context; less is not enough to start with.
_LEAST_MEMORY = 512 << 20
_JETSON_SITES = ("/usr/lib/python3",)


def board_findings(board: Board, here: Here) -> Iterator[Finding]:
    """Findings about a board.

    Args:
        board: Its files.
        here: Its libraries and its GPU.
    """
    if board.model is not None:
        yield Finding("board", "ok", board.model)
    if board.l4t is not None:
        jetpack = f", JetPack {board.jetpack}" if board.jetpack else ", a JetPack that is not known here"
        yield Finding("Jetson Linux", "ok", f"{board.l4t}{jetpack}")
    if board.cuda is not None:
        yield Finding("CUDA toolkit", "ok", board.cuda)
    if board.driver is not None:
        yield Finding("driver", "ok", board.driver)
    yield from _tensorrt(board, here)
    yield from _power(board)
    if board.memory_bytes is not None:
        total, free = board.memory_bytes
        words = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB available"
        enough = free >= _LEAST_MEMORY
        fix = "" if enough else "end other programs or add swap: an engine and its context need half a GB"
        yield Finding("memory", "ok" if enough else "problem", words, fix)
    yield from _permissions(board)


def gpu_finding(board: Board, here: Here) -> Finding:
    """The GPU, or why there is none and what may be done about it."""
    gpu = here.device.device
    if gpu is not None:
        shared = ", shared with the CPU" if gpu.integrated else ""
        words = f"{gpu.name}, {gpu.sm}, CUDA {gpu.driver}, {gpu.memory_bytes / 1e9:.0f} GB{shared}"
        return Finding("GPU", "ok", words)
    fix = "engines run on an NVIDIA GPU; all else works"
    if board.jetson:
        fix = "start the container with --runtime nvidia; outside of one reinstall nvidia-l4t-cuda"
    elif board.pci_gpu:
        fix = "a GPU is plugged in: install NVIDIA's driver and restart"
    return Finding("GPU", "missing", here.device.reason or "none", fix)


def tensorrt_origin(module: str) -> str | None:
    """Where a module would be imported from, without importing it."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return None if spec is None else spec.origin


def _tensorrt(board: Board, here: Here) -> Iterator[Finding]:
    """Whose TensorRT the Python module is, and whether it is the system's."""
    origin, backend = tensorrt_origin("tensorrt"), here.backends.get("tensorrt")
    version = None if backend is None else backend.version
    if board.tensorrt is not None:
        bindings = board.packages.get("python3-libnvinfer")
        if origin is None:
            fix = (
                "make the environment with --system-site-packages, and with the system's own python3"
                if bindings
                else "apt install python3-libnvinfer, and make the environment with --system-site-packages"
            )
            words = f"{board.tensorrt} of the system, which this Python does not see"
            if (board.jetpack or "").startswith("5."):
                fix = "JetPack 5 has it for Python 3.8 only: build by trtexec, see docs/jetson.md"
            yield Finding("TensorRT install", "missing", words, fix)
            return
    if origin is None:
        return
    system = origin.startswith(_JETSON_SITES)
    source = "apt" if system else "pip"
    words = f"{version or 'broken'} from {source}, {Path(origin).parent}"
    other = board.tensorrt is not None and version is not None and not _same(version, board.tensorrt)
    if other and not system:
        yield Finding(
            "TensorRT install", "problem", f"{words}; the system has {board.tensorrt}",
            "pip uninstall tensorrt, and use the system's own: pip's hides it",
        )  # fmt: skip
    else:
        yield Finding("TensorRT install", "ok", words)


def _same(one: str, other: str) -> bool:
    """Equal as far as both are written out, at least two numbers."""
    left, right = one.split("."), other.split(".")
    length = min(len(left), len(right), 3)
    return left[:length] == right[:length]


def _power(board: Board) -> Iterator[Finding]:
    mode, clock = board.power_mode, board.gpu_clock
    if mode is not None:
        yield Finding("power mode", "ok", f"{mode.name or 'unnamed'} (nvpmodel {mode.number})")
    elif board.jetson:
        yield Finding("power mode", "missing", "not known: nvpmodel has left no state", "sudo nvpmodel -q says it")
    if clock is None:
        return
    words = f"GPU at {clock.current_hz / 1e6:.0f} MHz"
    if clock.locked:
        yield Finding("clocks", "ok", f"{words}, locked")
    else:
        span = f"{clock.lowest_hz / 1e6:.0f} to {clock.highest_hz / 1e6:.0f} MHz"
        yield Finding("clocks", "missing", f"{words}, moves within {span}: timings will too", "sudo jetson_clocks")


def _permissions(board: Board) -> Iterator[Finding]:
    closed = [str(node) for node in board.nodes if not os.access(node, os.R_OK | os.W_OK)]
    if closed:
        yield Finding(
            "permissions", "problem", f"no right to read and write {', '.join(closed)}",
            "sudo usermod -aG video,render $USER, and log in again",
        )  # fmt: skip
    elif board.nodes:
        yield Finding("permissions", "ok", f"{len(board.nodes)} device files of the GPU can be used")
