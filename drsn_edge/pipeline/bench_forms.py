"""What `bench` measures: every form of a bundle's network that can run here, as it runs in use."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge.bundle import GOLDEN, Bundle, graph_name
from drsn_edge.errors import DrsnError, MissingError
from drsn_edge.golden import Golden
from drsn_edge.pipeline.variants import open_engine, open_pytorch
from drsn_edge.runtime.runner import Runner, open_runner

_CPU_HALF = "ONNX Runtime computes FP16 in FP32 on a CPU: its speed, not that of FP16 arithmetic"
# On a CPU, FP32 between the integer convolutions spares conversions that FP16 would need.
_CPU_INT8 = "model.int8-fp32.onnx"


@dataclass(frozen=True, eq=False)
class Form:
    """One thing to measure.

    Attributes:
        name: `pytorch`, `onnx-int8`, `engine-fp16`.
        precision: `fp32`, `fp16` or `int8`.
        runner_name: What executes it.
        file: Of the bundle; None for PyTorch.
        runner: Active; None when it cannot run here.
        reason: Why not.
        note: What a reader of its figures should know.
        info: The content of `engine.json`, for an engine.
    """

    name: str
    precision: str
    runner_name: str
    file: str | None
    runner: Runner | None
    reason: str | None = None
    note: str | None = None
    info: dict[str, Any] | None = None


def open_forms(
    bundle: Bundle,
    stack: contextlib.ExitStack,
    *,
    runners: Sequence[str] = (),
    precisions: Sequence[str] = (),
    engines_only: bool = False,
) -> tuple[Form, ...]:
    """Open what is asked for; what cannot run here says why.

    Args:
        bundle: The bundle.
        stack: Holds the runners open.
        runners: Only these; all by default.
        precisions: Only these; all by default.
        engines_only: Every engine of the bundle and nothing else.
    """
    found: list[Form] = []
    for key in sorted(bundle.engines()):
        info = bundle.read_json(f"engines/{key}/engine.json")
        precision, runner = str(info["precision"]), str(info["runner"])
        if _wanted(runner, runners) and _wanted(precision, precisions):
            found.append(_engine(bundle, key, info, stack))
    if engines_only:
        return tuple(found)
    graphs = [
        _onnx(bundle, precision, stack)
        for precision in bundle.precisions
        if _wanted("onnxruntime", runners) and _wanted(precision, precisions)
    ]
    pytorch = []
    if _wanted("torch", runners) and _wanted("fp32", precisions):
        item = open_pytorch(bundle, stack)
        pytorch = [Form("pytorch", "fp32", "torch", None, item.runner, item.reason)]
    return (*pytorch, *graphs, *found)


def windows_for(bundle: Bundle, batch: int) -> NDArray[np.float32]:
    """Golden windows, over and over: what the network really sees, and nothing that can be skipped as zeros."""
    golden = Golden.from_bytes(bundle.read(GOLDEN)).windows
    return np.ascontiguousarray(golden[np.arange(batch) % len(golden)])


def _wanted(name: str, chosen: Sequence[str]) -> bool:
    return not chosen or name in chosen


def _engine(bundle: Bundle, key: str, info: dict[str, Any], stack: contextlib.ExitStack) -> Form:
    item = open_engine(bundle, key, stack)
    verified = info.get("verified") or {}
    note = None
    if item.runner is not None and verified.get("passed") is not True:
        note = "this engine is not verified: `drsn-edge build` and `verify` say whether it decides as its graph does"
    return Form(
        item.name, str(info["precision"]), item.runner_name, bundle.engines()[key], item.runner, item.reason, note, info
    )


def _onnx(bundle: Bundle, precision: str, stack: contextlib.ExitStack) -> Form:
    """The graph itself, and not the copy with visible rounding that `verify` runs."""
    file = _CPU_INT8 if precision == "int8" and _CPU_INT8 in bundle.files else graph_name(precision)
    name = f"onnx-{precision}"
    note = _CPU_HALF if precision == "fp16" else None
    try:
        runner = stack.enter_context(open_runner("onnxruntime", bundle.read(file)))
    except MissingError as error:
        return Form(name, precision, "onnxruntime", file, None, error.got or error.what)
    except DrsnError as error:
        return Form(name, precision, "onnxruntime", file, None, f"{error.what}: {error.got}")
    return Form(name, precision, "onnxruntime", file, runner, None, note)
