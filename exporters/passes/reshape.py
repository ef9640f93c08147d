"""Reshapes that only add or drop axes of one, without computing a shape at run time."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from drsn_edge.exporters.graph_tools import attribute, constant, drop_dead, emit, graph_of, initializer, replace


class StaticReshapePass(ir.passes.InPlacePass):
    """Replace Reshape by Unsqueeze, Flatten or nothing.

    torch builds the target shape from the batch size with Shape, Concat and Reshape; TensorRT then carries a shape
    tensor through the engine for every threshold.

    Given:  Reshape (or Squeeze) whose input and output shapes differ only in axes of one behind the first two.
    Result: 1. `[N, C]` to `[N, C, 1, ...]`: Unsqueeze, 2. `[N, C, 1, ...]` to `[N, C]`: Flatten, 3. equal: nothing,
            4. any other Reshape that keeps the batch: a constant shape, with 0, which copies, for the batch.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply."""
        modified = False
        # A shape that becomes known makes the next unit's known.
        while _once(model):
            modified = True
            common.ShapeInferencePass()(model)
        return ir.passes.PassResult(model, modified)


def _once(model: ir.Model) -> bool:
    modified = False
    for node in list(model.graph):
        if node.op_type not in ("Reshape", "Squeeze"):
            continue
        source, target = node.inputs[0], node.outputs[0]
        if source is None or source.shape is None:
            continue
        if target.shape is None and node.op_type == "Reshape":
            target.shape = _target(node, list(source.shape))
        if target.shape is None:
            continue
        before, after = list(source.shape), list(target.shape)
        if len(before) < 2 or len(after) < 2 or str(before[0]) != str(after[0]):
            continue
        ones = all(size == 1 for size in before[2:] + after[2:])
        if before[1] != after[1] or not isinstance(before[1], int) or not ones:
            modified |= _copy_batch(node, before[0], after[1:])
            continue
        if len(before) == len(after):
            replace(target, source)
        elif len(after) == 2:
            replace(target, emit(node, "Flatten", [source], attributes={"axis": 1}, like=target))
        elif len(before) == 2:
            axes = np.arange(2, len(after), dtype=np.int64)
            value = initializer(graph_of(node), f"axes.{'_'.join(map(str, axes))}", axes)
            replace(target, emit(node, "Unsqueeze", [source, value], like=target))
        else:
            continue
        modified = True
    drop_dead(model.graph)
    return modified


def _target(node: ir.Node, before: list[Any]) -> ir.Shape | None:
    """The shape that a Reshape computes, where onnx's inference stops at the first size that is no number."""
    sizes = _sizes(node.inputs[1])
    if sizes is None or attribute(node, "allowzero", 0) or -1 in sizes:
        return None
    if any(size == 0 and axis >= len(before) for axis, size in enumerate(sizes)):
        return None
    return ir.Shape([before[axis] if size == 0 else size for axis, size in enumerate(sizes)])


def _sizes(value: ir.Value | None) -> list[Any] | None:
    """The numbers in a vector of sizes, symbols among them; None where they are not known."""
    array = constant(value)
    if array is not None:
        return [int(size) for size in array.reshape(-1)]
    node = value.producer() if value is not None else None
    if node is None:
        return None
    if node.op_type == "Shape" and not node.attributes:
        source = node.inputs[0]
        return None if source is None or source.shape is None else list(source.shape)
    if node.op_type in ("Unsqueeze", "Squeeze", "Cast", "Reshape"):
        return _sizes(node.inputs[0])
    if node.op_type == "Gather":
        sizes, index = _sizes(node.inputs[0]), constant(node.inputs[1])
        return None if sizes is None or index is None or index.size != 1 else [sizes[int(index.reshape(-1)[0])]]
    if node.op_type == "Concat":
        parts = [_sizes(part) for part in node.inputs]
        return None if any(part is None for part in parts) else [size for part in parts for size in part or ()]
    return None


def _copy_batch(node: ir.Node, batch: Any, sizes: list[Any]) -> bool:
    """Rule 4."""
    if node.op_type != "Reshape" or str(batch) == "None" or attribute(node, "allowzero", 0):
        return False
    shape = constant(node.inputs[1])
    if (shape is not None and shape[0] in (0, -1)) or not all(isinstance(size, int) for size in sizes):
        return False
    free = np.asarray([0, *sizes], np.int64)
    node.replace_input_with(1, initializer(graph_of(node), f"shape.{'_'.join(map(str, free))}", free))
    return True
