"""Kinds of faults in graphs. Each is small, seeded and silent."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from benchmarks.faults.graph import Context, Fault, Graph, NoPlace

Array = NDArray[Any]


def scale(factor: float) -> Fault:
    """Of an input, too large."""

    def damage(graph: Graph, at: Context) -> str:
        step = at.of_unit(graph, "QuantizeLinear", ".input/")
        name = step.input[1]
        graph.set(name, (graph.get(name) * factor).astype(np.float32))
        return str(step.name)

    return damage


def weight_scale(graph: Graph, at: Context) -> str:
    """Of one output channel."""
    step = at.of_unit(graph, "DequantizeLinear", ".weight/")
    value = graph.get(step.input[1])
    value[int(at.rng.integers(len(value)))] *= 1.25
    graph.own(step, 1, value)
    return str(step.name)


def zero_point(graph: Graph, at: Context) -> str:
    """Another one than was written with."""
    step = at.of_unit(graph, "DequantizeLinear", ".input/")
    graph.own(step, 2, np.asarray(at.rng.choice([-8, 4, 16]), np.int8))
    return str(step.name)


def dropped_pair(graph: Graph, at: Context) -> str:
    """One Q/DQ less."""
    step = at.of_unit(graph, "QuantizeLinear", ".input/")
    restore = next(node for node in graph.nodes("DequantizeLinear") if node.input[0] == step.output[0])
    graph.bypass(restore)
    for node in graph.model.graph.node:
        for index, name in enumerate(node.input):
            if name == step.output[0] and node.op_type != "DequantizeLinear":
                node.input[index] = step.input[0]
    return str(step.name)


def transposed_fc(graph: Graph, at: Context) -> str:
    """Of the threshold branch, whose matrices are square and give no error."""
    gates = [node for node in graph.nodes("Gemm", ".gate.") if node.name.startswith(f"{at.unit}.")]
    node = at.pick([node for node in gates if len(set(graph.get(graph.weight(node)).shape)) == 1])
    graph.set(graph.weight(node), graph.get(graph.weight(node)).T)
    return str(node.name)


def swapped_classes(graph: Graph, at: Context) -> str:
    """In the last layer."""
    del at
    node = graph.nodes("Gemm")[-1]
    name = graph.weight(node)
    value = graph.get(name)
    axis = int(np.argmin(value.shape))
    graph.set(name, np.roll(value, 1, axis=axis))
    return "logits"


def epsilon(graph: Graph, at: Context) -> str:
    """A BatchNormalization folded with another epsilon."""
    node = next((node for node in graph.nodes("Mul", f"{at.unit}.bn1/")), None)
    variance = at.variances.get(f"{at.unit}.bn1")
    if node is None or variance is None:
        raise NoPlace
    value = graph.get(node.input[1])
    factor = np.sqrt((variance + 1e-5) / (variance + float(at.rng.choice([1e-3, 1e-2, 0.1]))))
    graph.set(node.input[1], (value * factor.reshape(value.shape)).astype(value.dtype))
    return str(node.name)


def swapped_channels(graph: Graph, at: Context) -> str:
    """Two input channels of a convolution."""
    node = at.conv(graph)
    name = graph.weight(node)
    value = graph.get(name)
    one, two = at.rng.choice(value.shape[1], 2, replace=False)
    value[:, [one, two]] = value[:, [two, one]]
    graph.set(name, value)
    return str(node.name)


def padding(graph: Graph, at: Context) -> str:
    """One sample too far: `[1, 1]` becomes `[2, 0]`, and every shape stays."""
    node = at.conv(graph)
    pads = next((item for item in node.attribute if item.name == "pads"), None)
    if pads is None or min(pads.ints) < 1:
        raise NoPlace
    before, after = pads.ints[0] + 1, pads.ints[1] - 1
    del pads.ints[:]
    pads.ints.extend([before, after])
    return str(node.name)


def threshold(factor: float) -> Fault:
    """The threshold itself, too large or too small."""

    def damage(graph: Graph, at: Context) -> str:
        negate = at.of_threshold(graph, "Neg")
        tau = negate.input[0]
        readers = [node for node in graph.model.graph.node if tau in node.input and ".probe/" not in node.name]
        half = any(item.name.endswith(".half") for item in graph.model.graph.initializer)
        graph.scaled(tau, factor, readers, np.float16 if half else np.float32)
        return str(negate.name)

    return damage


def batch_leak(graph: Graph, at: Context) -> str:
    """The mean runs over the batch too, as ReduceMean does where its axes are not read."""
    node = at.of_threshold(graph, "GlobalAveragePool")
    opset = graph.model.opset_import[0].version
    mean, zero = f"{node.name}.leak", f"{node.name}.zero"
    if opset >= 18:
        graph.model.graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), f"{mean}.axes"))
        reduce = helper.make_node("ReduceMean", [f"{mean}.in", f"{mean}.axes"], [mean], name=mean, keepdims=1)
    else:
        reduce = helper.make_node("ReduceMean", [f"{mean}.in"], [mean], name=mean, keepdims=1, axes=[0])
    # The mean of one window and the mean of all: written so that the shape keeps the batch.
    own = helper.make_node("GlobalAveragePool", [node.input[0]], [f"{mean}.in"], name=f"{mean}/own")
    none = helper.make_node("Sub", [f"{mean}.in", f"{mean}.in"], [zero], name=zero)
    whole = helper.make_node("Add", [mean, zero], [node.output[0]], name=f"{node.name}")
    graph.before(node, [own, reduce, none, whole])
    graph.model.graph.node.remove(node)
    return str(node.name)


def overflow(graph: Graph, at: Context) -> str:
    """Features in units that FP16 does not hold, and back."""
    subtract = at.of_threshold(graph, "Sub")
    value = subtract.input[0]
    readers = [node for node in graph.model.graph.node if value in node.input and ".probe/" not in node.name]
    graph.scaled(value, 2.0**15, readers, np.float16)
    graph.scaled(f"{value}.fault", 2.0**-15, readers, np.float16)
    return str(subtract.name)


def bit_flip(graph: Graph, at: Context) -> str:
    """One bit of the upper half of a weight."""
    node = at.conv(graph)
    name = graph.weight(node)
    value = graph.get(name)
    words = value.reshape(-1).view(np.uint16 if value.dtype == np.float16 else np.uint32)
    bits = words.dtype.itemsize * 8
    words[int(at.rng.integers(len(words)))] ^= words.dtype.type(1 << int(at.rng.integers(bits // 2, bits)))
    if not np.isfinite(value).all() or np.abs(value.astype(np.float64)).max() > 1e4:
        raise NoPlace  # not a silent one
    graph.set(name, value)
    return str(node.name)


def stale_weights(graph: Graph, at: Context) -> str:
    """One layer as it was some epochs before: a little off everywhere."""
    node = at.conv(graph)
    name = graph.weight(node)
    value = graph.get(name)
    moved = value + 0.1 * value.std() * at.rng.standard_normal(value.shape)
    graph.set(name, moved.astype(value.dtype))
    return str(node.name)


def lost_bias(graph: Graph, at: Context) -> str:
    """Of a convolution."""
    node = at.conv(graph)
    if len(node.input) < 3:
        raise NoPlace
    graph.own(node, 2, np.zeros_like(graph.get(node.input[2])))
    return str(node.name)


def lost_relu(graph: Graph, at: Context) -> str:
    """Between the convolutions of a unit."""
    node = at.pick([node for node in graph.nodes("Relu") if node.name.startswith(f"{at.unit}/")])
    graph.bypass(node)
    return str(node.name)


def lost(op_type: str) -> Fault:
    """An operator of the threshold that is not there: the sign, or the magnitude."""

    def damage(graph: Graph, at: Context) -> str:
        node = at.of_threshold(graph, op_type)
        graph.bypass(node)
        return str(node.name)

    return damage


INT8: dict[str, Fault] = {
    "scale x1.1": scale(1.1),
    "scale x2": scale(2.0),
    "weight scale x1.25": weight_scale,
    "zero-point": zero_point,
    "dropped Q/DQ": dropped_pair,
}
ANY: dict[str, Fault] = {
    "transposed FC": transposed_fc,
    "swapped classes": swapped_classes,
    "wrong BN epsilon": epsilon,
    "swapped channels": swapped_channels,
    "off-by-one pad": padding,
    "sign lost in threshold": lost("Neg"),
    "tau x0.9": threshold(0.9),
    "batch leak": batch_leak,
    "bit flip": bit_flip,
    "stale weights": stale_weights,
    "lost bias": lost_bias,
    "lost ReLU": lost_relu,
    "lost magnitude": lost("Abs"),
}
FP16: dict[str, Fault] = {"fp16 overflow": overflow}
