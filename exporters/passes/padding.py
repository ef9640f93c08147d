"""More channels of zeros, so that integer kernels apply to a narrow network; its outputs stay the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from drsn_edge.exporters.graph_tools import attribute, constant, dimension, drop_dead, emit, graph_of, initializer, rank
from drsn_edge.exporters.units import find_units

CHANNELS_KEY = "drsn_edge.channels"
_UNARY = {"Relu", "Abs", "Neg", "Sigmoid", "Sqrt", "GlobalAveragePool"}
_BINARY = {"Add", "Sub", "Mul", "Div", "Min", "Max"}


class PadChannelsPass(ir.passes.InPlacePass):
    """Widen convolutions, BatchNormalizations, gates and shortcuts to a multiple of so many channels.

    Real channels stay in front. Nothing that mixes channels reads a padded one with a weight other than zero, so it
    does not matter what is in them (zeros, but one half behind a Sigmoid).

    Given:  a canonical FP32 graph.
    Result: 1. Conv: weights and bias get rows of zeros for new outputs, columns of zeros for new inputs; likewise Gemm,
               but for one that has one output (a shared threshold) or makes the graph's output;
               a convolution with one output keeps it,
            2. constants of one number per channel get zeros (a divisor gets ones),
            3. the shortcut's Pad adds what is missing; where its real channels come to stand too far behind, a Slice
               in front of it,
            4. everything else (the mean over channels of a shared threshold, grouped convolutions) reads a Slice of
               the real channels,
            5. metadata `drsn_edge.channels`: how many channels of every shrinkage unit are real, for probes.

    Args:
        multiple: Of channels.
    """

    def __init__(self, multiple: int) -> None:
        super().__init__()
        self.multiple = multiple
        self._real: dict[ir.Value, int] = {}
        self._narrow: dict[ir.Value, ir.Value] = {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply."""
        channels = {unit.name: dimension(unit.features, 1) for unit in find_units(model)}
        for node in list(model.graph):
            self._visit(node)
        model.graph.sort()
        drop_dead(model.graph)
        # A second pass by another multiple keeps what the first one wrote.
        model.metadata_props.setdefault(CHANNELS_KEY, json.dumps(channels, sort_keys=True))
        return ir.passes.PassResult(model, modified=bool(self._real))

    def wide(self, real: int) -> int:
        """Channels with padding."""
        return -(-real // self.multiple) * self.multiple

    def _visit(self, node: ir.Node) -> None:
        handler = _HANDLERS.get(node.op_type)
        if node.op_type in _UNARY and node.inputs[0] in self._real:
            self._same(node, node.inputs[0])
        elif node.op_type in _BINARY:
            self._binary(node)
        elif handler is None or not handler(self, node):
            self._read_real(node)

    def _same(self, node: ir.Node, source: ir.Value | None) -> None:
        """The output has the channels of an input."""
        if source is not None and source in self._real:
            self._widen(node.outputs[0], self._real[source])

    def _widen(self, value: ir.Value, real: int) -> None:
        self._real[value] = real
        if value.shape is not None:
            value.shape = ir.Shape([value.shape[0], self.wide(real), *list(value.shape)[2:]])

    def _read_real(self, node: ir.Node) -> None:
        for index, value in enumerate(node.inputs):
            if value is not None and value in self._real:
                node.replace_input_with(index, self.narrow(node, value))

    def narrow(self, node: ir.Node, value: ir.Value) -> ir.Value:
        """The real channels of a value, for a reader that has to have those alone."""
        if value not in self._narrow:
            graph, real = graph_of(node), self._real[value]
            bounds = [
                initializer(graph, f"pad.{name}.{number}", np.array([number], np.int64))
                for name, number in (("start", 0), ("end", real), ("axis", 1))
            ]
            shape = list(value.shape or [])
            self._narrow[value] = emit(
                node, "Slice", [value, *bounds], like=value, shape=[shape[0], real, *shape[2:]] if shape else None,
                name=f"{(value.name or 'value').removesuffix(':0')}.real/Slice",
            )  # fmt: skip
        return self._narrow[value]

    def _binary(self, node: ir.Node) -> None:
        padded = [value for value in node.inputs if value in self._real and value is not None]
        if not padded:
            return
        real, dims = self._real[padded[0]], max(rank(value) or 0 for value in padded)
        constants: dict[int, NDArray[np.float32]] = {}
        for index, value in enumerate(node.inputs):
            array = constant(value)
            if value is None or (value in self._real and self._real[value] == real and rank(value) == dims):
                continue
            axis = (rank(value) or 0) - (dims - 1) if array is None else array.ndim - (dims - 1)
            size = 1 if axis < 0 else (dimension(value, axis) if array is None else array.shape[axis])
            if size == 1 and value not in self._real:
                continue  # it is the same for every channel
            if array is None or size != real:
                self._read_real(node)
                return
            constants[index] = _padded(array, axis, self.wide(real), 1.0 if node.op_type == "Div" and index else 0.0)
        for index, array in constants.items():
            self._constant(node, index, array)
        self._same(node, padded[0])

    def _constant(self, node: ir.Node, index: int, array: NDArray[np.float32] | NDArray[np.int64]) -> None:
        value = node.inputs[index]
        name = (value.name if value is not None else None) or f"{node.name}.{index}"
        node.replace_input_with(index, initializer(graph_of(node), f"{name}.padded", array))

    def conv(self, node: ir.Node) -> bool:
        """Rows for outputs, columns for inputs."""
        weight, source = constant(node.inputs[1]), node.inputs[0]
        bias = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
        computed = len(node.inputs) > 2 and node.inputs[2] is not None and bias is None
        if weight is None or computed or attribute(node, "group", 1) != 1 or node.outputs[0].is_graph_output():
            return False
        real = weight.shape[0]
        if real == 1 and source not in self._real:
            return True
        if source in self._real:
            weight = _padded(weight, 1, self.wide(self._real[source]))
        if real == 1:  # it stands for every channel of what it meets: more of it would not
            self._constant(node, 1, weight)
            return True
        self._constant(node, 1, _padded(weight, 0, self.wide(real)))
        if bias is not None:
            self._constant(node, 2, _padded(bias, 0, self.wide(real)))
        self._widen(node.outputs[0], real)
        return True

    def gemm(self, node: ir.Node) -> bool:
        """Likewise; what decides, and a threshold for all channels, keep their size."""
        weight, source = constant(node.inputs[1]), node.inputs[0]
        bias = (
            constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros(1, np.float32)
        )
        if weight is None or bias is None or attribute(node, "transA", 0) or source is None:
            return False
        inputs, outputs = (1, 0) if attribute(node, "transB", 0) else (0, 1)
        real = weight.shape[outputs]
        grows = real > 1 and not node.outputs[0].is_graph_output() and source in self._real
        if source in self._real:
            weight = _padded(weight, inputs, self.wide(self._real[source]))
            self._constant(node, 1, _padded(weight, outputs, self.wide(real) if grows else real))
        if grows:
            if bias.ndim and bias.shape[-1] == real:
                self._constant(node, 2, _padded(bias, bias.ndim - 1, self.wide(real)))
            elif bias.size != 1 or bias.any():
                self._constant(node, 2, _padded(np.broadcast_to(bias, (1, real)), 1, self.wide(real)))
            self._widen(node.outputs[0], real)
        return True

    def pad(self, node: ir.Node) -> bool:
        """The shortcut's zero channels."""
        pads, source, dims = constant(node.inputs[1]), node.inputs[0], rank(node.inputs[0]) if node.inputs[0] else None
        fill = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
        axes = len(node.inputs) > 3 and node.inputs[3] is not None
        if pads is None or dims is None or source is None or axes or attribute(node, "mode", "constant") != "constant":
            return False
        if (fill is not None and fill.any()) or node.outputs[0].is_graph_output():
            return False
        before, after, have = int(pads[1]), int(pads[dims + 1]), dimension(source, 1)
        real = self._real.get(source, have)
        if real is None or have is None or min(before, after) < 0:
            return False
        total = before + real + after
        if before + have > self.wide(total):
            node.replace_input_with(0, self.narrow(node, source))
            have = real
        pads = pads.copy()
        pads[dims + 1] = self.wide(total) - before - have
        self._constant(node, 1, pads)
        self._widen(node.outputs[0], total)
        return True

    def flatten(self, node: ir.Node) -> bool:
        """`[N, C, 1, ...]` to `[N, C]`."""
        source = node.inputs[0]
        if source not in self._real or source is None or attribute(node, "axis", 1) != 1:
            return False
        if any(size != 1 for size in list(source.shape or [0, 0, 0])[2:]):
            return False
        self._same(node, source)
        return True

    def axes(self, node: ir.Node) -> bool:
        """Slice, Unsqueeze and Squeeze of other axes than batch and channels."""
        source, index = node.inputs[0], 3 if node.op_type == "Slice" else 1
        axes = constant(node.inputs[index]) if len(node.inputs) > index else None
        dims = rank(node.outputs[0] if node.op_type == "Unsqueeze" else source) if source is not None else None
        if source not in self._real or axes is None or dims is None:
            return False
        if any(axis % dims < 2 for axis in axes.reshape(-1)):
            return False
        self._same(node, source)
        return True

    def reshape(self, node: ir.Node) -> bool:
        """`[N, C]` to `[N, C, 1, ...]` and back."""
        source, target = node.inputs[0], constant(node.inputs[1])
        if source not in self._real or source is None or target is None or attribute(node, "allowzero", 0):
            return False
        real, sizes = self._real[source], [int(size) for size in target]
        ones = [*sizes[2:], *list(source.shape or [0, 0, 0])[2:]]
        if len(sizes) < 2 or sizes[0] not in (0, -1) or sizes[1] not in (real, 0) or any(size != 1 for size in ones):
            return False
        self._constant(node, 1, np.array([sizes[0], self.wide(real), *sizes[2:]], np.int64))
        self._same(node, source)
        return True


_HANDLERS: Mapping[str, Callable[[PadChannelsPass, ir.Node], bool]] = {
    "Conv": PadChannelsPass.conv,
    "Gemm": PadChannelsPass.gemm,
    "Pad": PadChannelsPass.pad,
    "Flatten": PadChannelsPass.flatten,
    "Slice": PadChannelsPass.axes,
    "Unsqueeze": PadChannelsPass.axes,
    "Squeeze": PadChannelsPass.axes,
    "Reshape": PadChannelsPass.reshape,
}


def _padded(array: NDArray[np.float32], axis: int, size: int, fill: float = 0.0) -> NDArray[np.float32]:
    missing = [(0, size - array.shape[axis] if index == axis else 0) for index in range(array.ndim)]
    return np.pad(array, missing, constant_values=fill)
