"""The typed FP16 graph, its emulation, probes and telemetry."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
import pytest
import torch

from drsn_edge.errors import InputError, UsageError
from drsn_edge.exporters.canonical import CanonicalGraph, parse, serialise
from drsn_edge.exporters.passes.half import HalfPrecisionPass
from drsn_edge.exporters.precision import HalfOptions, emulated, to_half, with_probes, with_telemetry

Fixture = Callable[..., Any]
FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


def interpret(data: bytes, window: Any) -> dict[str, Any]:
    """Node by node in float64, each result rounded to the type that the file declares: what typed arithmetic means."""
    proto = onnx.shape_inference.infer_shapes(onnx.load_from_string(data))
    kinds = {item.name: item.type.tensor_type.elem_type for item in (*proto.graph.value_info, *proto.graph.output)}
    values = {item.name: onnx.numpy_helper.to_array(item) for item in proto.graph.initializer} | {"window": window}
    for node in proto.graph.node:
        inputs = [values[name] if name else None for name in node.input]
        wide = [x.astype(np.float64) if x is not None and x.dtype in (np.float16, np.float32) else x for x in inputs]
        kind = onnx.helper.tensor_dtype_to_np_dtype(kinds[node.output[0]])
        if node.op_type == "Cast":
            (found,) = wide
        else:
            session = onnx.reference.ReferenceEvaluator(node)
            feeds = {name: value for name, value in zip(node.input, wide, strict=True) if name}
            (found,) = session.run(None, feeds)
        with np.errstate(over="ignore"):
            values[node.output[0]] = np.asarray(found).astype(kind)
    return {output.name: values[output.name] for output in proto.graph.output}


def check(data: bytes) -> None:
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)


@pytest.mark.parametrize(
    ("model", "dims"), [("drsn-cw", 1), ("drsn-cs", 1), ("drsn-cw", 2), ("resnet", 1), ("convnet", 1), ("senet", 1)]
)
def test_types_are_half_except_where_it_would_hurt(exported: Fixture, model: str, dims: int) -> None:
    _, _, graph = exported(model, dims=dims)
    half = to_half(graph)
    check(half.to_bytes())
    assert {value.name: value.dtype for value in (*half.model.graph.inputs, *half.model.graph.outputs)} == {
        "window": FLOAT, "logits": FLOAT,
    }  # fmt: skip
    before_stem = True
    casts = Counter[tuple[str | None, ir.DataType | None]]()
    for node in half.model.graph:
        before_stem &= node.name != "stem/Conv"
        kinds = {
            value.dtype for value in (*node.inputs, *node.outputs) if value is not None and value.dtype in (FLOAT, HALF)
        }
        if node.op_type == "Cast":
            assert kinds == {FLOAT, HALF}, f"{node.name} changes nothing"
            casts[node.inputs[0].name if node.inputs[0] else None, node.outputs[0].dtype] += 1
        elif before_stem or node.op_type in ("Abs", "GlobalAveragePool"):
            assert kinds == {FLOAT}, node.name
        else:
            assert kinds == {HALF}, node.name
    assert set(casts.values()) == {1}, "one cast per value and type"
    assert all(unit.features.dtype == unit.threshold.dtype == unit.shrunk.dtype == HALF for unit in half.units)
    assert [unit.name for unit in half.units] == [unit.name for unit in graph.units]
    stored = {value.dtype for value in half.model.graph.initializers.values()} - {ir.DataType.INT64}
    assert stored <= {HALF, FLOAT}
    assert json.loads(half.model.metadata_props["drsn_edge.labels"]) == [f"class {index}" for index in range(5)]
    assert half.model.metadata_props["drsn_edge.precision"] == "fp16"
    assert graph.model.metadata_props["drsn_edge.precision"] == "fp32", "the FP32 graph is not touched"


@pytest.mark.parametrize("model", ["drsn-cw", "drsn-cs", "resnet"])
def test_half_graph_computes_what_typed_arithmetic_means(
    exported: Fixture, windows: Fixture, run_onnx: Fixture, model: str
) -> None:
    network, contract, graph = exported(model)
    x = windows(contract, 6)
    data = to_half(graph).to_bytes()
    exact = interpret(data, x)["logits"]
    shown = run_onnx(emulated(data), window=x)["logits"]
    with torch.no_grad():
        single = network(torch.from_numpy(x)).numpy()
    size = np.abs(single).max()
    assert np.abs(shown - exact).max() <= 2e-3 * size, "sums in another order may round one step elsewhere"
    assert np.abs(exact - single).max() <= 1e-2 * size, "within FP16's resolution of the network"
    assert np.abs(exact - single).max() > 1e-6 * size, "and not secretly in FP32"


def test_raw_counts_do_not_overflow_before_they_are_standardised(exported: Fixture, run_onnx: Fixture) -> None:
    network, contract, graph = exported()
    x = np.random.default_rng(0).normal(1e5, 3e5, (4, *contract.shape)).astype(np.float32)
    found = run_onnx(emulated(to_half(graph).to_bytes()), window=x)["logits"]
    with torch.no_grad():
        wanted = network(torch.from_numpy(x)).numpy()
    assert np.abs(found - wanted).max() <= 1e-2 * np.abs(wanted).max()


def test_a_weight_beyond_half_is_refused_by_name(exported: Fixture, make_network: Fixture) -> None:
    graph = exported("resnet")[2].clone()
    weight = graph.model.graph.initializers["units.1.conv1.weight"]
    weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(1e6))
    with pytest.raises(InputError) as caught:
        to_half(graph)
    assert "units.1.conv1.weight" in str(caught.value.got)
    assert "65504" in str(caught.value.got)
    assert "units.1.conv1/Conv" in str(caught.value.got), "the node that could be kept in FP32"
    kept = to_half(graph, options=HalfOptions(keep=frozenset({"units.1.conv1/Conv"})))
    check(kept.to_bytes())


def test_nodes_that_are_to_be_kept_stay_single(exported: Fixture) -> None:
    graph = exported("drsn-cw")[2]
    keep = frozenset({"stem/Conv", "units.1.shrinkage/Max", "fc/Gemm"})
    half = to_half(graph, options=HalfOptions(keep=keep))
    for node in half.model.graph:
        if node.name in keep:
            assert {value.dtype for value in (*node.inputs, *node.outputs) if value is not None} == {FLOAT}
    casts = Counter(node.inputs[0].name for node in half.model.graph if node.op_type == "Cast" and node.inputs[0])
    assert casts["stem/Conv:0"] == 1, "two nodes read it in FP16"
    check(half.to_bytes())
    with pytest.raises(InputError, match=r"units.9.conv1/Conv[\s\S]*nodes of this graph"):
        to_half(graph, options=HalfOptions(keep=frozenset({"units.9.conv1/Conv"})))


def test_two_readers_share_one_cast(graph: Fixture) -> None:
    data = graph(
        [
            ("Conv", ("window", "w"), ("a",)), ("Conv", ("window", "w"), ("b",)), ("Abs", ("a",), ("c",)),
            ("GlobalAveragePool", ("a",), ("d",)), ("Mul", ("c", "d"), ("e",)), ("Add", ("e", "b"), ("logits",)),
        ],
        inputs={"window": ("batch", 1, 8)}, outputs={"logits": ("batch", 2, 6)},
        constants={"w": np.ones((2, 1, 3), np.float32)},
    )  # fmt: skip
    model = parse(onnx.shape_inference.infer_shapes(onnx.load_from_string(data)).SerializeToString())
    half = to_half(CanonicalGraph(model, ()))
    casts = Counter(node.inputs[0].name for node in half.model.graph if node.op_type == "Cast" and node.inputs[0])
    assert (casts["window"], casts["a"]) == (1, 1)


def test_casts_of_the_graphs_own_keep_their_type(graph: Fixture, run_onnx: Fixture) -> None:
    kinds = onnx.TensorProto
    data = graph(
        [
            ("Conv", ("window", "w"), ("c",)), ("Cast", ("c",), ("whole",), {"to": kinds.INT32}),
            ("Cast", ("whole",), ("back",), {"to": kinds.FLOAT}), ("Mul", ("back", "c"), ("m",)),
            ("GlobalAveragePool", ("m",), ("p",)), ("Flatten", ("p",), ("logits",)),
        ],
        inputs={"window": ("batch", 1, 8)}, outputs={"logits": ("batch", 2)},
        constants={"w": np.full((2, 1, 3), 3.0, np.float32)},
    )  # fmt: skip
    model = parse(onnx.shape_inference.infer_shapes(onnx.load_from_string(data)).SerializeToString())
    half = to_half(CanonicalGraph(model, ())).to_bytes()
    check(half)
    x = np.arange(8, dtype=np.float32).reshape(1, 1, 8) / 4
    np.testing.assert_allclose(run_onnx(half, window=x)["logits"], run_onnx(data, window=x)["logits"], rtol=2e-3)


def test_what_to_half_promises_is_checked(exported: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass that left types apart would not get past its caller."""
    convert = HalfPrecisionPass.call

    def careless(self: HalfPrecisionPass, model: ir.Model) -> ir.passes.PassResult:
        result = convert(self, model)
        value = next(node for node in model.graph if node.op_type == "Sigmoid").outputs[0]
        value.type = ir.TensorType(FLOAT)
        return result

    monkeypatch.setattr(HalfPrecisionPass, "call", careless)
    with pytest.raises(InputError, match="not valid ONNX"):
        to_half(exported()[2])


