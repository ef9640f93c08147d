"""INT8 graphs from a canonical graph, a plan and its scales."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import onnx_ir as ir

from drsn_edge.calibration.plan import PrecisionPlan
from drsn_edge.calibration.qdq import QuantizePass
from drsn_edge.errors import InputError
from drsn_edge.exporters.canonical import CanonicalGraph
from drsn_edge.exporters.precision import HalfOptions, to_half
from drsn_edge.exporters.units import find_units


def quantize(
    graph: CanonicalGraph,
    *,
    plan: PrecisionPlan,
    scales: Mapping[str, float],
    glue: Literal["fp16", "fp32"] = "fp16",
) -> CanonicalGraph:
    """An INT8 copy of a canonical graph.

    Args:
        graph: Canonical, FP32.
        plan: Which layers are int8; a layer that it puts in fp32 stays FP32 under an FP16 glue too.
        scales: Activation scale by int8 layer.
        glue: What everything else computes in: `fp16` for strongly typed builders, `fp32` for weakly typed ones.

    Raises:
        InputError: Plan, scales and graph do not fit together; a threshold branch is to be quantized.
    """
    int8 = [layer.layer for layer in plan.int8]
    _ensure_consistent(graph, plan, scales)
    if glue == "fp16":
        single = {layer.layer for layer in plan.layers if layer.precision == "fp32"}
        copy = to_half(graph, options=HalfOptions(keep=frozenset(int8) | single))
    else:
        copy = graph.clone()
    try:
        QuantizePass({name: scales[name] for name in int8})(copy.model)
    except (ir.passes.PassError, ir.passes.InvariantError) as error:  # one is not the other's base
        raise InputError(
            "the graph cannot be quantized by this plan", got=error.__cause__ or error, expected="convolutions of it"
        ) from error
    copy.model.metadata_props["drsn_edge.precision"] = "int8" if glue == "fp16" else "int8-fp32"
    return CanonicalGraph(copy.model, find_units(copy.model), copy.notes)


def _ensure_consistent(graph: CanonicalGraph, plan: PrecisionPlan, scales: Mapping[str, float]) -> None:
    int8 = {layer.layer for layer in plan.int8}
    if int8 != set(scales):
        odd = sorted(int8 ^ set(scales))
        raise InputError(
            "plan and scales do not name the same layers",
            got=f"{odd[0]} in {'the plan' if odd[0] in int8 else 'the scales'} only ({len(odd)} such)",
            expected="one scale for every int8 layer",
            hint="calibrate again with this plan",
        )
    branch = {node.name for unit in graph.units for node in unit.nodes}
    inside = sorted(int8 & {name for name in branch if name}) or sorted(n for n in int8 if n.endswith("/threshold"))
    if inside:
        raise InputError(
            "a threshold branch is never quantized", got=inside[0], expected="float",
            hint="its error moves the dead zone of every feature; take it out of the plan",
        )  # fmt: skip
    absent = sorted(int8 - {node.name or "" for node in graph.model.graph})
    if absent:
        raise InputError("the plan names a layer that the graph does not have", got=absent[0], expected="a layer of it")
