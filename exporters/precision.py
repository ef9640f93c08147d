"""The typed FP16 graph, and the probe and telemetry outputs of a graph of any precision."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from drsn_edge.errors import InputError, UsageError
from drsn_edge.exporters.canonical import CanonicalGraph, ensure_promises, parse, serialise
from drsn_edge.exporters.passes.emulate import EmulateHalfPass
from drsn_edge.exporters.passes.half import HalfPrecisionPass
from drsn_edge.exporters.passes.probes import ProbePass, TelemetryPass
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


def _with(step: ir.passes.InPlacePass, data: bytes) -> bytes:
    model = parse(data)
    step(model)
    ensure_promises(model, opset=model.opset_imports[""])
    return serialise(model)