def test_emulation_rounds_as_numpys_half_does(graph: Fixture, run_onnx: Fixture) -> None:
    kinds, c = onnx.TensorProto, np.asarray([3.3, -0.7, 1.1, 0.3], np.float16)
    data = graph(
        [
            ("Cast", ("x",), ("h",), {"to": kinds.FLOAT16}), ("Mul", ("h", "c"), ("m",)), ("Add", ("m", "h"), ("a",)),
            ("Div", ("a", "c"), ("d",)), ("Neg", ("d",), ("n",)), ("Max", ("n", "h"), ("k",)),
            ("Sub", ("k", "d"), ("s",)), ("Cast", ("s",), ("out",), {"to": kinds.FLOAT}),
        ],
        inputs={"x": ("batch", 4)}, outputs={"out": ("batch", 4)}, constants={"c": c},
    )  # fmt: skip
    data = onnx.shape_inference.infer_shapes(onnx.load_from_string(data)).SerializeToString()
    x = np.random.default_rng(0).normal(0, 50, (64, 4)).astype(np.float32)
    h = x.astype(np.float16)
    d = (h * c + h) / c
    wanted = (np.maximum(-d, h) - d).astype(np.float32)
    shown = emulated(data)
    np.testing.assert_array_equal(run_onnx(shown, x=x)["out"], wanted)
    assert {value.dtype for node in parse(shown).graph if node.op_type != "Cast" for value in node.outputs} == {FLOAT}


