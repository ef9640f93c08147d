"""Means over all positions, in the one form that every TensorRT reads alike."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from drsn_edge.exporters.graph_tools import (
    attribute,
    constant,
    dimension,
    drop_dead,
    emit,
    graph_of,
    initializer,
    producer,
    rank,
    replace,
)


class GlobalMeanPass(ir.passes.InPlacePass):
    """Write every mean over all positions as GlobalAveragePool.

    TensorRT 8.5 to 9.x read no axes input of ReduceMean and then average over the batch too, without a word.

    Given:  1. ReduceMean over all axes but the first two, or AveragePool whose kernel is the whole length,
            2. ReduceMean over the channels of `[N, C]` that keeps its axis (the threshold that channels share).
    Result: 1. GlobalAveragePool, and Flatten where the mean dropped its axes; of the picture itself where its rows and
               columns had been flattened into one axis for the mean,
            2. the same of `[N, 1, C]`. ReduceMean over other axes stays.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply."""
        modified = False
        for node in list(model.graph):
            source = node.inputs[0] if node.inputs else None
            if source is None:
                continue
            if _is_channel_reduce(node, source):
                replace(node.outputs[0], _channel_mean(node, source))
                modified = True
                continue
            if not (_is_global_reduce(node, source) or _is_global_pool(node, source)):
                continue
            if node.op_type == "ReduceMean" and not attribute(node, "keepdims", 1):
                source = _before_flattening(source)
            dimensions = rank(source) or 3
            batch = None if source.shape is None else source.shape[0]
            channels = None if source.shape is None else source.shape[1]
            pooled = emit(
                node,
                "GlobalAveragePool",
                [source],
                shape=(batch, channels, *[1] * (dimensions - 2)),
                dtype=source.dtype,
            )
            if node.op_type == "ReduceMean" and not attribute(node, "keepdims", 1):
                pooled = emit(
                    node, "Flatten", [pooled], attributes={"axis": 1}, shape=(batch, channels), dtype=source.dtype
                )
            replace(node.outputs[0], pooled)
            modified = True
        drop_dead(model.graph)
        return ir.passes.PassResult(model, modified)


def _channel_mean(node: ir.Node, source: ir.Value) -> ir.Value:
    """`[N, C]` to `[N, 1]`."""
    batch, channels, kind = source.shape[0] if source.shape else None, dimension(source, 1), source.dtype
    axes = initializer(graph_of(node), "axes.1", np.asarray([1], np.int64))
    row = emit(node, "Unsqueeze", [source, axes], shape=(batch, 1, channels), dtype=kind)
    pooled = emit(node, "GlobalAveragePool", [row], shape=(batch, 1, 1), dtype=kind)
    return emit(node, "Flatten", [pooled], attributes={"axis": 1}, shape=(batch, 1), dtype=kind)


def _before_flattening(source: ir.Value) -> ir.Value:
    """`[N, C, H, W]` where `source` is that as `[N, C, H * W]`: the mean is the same."""
    node = producer(source, "Reshape")
    original = node.inputs[0] if node is not None else None
    if original is None or original.shape is None or source.shape is None or len(original.shape) <= len(source.shape):
        return source
    same = [str(size) for size in tuple(original.shape)[:2]] == [str(size) for size in tuple(source.shape)[:2]]
    return original if same and "None" not in map(str, tuple(source.shape)[:2]) else source


def _reduced_axes(node: ir.Node, dimensions: int | None) -> list[int] | None:
    """Axes of a ReduceMean, counted from the front; None where they are not known, or are all."""
    if node.op_type != "ReduceMean" or dimensions is None:
        return None
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else attribute(node, "axes", None)
    return None if axes is None else sorted(int(axis) % dimensions for axis in axes)


def _is_global_reduce(node: ir.Node, source: ir.Value) -> bool:
    dimensions = rank(source)
    return dimensions is not None and dimensions > 2 and _reduced_axes(node, dimensions) == list(range(2, dimensions))


def _is_channel_reduce(node: ir.Node, source: ir.Value) -> bool:
    return rank(source) == 2 and _reduced_axes(node, 2) == [1] and bool(attribute(node, "keepdims", 1))


def _is_global_pool(node: ir.Node, source: ir.Value) -> bool:
    # SAME pads although no pads are written, and then has an output as long as its input.
    if node.op_type != "AveragePool" or attribute(node, "auto_pad", "NOTSET").startswith("SAME"):
        return False
    kernel = list(attribute(node, "kernel_shape", ()))
    lengths = [dimension(source, axis) for axis in range(2, 2 + len(kernel))]
    return bool(kernel) and lengths == kernel and not any(attribute(node, "pads", ()))
