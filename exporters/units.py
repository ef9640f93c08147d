"""The shrinkage units of a canonical graph: where the thresholds are, and which nodes make them."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from drsn_edge.exporters.graph_tools import NO_MODULE, consumers
from drsn_edge.exporters.passes.soft_threshold import match


@dataclass(frozen=True)
class ShrinkageUnit:
    """One soft threshold with everything that feeds it.

    Attributes:
        name: Module path of the unit, e.g. `units.3`; `shrinkage.N` where the graph does not tell units apart.
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
    found = [item for node in model.graph if (item := match(node)) is not None]
    return tuple(
        ShrinkageUnit(
            name=name,
            features=item.features,
            threshold=item.tau,
            shrunk=item.root.outputs[0],
            branch=_between(model.graph, item.features, item.tau),
        )
        for item, name in zip(found, _unit_names([item.root for item in found]), strict=True)
    )


def _unit_names(roots: list[ir.Node]) -> list[str]:
    """A name for each, none twice: outputs are called after them.

    Of a node name `units.3.shrinkage/Sub` the last part of the module path is the layer's own name and goes; where two
    layers stand in one module, or the graph has no modules, nothing is lost by a number.
    """
    paths = [(root.name or "").rpartition("/")[0] for root in roots]
    names = [path.rpartition(".")[0] or path for path in paths]
    return [
        f"shrinkage.{index}" if name in ("", NO_MODULE) or names.count(name) > 1 else name
        for index, name in enumerate(names)
    ]


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
