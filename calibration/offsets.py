"""All 255 levels for what is never negative.

A symmetric pair has 127 levels on either side of zero. Behind a ReLU one side stays empty: half of the levels, one
bit, is lost. With half the range taken off in front of the pair both sides are used, the zero-point stays 0 as TensorRT
wants it, zero is still exact (level -127), and

    conv(x, w) = conv(x - offset, w) + conv(offset, w)

where the last term is a constant. It is not the same at all positions: next to the zeros of a padding, which stand for
the offset after the subtraction, fewer taps see it. TensorRT for RTX needs no kernel more for it (82 and 82 for the
paper's network): the subtraction joins the ReLU, the addition the conversion behind the convolution.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from drsn_edge.calibration.observers import LEVELS
from drsn_edge.calibration.patches import convolve_constant
from drsn_edge.exporters.canonical import CanonicalGraph
from drsn_edge.exporters.graph_tools import constant, emit, graph_of, initializer, producer


def offset_of(scale: float) -> float:
    """What level 0 stands for where level -127 stands for zero; a float32 number."""
    return float(np.float32(LEVELS * np.float32(scale)))


def never_negative(value: ir.Value | None) -> bool:
    """Whether a value is a ReLU's, a cast of one at most between them."""
    cast = producer(value, "Cast")
    return producer(value if cast is None else cast.inputs[0], "Relu") is not None


def full_range_layers(graph: CanonicalGraph, layers: Collection[str]) -> tuple[str, ...]:
    """Those of some convolutions whose input is never negative, in graph order."""
    return tuple(
        node.name
        for node in graph.model.graph
        if node.op_type == "Conv" and node.name and node.name in layers and never_negative(node.inputs[0])
    )


def take_off(node: ir.Node, offset: float) -> ir.Value:
    """The convolution's input less its offset; one node for all convolutions of one input and offset.

    Raises:
        ir.passes.PreconditionError: The input may be negative.
    """
    source = node.inputs[0]
    if source is None or not never_negative(source):
        raise ir.passes.PreconditionError(f"the input of {node.name} may be negative: no offset suits it")
    for use in source.uses():
        other = constant(use.node.inputs[1]) if use.node.op_type == "Sub" and use.idx == 0 else None
        if other is not None and other.size == 1 and float(other.reshape(-1)[0]) == offset:
            return use.node.outputs[0]
    value = initializer(graph_of(node), f"{node.name}.input_offset", np.asarray(offset, np.float32))
    return emit(node, "Sub", [source, value], like=source, name=f"{node.name}.input/Sub")


def give_back(node: ir.Node, weight: NDArray[np.float32], offset: float) -> None:
    """Add the convolution of the offset behind the convolution, for all its readers.

    Raises:
        ir.passes.PreconditionError: Sizes of the input that are not fixed.
    """
    source, output, graph = node.inputs[0], node.outputs[0], graph_of(node)
    sizes = [] if source is None or source.shape is None else list(source.shape)[2:]
    if not sizes or not all(isinstance(size, int) for size in sizes):
        raise ir.passes.PreconditionError(f"the input of {node.name} has no fixed size")
    lost = convolve_constant(node, weight, offset, tuple(int(size) for size in sizes if isinstance(size, int)))
    readers = list(output.uses())
    added = emit(
        node, "Add", [output, initializer(graph, f"{node.name}.offset", lost[None])], like=output,
        name=f"{node.name}.offset/Add",
    )  # fmt: skip
    maker = added.producer()
    if maker is not None:
        graph.remove(maker)
        graph.insert_after(node, maker)
    for use in readers:
        use.node.replace_input_with(use.idx, added)
