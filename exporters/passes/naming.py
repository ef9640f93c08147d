"""Names by module path: every later table, error and engine layer speaks in the model's own names."""

from __future__ import annotations

import ast
import re

import onnx_ir as ir

from drsn_edge.exporters.graph_tools import NO_MODULE, SCOPE_KEY, constant


class ModuleNamesPass(ir.passes.InPlacePass):
    """Name nodes, values and initializers after the modules that they come from.

    Given:  nodes with the scope metadata of torch.onnx.export, or with names like `/units.0/conv1/Conv`, or neither.
    Result: 1. nodes `units.0.conv1/Conv`, a second one of the kind in that module `units.0.conv1/Conv_1`,
            2. their outputs `NODE:0`, graph inputs and outputs unchanged,
            3. weights by their parameter (`units.0.conv1.weight`), other constants `NODE.INDEX` of their first reader,
            4. no metadata, no doc strings: no stack traces with paths of the machine that exported.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply."""
        graph = model.graph
        taken: dict[str, int] = {}
        for node in graph:
            stem = f"{_module(node)}/{node.op_type}"
            count = taken.get(stem, 0)
            taken[stem] = count + 1
            node.name = stem if count == 0 else f"{stem}_{count}"
            for index, value in enumerate(node.outputs):
                if not value.is_graph_output():
                    value.name = f"{node.name}:{index}"
                value.metadata_props.clear()
                value.doc_string = None
            node.metadata_props.clear()
            node.doc_string = None
        _name_constants(graph)
        for holder in (model, graph):
            holder.metadata_props.clear()
            holder.doc_string = None
        for value in (*graph.inputs, *graph.outputs):
            value.metadata_props.clear()
            value.doc_string = None
        graph.name = "drsn"
        return ir.passes.PassResult(model, modified=True)


def _module(node: ir.Node) -> str:
    """Module path of a node."""
    scopes = node.metadata_props.get(SCOPE_KEY)
    if scopes:
        try:
            path = [str(part) for part in ast.literal_eval(scopes)][:-1]
        except (ValueError, SyntaxError):
            path = []
        # Shape arithmetic that torch added itself stands under a hook of torch's.
        return next((part for part in reversed(path) if part and not part.startswith("_empty_nn_module")), NO_MODULE)
    name = node.name or ""
    if name.startswith("/"):  # the TorchScript exporter's names
        return ".".join(name.strip("/").split("/")[:-1]) or NO_MODULE
    if "/" in name:  # already ours
        return name.rpartition("/")[0]
    return NO_MODULE


def _name_constants(graph: ir.Graph) -> None:
    """Give every initializer its final name, in the order in which the graph reads them."""
    wanted: dict[ir.Value, str] = {}
    for node in graph:
        for index, value in enumerate(node.inputs):
            if value is not None and value.is_initializer() and value not in wanted:
                wanted[value] = _parameter_name(value.name or "") or f"{node.name}.{index}"
    values = list(wanted)
    graph.initializers.clear()
    used: set[str] = set()
    for value in values:
        name, suffix = wanted[value], 1
        while name in used:
            name, suffix = f"{wanted[value]}.{suffix}", suffix + 1
        used.add(name)
        value.name = name
        array = constant(value)
        if array is not None:
            # A new tensor: names, remarks and the encoding of the old one are whatever the exporter liked.
            value.const_value = ir.tensor(array, name=name)
        value.metadata_props.clear()
        value.doc_string = None
        graph.register_initializer(value)


def _parameter_name(name: str) -> str | None:
    """A parameter's own name without the marks of folding; None for a constant that only the exporter named."""
    name = re.sub(r"\.folded(\.\d+)?$", "", name)
    return name if re.search(r"\.(weight|bias|scale|shift)(\.\d+)?$", name) else None
