"""The verbs that every pass is written in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from drsn_edge.exporters.canonical import parse, serialise
from drsn_edge.exporters.graph_tools import (
    SCOPE_KEY,
    attribute,
    constant,
    consumers,
    dimension,
    drop_dead,
    emit,
    graph_of,
    initializer,
    only_consumer,
    producer,
    rank,
    replace,
    scalar,
)

Fixture = Callable[..., Any]


@pytest.fixture
def model(graph: Fixture) -> ir.Model:
    """`out = (x + c) * (x + c)`, `side = -(x + c)`."""
    return parse(
        graph(
            [("Add", ("x", "c"), ("a",)), ("Mul", ("a", "a"), ("out",)), ("Neg", ("a",), ("side",))],
            inputs={"x": ("n", 3)}, outputs={"out": ("n", 3), "side": ("n", 3)},
            constants={"c": np.asarray([1.5], np.float32)},
        )
    )  # fmt: skip


def test_looking_around(model: ir.Model) -> None:
    add, mul, neg = model.graph
    a = add.outputs[0]
    assert scalar(add.inputs[1]) == 1.5
    assert constant(a) is None
    assert constant(None) is None
    assert scalar(a) is None
    assert producer(a, "Add") is add
    assert producer(a, "Sub") is None
    assert producer(None, "Add") is None
    assert consumers(a) == [mul, neg], "each once"
    assert only_consumer(a, "Mul", "Neg") is None
    assert attribute(mul, "axis", 7) == 7
    assert (rank(add.inputs[0] or a), dimension(model.graph.inputs[0], 1), dimension(model.graph.inputs[0], 0)) == (
        2,
        3,
        None,
    )
    assert dimension(model.graph.inputs[0], 5) is None


def test_one_reader_that_reads_twice_is_not_one_use(graph: Fixture) -> None:
    add, _ = parse(
        graph([("Abs", ("x",), ("a",)), ("Mul", ("a", "a"), ("out",))], inputs={"x": (2,)}, outputs={"out": (2,)})
    ).graph
    assert only_consumer(add.outputs[0], "Mul") is None


def test_a_graph_output_has_no_only_consumer(graph: Fixture) -> None:
    first, _ = parse(
        graph([("Abs", ("x",), ("a",)), ("Neg", ("a",), ("b",))], inputs={"x": (2,)}, outputs={"a": (2,), "b": (2,)})
    ).graph
    assert only_consumer(first.outputs[0], "Neg") is None


def test_constants_share_a_name_only_when_they_are_the_same(model: ir.Model) -> None:
    one = initializer(model.graph, "k", np.zeros(2, np.float32))
    assert initializer(model.graph, "k", np.zeros(2, np.float32)) is one
    names = [
        initializer(model.graph, "k", value).name
        for value in (np.ones(2, np.float32), np.zeros(2, np.float16), np.zeros((1, 2), np.float32))
    ]
    assert names == ["k.1", "k.2", "k.3"]


def test_emit_keeps_to_the_scope_and_shares_no_shape(model: ir.Model) -> None:
    _, mul, _ = model.graph
    mul.name = "units.0/Mul"
    mul.metadata_props[SCOPE_KEY] = "['', 'units.0', 'mul']"
    source = mul.inputs[0]
    assert source is not None
    source.shape, source.type = ir.Shape(["n", 3]), ir.TensorType(ir.DataType.FLOAT)
    value = emit(mul, "Neg", [source], like=source)
    node = value.producer()
    assert node is not None
    assert (node.name, node.metadata_props[SCOPE_KEY]) == ("units.0/Neg", "['', 'units.0', 'mul']")
    assert value.shape == source.shape
    assert value.shape is not source.shape
    named = emit(mul, "Cast", [source], attributes={"to": 10}, shape=("n", 3), dtype=ir.DataType.FLOAT16, name="here")
    assert (named.name, named.dtype) == ("here:0", ir.DataType.FLOAT16)
    assert [item.op_type for item in model.graph] == ["Add", "Neg", "Cast", "Mul", "Neg"]


def test_replacing_an_output_keeps_the_name_that_callers_know(model: ir.Model) -> None:
    _, mul, _ = model.graph
    before = mul.outputs[0]
    replace(before, emit(mul, "Abs", [mul.inputs[0]]))
    assert [value.name for value in model.graph.outputs] == ["out", "side"]
    assert drop_dead(model.graph)
    assert [node.op_type for node in model.graph] == ["Add", "Abs", "Neg"]
    assert not drop_dead(model.graph)
    parse(serialise(model))


def test_drop_dead_takes_whole_chains_and_their_constants(graph: Fixture) -> None:
    model = parse(
        graph(
            [("Add", ("x", "c"), ("a",)), ("Neg", ("a",), ("b",)), ("Abs", ("x",), ("out",))],
            inputs={"x": (2,)}, outputs={"out": (2,)}, constants={"c": np.ones(2, np.float32)},
        )
    )  # fmt: skip
    assert drop_dead(model.graph)
    assert [node.op_type for node in model.graph] == ["Abs"]
    assert not model.graph.initializers


def test_a_node_in_no_graph_is_a_mistake(model: ir.Model) -> None:
    node = ir.node("Neg", [model.graph.inputs[0]])
    with pytest.raises(TypeError, match="no graph"):
        graph_of(node)
