"""Optional packages: imported where they are used, and named with the one pip command when they are missing."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from drsn_edge.errors import MissingDependency

# module -> the extra that brings it (pyproject.toml, [project.optional-dependencies])
EXTRAS = {
    "torch": "host",
    "onnx": "host",
    "onnx_ir": "host",
    "onnxscript": "host",
    "safetensors": "host",
    "onnxruntime": "onnxruntime",
    "scipy": "data",
    "h5py": "data",
    "soundfile": "data",
    "pyarrow": "data",
    "matplotlib": "report",
    "distributed": "fleet",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "rtx",
    "cuda": "cuda13",
}


def install_hint(extra: str) -> str:
    """The one command that installs an extra."""
    if extra == "tensorrt":
        return (
            "pip install 'drsn-edge[tensorrt]' on x86; on a Jetson use JetPack's own "
            "(apt install python3-libnvinfer, and a venv made with --system-site-packages)"
        )
    if extra == "cuda13":
        return "pip install 'drsn-edge[cuda13]' (CUDA 13), or 'drsn-edge[cuda12]' (CUDA 12, JetPack 6)"
    return f"pip install 'drsn-edge[{extra}]'"


def available(module: str) -> bool:
    """Whether a package can be found, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def require(*modules: str, purpose: str, extra: str | None = None) -> ModuleType:
    """Import packages or say which command installs them.

    Args:
        modules: Import names; dotted names import the sub-module.
        purpose: What they are needed for, e.g. "exporting".
        extra: The extra to name when it differs from the module's usual one.

    Returns:
        The first of the modules.

    Raises:
        MissingDependency: A package is absent; the hint is one pip command.
    """
    first: ModuleType | None = None
    for name in modules:
        top = name.split(".")[0]
        try:
            module = importlib.import_module(name)
        except (ImportError, OSError) as error:  # OSError: soundfile, for one, when its C library is not there
            # A package that is there but whose own import fails must not be reported as absent.
            detail = None if isinstance(error, ModuleNotFoundError) and error.name == top else str(error)
            raise MissingDependency(
                f"{purpose} needs the package {top}",
                got=f"{top} cannot be imported: {detail}" if detail else f"{top} is not installed",
                hint=install_hint(extra or EXTRAS.get(top, "all")),
            ) from error
        first = first or module
    if first is None:
        raise ValueError("require() needs at least one module")
    return first
