"""The shrinkage units of a canonical graph: where the thresholds are, and which nodes make them."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from drsn_edge.exporters.graph_tools import consumers
from drsn_edge.exporters.passes.soft_threshold import match


@dataclass(frozen=True)
class ShrinkageUnit:
    """One soft threshold with everything that feeds it.

    Attributes:
        name: Module path of the unit, e.g. `units.3`; `shrinkage.N` where the graph does not tell.
        features: What is shrunk, `[batch, channels, ...]`.
        threshold: `[batch, channels, 1, ...]` or `[batch, 1, 1, ...]` when channel-shared.
        shrunk: The result.
        branch: Nodes between features and threshold, in graph order: never quantized.
    """

    name: str
    features: ir.Value
    threshold: ir.Value
    shrunk: ir.Value
    branch: tuple[ir.Node, ...]

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """The branch and the four nodes of the soft threshold itself."""
        own: list[ir.Node] = []
        stack = [self.shrunk.producer()]
        while stack:
            node = stack.pop()
            if node is not None and node not in own and node not in self.branch:
                own.append(node)
                stack.extend(v.producer() for v in node.inputs if v not in (None, self.features, self.threshold) and v)
        return (*self.branch, *own)


def find_units(model: ir.Model) -> tuple[ShrinkageUnit, ...]:
    """The units in graph order; a graph without soft thresholds has none."""
    units: list[ShrinkageUnit] = []
    for node in model.graph:
        found = match(node)
        if found is not None:
            units.append(
                ShrinkageUnit(
                    name=_unit_name(node, len(units)),
                    features=found.features,
                    threshold=found.tau,
                    shrunk=node.outputs[0],
                    branch=_between(model.graph, found.features, found.tau),
                )
            )
    return tuple(units)


def _unit_name(node: ir.Node, index: int) -> str:
    """From a node name `units.3.shrinkage/Sub`; the last part of the module path is the layer's own name."""
    path, slash, _ = (node.name or "").rpartition("/")
    if not slash or not path:
        return f"shrinkage.{index}"
    return path.rpartition(".")[0] or path


def _between(graph: ir.Graph, start: ir.Value, end: ir.Value) -> tuple[ir.Node, ...]:
    """Nodes on any path from `start` to `end`."""
    after: set[ir.Node] = set()
    stack = consumers(start)
    while stack:
        node = stack.pop()
        if node not in after:
            after.add(node)
            for output in node.outputs:
                stack.extend(consumers(output))
    before: set[ir.Node] = set()
    pending = [end.producer()]
    while pending:
        maker = pending.pop()
        if maker is not None and maker not in before:
            before.add(maker)
            pending.extend(value.producer() for value in maker.inputs if value is not None)
    return tuple(node for node in graph if node in after and node in before)
