"""Known faults of DRSN implementations, told from the graph: they cost accuracy, and nothing else reports them.

What is right stands in Zhao et al. 2020, figure 4: FC, BatchNorm, ReLU, FC, sigmoid give the coefficients, as many as
there are channels (DRSN-CW, equation 14: each times the mean magnitude of its channel) or one (DRSN-CS, equation 12:
times the mean magnitude of all channels).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from drsn_edge.exporters.canonical import CanonicalGraph
from drsn_edge.exporters.graph_tools import constant, consumers, dimension, only_consumer, producer
from drsn_edge.exporters.passes.soft_threshold import match, non_negative, spelled
from drsn_edge.exporters.units import ShrinkageUnit

# Operators that only arrange values.
_ARRANGE = ("Unsqueeze", "Squeeze", "Flatten", "Reshape", "Identity", "Expand")

_BY_POSITION = "A threshold for each position, none for each channel: the magnitudes are averaged over the wrong axis"
_MANY_FOR_ONE = (
    "Thresholds that are called channel-shared differ between channels: a coefficient for each channel times the mean "
    "of all channels is neither equation 12 (one coefficient) nor 14 (the mean of each channel)"
)
_ONE_FOR_MANY = (
    "One coefficient times the mean of each channel is neither equation 12 (the mean of all channels) nor 14 "
    "(a coefficient for each channel)"
)
_NO_BATCH_NORM = "There is no BatchNorm between the two FC layers of the threshold branch"
_SOFTMAX = (
    "its outputs are no logits, and where the training loss applies softmax itself, as PyTorch's cross-entropy does, "
    "it was applied twice."
)


def diagnose(graph: CanonicalGraph, *, shrinks: bool = True, traced: bool = True) -> tuple[str, ...]:
    """What is wrong with a network, or could not be recognised in it.

    Args:
        graph: In canonical form.
        shrinks: Whether the network is meant to shrink: without any unit it then gets a note.
        traced: Whether every BatchNormalization was there to be seen. In a file that somebody made, those behind
            layers may be folded away already; where none at all was left to fold, nothing is said of them.

    Returns:
        A sentence for each finding; empty for a network as the paper has it.
    """
    findings = [*_unrecognised(graph), *_last_softmax(graph)]
    if shrinks and not graph.units:
        findings.append(
            "No shrinkage unit was found: the network is exported, quantized and verified as one without thresholds."
        )
    faults: list[tuple[Callable[[ShrinkageUnit], bool], str]] = [
        (_varies_along_positions, _BY_POSITION),
        (lambda unit: _widths(unit) == ("many", "one"), _MANY_FOR_ONE),
        (lambda unit: _widths(unit) == ("one", "many"), _ONE_FOR_MANY),
    ]
    if traced or graph.folded:
        faults.append((lambda unit: _lacks_normalisation(unit, graph.folded), _NO_BATCH_NORM))
    for fault, words in faults:
        found = [unit.name for unit in graph.units if fault(unit)]
        if found:
            findings.append(f"{words} ({_names(found, len(graph.units))}).")
    return tuple(findings)


def _names(found: Sequence[str], total: int) -> str:
    """Which units: all, or the first ones by name."""
    if len(found) == total > 1:
        return f"all {total} units"
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return ", ".join(found[:3]) + more


def _unrecognised(graph: CanonicalGraph) -> list[str]:
    """What is written like a soft threshold and is treated as plain arithmetic."""
    found: list[str] = []
    for node in graph.model.graph:
        if match(node) is not None:
            continue
        open_ended = next((item for item in spelled(node) if not non_negative(item.tau)), None)
        if open_ended is not None:
            maker = open_ended.tau.producer()
            found.append(
                f"{node.name} looks like a soft threshold but is left as it is: its threshold "
                f"({maker.op_type if maker is not None else open_ended.tau.name}) cannot be seen to be at least 0."
            )
    return found


def _last_softmax(graph: CanonicalGraph) -> list[str]:
    node = producer(graph.model.graph.outputs[0], "Softmax", "LogSoftmax")
    if node is None:
        return []
    return [f"The network ends in {node.op_type} ({node.name}): {_SOFTMAX}"]


def _varies_along_positions(unit: ShrinkageUnit) -> bool:
    shape = unit.threshold.shape
    return shape is not None and any(size != 1 for size in tuple(shape)[2:])


def _widths(unit: ShrinkageUnit) -> tuple[str, str] | None:
    """How many coefficients, and means that they are multiplied by; None where the threshold is no such product."""
    product = producer(_arranged(unit.threshold), "Mul")
    if product is None or dimension(unit.features, 1) in (None, 1):
        return None
    sides = [_arranged(value) for value in product.inputs if value is not None]
    gates = [side for side in sides if producer(side, "Sigmoid", "HardSigmoid") is not None]
    means = [side for side in sides if side not in gates]
    if len(gates) != 1 or len(means) != 1:
        return None
    widths = [dimension(side, 1) for side in (gates[0], means[0])]
    if None in widths:
        return None
    first, second = ("one" if width == 1 else "many" for width in widths)
    return first, second


def _arranged(value: ir.Value) -> ir.Value:
    """The value before operators that only arrange it, as long as they keep the number of channels."""
    node = producer(value, *_ARRANGE)
    while node is not None and node.inputs[0] is not None and dimension(node.inputs[0], 1) == dimension(value, 1):
        value = node.inputs[0]
        node = producer(value, *_ARRANGE)
    return value


def _lacks_normalisation(unit: ShrinkageUnit, folded: frozenset[str]) -> bool:
    """Whether the first of two fully connected layers has nothing behind it that a BatchNormalization left."""
    layers = [node for node in unit.branch if _is_layer(node)]
    return len(layers) == 2 and layers[0].name not in folded and not _is_scaled(layers[0])


def _is_layer(node: ir.Node) -> bool:
    """Gemm, a product with a constant matrix, or a convolution at a single position."""
    if node.op_type in ("Gemm", "MatMul"):
        return constant(node.inputs[1]) is not None
    if node.op_type != "Conv" or node.outputs[0].shape is None:
        return False
    return all(size == 1 for size in tuple(node.outputs[0].shape)[2:])


def _is_scaled(layer: ir.Node) -> bool:
    """Whether a constant for each channel multiplies what the layer gives, with additions between at most."""
    value = layer.outputs[0]
    while consumers(value):
        node = only_consumer(value, "Add", "Mul", *_ARRANGE)
        if node is None:
            return False
        if node.op_type not in _ARRANGE and not any(constant(side) is not None for side in node.inputs):
            return False
        if node.op_type == "Mul":
            return True
        value = node.outputs[0]
    return False
