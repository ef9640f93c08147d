"""Graphs that others made: TorchScript's exporter, old opsets, fixed batches, and what is refused."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import onnx
import onnx.version_converter
import onnx_ir as ir
import pytest
import torch

from drsn_edge.errors import InputError
from drsn_edge.exporters.canonical import STANDARD_OPS, canonicalise, parse
from drsn_edge.exporters.torch_graph import export_network
from drsn_edge.exporters.units import find_units
from drsn_edge.signals.contract import SignalContract

Fixture = Callable[..., Any]
LABELS = ("a", "b", "c", "d", "e")
CONTRACT = SignalContract(sample_rate_hz=1000.0, window=16, channels=("x", "y", "z"))


def torchscript(network: Any, contract: Any, **options: Any) -> bytes:
    """The exporter that most ONNX files of the last years came from."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.zeros(1, *contract.shape),), cast("Any", stream), dynamo=False, input_names=["input"],
            output_names=["output"], **({"opset_version": 13} | options),
        )  # fmt: skip
    return stream.getvalue()


@pytest.mark.parametrize(("model", "dims"), [("drsn-cw", 1), ("drsn-cs", 2), ("senet", 2)])
@pytest.mark.parametrize(
    "options",
    [
        {"dynamic_axes": {"input": {0: "n"}, "output": {0: "n"}}},
        {},
        {"opset_version": 11, "keep_initializers_as_inputs": True, "do_constant_folding": False},
        {"opset_version": 16, "training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False},
    ],
    ids=["dynamic", "fixed batch", "old", "unfolded"],
)
def test_torchscript_exports_get_the_form_of_our_own(
    make_network: Fixture, windows: Fixture, run_onnx: Fixture, model: str, dims: int, options: dict[str, Any]
) -> None:
    network, contract = make_network(model, dims=dims, widths=(4, 7), units=(1, 1))
    found = canonicalise(parse(torchscript(network, contract, **options)), contract=contract, labels=LABELS)
    assert {node.op_type for node in found.model.graph} <= STANDARD_OPS
    assert not found.notes
    if network.config.shrinks:
        assert [unit.name for unit in found.units] == ["units.0", "units.1"]
        assert Counter(node.op_type for node in found.model.graph)["Max"] == 2
    for count in (1, 2, 7):
        x = windows(contract, count)
        with torch.no_grad():
            wanted = network(torch.from_numpy(x)).numpy()
        logits = run_onnx(found.to_bytes(), window=x)["logits"]
        np.testing.assert_array_equal(logits.argmax(axis=1), wanted.argmax(axis=1))
        assert np.abs(logits - wanted).max() <= 2e-5 * np.abs(wanted).max()


class Published(torch.nn.Module):
    """Soft thresholding as most published reimplementations write it, one by one."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.conv = torch.nn.Conv1d(3, 6, 3, padding=1)
        self.norm = torch.nn.BatchNorm1d(6)
        self.gate = torch.nn.Sequential(
            torch.nn.Linear(6, 6), torch.nn.BatchNorm1d(6), torch.nn.ReLU(), torch.nn.Linear(6, 6), torch.nn.Sigmoid()
        )
        self.pool = torch.nn.AdaptiveAvgPool1d(1)
        self.fc = torch.nn.Linear(6, 5)
        self.spelling = spelling

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(window))
        magnitude = torch.abs(x)
        mean = self.pool(magnitude).flatten(1) if self.spelling == "pool" else magnitude.mean(dim=2)
        tau = (self.gate(mean) * mean).unsqueeze(2)
        if self.spelling in ("pool", "sub - sub"):
            excess = magnitude - tau
            y = torch.mul(torch.sign(x), torch.max(excess, excess - excess))
        elif self.spelling == "relu":
            y = torch.sign(x) * torch.relu(magnitude - tau)
        elif self.spelling == "where":
            y = torch.where(magnitude > tau, torch.sign(x) * (magnitude - tau), torch.zeros(()))
        elif self.spelling == "two relus":
            y = torch.relu(x - tau) - torch.relu(-x - tau)
        else:
            y = x - torch.clamp(x, -tau, tau)
        result: torch.Tensor = self.fc(torch.flatten(self.pool(torch.relu(y)), 1))
        return result


@pytest.mark.parametrize(
    ("spelling", "exporter"),
    [(name, "torchscript") for name in ("pool", "sub - sub", "relu", "where", "two relus", "clamp")]
    + [("pool", "dynamo"), ("where", "dynamo"), ("clamp", "dynamo")],
)
def test_published_spellings_are_found(run_onnx: Fixture, spelling: str, exporter: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Published(spelling).eval()
    if exporter == "dynamo":
        found = export_network(module, contract=CONTRACT, labels=LABELS)
    else:
        found = canonicalise(parse(torchscript(module, CONTRACT)), contract=CONTRACT, labels=LABELS)
    (unit,) = found.units
    kinds = Counter(node.op_type for node in found.model.graph)
    assert set(kinds) <= STANDARD_OPS
    assert (kinds["Max"], kinds["Min"], kinds["Neg"], kinds["Abs"]) == (1, 1, 1, 1)
    assert not {"Sign", "Where", "Clip", "ReduceMean", "BatchNormalization"} & set(kinds)
    assert {node.op_type for node in unit.branch} >= {"Abs", "GlobalAveragePool", "Gemm", "Sigmoid"}
    x = np.random.default_rng(0).normal(size=(6, 3, 16)).astype(np.float32)
    with torch.no_grad():
        wanted = module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(run_onnx(found.to_bytes(), window=x)["logits"], wanted, rtol=0, atol=1e-5)


def small(graph: Fixture, **changes: Any) -> bytes:
    """Conv, mean, Gemm: a whole classifier by hand."""
    rng = np.random.default_rng(0)
    arguments: dict[str, Any] = {
        "nodes": [
            ("Conv", ("x", "w"), ("c",), {"pads": [1, 1]}),
            ("GlobalAveragePool", ("c",), ("p",)),
            ("Flatten", ("p",), ("f",)),
            ("Gemm", ("f", "v"), ("y",)),
        ],
        "inputs": {"x": ("n", 3, 16)},
        "outputs": {"y": ("n", 5)},
        "constants": {
            "w": rng.normal(size=(4, 3, 3)).astype(np.float32),
            "v": rng.normal(size=(4, 5)).astype(np.float32),
        },
    } | changes  # fmt: skip
    data: bytes = graph(arguments.pop("nodes"), **arguments)
    return data


def canonical(data: bytes) -> Any:
    return canonicalise(parse(data), contract=CONTRACT, labels=LABELS)


def test_names_of_input_and_output_are_ours_whatever_they_were(graph: Fixture, run_onnx: Fixture) -> None:
    x = np.random.default_rng(1).normal(size=(4, 3, 16)).astype(np.float32)
    before = small(graph)
    wanted = run_onnx(before, x=x)["y"]
    np.testing.assert_allclose(run_onnx(canonical(before).to_bytes(), window=x)["logits"], wanted, atol=1e-5)
    nodes = [
        ("Conv", ("x", "w"), ("logits",), {"pads": [1, 1]}), ("GlobalAveragePool", ("logits",), ("window",)),
        ("Flatten", ("window",), ("f",)), ("Gemm", ("f", "v"), ("y",)),
    ]  # fmt: skip
    clash = canonical(small(graph, nodes=nodes)).to_bytes()
    np.testing.assert_allclose(run_onnx(clash, window=x)["logits"], wanted, atol=1e-5)


def test_a_weight_that_is_called_as_an_input_gives_way(graph: Fixture, run_onnx: Fixture) -> None:
    rng = np.random.default_rng(0)
    nodes = [
        ("Conv", ("x", "window"), ("c",), {"pads": [1, 1]}), ("GlobalAveragePool", ("c",), ("p",)),
        ("Flatten", ("p",), ("f",)), ("Gemm", ("f", "logits"), ("y",)),
    ]  # fmt: skip
    constants = {"window": rng.normal(size=(4, 3, 3)), "logits": rng.normal(size=(4, 5))}
    data = small(graph, nodes=nodes, constants={name: value.astype(np.float32) for name, value in constants.items()})
    x = rng.normal(size=(2, 3, 16)).astype(np.float32)
    np.testing.assert_allclose(
        run_onnx(canonical(data).to_bytes(), window=x)["logits"], run_onnx(data, x=x)["y"], atol=1e-5
    )


def test_functions_are_inlined(graph: Fixture, run_onnx: Fixture) -> None:
    helper = onnx.helper
    double = helper.make_function(
        "com.example", "Double", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    nodes = [
        ("Conv", ("x", "w"), ("c",), {"pads": [1, 1]}), ("GlobalAveragePool", ("c",), ("p",)),
        ("Flatten", ("p",), ("f",)), ("Double", ("f",), ("g",), {"domain": "com.example"}),
        ("Gemm", ("g", "v"), ("y",)),
    ]  # fmt: skip
    data = small(graph, nodes=nodes, functions=[double])
    found = canonical(data)
    assert Counter(node.op_type for node in found.model.graph)["Add"] == 1
    x = np.ones((2, 3, 16), np.float32)
    np.testing.assert_allclose(run_onnx(found.to_bytes(), window=x)["logits"], run_onnx(data, x=x)["y"], rtol=1e-5)


def test_operators_outside_the_list_are_kept_and_named(graph: Fixture) -> None:
    nodes = [
        ("Conv", ("x", "w"), ("c",), {"pads": [1, 1]}), ("Tanh", ("c",), ("t",)), ("Tanh", ("t",), ("u",)),
        ("GlobalAveragePool", ("u",), ("p",)), ("Flatten", ("p",), ("f",)), ("Gemm", ("f", "v"), ("y",)),
    ]  # fmt: skip
    (note,) = canonical(small(graph, nodes=nodes)).notes
    assert note.endswith("2 Tanh")


def test_a_batch_that_is_fixed_inside_is_refused(graph: Fixture) -> None:
    nodes = [
        ("Conv", ("x", "w"), ("c",), {"pads": [1, 1]}), ("GlobalAveragePool", ("c",), ("p",)),
        ("Flatten", ("p",), ("f",)), ("Gemm", ("f", "v"), ("g",)), ("Reshape", ("g", "shape"), ("h",)),
        ("Reshape", ("h", "back"), ("y",)),
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.normal(size=(4, 3, 3)).astype(np.float32), "v": rng.normal(size=(4, 5)).astype(np.float32),
        "shape": np.asarray([5, 1]), "back": np.asarray([1, 5]),
    }  # fmt: skip
    data = small(graph, nodes=nodes, constants=constants, inputs={"x": (1, 3, 16)}, outputs={"y": (1, 5)})
    with pytest.raises(InputError, match="batch size is fixed") as caught:
        canonical(data)
    assert (caught.value.got, caught.value.expected) == ("logits: [1, 5]", "[batch, 5]")


@pytest.mark.parametrize(
    ("changes", "got", "expected"),
    [
        ({"inputs": {"x": ("n", 2, 16)}}, "[batch, 2, 16]", "[batch, 3, 16]"),
        ({"inputs": {"x": ("n", 3, 8)}}, "[batch, 3, 8]", "[batch, 3, 16]"),
        ({"inputs": {"x": ("n", 3, 4, 4)}}, "[batch, 3, 4, 4]", "[batch, 3, 16]"),
        ({"outputs": {"y": ("n", 4)}}, "[batch, 4]", "[batch, 5]"),
        ({"outputs": {"y": ("n", 5), "f": ("n", 4)}}, "['y', 'f']", "one output"),
        ({"inputs": {"x": ("n", 3, 16), "u": ("n", 1)}}, "['x', 'u']", "one input"),
        ({"kinds": {"x": onnx.TensorProto.DOUBLE, "y": onnx.TensorProto.DOUBLE}}, "DOUBLE", "FLOAT"),
    ],
)
def test_another_signature_is_refused(graph: Fixture, changes: dict[str, Any], got: str, expected: str) -> None:
    if "kinds" in changes:
        rng = np.random.default_rng(0)
        changes = changes | {"constants": {"w": rng.normal(size=(4, 3, 3)), "v": rng.normal(size=(4, 5))}}
    with pytest.raises(InputError) as caught:
        canonical(small(graph, **changes))
    assert got in str(caught.value.got)
    assert expected in str(caught.value.expected)


def test_a_half_graph_is_refused(graph: Fixture) -> None:
    nodes = [
        ("Cast", ("x",), ("h",), {"to": onnx.TensorProto.FLOAT16}), ("Conv", ("h", "w"), ("c",), {"pads": [1, 1]}),
        ("Cast", ("c",), ("s",), {"to": onnx.TensorProto.FLOAT}), ("GlobalAveragePool", ("s",), ("p",)),
        ("Flatten", ("p",), ("f",)), ("Gemm", ("f", "v"), ("y",)),
    ]  # fmt: skip
    constants = {"w": np.ones((4, 3, 3), np.float16), "v": np.ones((4, 5), np.float32)}
    with pytest.raises(InputError, match=r"not FP32[\s\S]*FLOAT16[\s\S]*export the network in FP32"):
        canonical(small(graph, nodes=nodes, constants=constants))


def test_a_graph_in_training_mode_is_refused(graph: Fixture) -> None:
    rng = np.random.default_rng(0)
    nodes = [
        ("Conv", ("x", "w"), ("c",), {"pads": [1, 1]}),
        ("BatchNormalization", ("c", "one", "one", "one", "one"), ("b", "m", "s"), {"training_mode": 1}),
        ("GlobalAveragePool", ("b",), ("p",)), ("Flatten", ("p",), ("f",)), ("Gemm", ("f", "v"), ("y",)),
    ]  # fmt: skip
    constants = {"w": rng.normal(size=(4, 3, 3)), "v": rng.normal(size=(4, 5)), "one": np.ones(4)}
    data = small(graph, nodes=nodes, constants={name: value.astype(np.float32) for name, value in constants.items()})
    with pytest.raises(InputError, match=r"not in inference mode[\s\S]*evaluation mode"):
        canonical(data)


@pytest.mark.parametrize("opset", [9, 11, 12])
def test_opsets_before_13_are_converted(graph: Fixture, run_onnx: Fixture, opset: int) -> None:
    nodes = [
        ("Conv", ("x", "w"), ("c",), {"pads": [1, 1]}), ("Unsqueeze", ("c",), ("u",), {"axes": [3]}),
        ("Squeeze", ("u",), ("s",), {"axes": [3]}), ("ReduceMean", ("s",), ("f",), {"axes": [2], "keepdims": 0}),
        ("MatMul", ("f", "v"), ("y",)),
    ]  # fmt: skip
    data = small(graph, nodes=nodes, opset=opset)
    found = canonical(data)
    assert found.model.graph.opset_imports[""] == 17
    x = np.random.default_rng(0).normal(size=(3, 3, 16)).astype(np.float32)
    np.testing.assert_allclose(
        run_onnx(found.to_bytes(), window=x)["logits"], run_onnx(data, x=x)["y"], rtol=1e-5, atol=1e-6
    )


def test_an_operator_that_nobody_knows_is_named(graph: Fixture) -> None:
    nodes = [
        ("Conv", ("x", "w"), ("c",), {"pads": [1, 1]}), ("Mystery", ("c",), ("m",), {"domain": "com.example"}),
        ("GlobalAveragePool", ("m",), ("p",)), ("Flatten", ("p",), ("f",)), ("Gemm", ("f", "v"), ("y",)),
    ]  # fmt: skip
    with pytest.raises(InputError, match="Mystery"):
        canonical(small(graph, nodes=nodes))


def shrinkages(paths: list[str]) -> Iterator[tuple[Any, ...]]:
    source = "x"
    for index, _ in enumerate(paths):
        a, n, m, k, s = (f"{letter}{index}" for letter in "anmks")
        yield "Abs", (source,), (a,)
        yield "GlobalAveragePool", (a,), (f"t{index}",)
        yield "Neg", (f"t{index}",), (n,)
        yield "Min", (source, f"t{index}"), (m,)
        yield "Max", (m, n), (k,)
        yield "Sub", (source, k), (s,)
        source = s
    yield "Identity", (source,), ("out",)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["units.0.shrinkage", "units.1.shrinkage"], ["units.0", "units.1"]),
        (["main", "main"], ["shrinkage.0", "shrinkage.1"]),
        (["", ""], ["shrinkage.0", "shrinkage.1"]),
        (["block.first", "block.second", "other.one"], ["shrinkage.0", "shrinkage.1", "other"]),
        (["layer"], ["layer"]),
    ],
)
def test_every_unit_has_a_name_of_its_own(graph: Fixture, paths: list[str], names: list[str]) -> None:
    model = parse(graph(list(shrinkages(paths)), inputs={"x": ("n", 3, 8)}, outputs={"out": ("n", 3, 8)}))
    subtractions = [node for node in model.graph if node.op_type == "Sub"]
    for node, path in zip(subtractions, paths, strict=True):
        node.name = f"{path}/Sub" if path else None
    units = find_units(model)
    assert [unit.name for unit in units] == names
    assert all([node.op_type for node in unit.branch] == ["Abs", "GlobalAveragePool"] for unit in units)
    assert all(isinstance(unit.shrunk.producer(), ir.Node) for unit in units)
