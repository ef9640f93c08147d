"""Ranges of the tensors that will be quantized, from one streaming pass of the FP32 graph over the windows."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from drsn_edge.calibration.observers import RangeObserver
from drsn_edge.errors import InputError
from drsn_edge.exporters.canonical import INPUT, parse, serialise
from drsn_edge.progress import SILENT, Progress
from drsn_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner


def tap(data: bytes, tensors: Sequence[str]) -> bytes:
    """The file of a graph with inner tensors as further outputs.

    Raises:
        InputError: A tensor that the graph does not compute.
    """
    model = parse(data)
    values = {value.name: value for node in model.graph for value in node.outputs}
    for name in tensors:
        if name not in values:
            raise InputError(
                "the graph has no such tensor", got=name or "no name", expected="a tensor that this graph computes",
                hint="make the plan from the graph that it is for",
            )  # fmt: skip
        value = values[name]
        if not value.is_graph_output():
            if value.dtype is None:
                value.type = ir.TensorType(ir.DataType.FLOAT)
            model.graph.outputs.append(value)
    return serialise(model)


def observe(
    data: bytes,
    windows: NDArray[np.float32],
    *,
    tensors: Sequence[str],
    batch: int = 32,
    progress: Progress = SILENT,
) -> dict[str, RangeObserver]:
    """Run a graph over windows and watch its tensors.

    Memory: two batches of activations, one that is computed while the other is counted, and one histogram per tensor,
    however many windows there are.

    Args:
        data: FP32 graph.
        windows: `[N, C, ...]` raw.
        tensors: Names of the values to watch; the graph's input may be among them.
        batch: Windows per run.
        progress: Where steps go.

    Raises:
        InputError: A tensor that the graph does not have, or one that is not finite.
    """
    observers = {name: RangeObserver() for name in tensors}
    # A network without standardisation reads its input with a convolution at once; an input is no output.
    inner = [name for name in observers if name != INPUT]
    with (
        OnnxRuntimeRunner(tap(data, inner)) as runner,
        ThreadPoolExecutor(1) as ahead,
        progress.step("calibration", total=len(windows)) as step,
    ):
        pieces = [windows[start : start + batch] for start in range(0, len(windows), batch)]
        coming = [ahead.submit(runner.run, {INPUT: piece}) for piece in pieces[:1]]
        for index, piece in enumerate(pieces):
            values = {INPUT: piece, **coming.pop().result()}
            coming += [ahead.submit(runner.run, {INPUT: item}) for item in pieces[index + 1 : index + 2]]
            for name, observer in observers.items():
                observer.update(values[name], name=name)
            step.advance(len(piece))
    return observers
