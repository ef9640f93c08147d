"""Every spelling of soft thresholding becomes the one form; whatever is not soft thresholding stays as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drsn_edge.exporters.canonical import parse, serialise
from drsn_edge.exporters.passes.soft_threshold import SoftThresholdPass, match, non_negative
from drsn_edge.exporters.units import find_units

Fixture = Callable[..., Any]
SHAPE = (2, 3, 5)
CONSTANTS = {"zero": np.zeros((), np.float32), "minus": np.asarray(-1.0, np.float32)}


class Writer:
    """Writes nodes; what a spelling leaves open (order, how to negate) is decided by `choices`."""

    def __init__(self, choices: Iterator[int]) -> None:
        self.nodes: list[tuple[Any, ...]] = []
        self.choices = choices

    def __call__(self, kind: str, *inputs: str, **attributes: Any) -> str:
        if kind in ("Add", "Mul", "Min", "Max") and next(self.choices) % 2:
            inputs = inputs[::-1]
        name = f"v{len(self.nodes)}"
        self.nodes.append((kind, inputs, (name,), attributes))
        return name

    def minus(self, value: str) -> str:
        how = next(self.choices) % 3
        return (
            self("Neg", value) if how == 0 else self("Mul", value, "minus") if how == 1 else self("Sub", "zero", value)
        )

    def positive(self, value: str) -> str:
        return self("Relu", value) if next(self.choices) % 2 else self("Max", value, "zero")

    def excess(self, y: str, t: str) -> str:
        return self("Sub", self("Abs", y), t)

    def shrunk(self, y: str, t: str, *, zeros: bool = False) -> str:
        over = self.excess(y, t)
        return self("Max", over, self("Sub", over, over)) if zeros else self.positive(over)


Spelling = Callable[[Writer, Callable[[], str], Callable[[], str]], str]
# y and t are functions: each call is one place where features or threshold are read.
SPELLINGS: dict[str, Spelling] = {
    "y - max(min)": lambda w, y, t: w("Sub", y(), w("Max", w("Min", y(), t()), w.minus(t()))),
    "y - min(max)": lambda w, y, t: w("Sub", y(), w("Min", w("Max", y(), w.minus(t())), t())),
    "relu(y - t) - relu(-y - t)": lambda w, y, t: w(
        "Sub", w.positive(w("Sub", y(), t())), w.positive(w("Sub", w.minus(y()), t()))
    ),
    "relu(y - t) - relu(-t - y)": lambda w, y, t: w(
        "Sub", w.positive(w("Sub", y(), t())), w.positive(w("Sub", w.minus(t()), y()))
    ),
    "relu(y - t) - relu(-(y + t))": lambda w, y, t: w(
        "Sub", w.positive(w("Sub", y(), t())), w.positive(w("Neg", w("Add", y(), t())))
    ),
    "relu(y - t) + min(y + t, 0)": lambda w, y, t: w(
        "Add", w.positive(w("Sub", y(), t())), w("Min", w("Add", y(), t()), "zero")
    ),
    "sign * relu(|y| - t)": lambda w, y, t: w("Mul", w("Sign", y()), w.shrunk(y(), t())),
    "sign * max(s, s - s)": lambda w, y, t: w("Mul", w("Sign", y()), w.shrunk(y(), t(), zeros=True)),
    "where(|y| > t)": lambda w, y, t: w(
        "Where", w("Greater", w("Abs", y()), t()), w("Mul", w("Sign", y()), w.excess(y(), t())), "zero"
    ),
    "where(|y| >= t)": lambda w, y, t: w(
        "Where", w("GreaterOrEqual", w("Abs", y()), t()), w("Mul", w("Sign", y()), w.excess(y(), t())), "zero"
    ),
}


def write(
    graph: Fixture,
    spelling: Spelling,
    choices: Iterator[int],
    *,
    swapped: tuple[str, int] | None = None,
    tau: tuple[tuple[Any, ...], ...] = (("Abs", ("raw",), ("t",)),),
) -> bytes:
    """A graph of one spelling; in place number `swapped` another tensor of the same shape is read."""
    writer, places = Writer(choices), Counter[str]()

    def place(name: str) -> Callable[[], str]:
        def read() -> str:
            places[name] += 1
            return f"other_{name}" if swapped == (name, places[name]) else name

        return read

    out = spelling(writer, place("y"), place("t"))
    threshold = (SHAPE[0], SHAPE[1], 1)
    data: bytes = graph(
        [*tau, ("Abs", ("raw2",), ("other_t",)), *writer.nodes, ("Identity", (out,), ("out",))],
        inputs={"y": SHAPE, "other_y": SHAPE, "raw": threshold, "raw2": threshold},
        outputs={"out": SHAPE},
        constants=CONSTANTS,
    )
    return data


def feeds(rng: np.random.Generator, *, gain: float = 1.0) -> dict[str, Any]:
    """Features on both sides of the thresholds, on them, and zero."""
    raw = rng.normal(0, gain, (SHAPE[0], SHAPE[1], 1)).astype(np.float32)
    y = rng.normal(0, gain, SHAPE).astype(np.float32)
    y[..., 0], y[..., 1], y[..., 2] = np.abs(raw[..., 0]), -np.abs(raw[..., 0]), 0
    others = {"other_y": rng.normal(0, gain, SHAPE), "raw2": rng.normal(0, gain, raw.shape)}
    return {"y": y, "raw": raw} | {name: value.astype(np.float32) for name, value in others.items()}


def rewrite(data: bytes) -> tuple[bytes, bool]:
    model = parse(data)
    result = SoftThresholdPass()(model)
    return serialise(model), result.modified


@pytest.mark.parametrize("name", SPELLINGS)
@settings(max_examples=12, deadline=None)
@given(
    choices=st.lists(st.integers(0, 5), min_size=12, max_size=12), seed=st.integers(0, 2**20), scale=st.floats(-4, 4)
)
def test_every_spelling_is_recognised_and_keeps_its_values(
    graph: Fixture, run_onnx: Fixture, name: str, choices: list[int], seed: int, scale: float
) -> None:
    before = write(graph, SPELLINGS[name], iter(choices))
    after, modified = rewrite(before)
    assert modified
    kinds = Counter(node.op_type for node in parse(after).graph)
    assert kinds == Counter(Abs=1, Neg=1, Min=1, Max=1, Sub=1, Identity=1)
    values = feeds(np.random.default_rng(seed), gain=10**scale)
    wanted, found = run_onnx(before, **values)["out"], run_onnx(after, **values)["out"]
    np.testing.assert_array_equal(found, wanted)
    tau = np.abs(values["raw"])
    np.testing.assert_array_equal(found == 0, np.broadcast_to(np.abs(values["y"]) <= tau, SHAPE))


@pytest.mark.parametrize("name", SPELLINGS)
def test_another_tensor_in_any_one_place_is_no_soft_threshold(graph: Fixture, run_onnx: Fixture, name: str) -> None:
    counts = Counter[str]()
    SPELLINGS[name](Writer(repeat(0)), lambda: counts.update("y") or "y", lambda: counts.update("t") or "t")
    assert counts["y"] >= 2
    for choice in range(2):
        # Where the threshold is read once, another one there is just another threshold.
        for kind in "yt" if counts["t"] > 1 else "y":
            for place in range(1, counts[kind] + 1):
                data = write(graph, SPELLINGS[name], repeat(choice), swapped=(kind, place))
                _, modified = rewrite(data)
                assert not modified, (kind, place)


@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize(
    "tau",
    [
        (("Identity", ("raw",), ("t",)),),
        (("Abs", ("raw",), ("a",)), ("Neg", ("a",), ("t",))),
        (("Sigmoid", ("raw",), ("a",)), ("Mul", ("a", "raw2"), ("t",))),
        (("Abs", ("raw",), ("a",)), ("Sub", ("a", "zero"), ("t",))),
        (("Abs", ("raw",), ("a",)), ("Min", ("a", "raw2"), ("t",))),
        (("Abs", ("raw",), ("a",)), ("Add", ("a", "minus"), ("t",))),
    ],
    ids=["unknown", "negated", "times unknown", "difference", "min with unknown", "plus negative"],
)
def test_a_threshold_that_might_be_negative_is_left_alone(
    graph: Fixture, name: str, tau: tuple[tuple[Any, ...], ...]
) -> None:
    assert not rewrite(write(graph, SPELLINGS[name], repeat(0), tau=tau))[1]


@pytest.mark.parametrize(
    "tau",
    [
        (("Sigmoid", ("raw",), ("s",)), ("Abs", ("raw2",), ("a",)), ("Mul", ("s", "a"), ("t",))),
        (("Mul", ("raw", "raw"), ("t",)),),
        (("Max", ("raw", "zero"), ("t",)),),
        (("Exp", ("raw",), ("e",)), ("Sqrt", ("e",), ("t",))),
        (("Softplus", ("raw",), ("s",)), ("Abs", ("raw2",), ("a",)), ("Div", ("a", "s"), ("t",))),
        (("Relu", ("raw",), ("r",)), ("Abs", ("raw2",), ("a",)), ("Add", ("a", "r"), ("t",))),
        (("Abs", ("y",), ("a",)), ("GlobalAveragePool", ("a",), ("t",))),
        (("ReduceL1", ("y",), ("t",), {"axes": [2]}),),
    ],
    ids=["paper", "square", "max 0", "exp sqrt", "quotient", "sum", "mean magnitude", "l1"],
)
def test_a_threshold_that_cannot_be_negative_is_seen_to_be(
    graph: Fixture, run_onnx: Fixture, tau: tuple[tuple[Any, ...], ...]
) -> None:
    before = write(graph, SPELLINGS["sign * relu(|y| - t)"], repeat(0), tau=tau)
    after, modified = rewrite(before)
    assert modified
    values = feeds(np.random.default_rng(0))
    np.testing.assert_array_equal(run_onnx(after, **values)["out"], run_onnx(before, **values)["out"])


@pytest.mark.parametrize(
    "spelling",
    [
        lambda w, y, t: w("Sub", y(), w("Max", w("Min", y(), t()), t())),
        lambda w, y, t: w("Add", y(), w("Max", w("Min", y(), t()), w("Neg", t()))),
        lambda w, y, t: w("Sub", w("Max", w("Min", y(), t()), w("Neg", t())), y()),
        lambda w, y, t: w("Sub", y(), w("Max", w("Max", y(), t()), w("Neg", t()))),
        lambda w, y, t: w("Add", w("Relu", w("Sub", y(), t())), w("Relu", w("Sub", w("Neg", y()), t()))),
        lambda w, y, t: w("Sub", w("Relu", w("Sub", y(), t())), w("Relu", w("Sub", y(), t()))),
        lambda w, y, t: w("Sub", w("Relu", w("Sub", t(), y())), w("Relu", w("Sub", w("Neg", y()), t()))),
        lambda w, y, t: w("Add", w("Relu", w("Sub", y(), t())), w("Max", w("Add", y(), t()), "zero")),
        lambda w, y, t: w("Mul", w("Sign", y()), w("Relu", w("Add", w("Abs", y()), t()))),
        lambda w, y, t: w("Mul", y(), w("Relu", w("Sub", w("Abs", y()), t()))),
        lambda w, y, t: w("Where", w("Less", w("Abs", y()), t()), w("Mul", w("Sign", y()), w.excess(y(), t())), "zero"),
        lambda w, y, t: w(
            "Where", w("Greater", w("Abs", y()), t()), w("Mul", w("Sign", y()), w.excess(y(), t())), "minus"
        ),
    ],
)  # fmt: skip
def test_a_wrong_sign_or_order_is_no_soft_threshold(graph: Fixture, spelling: Spelling) -> None:
    assert not rewrite(write(graph, spelling, repeat(0)))[1]


@pytest.mark.parametrize(("low", "high", "found"), [(-0.5, 0.5, True), (-0.5, 0.4, False), (0.5, -0.5, False)])
def test_clip_between_constants(graph: Fixture, run_onnx: Fixture, low: float, high: float, found: bool) -> None:
    before = graph(
        [("Clip", ("y", "low", "high"), ("c",)), ("Sub", ("y", "c"), ("out",))],
        inputs={"y": SHAPE},
        outputs={"out": SHAPE},
        constants={"low": np.asarray(low, np.float32), "high": np.asarray(high, np.float32)},
    )
    after, modified = rewrite(before)
    assert modified == found
    y = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    np.testing.assert_array_equal(run_onnx(after, y=y)["out"], run_onnx(before, y=y)["out"])


def test_clip_between_computed_bounds(graph: Fixture) -> None:
    """Neither ONNX Runtime nor TensorRT 8.6 takes bounds that are tensors: the result runs where this cannot."""
    nodes = [("Abs", ("raw",), ("t",)), ("Neg", ("t",), ("n",)), ("Clip", ("y", "n", "t"), ("c",))]
    model = parse(
        graph([*nodes, ("Sub", ("y", "c"), ("out",))], inputs={"y": SHAPE, "raw": ()}, outputs={"out": SHAPE})
    )
    assert SoftThresholdPass()(model).modified
    assert "Clip" not in {node.op_type for node in model.graph}


def test_a_threshold_larger_than_the_features_is_left_alone(graph: Fixture) -> None:
    """The result has the threshold's shape then: nothing that a unit with features and threshold can describe."""
    nodes = [
        ("Abs", ("raw",), ("t",)),
        ("Neg", ("t",), ("n",)),
        ("Min", ("y", "t"), ("a",)),
        ("Max", ("a", "n"), ("b",)),
    ]
    inputs = {"y": (2, 1, 5), "raw": (2, 3, 1)}
    data = graph([*nodes, ("Sub", ("y", "b"), ("out",))], inputs=inputs, outputs={"out": (2, 3, 5)})
    assert not rewrite(data)[1]


