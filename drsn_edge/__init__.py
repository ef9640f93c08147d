"""Deep Residual Shrinkage Networks, from training to a checked TensorRT engine.

Every command of the CLI is a function of the same name here, and returns the object that the CLI prints. Names are
resolved on first use, so that `import drsn_edge` loads neither torch nor onnx.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from drsn_edge._version import __version__

if TYPE_CHECKING:
    from drsn_edge.bundle import Bundle as Bundle
    from drsn_edge.pipeline.build import build as build
    from drsn_edge.pipeline.demo import demo as demo
    from drsn_edge.pipeline.export import export as export
    from drsn_edge.pipeline.train import train as train
    from drsn_edge.pipeline.verify import verify as verify

_PUBLIC = {
    "Bundle": "drsn_edge.bundle",
    "build": "drsn_edge.pipeline.build",
    "demo": "drsn_edge.pipeline.demo",
    "export": "drsn_edge.pipeline.export",
    "train": "drsn_edge.pipeline.train",
    "verify": "drsn_edge.pipeline.verify",
}

__all__ = ["Bundle", "__version__", "build", "demo", "export", "train", "verify"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'drsn_edge' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
