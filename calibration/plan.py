"""The precision plan: what every layer computes in, and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import onnx_ir as ir

from drsn_edge.errors import InputError
from drsn_edge.exporters.canonical import CanonicalGraph
from drsn_edge.exporters.graph_tools import attribute, constant, producer

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
    def from_json(cls, value: Sequence[Mapping[str, Any]]) -> PrecisionPlan:
        """The plan that `to_json` wrote.

        Raises:
            InputError: A row is damaged or there twice, or names a precision that does not exist.
        """
        names = [item.name for item in dataclasses.fields(LayerPlan)]
        if not isinstance(value, list | tuple):
            raise InputError("the precision plan is no list", got=type(value).__name__, expected="a list of rows")
        layers: list[LayerPlan] = []
        for row in value:
            if not isinstance(row, Mapping) or {*row} != {*names} or not all(isinstance(x, str) for x in row.values()):
                raise InputError(
                    "the precision plan has a damaged row",
                    got=repr(row),
                    expected=f"a text for each of {', '.join(names)}",
                )
            layer = LayerPlan(**row)
            if layer.precision not in get_args(Precision):
                raise InputError(
                    f"the plan gives {layer.layer} an unknown precision",
                    got=layer.precision,
                    expected=", ".join(get_args(Precision)),
                )
            if any(layer.layer == other.layer for other in layers):
                raise InputError("the precision plan has two rows of one layer", got=layer.layer, expected="one")
            layers.append(layer)
        return cls(tuple(layers))

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
    products = [node for node in graph.model.graph if node.op_type in ("Gemm", "MatMul")]
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
        elif node in products:
            head = node is products[-1]
            reason = "the head: a few thousand products decide" if head else "a small product of pooled features"
            rows.append(LayerPlan(node.name or "", node.op_type, glue, reason))
    return PrecisionPlan(tuple(rows))


def _conv(node: ir.Node, *, first: bool, quantize_first: bool, glue: Precision) -> LayerPlan:
    name, weight = node.name or "", constant(node.inputs[1])
    if weight is None:
        return LayerPlan(name, "Conv", glue, "its weights are computed, not constant")
    if first and not quantize_first:
        return LayerPlan(name, "Conv", glue, "first layer: it sees the raw signal, and has little work")
    reason = "first layer, quantized because it was asked for" if first else "convolution with constant weights"
    inputs = weight.shape[1] * attribute(node, "group", 1)
    warning = ""
    if any(channels % _TENSOR_CORE for channels in weight.shape[:2]):
        unit = (
            "integer kernels want multiples of 4"
            if any(channels % _DP4A for channels in weight.shape[:2])
            else "integer tensor cores want multiples of 32"
        )
        groups = "" if inputs == weight.shape[1] else f" in groups of {weight.shape[1]}"
        warning = f"{inputs} to {weight.shape[0]} channels{groups}: {unit}, expect no gain"
    source = node.inputs[0]
    # Behind an fp16 pass the input is a Cast; the plan names the value that was there before.
    cast = producer(source, "Cast")
    tensor = (cast.inputs[0] if cast is not None else source) or source
    return LayerPlan(name, "Conv", "int8", reason, warning, (tensor.name if tensor is not None else None) or "")


def fit(plan: PrecisionPlan, graph: CanonicalGraph) -> PrecisionPlan:
    """A plan as a graph can have it: rows in graph order, kinds, tensors and warnings as the graph has them.

    Of a plan that a person edited only the layers, their precisions and their reasons count.

    Raises:
        InputError: Layers that the graph does not have, or that the plan leaves out; int8 for a threshold branch, or
            for anything else than a convolution with constant weights.
    """
    possible = make_plan(graph, quantize_first=True)
    usual = {layer.layer: layer for layer in make_plan(graph).layers}
    given = {layer.layer: layer for layer in plan.layers}
    _ensure_outside_units(plan, graph)
    absent = [name for name in given if name not in {layer.layer for layer in possible.layers}]
    if absent:
        raise InputError(
            "the plan names a layer that the graph does not have", got=", ".join(absent), expected="a layer of it",
            hint="make the plan from the graph that it is for",
        )  # fmt: skip
    rows: list[LayerPlan] = []
    for layer in possible.layers:
        if layer.layer not in given:
            raise InputError(
                "the plan leaves a layer out", got=f"no row for {layer.layer}", expected="a row for every layer",
                hint="give it fp16 to leave it as it is",
            )  # fmt: skip
        wanted = given[layer.layer]
        if wanted.precision == "int8" and layer.precision != "int8":
            raise InputError(
                f"{layer.layer} cannot be quantized",
                got=f"int8 for a {layer.kind}, {layer.reason}",
                expected="fp16 or fp32: only convolutions with constant weights are quantized",
            )
        integer = wanted.precision == "int8"
        told = [row for row in (layer, usual[layer.layer]) if row.reason == wanted.reason]
        # The reason for what it was before somebody edited the precision is none for what it is now.
        stale = bool(told) and all((row.precision == "int8") != integer for row in told)
        rows.append(
            LayerPlan(
                layer.layer, layer.kind, wanted.precision, "chosen by hand" if stale else wanted.reason,
                layer.warning if integer else "", layer.tensor if integer else "",
            )
        )  # fmt: skip
    return PrecisionPlan(tuple(rows))


def _ensure_outside_units(plan: PrecisionPlan, graph: CanonicalGraph) -> None:
    branches = {f"{unit.name}/threshold" for unit in graph.units}
    inside = branches | {node.name for unit in graph.units for node in unit.nodes if node.name}
    for layer in plan.int8:
        if layer.layer in inside:
            raise InputError(
                "a threshold branch is never quantized", got=f"int8 for {layer.layer}", expected="fp16 or fp32",
                hint="its error moves the dead zone of every feature; take it out of the plan",
            )  # fmt: skip
