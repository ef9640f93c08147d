"""The fake-quantized network is the INT8 graph: held against ONNX Runtime, NumPy and the exporter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from drsn_edge.calibration.observers import round_weights
from drsn_edge.calibration.offsets import full_range_layers
from drsn_edge.calibration.plan import make_plan
from drsn_edge.calibration.quantize import quantize
from drsn_edge.errors import InputError
from drsn_edge.exporters.torch_graph import export_network
from drsn_edge.model.fake_quant import FakeQuantConv, FakeQuantNetwork, fake_quantize, folded_norms, weight_scales
from drsn_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner

LABELS = tuple("abcde")


@pytest.fixture(scope="module")
def made(make_network: Callable[..., Any]) -> Callable[..., tuple[Any, Any, Any]]:
    """A new network each time, its contract, and its graph, which is exported once: torch's exporter is slow."""
    graphs: dict[Any, Any] = {}

    def make(model: str, **options: Any) -> tuple[Any, Any, Any]:
        network, contract = make_network(model, **({"widths": (4, 7), "units": (2, 1)} | options))
        key = (model, *options.items())
        if key not in graphs:
            graphs[key] = export_network(network, contract=contract, labels=LABELS)
        return network, contract, graphs[key]

    return make


def scales_of(graph: Any, *, first: bool = False) -> tuple[Any, dict[str, float]]:
    plan = make_plan(graph, quantize_first=first)
    return plan, {row.layer: float(np.float32(0.03 + 0.004 * index)) for index, row in enumerate(plan.int8)}


@pytest.mark.parametrize(
    "model",
    ["drsn-cw", "convnet", *(pytest.param(name, marks=pytest.mark.slow) for name in ("drsn-cs", "resnet", "senet"))],
)
def test_the_exporter_folds_where_the_training_does(model: str, made: Callable[..., Any]) -> None:
    network, _, graph = made(model)
    convolutions = {name.removesuffix("/Conv") for name in graph.folded if name.endswith("/Conv")}
    assert convolutions == set(folded_norms(network.config))


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("drsn-cw", {}),
        ("convnet", {}),
        pytest.param("drsn-cs", {}, marks=pytest.mark.slow),
        pytest.param("drsn-cw", {"dims": 2}, marks=pytest.mark.slow),
    ],
)
def test_the_int8_graph_equals_the_fake_quantized_forward(
    model: str, options: dict[str, Any], made: Callable[..., Any]
) -> None:
    network, contract, graph = made(model, **options)
    plan, scales = scales_of(graph, first=True)
    full = full_range_layers(graph, list(scales))
    assert 0 < len(full) < len(scales), "both kinds"
    windows = np.random.default_rng(0).standard_normal((64, *contract.shape)).astype(np.float32)
    with OnnxRuntimeRunner(
        quantize(graph, plan=plan, scales=scales, full_range=full, glue="fp32").to_bytes()
    ) as runner:
        found = runner.run({"window": windows})["logits"]
    with torch.no_grad():
        wanted = FakeQuantNetwork(network, scales, full_range=full).eval()(torch.from_numpy(windows)).numpy()
        plain = network(torch.from_numpy(windows)).numpy()
    error = np.abs(found - wanted).max(axis=1) / np.abs(wanted).max()
    # Sums in another order may round a value on the edge of two integers to the other one: in few windows, by little.
    assert np.mean(error < 1e-5) > 0.7
    assert error.max() < 0.02
    # A comparison that could not fail: the network without rounding is not that near to any window.
    assert np.mean(np.abs(plain - wanted).max(axis=1) / np.abs(wanted).max() < 1e-4) < 0.05


def test_weights_are_rounded_as_the_exporter_rounds_them(made: Callable[..., Any]) -> None:
    network, _, graph = made("drsn-cw")
    _, scales = scales_of(graph)
    student = FakeQuantNetwork(network, scales)
    constants = {value.name: value.const_value.numpy() for value in graph.model.graph.initializers.values()}
    nodes = {node.name: node for node in graph.model.graph}
    for layer in scales:
        module = student.network.get_submodule(layer.removesuffix("/Conv"))
        assert isinstance(module, FakeQuantConv)
        weight, bias = module.folded()
        node = nodes[layer]
        np.testing.assert_array_equal(weight.detach().numpy(), constants[node.inputs[1].name])
        np.testing.assert_array_equal(bias.detach().numpy(), constants[node.inputs[2].name])
        rounded = fake_quantize(weight, weight_scales(weight)).detach().numpy()
        np.testing.assert_array_equal(rounded, round_weights(weight.detach().numpy()))


