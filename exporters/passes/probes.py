"""Thresholds and zeroed shares as outputs: what the network takes for noise, at run time."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx_ir as ir

from drsn_edge.exporters.graph_tools import dimension, initializer
from drsn_edge.exporters.passes.padding import CHANNELS_KEY
from drsn_edge.exporters.units import ShrinkageUnit, find_units

# Nodes behind the probes are called `UNIT.probe/OPERATOR_NUMBER`.
PROBE_SCOPE = ".probe"


class ProbePass(ir.passes.InPlacePass):
    """Give every shrinkage unit `U` three outputs.

    Given:  a typed graph with the output `logits`.
    Result: `U.threshold` `[batch, channels]` (a shared threshold for each of them), `U.zero_share`
            `[batch, channels]`, `U.shrunk` `[batch, channels, ...]`, all FP32, behind `logits`; of a graph with padded
            channels the real ones.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply."""
        units = find_units(model)
        for unit in units:
            tail = _Tail(model, f"{unit.name}{PROBE_SCOPE}")
            model.graph.outputs.append(tail.named(tail.threshold(unit), f"{unit.name}.threshold"))
            model.graph.outputs.append(tail.named(tail.zero_share(unit), f"{unit.name}.zero_share"))
            model.graph.outputs.append(tail.named(tail.real(unit, tail.single(unit.shrunk)), f"{unit.name}.shrunk"))
        return ir.passes.PassResult(model, modified=bool(units))


class TelemetryPass(ir.passes.InPlacePass):
    """Give the graph two small outputs for use on the device.

    Given:  a typed graph with the output `logits`.
    Result: `threshold` and `zero_share`, both `[batch, units]` FP32: means over channels, units in order.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply."""
        units = find_units(model)
        if not units:
            return ir.passes.PassResult(model, modified=False)
        tail = _Tail(model, "telemetry")
        thresholds = [tail.mean_over_channels(tail.own_threshold(unit)) for unit in units]
        shares = [tail.mean_over_channels(tail.zero_share(unit)) for unit in units]
        for name, columns in (("threshold", thresholds), ("zero_share", shares)):
            table = tail.add("Concat", columns, ("batch", len(units)), attributes={"axis": 1})
            model.graph.outputs.append(tail.named(table, name))
        return ir.passes.PassResult(model, modified=True)


class _Tail:
    """Nodes appended behind the network; all compute in FP32."""

    def __init__(self, model: ir.Model, scope: str) -> None:
        self.graph = model.graph
        self.scope = scope
        self.count = 0
        self.channels: dict[str, int] = json.loads(model.metadata_props.get(CHANNELS_KEY, "{}"))

    def real(self, unit: ShrinkageUnit, value: ir.Value) -> ir.Value:
        """`[batch, C, ...]` without channels that were padded; the value itself where none were."""
        shape = tuple(value.shape or ())
        count = self.channels.get(unit.name, dimension(value, 1) or 1)
        if shape[1] in (1, count):
            return value
        bounds = [
            initializer(self.graph, f"probe.{name}.{number}", np.array([number], np.int64))
            for name, number in (("start", 0), ("end", count), ("axis", 1))
        ]
        return self.add("Slice", [value, *bounds], (shape[0], count, *shape[2:]))

    def add(
        self,
        op_type: str,
        inputs: list[ir.Value],
        shape: tuple[Any, ...],
        *,
        attributes: dict[str, int] | None = None,
        dtype: ir.DataType = ir.DataType.FLOAT,
    ) -> ir.Value:
        self.count += 1
        name = f"{self.scope}/{op_type}_{self.count}"
        node = ir.node(op_type, inputs, attributes=attributes, num_outputs=1, name=name)
        self.graph.append(node)
        value = node.outputs[0]
        value.name, value.shape, value.type = f"{node.name}:0", ir.Shape(shape), ir.TensorType(dtype)
        return value

    def named(self, value: ir.Value, name: str) -> ir.Value:
        """A graph output of a given name; a value that others read, or that is an output already, keeps its own."""
        if value.uses() or value.is_graph_output() or value.is_graph_input():
            value = self.add("Identity", [value], tuple(value.shape or ()))
        value.name = name
        return value

    def single(self, value: ir.Value) -> ir.Value:
        """The value in FP32."""
        if value.dtype == ir.DataType.FLOAT:
            return value
        return self.add("Cast", [value], tuple(value.shape or ()), attributes={"to": int(ir.DataType.FLOAT)})

    def flat(self, value: ir.Value) -> ir.Value:
        """`[batch, C, 1, ...]` as `[batch, C]`."""
        return self.add("Flatten", [value], ("batch", dimension(value, 1)), attributes={"axis": 1})

    def threshold(self, unit: ShrinkageUnit) -> ir.Value:
        """The threshold of every channel, `[batch, C]`."""
        value = self.own_threshold(unit)
        channels = self.channels.get(unit.name, dimension(unit.features, 1) or 1)
        if dimension(value, 1) == channels:
            return value
        row = initializer(self.graph, f"probe.ones.{channels}", np.ones((1, channels), np.float32))
        return self.add("Mul", [value, row], ("batch", channels))

    def own_threshold(self, unit: ShrinkageUnit) -> ir.Value:
        """The threshold as the unit has it, `[batch, C]` or `[batch, 1]`; one that varies along positions as mean."""
        value = self.single(unit.threshold)
        shape = tuple(value.shape or ())
        if any(size != 1 for size in shape[2:]):
            value = self.add("GlobalAveragePool", [value], (*shape[:2], *[1] * (len(shape) - 2)))
        return self.real(unit, self.flat(value))

    def zero_share(self, unit: ShrinkageUnit) -> ir.Value:
        """Share of positions per channel in the dead zone `|y| <= tau`, `[batch, C]`.

        Not counted on the result: ONNX Runtime computes FP16 graphs on a CPU with one operand of the final subtraction
        in FP32 and leaves rounding residue where an engine has exact zeros.
        """
        shape = tuple(unit.features.shape or ())
        magnitude = self.add("Abs", [self.single(unit.features)], shape)
        outside = self.add("Greater", [magnitude, self.single(unit.threshold)], shape, dtype=ir.DataType.BOOL)
        ones = self.add("Cast", [outside], shape, attributes={"to": int(ir.DataType.FLOAT)})
        pooled = self.add("GlobalAveragePool", [ones], (shape[0], shape[1], *[1] * (len(shape) - 2)))
        one = initializer(self.graph, "probe.one", np.ones((), np.float32))
        return self.real(unit, self.add("Sub", [one, self.flat(pooled)], (shape[0], shape[1])))

    def mean_over_channels(self, value: ir.Value) -> ir.Value:
        """`[batch, C]` to `[batch, 1]`, as a product with a constant column: no axes input, nothing to misread."""
        channels = dimension(value, 1) or 1
        column = initializer(self.graph, f"telemetry.mean.{channels}", np.full((channels, 1), 1 / channels, np.float32))
        return self.add("Gemm", [value, column], ("batch", 1))
