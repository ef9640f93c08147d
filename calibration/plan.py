"""The precision plan: what every layer computes in, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import onnx_ir as ir

from drsn_edge.errors import InputError
from drsn_edge.exporters.canonical import CanonicalGraph
from drsn_edge.exporters.graph_tools import constant, producer

Precision = Literal["fp32", "fp16", "int8"]
# Integer tensor cores multiply 32 channels at a time; dp4a, before them, 4.
_TENSOR_CORE, _DP4A = 32, 4


@dataclass(frozen=True)
class LayerPlan:
    """One row of the plan.

    Attributes:
        layer: Node name, `units.0.conv1/Conv`; for a threshold branch the unit with `/threshold`.
        kind: `Conv`, `Gemm` or `threshold branch`.
        precision: What it computes in.
        reason: Why, in words.
        warning: What to expect of it, where that is not the best; empty otherwise.
        tensor: The value that is quantized, its input; empty unless int8.
    """

    layer: str
    kind: str
    precision: Precision
    reason: str
    warning: str = ""
    tensor: str = ""


@dataclass(frozen=True)
class PrecisionPlan:
    """What every weighted layer and every threshold branch computes in, in graph order."""

    layers: tuple[LayerPlan, ...]

    @property
    def int8(self) -> tuple[LayerPlan, ...]:
        """The integer layers."""
        return tuple(layer for layer in self.layers if layer.precision == "int8")

    @property
    def summary(self) -> str:
        """`24 of 25 convolutions in int8`."""
        total = sum(layer.kind == "Conv" for layer in self.layers)
        return f"{sum(layer.kind == 'Conv' for layer in self.int8)} of {total} convolutions in int8"

    def to_json(self) -> list[dict[str, str]]:
        """Plain JSON values; the file that can be edited and given back."""
        return [
            {
                "layer": item.layer, "kind": item.kind, "precision": item.precision, "reason": item.reason,
                "warning": item.warning, "tensor": item.tensor,
            }
            for item in self.layers
        ]  # fmt: skip

    @classmethod
    def from_json(cls, value: list[Mapping[str, Any]]) -> PrecisionPlan:
        """The plan that `to_json` wrote.

        Raises:
            InputError: A row is damaged, or names a precision that does not exist.
        """
        try:
            layers = tuple(LayerPlan(**{key: str(item) for key, item in row.items()}) for row in value)  # type: ignore[arg-type]
        except (TypeError, AttributeError) as error:
            raise InputError(
                "the precision plan has a damaged row", got=error, expected="the rows of to_json"
            ) from None
        for layer in layers:
            if layer.precision not in get_args(Precision):
                raise InputError(
                    f"the plan gives {layer.layer} an unknown precision",
                    got=layer.precision,
                    expected=", ".join(get_args(Precision)),
                )
        return cls(layers)

    def differences(self, other: PrecisionPlan) -> list[str]:
        """Layers that differ in precision or are in one plan only, in words."""
        mine = {layer.layer: layer.precision for layer in self.layers}
        theirs = {layer.layer: layer.precision for layer in other.layers}
        return [
            f"{name}: {mine.get(name, 'absent')} and {theirs.get(name, 'absent')}"
            for name in dict.fromkeys([*mine, *theirs])
            if mine.get(name) != theirs.get(name)
        ]


def make_plan(graph: CanonicalGraph, *, quantize_first: bool = False, glue: Precision = "fp16") -> PrecisionPlan:
    """The default plan: every convolution but the first in int8, every threshold branch and the head in float.

    Args:
        graph: Canonical, FP32.
        quantize_first: The first convolution too. It sees the raw signal and has few input channels: most of the error
            for least of the work.
        glue: What everything else computes in.
    """
    branches = {node: unit.name for unit in graph.units for node in unit.branch}
    done: set[str] = set()
    rows: list[LayerPlan] = []
    first = True
    for node in graph.model.graph:
        unit = branches.get(node)
        if unit is not None:
            if unit not in done:
                done.add(unit)
                rows.append(
                    LayerPlan(
                        f"{unit}/threshold", "threshold branch", glue,
                        "its error moves the dead zone of every feature; the mean of magnitudes stays fp32",
                    )
                )  # fmt: skip
        elif node.op_type == "Conv":
            rows.append(_conv(node, first=first, quantize_first=quantize_first, glue=glue))
            first = False
        elif node.op_type in ("Gemm", "MatMul"):
            rows.append(LayerPlan(node.name or "", node.op_type, glue, "the head: a few thousand products decide"))
    return PrecisionPlan(tuple(rows))


def _conv(node: ir.Node, *, first: bool, quantize_first: bool, glue: Precision) -> LayerPlan:
    name, weight = node.name or "", constant(node.inputs[1])
    if weight is None:
        return LayerPlan(name, "Conv", glue, "its weights are computed, not constant")
    if first and not quantize_first:
        return LayerPlan(name, "Conv", glue, "first layer: it sees the raw signal, and has little work")
    reason = "first layer, quantized because it was asked for" if first else "convolution with constant weights"
    channels = min(weight.shape[0], weight.shape[1])
    warning = ""
    if channels % _TENSOR_CORE:
        unit = (
            "integer tensor cores want multiples of 32"
            if channels % _DP4A == 0
            else "integer kernels want multiples of 4"
        )
        warning = f"{weight.shape[1]} to {weight.shape[0]} channels: {unit}, expect no gain"
    source = node.inputs[0]
    # Behind an fp16 pass the input is a Cast; the plan names the value that was there before.
    cast = producer(source, "Cast")
    tensor = (cast.inputs[0] if cast is not None else source) or source
    return LayerPlan(name, "Conv", "int8", reason, warning, (tensor.name if tensor is not None else None) or "")
