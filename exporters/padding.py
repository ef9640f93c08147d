"""A canonical graph with padded channels."""

from __future__ import annotations

import onnx_ir as ir

from drsn_edge.errors import InputError, UsageError
from drsn_edge.exporters.canonical import CanonicalGraph, ensure_promises
from drsn_edge.exporters.passes.padding import PadChannelsPass
from drsn_edge.exporters.units import find_units


def check_multiple(multiple: int) -> None:
    """Refuse what channels cannot be padded to.

    Raises:
        UsageError: Not 2 to 256.
    """
    if not 2 <= multiple <= 256:
        raise UsageError(
            "channels cannot be padded to this multiple", got=multiple, expected="2 to 256",
            hint="32 is what integer tensor cores multiply at a time, 8 what FP16 ones do",
        )  # fmt: skip


def pad_channels(graph: CanonicalGraph, *, multiple: int) -> CanonicalGraph:
    """A copy whose inner channels come in a multiple; logits, node names and units stay the same.

    Args:
        graph: Canonical, FP32.
        multiple: 32 for integer tensor cores.

    Raises:
        UsageError: Not 2 to 256.
        InputError: The graph cannot be padded.
    """
    check_multiple(multiple)
    copy = graph.clone()
    try:
        PadChannelsPass(multiple)(copy.model)
    except (ir.passes.PassError, ir.passes.InvariantError) as error:  # one is not the other's base
        raise InputError(
            "the channels of the graph cannot be padded", got=error.__cause__ or error, expected="a canonical graph"
        ) from error
    ensure_promises(copy.model, opset=copy.model.opset_imports[""])
    return CanonicalGraph(copy.model, find_units(copy.model), copy.notes, graph.folded)
