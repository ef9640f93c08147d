"""FP16 arithmetic in FP32 types: what a typed FP16 graph computes on a GPU, shown on a CPU."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from drsn_edge.exporters.graph_tools import constant, graph_of, initializer, replace

# These move or compare numbers; what is exact in FP16 going in is exact coming out.
_EXACT = frozenset(
    {
        "Abs", "Concat", "Flatten", "Identity", "Max", "Min", "Neg", "Pad", "Relu", "Reshape", "Slice", "Squeeze",
        "Transpose", "Unsqueeze",
    }
)  # fmt: skip


class EmulateHalfPass(ir.passes.InPlacePass):
    """Make FP16 rounding visible to a runtime without FP16 arithmetic.

    ONNX Runtime computes FP16 graphs on a CPU in FP32 and takes the casts between its kernels out, at every level of
    optimisation: run as it is, a typed FP16 graph there says nothing about FP16. Casts that stand in the file are kept.

    Given:  a typed graph with FP16 tensors.
    Result: every tensor is FP32; behind every operator that rounds stands Cast to FP16 and Cast back. Sums are kept in
            FP32 within one operator, as tensor cores do.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply."""
        graph, modified = model.graph, False
        for name, value in list(graph.initializers.items()):
            array = constant(value)
            if array is not None and array.dtype == np.float16:
                wide = initializer(graph, f"{name}.wide", array.astype(np.float32))
                ir.convenience.replace_all_uses_with(value, wide)
                del graph.initializers[name]
                modified = True
        for node in list(graph):
            output = node.outputs[0]
            source = node.inputs[0] if node.inputs else None
            if node.op_type == "Cast" and source is not None and output.dtype == ir.DataType.FLOAT:
                if source.dtype == ir.DataType.FLOAT and not output.is_graph_output():
                    # Was a cast from FP16, whose values the FP32 tensor holds by now.
                    replace(output, source)
                    graph.remove(node, safe=True)
                continue
            if output.dtype != ir.DataType.FLOAT16:
                continue
            modified = True
            if node.op_type == "Cast":
                _restore(node, output)
                continue
            output.type = ir.TensorType(ir.DataType.FLOAT)
            if node.op_type not in _EXACT:
                _restore(node, _narrow(node, output))
        graph.sort()
        return ir.passes.PassResult(model, modified)


def _narrow(node: ir.Node, value: ir.Value) -> ir.Value:
    cast = ir.node(
        "Cast", [value], attributes={"to": int(ir.DataType.FLOAT16)}, num_outputs=1, name=f"{node.name}.round"
    )
    graph_of(node).insert_after(node, cast)
    narrow = cast.outputs[0]
    narrow.name, narrow.shape, narrow.type = f"{cast.name}:0", value.shape, ir.TensorType(ir.DataType.FLOAT16)
    _move_uses(value, narrow, keep=cast)
    return narrow


def _restore(node: ir.Node, value: ir.Value) -> None:
    """Cast an FP16 value back and let all readers use that."""
    maker = value.producer() or node
    cast = ir.node(
        "Cast", [value], attributes={"to": int(ir.DataType.FLOAT)}, num_outputs=1, name=f"{maker.name}.widen"
    )
    graph_of(maker).insert_after(maker, cast)
    wide = cast.outputs[0]
    wide.name, wide.shape, wide.type = f"{cast.name}:0", value.shape, ir.TensorType(ir.DataType.FLOAT)
    _move_uses(value, wide, keep=cast)


def _move_uses(old: ir.Value, new: ir.Value, *, keep: ir.Node) -> None:
    for use in list(old.uses()):
        if use.node is not keep:
            use.node.replace_input_with(use.idx, new)