@pytest.mark.parametrize("model", ["drsn-cw", "convnet"])
def test_emulating_a_single_graph_changes_nothing(exported: Fixture, model: str) -> None:
    data = exported(model)[2].to_bytes()
    assert emulated(data) == data


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("model", "dims"), [("drsn-cw", 1), ("drsn-cs", 1), ("drsn-cs", 2)])
def test_probes_are_those_of_the_network(
    exported: Fixture, windows: Fixture, run_onnx: Fixture, model: str, dims: int, precision: str
) -> None:
    network, contract, graph = exported(model, dims=dims)
    graph = graph if precision == "fp32" else to_half(graph)
    plain, data = graph.to_bytes(), with_probes(graph.to_bytes())
    check(data)
    x = windows(contract, 5)
    found = run_onnx(emulated(data), window=x)
    np.testing.assert_array_equal(found["logits"], run_onnx(emulated(plain), window=x)["logits"])
    assert list(found) == ["logits"] + [
        f"{unit}.{kind}" for unit in network.config.unit_names for kind in ("threshold", "zero_share", "shrunk")
    ]
    with torch.no_grad():
        _, probes = network.probe(torch.from_numpy(x))
    tight = precision == "fp32"
    for unit, probe in probes.items():
        tau, share, shrunk = (found[f"{unit}.{kind}"] for kind in ("threshold", "zero_share", "shrunk"))
        assert {value.dtype for value in (tau, share, shrunk)} == {np.dtype(np.float32)}
        wanted = probe.threshold.numpy()
        assert tau.shape == wanted.shape
        np.testing.assert_allclose(tau, wanted, rtol=0, atol=(1e-5 if tight else 1e-2) * wanted.max())
        size = probe.shrunk.abs().max().item()
        np.testing.assert_allclose(shrunk, probe.shrunk.numpy(), rtol=0, atol=(1e-5 if tight else 2e-2) * size)
        positions = probe.shrunk[0, 0].numel()
        allowed = 0.5 / positions if tight else max(0.05, 1.5 / positions)
        np.testing.assert_allclose(share, probe.zero_share.numpy(), rtol=0, atol=allowed)
        assert 0 < share.mean() < 1
        np.testing.assert_allclose(share, (shrunk == 0).reshape(*share.shape, -1).mean(axis=2), atol=0.5 / positions)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("model", ["drsn-cw", "drsn-cs"])
