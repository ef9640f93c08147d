"""An ONNX file that can be damaged, and where in it a fault goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[Any]


class NoPlace(Exception):
    """The graph has no place for this fault."""


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

    def pick(self, nodes: list[onnx.NodeProto]) -> onnx.NodeProto:
        """One of the nodes, by chance."""
        if not nodes:
            raise NoPlace
        return nodes[int(self.rng.integers(len(nodes)))]

    def conv(self, graph: Graph) -> onnx.NodeProto:
        """A convolution of the unit."""
        return self.of_unit(graph, "Conv")

    def of_unit(self, graph: Graph, op_type: str, part: str = "") -> onnx.NodeProto:
        """A node of the unit's modules whose name holds `part`."""
        return self.pick([node for node in graph.nodes(op_type, part) if node.name.startswith(f"{self.unit}.")])

    def of_threshold(self, graph: Graph, op_type: str) -> onnx.NodeProto:
        """The first node of that kind in the unit's soft threshold and its branch."""
        found = graph.nodes(op_type, f"{self.unit}.shrinkage/")
        if not found:
            raise NoPlace
        return found[0]


# A fault damages the graph and says in which node; raises NoPlace where the graph has none for it.
Fault = Callable[[Graph, Context], str]
