"""Small verbs on `onnx_ir` graphs that every pass uses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

# Where torch.onnx.export keeps the module path of a node; passes hand it on, `ModuleNamesPass` turns it into names.
SCOPE_KEY = "pkg.torch.onnx.name_scopes"
# The module path of nodes that come from no module.
NO_MODULE = "main"


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """The array of an initializer or Constant node; None for anything computed."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else np.asarray(tensor.numpy())


def scalar(value: ir.Value | None) -> float | None:
    """The number of a constant that holds one element."""
    array = constant(value)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


def producer(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node that made a value, if it is one of the operators named."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type in op_types and node.domain in ("", "ai.onnx") else None


def consumers(value: ir.Value) -> list[ir.Node]:
    """Nodes that read a value, each once, in graph order of use."""
    return list(dict.fromkeys(use.node for use in value.uses()))


def only_consumer(value: ir.Value, *op_types: str) -> ir.Node | None:
    """The single reader of a value that is no graph output, if it is one of the operators named."""
    if value.is_graph_output():
        return None
    found = consumers(value)
    return found[0] if len(found) == 1 and len(value.uses()) == 1 and found[0].op_type in op_types else None


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """An attribute's value, or the default of its specification."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def rank(value: ir.Value) -> int | None:
    """Number of dimensions where it is known."""
    return None if value.shape is None else len(value.shape)


def dimension(value: ir.Value, axis: int) -> int | None:
    """A dimension where it is a known number."""
    if value.shape is None or axis >= len(value.shape):
        return None
    size = value.shape[axis]
    return size if isinstance(size, int) else None


def initializer(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """Register a constant under a name that is free or holds the same array."""
    taken = graph.initializers.get(name)
    if taken is not None:
        same = constant(taken)
        if same is not None and same.dtype == array.dtype and np.array_equal(same, array):
            return taken
        suffix = 1
        while f"{name}.{suffix}" in graph.initializers:
            suffix += 1
        name = f"{name}.{suffix}"
    value = ir.Value(
        name=name,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        const_value=ir.tensor(array, name=name),
    )
    graph.register_initializer(value)
    return value


def emit(
    before: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    *,
    attributes: dict[str, Any] | None = None,
    like: ir.Value | None = None,
    shape: Iterable[Any] | None = None,
    dtype: ir.DataType | None = None,
    name: str | None = None,
) -> ir.Value:
    """Insert a node of one output before another, in the same module scope.

    Args:
        before: Where; the new node takes over its module scope.
        op_type: Operator of the default domain.
        inputs: Values, None for an omitted optional input.
        attributes: Plain Python values.
        like: A value whose shape and type the output shares.
        shape: Of the output, where it differs from `like`.
        dtype: Likewise.
        name: Of the node; the output is `name:0`. Without one it stands in the scope of `before` under any name.

    Returns:
        The output.
    """
    path, slash, _ = (before.name or "").rpartition("/")
    node = ir.node(op_type, inputs, attributes=attributes, num_outputs=1, name=name or f"{path}{slash}{op_type}")
    if SCOPE_KEY in before.metadata_props:
        node.metadata_props[SCOPE_KEY] = before.metadata_props[SCOPE_KEY]
    graph_of(before).insert_before(before, node)
    output = node.outputs[0]
    if name is not None:
        output.name = f"{name}:0"
    if like is not None:
        # A copy: values must not share a shape that one of them may later be told more precisely.
        output.shape, output.type = None if like.shape is None else like.shape.copy(), like.type
    if shape is not None:
        output.shape = ir.Shape(shape)
    if dtype is not None:
        output.type = ir.TensorType(dtype)
    return output


def graph_of(node: ir.Node) -> ir.Graph:
    """The graph that holds a node."""
    graph = node.graph
    if not isinstance(graph, ir.Graph):
        raise TypeError(f"node {node.name} is in no graph")
    return graph


def replace(old: ir.Value, new: ir.Value) -> None:
    """Let every reader of `old`, the graph's outputs too, read `new`."""
    if old.is_graph_output() and old.name is not None:
        # A graph output's name is part of the contract: the replacement takes it over.
        name = old.name
        old.name = f"{name}.replaced"
        new.name = name
    if new.shape is None and old.shape is not None:
        new.shape = old.shape.copy()
    if new.type is None:
        new.type = old.type
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


def drop_dead(graph: ir.Graph) -> bool:
    """Remove nodes whose outputs nobody reads, and initializers likewise; True if there were any."""
    modified = False
    for node in reversed(list(graph)):
        if all(not output.uses() and not output.is_graph_output() for output in node.outputs):
            graph.remove(node, safe=True)
            modified = True
    for name in [
        name for name, value in graph.initializers.items() if not value.uses() and not value.is_graph_output()
    ]:
        del graph.initializers[name]
        modified = True
    return modified
