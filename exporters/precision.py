"""The typed FP16 graph, and the probe and telemetry outputs of a graph of any precision."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from drsn_edge.errors import InputError, UsageError
from drsn_edge.exporters.canonical import CanonicalGraph, ensure_promises, parse, serialise
from drsn_edge.exporters.graph_tools import constant, initializer
from drsn_edge.exporters.passes.emulate import EmulateHalfPass
from drsn_edge.exporters.passes.half import HalfPrecisionPass
from drsn_edge.exporters.passes.probes import PROBE_SCOPE, ProbePass, TelemetryPass
from drsn_edge.exporters.units import find_units


@dataclass(frozen=True)
class HalfOptions:
    """Which nodes stay FP32 beyond those that always do.

    Attributes:
        keep: Node names.
    """

    keep: frozenset[str] = frozenset()


def to_half(graph: CanonicalGraph, *, options: HalfOptions | None = None) -> CanonicalGraph:
    """A typed FP16 copy of a canonical graph; FP32 in, FP32 out.

    Raises:
        InputError: A weight does not fit FP16, or `keep` names a node that is not there.
    """
    options = options or HalfOptions()
    copy = graph.clone()
    try:
        HalfPrecisionPass(keep=options.keep)(copy.model)
    except (ir.passes.PassError, ir.passes.InvariantError) as error:  # one is not the other's base
        raise InputError(
            "the graph cannot be written in FP16",
            got=error.__cause__ or error,
            expected="weights within FP16's range, and nodes of this graph in `keep`",
        ) from error
    copy.model.metadata_props["drsn_edge.precision"] = "fp16"
    ensure_promises(copy.model, opset=copy.model.opset_imports[""])
    return CanonicalGraph(copy.model, find_units(copy.model), copy.notes, copy.folded)


def with_probes(data: bytes) -> bytes:
    """The file of a graph with threshold, zeroed share and shrunk features of every unit as further outputs."""
    return _with(ProbePass(), data)


def emulated(data: bytes) -> bytes:
    """The file of a graph whose FP16 arithmetic ONNX Runtime shows on a CPU; the same bytes where nothing is FP16."""
    return _with(EmulateHalfPass(), data)


def with_telemetry(data: bytes) -> bytes:
    """The file of a graph with mean threshold and zeroed share per unit as further outputs.

    Raises:
        UsageError: The network has no thresholds.
    """
    if not find_units(parse(data)):
        raise UsageError(
            "the network has no telemetry", got="a graph without soft thresholds", expected="a DRSN",
            hint="leave --telemetry out",
        )  # fmt: skip
    return _with(TelemetryPass(), data)


def graft_probes(data: bytes, probed: bytes) -> bytes:
    """The probe outputs of one file on the graph of another, which may be damaged.

    `with_probes` recognises a unit by its form, and damage may be just that. Here the nodes behind the probes of an
    intact (or otherwise made) file are copied; what they read is found by its name.

    Args:
        data: The graph that is asked.
        probed: A probe graph of the same network and precision.

    Returns:
        The file of `data` with those probes whose tensors it still computes.
    """
    model, donor = parse(data), parse(probed)
    values = {value.name: value for node in model.graph for value in node.outputs}
    values |= {value.name: value for value in model.graph.initializers.values()}
    own = set(values)
    wanted = {value.name: value for value in donor.graph.outputs}
    for node in donor.graph:
        if f"{PROBE_SCOPE}/" not in (node.name or ""):
            continue
        inputs = [_grafted(value, values, model.graph) for value in node.inputs]
        if any(value is None for value in inputs):
            continue
        copy = ir.node(node.op_type, inputs, attributes=dict(node.attributes), num_outputs=1, name=node.name)
        model.graph.append(copy)
        made, old = copy.outputs[0], node.outputs[0]
        made.name, made.shape, made.type = old.name, old.shape, old.type
        values[old.name] = made
        if old.name in wanted and old.name not in own:
            model.graph.outputs.append(made)
    return serialise(model)


def _grafted(value: ir.Value | None, values: dict[str | None, ir.Value], graph: ir.Graph) -> ir.Value | None:
    """The value of that name in the other graph; constants of the probes come along."""
    if value is None or value.name in values:
        return values.get(value.name) if value is not None else None
    array = constant(value)
    if array is None or not (value.name or "").startswith("probe."):
        return None
    values[value.name] = initializer(graph, str(value.name), array)
    return values[value.name]


def _with(step: ir.passes.InPlacePass, data: bytes) -> bytes:
    model = parse(data)
    step(model)
    return ensure_promises(model, opset=model.opset_imports[""])
