"""A typed FP16 graph: what a strongly typed builder makes of it is in the file, not in a flag."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from drsn_edge.exporters.graph_tools import constant, emit, graph_of, initializer

HALF_MAX = float(np.finfo(np.float16).max)
# Sums over thousands of positions: GPUs do not say in what type they add them up. Abs goes with the mean that reads it.
# A Cast of the graph's own goes to the type that it names.
_FP32_OPS = ("Abs", "GlobalAveragePool", "ReduceMean", "Cast")


class HalfPrecisionPass(ir.passes.InPlacePass):
    """Give every floating-point tensor a type, FP16 wherever it is safe.

    Given:  a canonical FP32 graph.
    Result: 1. window and outputs stay FP32 (no conversion is left to the caller),
            2. FP32 stay: everything before the first convolution (standardisation of raw counts), Abs and the mean of
               magnitudes of every threshold, every other mean, and the nodes in `keep`,
            3. all else computes in FP16, weights included; the soft threshold too: all its operands are one FP16
               tensor, so the dead zone is exactly zero, and in FP32 it would cost TensorRT two more kernels per unit,
            4. a Cast stands exactly where the type changes, one per value and type.

    Args:
        keep: Names of further nodes that stay FP32: integer convolutions with their FP32 scales and bias.
    """

    def __init__(self, *, keep: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.keep = keep

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply."""
        graph = model.graph
        unknown = sorted(self.keep - {node.name for node in graph if node.name})
        if unknown:
            raise ir.passes.PreconditionError(f"there is no node {unknown[0]} that could stay FP32")
        single = _front(graph) | {node for node in graph if node.op_type in _FP32_OPS or (node.name or "") in self.keep}
        made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        for node in [node for node in graph if (node.name or "") in self.keep]:
            # Its FP32 result is rounded once, and every reader sees that: the threshold is computed from the very
            # features that it is applied to. TensorRT also needs two kernels less per unit than with two precisions.
            output = node.outputs[0]
            narrow = _cast(node, output, ir.DataType.FLOAT16, behind=True)
            for use in list(output.uses()):
                if use.node is not narrow.producer():
                    use.node.replace_input_with(use.idx, narrow)
        for node in list(graph):
            if node.op_type == "Cast" and node.outputs[0].dtype == ir.DataType.FLOAT16:
                continue
            target = ir.DataType.FLOAT if node in single else ir.DataType.FLOAT16
            for index, value in enumerate(node.inputs):
                if (
                    value is None
                    or value.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16)
                    or value.dtype == target
                ):
                    continue
                key = (value, target)
                if key not in made:
                    made[key] = _half_constant(node, value) if value.is_initializer() else _cast(node, value, target)
                node.replace_input_with(index, made[key])
            for output in node.outputs:
                if output.dtype == ir.DataType.FLOAT and target != ir.DataType.FLOAT:
                    output.type = ir.TensorType(target)
        for index, output in enumerate(graph.outputs):
            if output.dtype == ir.DataType.FLOAT16:
                graph.outputs[index] = _single_output(graph, output)
        for name in [name for name, value in graph.initializers.items() if not value.uses()]:
            del graph.initializers[name]
        graph.sort()
        return ir.passes.PassResult(model, modified=True)


def _front(graph: ir.Graph) -> set[ir.Node]:
    """Nodes that no convolution or matrix product precedes."""
    weighted: set[ir.Value] = set()
    front: set[ir.Node] = set()
    for node in graph:
        if node.op_type in ("Conv", "Gemm", "MatMul") or any(value in weighted for value in node.inputs):
            weighted.update(node.outputs)
        else:
            front.add(node)
    return front


def _cast(node: ir.Node, value: ir.Value, target: ir.DataType, *, behind: bool = False) -> ir.Value:
    """Cast before the first reader, or right behind its maker; every later reader can share it."""
    kind = "half" if target == ir.DataType.FLOAT16 else "float"
    name, to = f"{_stem(value)}.{kind}", {"to": int(target)}
    result = emit(node, "Cast", [value], attributes=to, shape=value.shape, dtype=target, name=name)
    cast = result.producer()
    if behind and cast is not None:
        graph = graph_of(node)
        graph.remove(cast)
        graph.insert_after(node, cast)
    return result


def _stem(value: ir.Value) -> str:
    return (value.name or "value").removesuffix(":0")


def _half_constant(node: ir.Node, value: ir.Value) -> ir.Value:
    array = constant(value)
    if array is None:
        raise ir.passes.PreconditionError(f"{value.name} is no constant")
    largest = float(np.abs(array).max(initial=0.0))
    if largest > HALF_MAX:
        raise ir.passes.PreconditionError(
            f"{value.name} holds {largest:g}, more than FP16's {HALF_MAX:g}: keep {node.name} in FP32"
        )
    return initializer(graph_of(node), f"{value.name}.half", array.astype(np.float16))


def _single_output(graph: ir.Graph, output: ir.Value) -> ir.Value:
    """The FP32 output of the same name, cast at the very end."""
    name = output.name or "output"
    output.name = f"{name}.half"
    result = ir.Value(name=name, shape=output.shape, type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.node("Cast", [output], attributes={"to": int(ir.DataType.FLOAT)}, outputs=[result], name=f"{name}/Cast")
    graph.append(node)
    return result
