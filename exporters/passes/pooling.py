"""Means over all positions, in the one form that every TensorRT reads alike."""

from __future__ import annotations

import onnx_ir as ir

from drsn_edge.exporters.graph_tools import attribute, constant, dimension, drop_dead, emit, rank, replace


class GlobalMeanPass(ir.passes.InPlacePass):
    """Write every mean over all positions as GlobalAveragePool.

    TensorRT 8.5 to 9.x read no axes input of ReduceMean and then average over the batch too, without a word.

    Given:  ReduceMean over all axes but the first two, or AveragePool whose kernel is the whole length.
    Result: GlobalAveragePool, and Flatten where the mean dropped its axes. ReduceMean over other axes stays.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply."""
        modified = False
        for node in list(model.graph):
            source = node.inputs[0] if node.inputs else None
            if source is None or not (_is_global_reduce(node, source) or _is_global_pool(node, source)):
                continue
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


def _is_global_reduce(node: ir.Node, source: ir.Value) -> bool:
    if node.op_type != "ReduceMean":
        return False
    dimensions = rank(source)
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else attribute(node, "axes", None)
    if dimensions is None or axes is None:
        return False
    return sorted(int(axis) % dimensions for axis in axes) == list(range(2, dimensions)) and dimensions > 2


def _is_global_pool(node: ir.Node, source: ir.Value) -> bool:
    if node.op_type != "AveragePool":
        return False
    kernel = list(attribute(node, "kernel_shape", ()))
    lengths = [dimension(source, axis) for axis in range(2, 2 + len(kernel))]
    return bool(kernel) and lengths == kernel and not any(attribute(node, "pads", ()))
