"""The same operators under another opset: what changed between 13 and 21 and can stand in a network's graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from drsn_edge.exporters.graph_tools import constant, graph_of, initializer

# Their axes became an input at 18. ReduceSum, whose axes moved at 13, is not among them.
_REDUCTIONS = frozenset(
    {
        "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum",
        "ReduceLogSumExp", "ReduceSumSquare",
    }
)  # fmt: skip
_AXES_INPUT_SINCE = 18


class OpsetPass(ir.passes.InPlacePass):
    """Write reductions as an opset has them.

    Given:  reductions of opset 13 to 17 (axes are an attribute) or 18 to 21 (axes are an input).
    Result: the form of `opset`; everything else is written alike from 17 to 21, or onnx's checker refuses it later.

    Args:
        opset: 17 to 21.
    """

    def __init__(self, opset: int) -> None:
        super().__init__()
        self.opset = opset

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply."""
        modified = False
        for node in model.graph:
            if node.op_type not in _REDUCTIONS:
                continue
            newer = len(node.inputs) > 1 or "noop_with_empty_axes" in node.attributes
            if self.opset < _AXES_INPUT_SINCE and newer:
                _input_to_attribute(node)
                modified = True
            elif self.opset >= _AXES_INPUT_SINCE and "axes" in node.attributes:
                axes = np.asarray(node.attributes.pop("axes").value, np.int64)
                node.resize_inputs(2)
                node.replace_input_with(1, initializer(graph_of(node), f"axes.{'_'.join(map(str, axes))}", axes))
                modified = True
        return ir.passes.PassResult(model, modified)


def _input_to_attribute(node: ir.Node) -> None:
    source = node.inputs[1] if len(node.inputs) > 1 else None
    axes = constant(source)
    if source is not None and axes is None:
        raise ir.passes.PreconditionError(f"{node.name}: the axes of {node.op_type} are computed at run time")
    empty = axes is None or axes.size == 0
    noop = node.attributes.pop("noop_with_empty_axes", None)
    if empty and noop is not None and noop.value:
        raise ir.passes.PreconditionError(f"{node.name}: {node.op_type} over no axes")
    node.resize_inputs(1)
    if axes is not None and not empty:
        node.attributes["axes"] = ir.AttrInt64s("axes", [int(axis) for axis in axes])
