"""Whether the parts of a bundle that speak of integers agree: calibration, plan, weights, contract and every graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from drsn_edge.bundle import CALIBRATION, WEIGHTS, Bundle, graph_name
from drsn_edge.calibration.contract import Calibration
from drsn_edge.calibration.observers import weight_scales
from drsn_edge.calibration.offsets import offset_of
from drsn_edge.calibration.patches import convolve_constant
from drsn_edge.calibration.rounded import Rounded
from drsn_edge.errors import InputError
from drsn_edge.exporters.canonical import parse
from drsn_edge.exporters.graph_tools import attribute, constant, producer

PRECISIONS = ("int8", "int8-fp32")


def check_bundle_calibration(bundle: Bundle) -> list[str]:
    """Hold calibration.json against the graphs, the weights and the contract that it lies beside.

    Hashes say that files are those that the manifest lists; this says that they belong together.

    Args:
        bundle: With or without int8.

    Returns:
        Every difference in words, naming file and layer; empty when all agree.

    Raises:
        InputError: A file of the bundle cannot be read.
    """
    names = [graph_name(item, probe=probe) for item in PRECISIONS for probe in (False, True)]
    graphs = [name for name in names if name in bundle.files]
    if CALIBRATION not in bundle.files:
        return [f"{name} is there, and no {CALIBRATION} says where its scales come from" for name in graphs]
    try:
        calibration = Calibration.from_json(bundle.read_json(CALIBRATION))
    except InputError as error:
        return [f"{CALIBRATION}: {error.what}; got {error.got}"]
    found = list(_bindings(bundle, calibration))
    single = graph_name("fp32")
    weights = _weights(parse(bundle.read(single))) if single in bundle.files else None
    for name in graphs:
        found += [f"{name}: {text}" for text in check_graph(parse(bundle.read(name)), calibration, weights)]
    return found


def _bindings(bundle: Bundle, calibration: Calibration) -> Iterator[str]:
    stated = str(bundle.manifest["model"].get("weights_sha256"))
    weights = bundle.files[WEIGHTS].sha256 if WEIGHTS in bundle.files else stated
    if weights != stated:
        yield f"{WEIGHTS} has sha256 {weights}, and the manifest says that the graphs were made from {stated}"
    for what, got, expected in calibration.differences(weights=stated, contract=bundle.contract.to_json()):
        yield f"{CALIBRATION} belongs to {what}: {got} here, {expected} there"


def check_graph(
    model: ir.Model, calibration: Calibration, weights: dict[str, NDArray[np.float32]] | None = None
) -> list[str]:
    """Differences between an int8 graph and what it was made from.

    Args:
        model: The graph, with or without probes.
        calibration: Its scales and plan.
        weights: FP32 weights by convolution; without them only activations are looked at.
    """
    found: list[str] = []
    convolutions = {node.name or "": node for node in model.graph if node.op_type == "Conv"}
    allowed: set[ir.Node] = set()
    for layer in calibration.plan.int8:
        node = convolutions.get(layer.layer)
        if node is None:
            found.append(f"{layer.layer} is not there, and the plan has it in int8")
            continue
        pairs = [_pair(value) for value in node.inputs[:2]]
        if None in pairs:
            found.append(f"{layer.layer} computes in float, and the plan has it in int8")
            continue
        allowed.update(step for pair in pairs if pair is not None for step in pair)
        found += [f"{layer.layer}: {text}" for text in _activations(pairs[0], calibration.scales[layer.layer])]
        full = layer.layer in calibration.full_range
        found += [f"{layer.layer}: {text}" for text in _offset(node, pairs, calibration.scales[layer.layer], full)]
        found += [f"{layer.layer}: {text}" for text in _learned(node, pairs[1], calibration.rounded.get(layer.layer))]
        if weights is not None:
            found += [f"{layer.layer}: {text}" for text in _rounded(pairs[1], weights.get(layer.layer))]
    for node in model.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node not in allowed:
            found.append(f"{node.name} quantizes where the plan has nothing in int8")
    return found


def _pair(value: ir.Value | None) -> tuple[ir.Node, ir.Node] | None:
    """QuantizeLinear and DequantizeLinear in front of a value."""
    restore = producer(value, "DequantizeLinear")
    step = producer(restore.inputs[0], "QuantizeLinear") if restore is not None else None
    return None if step is None or restore is None else (step, restore)


def _activations(pair: tuple[ir.Node, ir.Node] | None, wanted: float) -> Iterator[str]:
    for node in pair or ():
        scale, zero = constant(node.inputs[1]), constant(node.inputs[2]) if len(node.inputs) > 2 else None
        if scale is None or scale.dtype != np.float32 or scale.shape != ():
            yield f"the input scale is {_words(scale)}, not one float32 number"
        # Bit for bit: both are float32, and nothing rounds between them.
        elif float(scale) != wanted:
            times = f"{float(scale) / wanted:.4g} times that"
            yield f"the input scale is {float(scale)!r}, {CALIBRATION} has {wanted!r} ({times})"
        if zero is None or zero.dtype != np.int8 or zero.any():
            yield f"the input's zero-point is {_words(zero)}, not an int8 zero"


def _offset(
    node: ir.Node, pairs: list[tuple[ir.Node, ir.Node] | None], scale: float, full_range: bool
) -> Iterator[str]:
    """Half the range is taken off in front of the pair and given back behind the convolution, or neither."""
    step = pairs[0][0] if pairs[0] is not None else None
    taken = producer(step.inputs[0], "Sub") if step is not None else None
    off = constant(taken.inputs[1]) if taken is not None else None
    if not full_range:
        if off is not None and off.size == 1 and float(off.reshape(-1)[0]) == offset_of(scale):
            yield f"an offset is taken off its input, and {CALIBRATION} gives it no full range"
        return
    if off is None or off.size != 1 or float(off.reshape(-1)[0]) != offset_of(scale):
        yield f"the offset of its input is {_words(off)}, not {offset_of(scale)!r}"
    readers = [use.node for use in node.outputs[0].uses()]
    given = constant(readers[0].inputs[1]) if len(readers) == 1 and readers[0].op_type == "Add" else None
    weight = constant(pairs[1][0].inputs[0]) if pairs[1] is not None else None
    source = taken.inputs[0] if taken is not None else None
    sizes = [] if source is None or source.shape is None else list(source.shape)[2:]
    if weight is None or not sizes or not all(isinstance(size, int) for size in sizes):
        return
    wanted = convolve_constant(
        node, weight, offset_of(scale), tuple(int(size) for size in sizes if isinstance(size, int))
    )
    if given is None or not np.array_equal(given, wanted[None]):
        yield f"what its offset makes is not given back behind it: {_words(given)}"


def _learned(node: ir.Node, pair: tuple[ir.Node, ir.Node] | None, wanted: str | None) -> Iterator[str]:
    """Integers and bias are those that were learned."""
    if wanted is None or pair is None:
        return
    have, scale = constant(pair[0].inputs[0]), constant(pair[0].inputs[1])
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if have is None or scale is None or bias is None or scale.shape != (len(have),):
        yield "its weights, their scales or its bias are computed, not constant"
        return
    integers = np.rint(have / scale.reshape(-1, *[1] * (have.ndim - 1))).astype(np.int8)
    found = Rounded(integers, bias).digest
    if found != wanted:
        yield f"its integers and bias have sha256 {found}, {CALIBRATION} has {wanted}"


def _rounded(pair: tuple[ir.Node, ir.Node] | None, wanted: NDArray[np.float32] | None) -> Iterator[str]:
    if wanted is None:
        yield f"{graph_name('fp32')} has no such convolution"
        return
    scales = weight_scales(wanted)
    for node in pair or ():
        scale = constant(node.inputs[1])
        if scale is None or scale.shape != scales.shape or attribute(node, "axis", 1) != 0:
            yield f"the weights' scales are {_words(scale)}, not one for each of {len(scales)} output channels"
        elif not np.array_equal(scale, scales):
            channel = int(np.flatnonzero(scale != scales)[0])
            yield f"the weights' scale of channel {channel} is {scale[channel]!s}, not {scales[channel]!s}"
    step = pair[0] if pair is not None else None
    have = constant(step.inputs[0]) if step is not None else None
    limit = scales.reshape(-1, *[1] * (wanted.ndim - 1))
    if have is None or have.shape != wanted.shape or not (np.abs(have - wanted) <= limit).all():
        yield f"the weights are not those of {graph_name('fp32')}"


def _weights(model: ir.Model) -> dict[str, NDArray[np.float32]]:
    arrays = {node.name or "": constant(node.inputs[1]) for node in model.graph if node.op_type == "Conv"}
    return {name: array for name, array in arrays.items() if array is not None}


def _words(array: NDArray[Any] | None) -> str:
    if array is None:
        return "absent or computed"
    return f"{array.dtype}{list(array.shape)}" + (f" {array.reshape(-1)[0]}" if array.size == 1 else "")
