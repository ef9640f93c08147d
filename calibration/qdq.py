"""Explicit Q/DQ pairs, as every TensorRT from 8.5 on reads them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from drsn_edge.calibration.observers import round_weights, weight_scales
from drsn_edge.calibration.offsets import give_back, offset_of, take_off
from drsn_edge.calibration.rounded import Rounded
from drsn_edge.exporters.graph_tools import constant, consumers, emit, graph_of, initializer


class QuantizePass(ir.passes.InPlacePass):
    """Put a Q/DQ pair on the input and on the weights of chosen convolutions.

    Given:  convolutions in FP32 with constant weights (in a typed FP16 graph: kept FP32 by `HalfPrecisionPass`).
    Result: 1. input: QuantizeLinear, DequantizeLinear, one scale; pairs are shared by convolutions of one input,
            2. weights: float, QuantizeLinear, DequantizeLinear, a scale per output channel (TensorRT 8.x reads no int8
               constants), rounded to their integers here: a reader that multiplies by 1/scale, where ONNX divides by
               the scale, cannot round them otherwise,
            3. zero-points are explicit int8 zeros (8.x demands the third input), scales are FP32 constants (8.x reads
               them through a float pointer whatever their type), the bias stays float,
            4. `kernel_shape` is written (before 10.4 nothing else tells the kernel when weights are computed),
            5. no pair stands on an output: shrinkage follows, and reads the full sum,
            6. where the scale is for the full range, half of it is taken off in front of the pair, and what that
               changes is added behind the convolution (`offsets`).

    Args:
        scales: Activation scale by node name.
        full_range: Nodes whose input is never negative and whose scale is for 255 levels.
        rounded: Integers and bias to take instead of the nearest integers and the bias that is there, by node name.
    """

    def __init__(
        self,
        scales: Mapping[str, float],
        *,
        full_range: Collection[str] = (),
        rounded: Mapping[str, Rounded] | None = None,
    ) -> None:
        super().__init__()
        self.scales, self.full_range, self.rounded = dict(scales), frozenset(full_range), dict(rounded or {})

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply."""
        nodes = {node.name: node for node in model.graph}
        for name, scale in self.scales.items():
            node = nodes.get(name)
            if node is None or node.op_type != "Conv":
                raise ir.passes.PreconditionError(f"there is no convolution {name}")
            if not (np.isfinite(scale) and scale > 0):
                raise ir.passes.PreconditionError(f"the scale of {name} is {scale}, not a positive number")
            weight = self._weights(node)
            self._input(node, scale)
            if name in self.full_range:
                give_back(node, weight, offset_of(scale))
        model.graph.sort()
        return ir.passes.PassResult(model, modified=bool(self.scales))

    def _input(self, node: ir.Node, scale: float) -> None:
        source, graph = node.inputs[0], graph_of(node)
        if source is None or source.dtype != ir.DataType.FLOAT:
            raise ir.passes.PreconditionError(f"the input of {node.name} is not FP32")
        if node.name in self.full_range:
            source = take_off(node, offset_of(scale))
        for use in source.uses():
            if use.node.op_type == "QuantizeLinear" and _scale(use.node) == np.float32(scale):
                (restore,) = consumers(use.node.outputs[0])
                node.replace_input_with(0, restore.outputs[0])
                return
        step = initializer(graph, f"{node.name}.input_scale", np.asarray(scale, np.float32))
        zero = initializer(graph, "zero_point", np.zeros((), np.int8))
        quantized = emit(
            node, "QuantizeLinear", [source, step, zero], shape=source.shape, dtype=ir.DataType.INT8,
            name=f"{node.name}.input/QuantizeLinear",
        )  # fmt: skip
        restored = emit(
            node, "DequantizeLinear", [quantized, step, zero], like=source, name=f"{node.name}.input/DequantizeLinear"
        )
        node.replace_input_with(0, restored)

    def _weights(self, node: ir.Node) -> NDArray[np.float32]:
        """Put the pair there; the weights that the convolution then computes with."""
        value, graph = node.inputs[1], graph_of(node)
        weight = constant(value)
        if value is None or weight is None or weight.dtype != np.float32:
            raise ir.passes.PreconditionError(f"the weights of {node.name} are not FP32 constants")
        if not np.isfinite(weight).all():
            raise ir.passes.PreconditionError(f"the weights of {node.name} are not finite")
        scales = weight_scales(weight)
        own = self.rounded.get(node.name or "")
        if own is None:
            rounded = round_weights(weight)
        else:
            if own.integers.shape != weight.shape or own.bias.shape != (len(weight),):
                raise ir.passes.PreconditionError(f"the rounded weights of {node.name} have another shape")
            rounded = own.integers.astype(np.float32) * scales.reshape(-1, *[1] * (weight.ndim - 1))
            _set_bias(node, own.bias)
        value = _replaced(graph, value, rounded)
        step = initializer(graph, f"{value.name}_scale", scales)
        zero = initializer(graph, f"{value.name}_zero_point", np.zeros(len(scales), np.int8))
        quantized = emit(
            node, "QuantizeLinear", [value, step, zero], attributes={"axis": 0}, shape=value.shape,
            dtype=ir.DataType.INT8, name=f"{node.name}.weight/QuantizeLinear",
        )  # fmt: skip
        restored = emit(
            node, "DequantizeLinear", [quantized, step, zero], attributes={"axis": 0}, like=value,
            name=f"{node.name}.weight/DequantizeLinear",
        )  # fmt: skip
        node.replace_input_with(1, restored)
        node.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", list(weight.shape[2:]))
        return rounded


def _set_bias(node: ir.Node, bias: NDArray[np.float32]) -> None:
    value = initializer(graph_of(node), f"{node.name}.bias", bias.astype(np.float32))
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    node.replace_input_with(2, value)


def _replaced(graph: ir.Graph, value: ir.Value, rounded: NDArray[np.float32]) -> ir.Value:
    """The constant with rounded weights; a new one where others read it too."""
    if len(value.uses()) > 1 or not value.is_initializer():
        return initializer(graph, f"{value.name}.rounded", rounded)
    value.const_value = ir.tensor(rounded, name=value.name)
    return value


def _scale(node: ir.Node) -> np.float32:
    array = constant(node.inputs[1])
    return np.float32("nan") if array is None else np.float32(array.reshape(-1)[0])
