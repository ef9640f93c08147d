"""Faults in graphs and in what an engine is fed, for `benchmarks.fault_injection`. Each is small, seeded and silent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[Any]


class Graph:
    """An ONNX file that can be damaged: nodes by kind, constants by name."""

    def __init__(self, data: bytes) -> None:
        self.model = onnx.load_from_string(data)
        self.constants = {item.name: item for item in self.model.graph.initializer}

    def nodes(self, op_type: str, part: str = "") -> list[onnx.NodeProto]:
        """In order, those whose name holds `part`; nodes of the probes are no part of the network."""
        return [
            node
            for node in self.model.graph.node
            if node.op_type == op_type and part in node.name and ".probe/" not in node.name
        ]

    def get(self, name: str) -> Array:
        return numpy_helper.to_array(self.constants[name]).copy()

    def set(self, name: str, value: Array) -> None:
        self.constants[name].CopyFrom(numpy_helper.from_array(np.array(value, order="C"), name))

    def weight(self, node: onnx.NodeProto) -> str:
        """The constant behind the weight of a node, through Q/DQ where it has them."""
        makers = {node.output[0]: node for node in self.model.graph.node}
        name = node.input[1]
        while name not in self.constants:
            name = makers[name].input[0]
        return str(name)

    def own(self, node: onnx.NodeProto, index: int, value: Array) -> None:
        """Give a node a constant of its own: others may share the old one."""
        name = f"{node.name}.fault.{index}"
        self.model.graph.initializer.append(numpy_helper.from_array(np.array(value, order="C"), name))
        node.input[index] = name

    def bypass(self, node: onnx.NodeProto) -> None:
        """Let the readers of a node read its input."""
        for reader in self.model.graph.node:
            for index, name in enumerate(reader.input):
                if name == node.output[0] and ".probe/" not in reader.name:
                    reader.input[index] = node.input[0]

    def before(self, node: onnx.NodeProto, added: list[onnx.NodeProto]) -> None:
        place = next(index for index, item in enumerate(self.model.graph.node) if item.name == node.name)
        for offset, item in enumerate(added):
            self.model.graph.node.insert(place + offset, item)

    def scaled(self, value: str, factor: float, readers: list[onnx.NodeProto], dtype: Any) -> None:
        """Multiply a value on its way to some of its readers."""
        name = f"{value}.fault"
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(factor, dtype), f"{name}.factor"))
        self.before(readers[0], [helper.make_node("Mul", [value, f"{name}.factor"], [name], name=f"fault/{value}")])
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.model.graph.value_info.append(helper.make_tensor_value_info(name, kind, None))
        for reader in readers:
            for index, used in enumerate(reader.input):
                if used == value:
                    reader.input[index] = name

    def bytes(self) -> bytes:
        return bytes(self.model.SerializeToString())


@dataclass(frozen=True)
class Context:
    """What a fault may know: the unit it is to hit, chance, variances of BatchNormalizations."""

    unit: str
    rng: np.random.Generator
    variances: Mapping[str, Array]


# A fault damages the graph and says in which node, or returns None where the graph has no such place.
Fault = Callable[[Graph, Context], "str | None"]


def _pick(nodes: list[onnx.NodeProto], at: Context) -> onnx.NodeProto | None:
    return nodes[int(at.rng.integers(len(nodes)))] if nodes else None


def _unit_conv(graph: Graph, at: Context) -> onnx.NodeProto | None:
    return _pick([node for node in graph.nodes("Conv") if node.name.startswith(f"{at.unit}.")], at)


def scale(factor: float) -> Fault:
    def damage(graph: Graph, at: Context) -> str | None:
        steps = [node for node in graph.nodes("QuantizeLinear", ".input/") if node.name.startswith(f"{at.unit}.")]
        step = _pick(steps, at)
        if step is None:
            return None
        name = step.input[1]
        graph.set(name, (graph.get(name) * factor).astype(np.float32))
        return str(step.name)

    return damage


def weight_scale(graph: Graph, at: Context) -> str | None:
    steps = [node for node in graph.nodes("DequantizeLinear", ".weight/") if node.name.startswith(f"{at.unit}.")]
    step = _pick(steps, at)
    if step is None:
        return None
    value = graph.get(step.input[1])
    value[int(at.rng.integers(len(value)))] *= 1.25
    graph.own(step, 1, value)
    return str(step.name)


def zero_point(graph: Graph, at: Context) -> str | None:
    steps = [node for node in graph.nodes("DequantizeLinear", ".input/") if node.name.startswith(f"{at.unit}.")]
    step = _pick(steps, at)
    if step is None:
        return None
    graph.own(step, 2, np.asarray(at.rng.choice([-8, 4, 16]), np.int8))
    return str(step.name)


def dropped_pair(graph: Graph, at: Context) -> str | None:
    steps = [node for node in graph.nodes("QuantizeLinear", ".input/") if node.name.startswith(f"{at.unit}.")]
    step = _pick(steps, at)
    if step is None:
        return None
    restore = next(node for node in graph.nodes("DequantizeLinear") if node.input[0] == step.output[0])
    graph.bypass(restore)
    for node in graph.model.graph.node:
        for index, name in enumerate(node.input):
            if name == step.output[0] and node.op_type != "DequantizeLinear":
                node.input[index] = step.input[0]
    return str(step.name)


def transposed_fc(graph: Graph, at: Context) -> str | None:
    """Of the threshold branch, whose matrices are square and give no error."""
    gates = [node for node in graph.nodes("Gemm", ".gate.") if node.name.startswith(f"{at.unit}.")]
    square = [node for node in gates if len(set(graph.get(graph.weight(node)).shape)) == 1]
    node = _pick(square, at)
    if node is None:
        return None
    graph.set(graph.weight(node), graph.get(graph.weight(node)).T)
    return str(node.name)


def swapped_classes(graph: Graph, at: Context) -> str | None:
    del at
    node = graph.nodes("Gemm")[-1]
    name = graph.weight(node)
    value = graph.get(name)
    axis = int(np.argmin(value.shape))
    graph.set(name, np.roll(value, 1, axis=axis))
    return "logits"


def epsilon(graph: Graph, at: Context) -> str | None:
    """A BatchNormalization folded with another epsilon."""
    node = next((node for node in graph.nodes("Mul", f"{at.unit}.bn1/")), None)
    variance = at.variances.get(f"{at.unit}.bn1")
    if node is None or variance is None:
        return None
    value = graph.get(node.input[1])
    factor = np.sqrt((variance + 1e-5) / (variance + float(at.rng.choice([1e-3, 1e-2, 0.1]))))
    graph.set(node.input[1], (value * factor.reshape(value.shape)).astype(value.dtype))
    return str(node.name)


def swapped_channels(graph: Graph, at: Context) -> str | None:
    node = _unit_conv(graph, at)
    if node is None:
        return None
    name = graph.weight(node)
    value = graph.get(name)
    one, two = at.rng.choice(value.shape[1], 2, replace=False)
    value[:, [one, two]] = value[:, [two, one]]
    graph.set(name, value)
    return str(node.name)


def padding(graph: Graph, at: Context) -> str | None:
    """One sample too far: `[1, 1]` becomes `[2, 0]`, and every shape stays."""
    node = _unit_conv(graph, at)
    pads = next((item for item in node.attribute if item.name == "pads"), None) if node is not None else None
    if node is None or pads is None or min(pads.ints) < 1:
        return None
    before, after = pads.ints[0] + 1, pads.ints[1] - 1
    del pads.ints[:]
    pads.ints.extend([before, after])
    return str(node.name)


def lost_sign(graph: Graph, at: Context) -> str | None:
    node = next(iter(graph.nodes("Neg", f"{at.unit}.shrinkage/")), None)
    if node is None:
        return None
    graph.bypass(node)
    return str(node.name)


def threshold(factor: float) -> Fault:
    def damage(graph: Graph, at: Context) -> str | None:
        negate = next(iter(graph.nodes("Neg", f"{at.unit}.shrinkage/")), None)
        if negate is None:
            return None
        tau = negate.input[0]
        readers = [node for node in graph.model.graph.node if tau in node.input and ".probe/" not in node.name]
        half = any(item.name.endswith(".half") for item in graph.model.graph.initializer)
        graph.scaled(tau, factor, readers, np.float16 if half else np.float32)
        return str(negate.name)

    return damage


def batch_leak(graph: Graph, at: Context) -> str | None:
    """The mean runs over the batch too, as ReduceMean does where its axes are not read."""
    node = next(iter(graph.nodes("GlobalAveragePool", f"{at.unit}.shrinkage/")), None)
    if node is None:
        return None
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


def overflow(graph: Graph, at: Context) -> str | None:
    """Features in units that FP16 does not hold, and back."""
    subtract = next(iter(graph.nodes("Sub", f"{at.unit}.shrinkage/")), None)
    if subtract is None:
        return None
    value = subtract.input[0]
    readers = [node for node in graph.model.graph.node if value in node.input and ".probe/" not in node.name]
    graph.scaled(value, 2.0**15, readers, np.float16)
    graph.scaled(f"{value}.fault", 2.0**-15, readers, np.float16)
    return str(subtract.name)


def bit_flip(graph: Graph, at: Context) -> str | None:
    node = _unit_conv(graph, at)
    if node is None:
        return None
    name = graph.weight(node)
    value = graph.get(name)
    words = value.reshape(-1).view(np.uint16 if value.dtype == np.float16 else np.uint32)
    bits = words.dtype.itemsize * 8
    words[int(at.rng.integers(len(words)))] ^= words.dtype.type(1 << int(at.rng.integers(bits // 2, bits)))
    if not np.isfinite(value).all() or np.abs(value.astype(np.float64)).max() > 1e4:
        return None
    graph.set(name, value)
    return str(node.name)


def stale_weights(graph: Graph, at: Context) -> str | None:
    """One layer as it was some epochs before: a little off everywhere."""
    node = _unit_conv(graph, at)
    if node is None:
        return None
    name = graph.weight(node)
    value = graph.get(name)
    moved = value + 0.1 * value.std() * at.rng.standard_normal(value.shape)
    graph.set(name, moved.astype(value.dtype))
    return str(node.name)


def lost_bias(graph: Graph, at: Context) -> str | None:
    node = _unit_conv(graph, at)
    if node is None or len(node.input) < 3:
        return None
    graph.own(node, 2, np.zeros_like(graph.get(node.input[2])))
    return str(node.name)


def lost_relu(graph: Graph, at: Context) -> str | None:
    node = _pick([node for node in graph.nodes("Relu") if node.name.startswith(f"{at.unit}/")], at)
    if node is None:
        return None
    graph.bypass(node)
    return str(node.name)


def lost_magnitude(graph: Graph, at: Context) -> str | None:
    node = next(iter(graph.nodes("Abs", f"{at.unit}.shrinkage/")), None)
    if node is None:
        return None
    graph.bypass(node)
    return str(node.name)


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
    "sign lost in threshold": lost_sign,
    "tau x0.9": threshold(0.9),
    "batch leak": batch_leak,
    "bit flip": bit_flip,
    "stale weights": stale_weights,
    "lost bias": lost_bias,
    "lost ReLU": lost_relu,
    "lost magnitude": lost_magnitude,
}
FP16: dict[str, Fault] = {"fp16 overflow": overflow}


def _resampled(x: Array) -> Array:
    """The window as a sensor at 12.8 kHz instead of 12 kHz gives it."""
    place = np.arange(x.shape[-1]) * (12.0 / 12.8)
    grid = np.arange(x.shape[-1])
    flat = x.reshape(-1, x.shape[-1])
    return np.stack([np.interp(place, grid, row) for row in flat]).reshape(x.shape).astype(np.float32)


def _wrapped(x: Array) -> Array:
    """int16 that wraps: full scale taken for half of what the windows reach."""
    top = np.abs(x).max(axis=-1, keepdims=True) / 2 + 1e-30
    return np.asarray((x + top) % (2 * top) - top, dtype=np.float32)


# What an engine is fed on the device, in place of the window.
INPUTS: dict[str, Callable[[Array], Array]] = {
    "wrong sampling rate": _resampled,
    "gain x2": lambda x: x * np.float32(2),
    "channel order": lambda x: np.ascontiguousarray(x[:, ::-1]),
    "polarity": lambda x: -x,
    "stale buffer": lambda x: np.roll(x, 1, axis=0),
    "wrapped int16": _wrapped,
}
