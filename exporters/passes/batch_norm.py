"""BatchNormalization folded wherever it can be, two elementwise nodes where it cannot."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from drsn_edge.exporters.graph_tools import (
    attribute,
    constant,
    drop_dead,
    emit,
    graph_of,
    initializer,
    only_consumer,
    producer,
    rank,
    replace,
)


class FoldBatchNormPass(ir.passes.InPlacePass):
    """Take BatchNormalization out of the graph.

    Given:  BatchNormalization in inference mode with constant statistics.
    Result: 1. after a Conv, or a Gemm, that nobody else reads: folded into its weights and bias, in float64
               (gamma / sqrt(variance + epsilon) overflows half precision and loses digits in single),
            2. anywhere else: Mul and Add with one constant per channel, computed in float64,
            3. no BatchNormalization is left.

    Attributes:
        folded: Nodes that a BatchNormalization went into: afterwards nothing else tells that there was one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folded: list[ir.Node] = []

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply."""
        modified = False
        for node in list(model.graph):
            if node.op_type == "BatchNormalization":
                scale, shift = _affine(node)
                source = node.inputs[0]
                weighted = producer(source, "Conv", "Gemm")
                if source is None:
                    continue
                if (
                    weighted is not None
                    and only_consumer(source, "BatchNormalization")
                    and _fold(weighted, scale, shift)
                ):
                    replace(node.outputs[0], source)
                    self.folded.append(weighted)
                else:
                    _multiply_add(node, source, scale, shift)
                modified = True
        drop_dead(model.graph)
        return ir.passes.PassResult(model, modified)

    def ensures(self, model: ir.Model) -> None:
        """No BatchNormalization is left."""
        left = [node.name for node in model.graph if node.op_type == "BatchNormalization"]
        if left:
            raise ir.passes.PostconditionError(f"BatchNormalization without constant statistics: {left}")


def _affine(node: ir.Node) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`y = scale * x + shift` per channel."""
    parts = [constant(value) for value in node.inputs[1:5]]
    if any(part is None for part in parts) or attribute(node, "training_mode", 0):
        raise ir.passes.PreconditionError(f"{node.name}: BatchNormalization is not in inference mode")
    gamma, beta, mean, variance = (np.asarray(part, np.float64) for part in parts)
    scale = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    return scale, beta - mean * scale


def _fold(node: ir.Node, scale: NDArray[np.float64], shift: NDArray[np.float64]) -> bool:
    """Fold into Conv or Gemm; False where its weights are not constants or it is no plain matrix product."""
    weight = constant(node.inputs[1])
    bias_value = node.inputs[2] if len(node.inputs) > 2 else None
    bias = np.zeros(scale.shape) if bias_value is None else constant(bias_value)
    # Gemm takes a bias per row of the batch as well: that is no bias of the layer.
    if weight is None or bias is None or bias.size not in (1, scale.size) or bias.shape[:-1].count(1) < bias.ndim - 1:
        return False
    if node.op_type == "Gemm":
        if attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0:
            return False
        outputs_first = bool(attribute(node, "transB", 0))
        factor: NDArray[Any] = scale[:, None] if outputs_first else scale[None, :]
    else:
        factor = scale.reshape(-1, *[1] * (weight.ndim - 1))
    graph = graph_of(node)
    names = [
        value.name or node.outputs[0].name or "folded"
        for value in (node.inputs[1], bias_value or node.inputs[1])
        if value
    ]
    folded_weight = (weight.astype(np.float64) * factor).astype(weight.dtype)
    folded_bias = (bias.astype(np.float64).reshape(-1) * scale + shift).astype(weight.dtype)
    bias_name = names[1] if bias_value is not None else f"{names[0].removesuffix('.weight')}.bias"
    # The old initializers may be shared with other nodes: new values, and `drop_dead` removes what nobody reads.
    node.replace_input_with(1, initializer(graph, f"{names[0]}.folded", folded_weight))
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    node.replace_input_with(2, initializer(graph, f"{bias_name}.folded", folded_bias))
    return True


def _multiply_add(node: ir.Node, source: ir.Value, scale: NDArray[np.float64], shift: NDArray[np.float64]) -> None:
    dimensions = rank(source)
    if dimensions is None:
        raise ir.passes.PreconditionError(f"{node.name}: the rank of its input is unknown")
    graph, shape = graph_of(node), (-1, *[1] * (dimensions - 2))
    gamma = node.inputs[1]
    base = (gamma.name if gamma is not None and gamma.name else node.name or "bn").removesuffix(".weight")
    kind = np.float32 if source.dtype is None else source.dtype.numpy()
    factor = initializer(graph, f"{base}.scale", scale.astype(kind).reshape(shape))
    offset = initializer(graph, f"{base}.shift", shift.astype(kind).reshape(shape))
    product = emit(node, "Mul", [source, factor], like=source)
    replace(node.outputs[0], emit(node, "Add", [product, offset], like=source))
