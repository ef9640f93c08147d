"""Means, reshapes, normalisation, opsets and clean-up: each pass against ONNX Runtime."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drsn_edge.exporters.canonical import parse, serialise
from drsn_edge.exporters.passes.batch_norm import FoldBatchNormPass
from drsn_edge.exporters.passes.opset import OpsetPass
from drsn_edge.exporters.passes.pooling import GlobalMeanPass
from drsn_edge.exporters.passes.reshape import StaticReshapePass
from drsn_edge.exporters.passes.simplify import SimplifyPass

Fixture = Callable[..., Any]


def kinds(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def infer(data: bytes) -> ir.Model:
    """With the shapes that passes need; they run behind shape inference in the exporter, too."""
    return parse(onnx.shape_inference.infer_shapes(onnx.load_from_string(data), data_prop=True).SerializeToString())


def assert_same(run_onnx: Fixture, before: bytes, after: bytes, *, rtol: float = 1e-6, **feeds: Any) -> None:
    onnx.checker.check_model(onnx.load_from_string(after), full_check=True)
    wanted, found = run_onnx(before, **feeds), run_onnx(after, **feeds)
    assert wanted.keys() == found.keys()
    for name, value in wanted.items():
        assert found[name].shape == value.shape
        np.testing.assert_allclose(found[name], value, rtol=0, atol=rtol * np.abs(value).max())


def draw(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# Means


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize(
    ("shape", "axes"), [((2, 3, 8), [2]), ((2, 3, 8), [-1]), ((2, 3, 4, 5), [2, 3]), ((2, 3, 4, 5), [-1, 2])]
)
@pytest.mark.parametrize("opset", [17, 18])
def test_means_over_all_positions_become_global_pooling(
    graph: Fixture, run_onnx: Fixture, shape: tuple[int, ...], axes: list[int], keepdims: int, opset: int
) -> None:
    out = (*shape[:2], *([1] * (len(shape) - 2) if keepdims else []))
    axes_input, attributes = (("axes",), {}) if opset == 18 else ((), {"axes": axes})
    before = graph(
        [("ReduceMean", ("x", *axes_input), ("out",), attributes | {"keepdims": keepdims})],
        inputs={"x": shape}, outputs={"out": out}, opset=opset,
        constants={"axes": np.asarray(axes, np.int64)} if opset == 18 else {},
    )  # fmt: skip
    model = infer(before)
    assert GlobalMeanPass()(model).modified
    assert kinds(model) == Counter(GlobalAveragePool=1, Flatten=1 - keepdims)
    assert_same(run_onnx, before, serialise(model), x=draw(*shape))


@pytest.mark.parametrize(
    ("shape", "axes", "keepdims"),
    [((2, 3, 8), [1], 1), ((2, 3, 8), [0, 2], 1), ((2, 3, 4, 5), [3], 1), ((2, 3), [1], 0), ((2, 3, 8), [1, 2], 0)],
)
def test_means_over_other_axes_stay(graph: Fixture, shape: tuple[int, ...], axes: list[int], keepdims: int) -> None:
    out = [1 if axis in axes else size for axis, size in enumerate(shape) if keepdims or axis not in axes]
    before = graph(
        [("ReduceMean", ("x",), ("out",), {"axes": axes, "keepdims": keepdims})],
        inputs={"x": shape},
        outputs={"out": out},
    )
    model = infer(before)
    assert not GlobalMeanPass()(model).modified
    assert kinds(model) == Counter(ReduceMean=1)


def test_a_mean_over_everything_stays(graph: Fixture) -> None:
    model = infer(graph([("ReduceMean", ("x",), ("out",))], inputs={"x": (2, 3, 4)}, outputs={"out": (1, 1, 1)}))
    assert not GlobalMeanPass()(model).modified


@pytest.mark.parametrize("channels", [1, 4, 7])
def test_the_mean_over_channels_is_a_pooling_of_one_row(graph: Fixture, run_onnx: Fixture, channels: int) -> None:
    before = graph(
        [("ReduceMean", ("x",), ("out",), {"axes": [-1], "keepdims": 1})],
        inputs={"x": ("batch", channels)}, outputs={"out": ("batch", 1)},
    )  # fmt: skip
    model = infer(before)
    assert GlobalMeanPass()(model).modified
    assert kinds(model) == Counter(Unsqueeze=1, GlobalAveragePool=1, Flatten=1)
    for batch in (1, 5):
        assert_same(run_onnx, before, serialise(model), x=draw(batch, channels))


def test_a_mean_of_a_flattened_picture_pools_the_picture(graph: Fixture, run_onnx: Fixture) -> None:
    before = graph(
        [
            ("Reshape", ("x", "shape"), ("flat",)),
            ("ReduceMean", ("flat",), ("out",), {"axes": [2], "keepdims": 0}),
        ],
        inputs={"x": ("batch", 3, 4, 5)}, outputs={"out": ("batch", 3)}, constants={"shape": np.asarray([0, 3, 20])},
    )  # fmt: skip
    model = infer(before)
    assert GlobalMeanPass()(model).modified
    assert kinds(model) == Counter(GlobalAveragePool=1, Flatten=1)
    assert_same(run_onnx, before, serialise(model), x=draw(2, 3, 4, 5))


@pytest.mark.parametrize(
    ("attributes", "found"),
    [
        ({"kernel_shape": [8]}, True),
        ({"kernel_shape": [8], "strides": [3]}, True),
        ({"kernel_shape": [8], "auto_pad": "VALID"}, True),
        ({"kernel_shape": [8], "auto_pad": "SAME_UPPER"}, False),
        ({"kernel_shape": [8], "pads": [1, 1]}, False),
        ({"kernel_shape": [4]}, False),
    ],
)
def test_pooling_of_the_whole_length(
    graph: Fixture, run_onnx: Fixture, attributes: dict[str, Any], found: bool
) -> None:
    before = graph([("AveragePool", ("x",), ("out",), attributes)], inputs={"x": (2, 3, 8)}, outputs={"out": None})
    model = infer(before)
    assert GlobalMeanPass()(model).modified == found
    assert_same(run_onnx, before, serialise(model), x=draw(2, 3, 8))


# Reshapes


@pytest.mark.parametrize(
    ("before_shape", "target", "after_shape", "expected"),
    [
        (("batch", 3), [-1, 3, 1], ("batch", 3, 1), "Unsqueeze"),
        (("batch", 3), [-1, 3, 1, 1], ("batch", 3, 1, 1), "Unsqueeze"),
        (("batch", 3, 1), [0, 3], ("batch", 3), "Flatten"),
        (("batch", 3, 1, 1), [-1, 3], ("batch", 3), "Flatten"),
        (("batch", 3), [0, 3], ("batch", 3), ""),
        (("batch", 3, 1), [0, 3, 1, 1], ("batch", 3, 1, 1), "Reshape"),
        (("batch", 4), [0, 2, 2], ("batch", 2, 2), "Reshape"),
        ((1, 4), [1, 2, 2], (1, 2, 2), "Reshape"),
    ],
)
def test_reshapes_that_add_or_drop_ones(
    graph: Fixture, run_onnx: Fixture, before_shape: Any, target: list[int], after_shape: Any, expected: str
) -> None:
    before = graph(
        [("Reshape", ("x", "shape"), ("y",)), ("Neg", ("y",), ("out",))],
        inputs={"x": before_shape}, outputs={"out": after_shape}, constants={"shape": np.asarray(target)},
    )  # fmt: skip
    model = infer(before)
    model.graph[0].outputs[0].shape = ir.Shape(after_shape)
    StaticReshapePass()(model)
    assert kinds(model) == Counter([expected] if expected else []) + Counter(Neg=1)
    batch = before_shape[0] if isinstance(before_shape[0], int) else 5
    assert_same(run_onnx, before, serialise(model), x=draw(batch, *before_shape[1:]))


def test_a_shape_computed_from_the_batch_becomes_a_constant(graph: Fixture, run_onnx: Fixture) -> None:
    before = graph(
        [
            ("Shape", ("x",), ("all",)), ("Gather", ("all", "zero"), ("first",)),
            ("Concat", ("first", "rest"), ("shape",), {"axis": 0}),
            ("Reshape", ("x", "shape"), ("y",)), ("Neg", ("y",), ("out",)),
        ],
        inputs={"x": ("batch", 3, 4)}, outputs={"out": ("batch", 2, 6)},
        constants={"zero": np.asarray([0]), "rest": np.asarray([2, 6])},
    )  # fmt: skip
    model = infer(before)
    reshape = next(node for node in model.graph if node.op_type == "Reshape")
    reshape.outputs[0].shape = ir.Shape(["batch", 2, 6])
    assert StaticReshapePass()(model).modified
    assert kinds(model) == Counter(Reshape=1, Neg=1), "no arithmetic on shapes is left"
    assert_same(run_onnx, before, serialise(model), x=draw(5, 3, 4))


def test_a_fixed_batch_in_a_reshape_is_freed(graph: Fixture, run_onnx: Fixture) -> None:
    model = infer(
        graph(
            [("Reshape", ("x", "shape"), ("y",)), ("Neg", ("y",), ("out",))],
            inputs={"x": (1, 3, 4)}, outputs={"out": (1, 12)}, constants={"shape": np.asarray([1, -1])},
        )
    )  # fmt: skip
    StaticReshapePass()(model)
    model.graph.inputs[0].shape, model.graph.outputs[0].shape = ir.Shape(["n", 3, 4]), ir.Shape(["n", 12])
    x = draw(5, 3, 4)
    np.testing.assert_array_equal(run_onnx(serialise(model), x=x)["out"], -x.reshape(5, 12))


# BatchNormalization


def normalisation(channels: int, seed: int = 1) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "gamma": rng.uniform(0.5, 1.5, channels).astype(np.float32),
        "beta": rng.normal(size=channels).astype(np.float32),
        "mean": rng.normal(size=channels).astype(np.float32),
        "variance": rng.lognormal(size=channels).astype(np.float32),
    }


BN = ("gamma", "beta", "mean", "variance")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("spatial", [(8,), (5, 6)])
@pytest.mark.parametrize("group", [1, 2])
def test_normalisation_folds_into_a_convolution(
    graph: Fixture, run_onnx: Fixture, spatial: tuple[int, ...], bias: bool, group: int
) -> None:
    inputs = ("x", "conv.weight", "conv.bias") if bias else ("x", "conv.weight")
    constants = {"conv.weight": draw(6, 4 // group, *[3] * len(spatial)), "conv.bias": draw(6)}
    before = graph(
        [
            ("Conv", inputs, ("c",), {"group": group, "pads": [1] * 2 * len(spatial)}),
            ("BatchNormalization", ("c", *BN), ("out",), {"epsilon": 1e-3}),
        ],
        inputs={"x": (2, 4, *spatial)}, outputs={"out": (2, 6, *spatial)}, constants=normalisation(6) | constants,
    )  # fmt: skip
    model = infer(before)
    FoldBatchNormPass()(model)
    assert kinds(model) == Counter(Conv=1)
    assert set(model.graph.initializers) == {"conv.weight.folded", "conv.bias.folded"}, "old weights are gone"
    assert_same(run_onnx, before, serialise(model), rtol=1e-5, x=draw(2, 4, *spatial))


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", [(), (5,), (1, 5), (1,), (1, 1), None], ids=str)
def test_normalisation_folds_into_a_matrix_product(
    graph: Fixture, run_onnx: Fixture, transposed: int, bias: tuple[int, ...] | None
) -> None:
    constants = {"fc.weight": draw(5, 3) if transposed else draw(3, 5)}
    if bias is not None:
        constants["fc.bias"] = draw(*bias, seed=2)
    inputs = ("x", *constants)
    before = graph(
        [
            ("Gemm", inputs, ("c",), {"transB": transposed}),
            ("BatchNormalization", ("c", *BN), ("out",)),
        ],
        inputs={"x": (2, 3)}, outputs={"out": (2, 5)}, constants=normalisation(5) | constants,
    )  # fmt: skip
    model = infer(before)
    FoldBatchNormPass()(model)
    assert kinds(model) == Counter(Gemm=1)
    assert_same(run_onnx, before, serialise(model), rtol=1e-5, x=draw(2, 3))


@pytest.mark.parametrize(
    ("attributes", "bias"), [({"alpha": 0.5}, (5,)), ({"beta": 2.0}, (5,)), ({}, (2, 5)), ({}, (2, 1))]
)
def test_a_scaled_product_or_a_bias_per_row_is_not_folded_but_stays_right(
    graph: Fixture, run_onnx: Fixture, attributes: dict[str, Any], bias: tuple[int, ...]
) -> None:
    before = graph(
        [("Gemm", ("x", "w", "b"), ("c",), attributes), ("BatchNormalization", ("c", *BN), ("out",))],
        inputs={"x": (2, 3)}, outputs={"out": (2, 5)}, constants=normalisation(5) | {"w": draw(3, 5), "b": draw(*bias)},
    )  # fmt: skip
    model = infer(before)
    FoldBatchNormPass()(model)
    assert kinds(model) == Counter(Gemm=1, Mul=1, Add=1)
    assert_same(run_onnx, before, serialise(model), rtol=1e-5, x=draw(2, 3))


def test_weights_that_two_convolutions_share_are_folded_for_each(graph: Fixture, run_onnx: Fixture) -> None:
    other = {f"{name}2": value for name, value in normalisation(4, seed=5).items()}
    before = graph(
        [
            ("Conv", ("x", "w", "b"), ("c1",), {"pads": [1, 1]}), ("BatchNormalization", ("c1", *BN), ("n1",)),
            ("Conv", ("n1", "w", "b"), ("c2",), {"pads": [1, 1]}), ("BatchNormalization", ("c2", *other), ("n2",)),
            ("Conv", ("n2", "w", "b"), ("out",), {"pads": [1, 1]}),
        ],
        inputs={"x": (2, 4, 8)}, outputs={"out": (2, 4, 8)},
        constants=normalisation(4) | other | {"w": draw(4, 4, 3), "b": draw(4)},
    )  # fmt: skip
    model = infer(before)
    FoldBatchNormPass()(model)
    assert kinds(model) == Counter(Conv=3)
    assert len(model.graph.initializers) == 6
    assert_same(run_onnx, before, serialise(model), rtol=1e-4, x=draw(2, 4, 8))


@pytest.mark.parametrize("second", ["reader", "output"])
def test_a_convolution_that_others_read_is_not_changed(graph: Fixture, run_onnx: Fixture, second: str) -> None:
    nodes = [("Conv", ("x", "w"), ("c",), {"pads": [1, 1]}), ("BatchNormalization", ("c", *BN), ("out",))]
    nodes += [("Neg", ("c",), ("d",))] if second == "reader" else []
    before = graph(
        nodes, inputs={"x": (2, 4, 8)}, outputs={"out": (2, 4, 8), "d" if second == "reader" else "c": (2, 4, 8)},
        constants=normalisation(4) | {"w": draw(4, 4, 3)},
    )  # fmt: skip
    model = infer(before)
    FoldBatchNormPass()(model)
    assert kinds(model) == Counter(Conv=1, Mul=1, Add=1) + Counter({"Neg": int(second == "reader")})
    assert_same(run_onnx, before, serialise(model), rtol=1e-5, x=draw(2, 4, 8))


@pytest.mark.parametrize("shape", [(2, 4), (2, 4, 8), (2, 4, 3, 5)])
def test_normalisation_of_anything_else_is_a_product_and_a_sum(
    graph: Fixture, run_onnx: Fixture, shape: tuple[int, ...]
) -> None:
    before = graph(
        [("Relu", ("x",), ("r",)), ("BatchNormalization", ("r", *BN), ("out",))],
        inputs={"x": shape}, outputs={"out": shape}, constants=normalisation(4),
    )  # fmt: skip
    model = infer(before)
    FoldBatchNormPass()(model)
    assert kinds(model) == Counter(Relu=1, Mul=1, Add=1)
    assert_same(run_onnx, before, serialise(model), rtol=1e-5, x=draw(*shape))


@settings(max_examples=25, deadline=None)
@given(variance=st.floats(1e-12, 1e6), gamma=st.floats(-4, 4), mean=st.floats(-1e3, 1e3))
def test_folding_loses_no_more_than_float32_does(
    graph: Fixture, run_onnx: Fixture, variance: float, gamma: float, mean: float
) -> None:
    constants = {"gamma": [gamma], "beta": [0.25], "mean": [mean], "variance": [variance], "w": [[[0.5]]], "b": [1.5]}
    before = graph(
        [("Conv", ("x", "w", "b"), ("c",)), ("BatchNormalization", ("c", *BN), ("out",))],
        inputs={"x": (1, 1, 4)}, outputs={"out": (1, 1, 4)},
        constants={name: np.asarray(value, np.float32) for name, value in constants.items()},
    )  # fmt: skip
    model = infer(before)
    FoldBatchNormPass()(model)
    x = draw(1, 1, 4)
    single = {name: float(np.float32(value)) for name, value in (("g", gamma), ("m", mean), ("v", variance))}
    scale = single["g"] / np.sqrt(single["v"] + float(np.float32(1e-5)))
    exact = (0.5 * x.astype(np.float64) + 1.5 - single["m"]) * scale + 0.25
    size = np.abs(exact).max() + abs(scale * (single["m"] + 2)) + 1
    assert np.abs(run_onnx(serialise(model), x=x)["out"] - exact).max() <= 3e-7 * size


def test_statistics_that_are_computed_cannot_be_folded(graph: Fixture) -> None:
    before = graph(
        [("Relu", ("m",), ("mean",)), ("BatchNormalization", ("x", *BN), ("out",))],
        inputs={"x": (2, 4, 8), "m": (4,)}, outputs={"out": (2, 4, 8)},
        constants={name: value for name, value in normalisation(4).items() if name != "mean"},
    )  # fmt: skip
    with pytest.raises(ir.passes.PreconditionError, match="inference mode"):
        FoldBatchNormPass()(infer(before))


def test_what_folding_promises_is_checked(graph: Fixture) -> None:
    """A pass that left a BatchNormalization would not go unnoticed."""

    class Idle(FoldBatchNormPass):
        def call(self, model: ir.Model) -> ir.passes.PassResult:
            return ir.passes.PassResult(model, modified=False)

    before = graph(
        [("BatchNormalization", ("x", *BN), ("out",))],
        inputs={"x": (2, 4, 8)}, outputs={"out": (2, 4, 8)}, constants=normalisation(4),
    )  # fmt: skip
    with pytest.raises(ir.passes.PostconditionError, match="n0"):
        Idle()(infer(before))


# Opsets


@pytest.mark.parametrize("kind", ["ReduceMean", "ReduceMax", "ReduceL1", "ReduceSumSquare"])
@pytest.mark.parametrize("axes", [[1], [0, 2], None])
def test_reductions_are_written_as_the_opset_has_them(
    graph: Fixture, run_onnx: Fixture, kind: str, axes: list[int] | None
) -> None:
    attributes = {} if axes is None else {"axes": axes}
    out = [1 if axes is None or axis in axes else size for axis, size in enumerate((2, 3, 4))]
    old = graph([(kind, ("x",), ("out",), attributes)], inputs={"x": (2, 3, 4)}, outputs={"out": out}, opset=13)
    model = parse(old)
    OpsetPass(18)(model)
    model.graph.opset_imports[""] = 18
    assert_same(run_onnx, old, new := serialise(model), x=draw(2, 3, 4))
    back = parse(new)
    OpsetPass(17)(back)
    back.graph.opset_imports[""] = 17
    assert_same(run_onnx, old, serialise(back), x=draw(2, 3, 4))
    assert not OpsetPass(17)(back).modified


def test_axes_that_are_computed_cannot_be_an_attribute(graph: Fixture) -> None:
    data = graph(
        [("ReduceMean", ("x", "axes"), ("out",))], inputs={"x": (2, 3), "axes": (1,)}, outputs={"out": None}, opset=18,
        kinds={"axes": onnx.TensorProto.INT64},
    )  # fmt: skip
    with pytest.raises(ir.passes.PreconditionError, match="run time"):
        OpsetPass(17)(parse(data))
    empty = graph(
        [("ReduceMean", ("x",), ("out",), {"noop_with_empty_axes": 1})],
        inputs={"x": (2, 3)}, outputs={"out": None}, opset=18,
    )  # fmt: skip
    with pytest.raises(ir.passes.PreconditionError, match="no axes"):
        OpsetPass(17)(parse(empty))


# Clean-up


def test_constants_are_folded_and_what_does_nothing_is_gone(graph: Fixture, run_onnx: Fixture) -> None:
    before = graph(
        [
            ("Constant", (), ("one",), {"value_float": 1.0}), ("Add", ("one", "c"), ("two",)),
            ("Identity", ("x",), ("i",)), ("Dropout", ("i",), ("d",)), ("Mul", ("d", "two"), ("m",)),
            ("Transpose", ("big",), ("turned",), {"perm": [1, 0]}), ("MatMul", ("m", "turned"), ("out",)),
            ("Neg", ("x",), ("dead",)), ("Abs", ("dead",), ("deader",)),
        ],
        inputs={"x": (2, 64)}, outputs={"out": (2, 96)},
        constants={"c": np.asarray(2.5, np.float32), "big": draw(96, 64), "unused": draw(3)},
    )  # fmt: skip
    model = parse(before)
    SimplifyPass()(model)
    assert kinds(model) == Counter(Mul=1, MatMul=1)
    assert len(model.graph.initializers) == 2
    assert model.graph[0].outputs[0].shape == ir.Shape([2, 64]), "shapes are inferred"
    assert_same(run_onnx, before, serialise(model), x=draw(2, 64))


def test_an_output_that_is_an_input_keeps_its_identity(graph: Fixture, run_onnx: Fixture) -> None:
    before = graph([("Identity", ("x",), ("out",))], inputs={"x": (2, 3)}, outputs={"out": (2, 3)})
    model = parse(before)
    SimplifyPass()(model)
    assert [value.name for value in (*model.graph.inputs, *model.graph.outputs)] == ["x", "out"]
    assert_same(run_onnx, before, serialise(model), x=draw(2, 3))


def test_simplifying_leaves_other_peoples_logging_alone(graph: Fixture) -> None:
    logger = logging.getLogger("onnxscript")
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        SimplifyPass()(parse(graph([("Neg", ("x",), ("out",))], inputs={"x": (2,)}, outputs={"out": (2,)})))
        assert logger.level == logging.INFO
    finally:
        logger.setLevel(level)