def test_operators_of_other_domains_prove_nothing(graph: Fixture) -> None:
    model = parse(graph([("Abs", ("x",), ("t",))], inputs={"x": (2,)}, outputs={"t": (2,)}))
    (node,) = model.graph
    assert non_negative(node.outputs[0])
    assert not non_negative(node.inputs[0])
    assert not non_negative(None)
    node.domain = "com.example"
    assert not non_negative(node.outputs[0])


def test_a_long_chain_is_followed_to_a_depth_and_no_further(graph: Fixture) -> None:
    def chain(length: int) -> ir.Value:
        steps = [("Flatten", (f"v{i}",), (f"v{i + 1}",)) for i in range(length)]
        model = parse(
            graph(
                [("Abs", ("x",), ("v0",)), *steps, ("Identity", (f"v{length}",), ("out",))],
                inputs={"x": (2, 3)},
                outputs={"out": (2, 3)},
            )
        )
        return model.graph.outputs[0]

    assert non_negative(chain(14))
    assert not non_negative(chain(40))


def test_the_rewritten_form_is_recognised_again_with_the_same_parts(graph: Fixture) -> None:
    model = parse(write(graph, SPELLINGS["sign * relu(|y| - t)"], repeat(0)))
    SoftThresholdPass()(model)
    (found,) = [item for node in model.graph if (item := match(node)) is not None]
    assert (found.features.name, found.tau.name, found.form) == ("y", "t", "y - clamp(y)")
    (unit,) = find_units(model)
    assert (unit.name, unit.branch) == ("shrinkage.0", ()), "a threshold that does not come from the features"
    assert len(unit.nodes) == 4


def test_a_form_that_others_read_as_well_keeps_their_nodes(graph: Fixture, run_onnx: Fixture) -> None:
    """The rest of the spelling stays where somebody else needs it."""
    before = graph(
        [
            ("Abs", ("raw",), ("t",)), ("Abs", ("y",), ("a",)), ("Sub", ("a", "t"), ("s",)), ("Relu", ("s",), ("r",)),
            ("Sign", ("y",), ("sign",)), ("Mul", ("sign", "r"), ("out",)), ("Neg", ("r",), ("second",)),
        ],
        inputs={"y": SHAPE, "raw": (2, 3, 1)}, outputs={"out": SHAPE, "second": SHAPE},
    )  # fmt: skip
    after, modified = rewrite(before)
    assert modified
    values = {name: value for name, value in feeds(np.random.default_rng(3)).items() if name in ("y", "raw")}
    one, other = run_onnx(before, **values), run_onnx(after, **values)
    for name in ("out", "second"):
        np.testing.assert_array_equal(one[name], other[name])
