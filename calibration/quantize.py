"""INT8 graphs from a canonical graph, a plan and its scales."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

import onnx_ir as ir

from drsn_edge.calibration.contract import Calibration
from drsn_edge.calibration.plan import PrecisionPlan, fit
from drsn_edge.calibration.qdq import QuantizePass
from drsn_edge.calibration.rounded import Rounded
from drsn_edge.errors import InputError
from drsn_edge.exporters.canonical import CanonicalGraph, ensure_promises
from drsn_edge.exporters.precision import HalfOptions, to_half
from drsn_edge.exporters.units import ShrinkageUnit, find_units


def quantize(
    graph: CanonicalGraph,
    *,
    plan: PrecisionPlan,
    scales: Mapping[str, float],
    glue: Literal["fp16", "fp32"] = "fp16",
    full_range: Collection[str] = (),
    rounded: Mapping[str, Rounded] | None = None,
) -> CanonicalGraph:
    """An INT8 copy of a canonical graph.

    Args:
        graph: Canonical, FP32.
        plan: Which layers are int8; a layer that it puts in fp32 stays FP32 under an FP16 glue too.
        scales: Activation scale by int8 layer.
        glue: What everything else computes in: `fp16` for strongly typed builders, `fp32` for weakly typed ones.
        full_range: Layers whose input is never negative and whose scale is for 255 levels (`offsets`).
        rounded: Weights and biases that were learned, by layer; the others are rounded to nearest.

    Raises:
        InputError: Plan, scales and graph do not fit together; a threshold branch is to be quantized.
    """
    plan = fit(plan, graph)
    int8 = [layer.layer for layer in plan.int8]
    _ensure_scales(int8, scales)
    if glue == "fp16":
        copy = to_half(graph, options=HalfOptions(keep=frozenset(int8) | _single(plan, graph)))
    else:
        copy = graph.clone()
    try:
        QuantizePass(
            {name: scales[name] for name in int8},
            full_range=[name for name in full_range if name in int8],
            rounded={name: value for name, value in (rounded or {}).items() if name in int8},
        )(copy.model)
    except (ir.passes.PassError, ir.passes.InvariantError) as error:  # one is not the other's base
        raise InputError(
            "the graph cannot be quantized by this plan",
            got=error.__cause__ or error,
            expected="finite FP32 weights, and a positive scale for every convolution",
        ) from error
    copy.model.metadata_props["drsn_edge.precision"] = "int8" if glue == "fp16" else "int8-fp32"
    result = CanonicalGraph(copy.model, find_units(copy.model), copy.notes, copy.folded)
    ensure_promises(result.model, opset=result.model.opset_imports[""])
    ensure_float_units(result.units, graph.units)
    return result


def quantize_as(graph: CanonicalGraph, found: Calibration, *, glue: Literal["fp16", "fp32"] = "fp16") -> CanonicalGraph:
    """The INT8 copy that a calibration, just made, stands for.

    Raises:
        InputError: As `quantize`; or the calibration comes from a file, and its weights were learned.
    """
    if found.rounding == "learned" and found.weights is None:
        raise InputError(
            "the learned weights of this calibration are not at hand", got="a calibration that was read from a file",
            expected="one that was just made", hint="the int8 graph that it lies beside holds the integers",
        )  # fmt: skip
    return quantize(
        graph, plan=found.plan, scales=found.scales, glue=glue, full_range=found.full_range, rounded=found.weights
    )


def _ensure_scales(int8: list[str], scales: Mapping[str, float]) -> None:
    odd = sorted({*int8} ^ {*scales})
    if odd:
        raise InputError(
            "plan and scales do not name the same layers",
            got=f"{odd[0]} in {'the plan' if odd[0] in int8 else 'the scales'} only ({len(odd)} such)",
            expected="one scale for every int8 layer",
            hint="calibrate again with this plan",
        )


def _single(plan: PrecisionPlan, graph: CanonicalGraph) -> set[str]:
    """Nodes that the plan wants in FP32; for a threshold branch all that make the threshold."""
    branches = {f"{unit.name}/threshold": [node.name or "" for node in unit.branch] for unit in graph.units}
    return {
        name for layer in plan.layers if layer.precision == "fp32" for name in branches.get(layer.layer, [layer.layer])
    }


def ensure_float_units(found: tuple[ShrinkageUnit, ...], wanted: tuple[ShrinkageUnit, ...]) -> None:
    """What quantizing must not have changed: every unit is there, and nothing in it is quantized.

    Raises:
        InputError: It has.
    """
    names = [unit.name for unit in found]
    if names != [unit.name for unit in wanted]:
        raise InputError(
            "quantizing has changed the shrinkage units", got=names, expected=[unit.name for unit in wanted],
            hint="this is a defect of the quantizer: please report the network",
        )  # fmt: skip
    for unit in found:
        for node in unit.nodes:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                raise InputError(
                    f"the threshold branch of {unit.name} was quantized", got=node.name, expected="float nodes only",
                    hint="this is a defect of the quantizer: please report the network",
                )  # fmt: skip