@pytest.fixture(scope="module")
def pair() -> Any:
    """A Q/DQ pair with its scale as an input, in ONNX Runtime."""
    ort, onnx = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
    helper, tensor = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info(name, tensor.FLOAT, shape) for name, shape in (("x", [64]), ("s", []))]
    output = helper.make_tensor_value_info("y", tensor.FLOAT, [64])
    zero = helper.make_tensor("z", tensor.INT8, [], [0])
    graph = helper.make_graph(nodes, "pair", inputs, [output], [zero])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@given(
    x=arrays.arrays(np.float32, 64, elements=st.floats(-300, 300, width=32)),
    scale=st.floats(2**-6, 4, width=32),
)
def test_rounding_is_that_of_onnx(pair: Any, x: np.ndarray, scale: float) -> None:
    (wanted,) = pair.run(None, {"x": x, "s": np.asarray(scale, np.float32)})
    found = fake_quantize(torch.from_numpy(x), torch.tensor(scale, dtype=torch.float32)).numpy()
    np.testing.assert_array_equal(found, wanted)


def test_halves_go_to_the_even_integer_and_ends_are_those_of_int8() -> None:
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 1000.0, -1000.0])
    assert fake_quantize(x, torch.tensor(1.0)).tolist() == [0, 2, 2, 0, -2, 127, -128]


def test_gradients_go_straight_through_what_is_not_clipped() -> None:
    x = torch.tensor([0.2, 3.4, 500.0, -500.0], requires_grad=True)
    scale = torch.tensor(2.0, requires_grad=True)
    fake_quantize(x, scale).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.tolist() == [1, 1, 0, 0]
    assert scale.grad is not None
    # Esser et al. 2020, equation 3, by hand: round(v/s) - v/s inside, the bound outside.
    by_hand = (0 - 0.1) + (2 - 1.7) + 127 - 128
    assert float(scale.grad) == pytest.approx(by_hand * (4 * 127) ** -0.5, rel=1e-5)


def test_the_network_trains_through_it_and_its_statistics_stay(made: Callable[..., Any]) -> None:
    network, contract, graph = made("drsn-cw")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    _, scales = scales_of(graph)
    student = FakeQuantNetwork(network, scales, learned=True).train()
    assert student.scales == scales
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01)
    student(torch.randn(16, *contract.shape, generator=torch.Generator().manual_seed(1))).square().sum().backward()
    optimizer.step()
    after = network.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"units.0.conv1.weight", "units.0.bn2.weight", "units.0.shrinkage.gate.fc1.weight", "fc.bias"} <= moved
    assert not {name for name in moved if "running" in name or "num_batches" in name}
    assert set(before) == set(after)
    changed = [layer for layer, scale in student.scales.items() if scale != scales[layer]]
    assert len(changed) == len(scales)
    assert min(student.scales.values()) > 0


def test_packed_and_plain_training_agree(made: Callable[..., Any]) -> None:
    network, contract, graph = made("drsn-cw")
    student = FakeQuantNetwork(network, scales_of(graph)[1])
    x = torch.randn(16, *contract.shape, generator=torch.Generator().manual_seed(1))
    packed = student.train()(x).detach()
    plain = student.eval()(x).detach()
    close = (packed - plain).abs().amax(dim=1) <= 1e-5 * plain.abs().max()
    assert close.float().mean() > 0.7


def test_a_layer_that_is_not_there_is_named(make_network: Callable[..., Any]) -> None:
    network, _ = make_network("drsn-cw")
    with pytest.raises(InputError, match="quantizes something that the network does not have") as caught:
        FakeQuantNetwork(network, {"units.9.conv1/Conv": 0.1})
    assert "units.9.conv1/Conv" in str(caught.value.got)
    with pytest.raises(InputError):
        FakeQuantNetwork(network, {"units.0.shrinkage.gate.fc1/Conv": 0.1})