def test_telemetry_is_the_mean_of_the_probes(
    exported: Fixture, windows: Fixture, run_onnx: Fixture, model: str, precision: str
) -> None:
    network, contract, graph = exported(model)
    data = (graph if precision == "fp32" else to_half(graph)).to_bytes()
    x = windows(contract, 5)
    small, full = run_onnx(with_telemetry(data), window=x), run_onnx(with_probes(data), window=x)
    check(with_telemetry(data))
    assert list(small) == ["logits", "threshold", "zero_share"]
    np.testing.assert_array_equal(small["logits"], full["logits"])
    for name in ("threshold", "zero_share"):
        wanted = np.stack([full[f"{unit}.{name}"].mean(axis=1) for unit in network.config.unit_names], axis=1)
        assert small[name].shape == (5, 2)
        np.testing.assert_allclose(small[name], wanted, rtol=1e-5, atol=1e-6)


def test_telemetry_and_probes_can_stand_together(exported: Fixture, windows: Fixture, run_onnx: Fixture) -> None:
    _, contract, graph = exported()
    data = with_probes(with_telemetry(graph.to_bytes()))
    check(data)
    found = run_onnx(data, window=windows(contract, 2))
    assert list(found)[:4] == ["logits", "threshold", "zero_share", "units.0.threshold"]


def test_a_network_without_thresholds_has_no_probes_and_no_telemetry(exported: Fixture) -> None:
    data = exported("resnet")[2].to_bytes()
    assert with_probes(data) == data
    with pytest.raises(UsageError, match=r"without soft thresholds[\s\S]*a DRSN[\s\S]*--telemetry"):
        with_telemetry(data)


def test_a_threshold_that_is_an_output_already_keeps_its_name(graph: Fixture, run_onnx: Fixture) -> None:
    data = graph(
        [
            ("Abs", ("window",), ("a",)), ("GlobalAveragePool", ("a",), ("t",)), ("Neg", ("t",), ("n",)),
            ("Min", ("window", "t"), ("m",)), ("Max", ("m", "n"), ("k",)), ("Sub", ("window", "k"), ("shrunk",)),
        ],
        inputs={"window": ("batch", 2, 8)}, outputs={"shrunk": ("batch", 2, 8), "t": ("batch", 2, 1)},
    )  # fmt: skip
    data = onnx.shape_inference.infer_shapes(onnx.load_from_string(data)).SerializeToString()
    x = np.random.default_rng(0).normal(size=(3, 2, 8)).astype(np.float32)
    found = run_onnx(with_probes(data), window=x)
    assert list(found) == ["shrunk", "t", *(f"shrinkage.0.{kind}" for kind in ("threshold", "zero_share", "shrunk"))]
    np.testing.assert_array_equal(found["shrunk"], found["shrinkage.0.shrunk"])
    np.testing.assert_array_equal(found["t"][..., 0], found["shrinkage.0.threshold"])


def test_files_of_one_graph_are_deterministic(exported: Fixture) -> None:
    graph = exported("drsn-cs")[2]
    data = graph.to_bytes()
    assert to_half(graph).to_bytes() == to_half(graph).to_bytes()
    assert with_probes(data) == with_probes(data)
    assert serialise(graph.model) == data
