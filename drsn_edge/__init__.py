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
    from drsn_edge.pipeline.adapt import adapt as adapt
    from drsn_edge.pipeline.bench import BenchOptions as BenchOptions
    from drsn_edge.pipeline.bench import bench as bench
    from drsn_edge.pipeline.build import build as build
    from drsn_edge.pipeline.demo import demo as demo
    from drsn_edge.pipeline.doctor import doctor as doctor
    from drsn_edge.pipeline.export import ExportOptions as ExportOptions
    from drsn_edge.pipeline.export import export as export
    from drsn_edge.pipeline.inspect import inspect as inspect
    from drsn_edge.pipeline.push import push as push
    from drsn_edge.pipeline.receive import receive as receive
    from drsn_edge.pipeline.run import StreamOptions as StreamOptions
    from drsn_edge.pipeline.run import run as run
    from drsn_edge.pipeline.score import score as score
    from drsn_edge.pipeline.study import study as study
    from drsn_edge.pipeline.study_result import summarise_study as summarise_study
    from drsn_edge.pipeline.survey import data as data
    from drsn_edge.pipeline.sweep import SweepOptions as SweepOptions
    from drsn_edge.pipeline.train import train as train
    from drsn_edge.pipeline.triton import triton as triton
    from drsn_edge.pipeline.verify import verify as verify
    from drsn_edge.stream.smoothing import SmoothingOptions as SmoothingOptions
    from drsn_edge.training.study import StudyOptions as StudyOptions

_PUBLIC = {
    "BenchOptions": "drsn_edge.pipeline.bench",
    "bench": "drsn_edge.pipeline.bench",
    "Bundle": "drsn_edge.bundle",
    "ExportOptions": "drsn_edge.pipeline.export",
    "SmoothingOptions": "drsn_edge.stream.smoothing",
    "StreamOptions": "drsn_edge.pipeline.run",
    "StudyOptions": "drsn_edge.training.study",
    "SweepOptions": "drsn_edge.pipeline.sweep",
    "adapt": "drsn_edge.pipeline.adapt",
    "build": "drsn_edge.pipeline.build",
    "data": "drsn_edge.pipeline.survey",
    "demo": "drsn_edge.pipeline.demo",
    "doctor": "drsn_edge.pipeline.doctor",
    "export": "drsn_edge.pipeline.export",
    "inspect": "drsn_edge.pipeline.inspect",
    "push": "drsn_edge.pipeline.push",
    "receive": "drsn_edge.pipeline.receive",
    "run": "drsn_edge.pipeline.run",
    "score": "drsn_edge.pipeline.score",
    "study": "drsn_edge.pipeline.study",
    "summarise_study": "drsn_edge.pipeline.study_result",
    "train": "drsn_edge.pipeline.train",
    "triton": "drsn_edge.pipeline.triton",
    "verify": "drsn_edge.pipeline.verify",
}

__all__ = [
    "BenchOptions",
    "Bundle",
    "ExportOptions",
    "SmoothingOptions",
    "StreamOptions",
    "StudyOptions",
    "SweepOptions",
    "__version__",
    "adapt",
    "bench",
    "build",
    "data",
    "demo",
    "doctor",
    "export",
    "inspect",
    "push",
    "receive",
    "run",
    "score",
    "study",
    "summarise_study",
    "train",
    "triton",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'drsn_edge' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
