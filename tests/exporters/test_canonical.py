"""The canonical graph of every network: equal to PyTorch, in one form, byte for byte the same each time."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from drsn_edge._version import __version__
from drsn_edge.errors import InputError, UsageError
from drsn_edge.exporters.canonical import (
    IR_VERSIONS,
    STANDARD_OPS,
    CanonicalOptions,
    canonicalise,
    ensure_promises,
    parse,
    serialise,
)
from drsn_edge.exporters.precision import to_half, with_probes, with_telemetry
from drsn_edge.exporters.torch_graph import export_network
from drsn_edge.files import sha256_bytes
from drsn_edge.model.checkpoint import Checkpoint, save_checkpoint
from drsn_edge.model.config import MODELS
from drsn_edge.signals.contract import SignalContract

Fixture = Callable[..., Any]
ROOT = Path(__file__).parents[2]

# What a network of one of every kind of unit is made of; counts per unit below.
FRONT = Counter(GlobalAveragePool=3, Sub=2, Mul=1, Add=1, Sqrt=1, Div=1)
PAPER = {"model": "drsn-cw", "preset": "paper", "classes": 10, "window": 2048}


def assert_equal(network: Any, data: bytes, x: Any, run_onnx: Fixture) -> None:
    """What the design calls equal."""
    with torch.no_grad():
        wanted = torch.cat([network(torch.from_numpy(x[i : i + 250])) for i in range(0, len(x), 250)]).numpy()
    found = run_onnx(data, window=x)["logits"]
    assert found.shape == wanted.shape
    np.testing.assert_array_equal(found.argmax(axis=1), wanted.argmax(axis=1))
    assert np.abs(found - wanted).max() <= 2e-5 * np.abs(wanted).max()


@pytest.mark.parametrize(("model", "dims"), [*((model, 1) for model in MODELS), ("drsn-cw", 2), ("drsn-cs", 2)])
def test_equals_pytorch(exported: Fixture, windows: Fixture, run_onnx: Fixture, model: str, dims: int) -> None:
    network, contract, graph = exported(model, dims=dims)
    data = graph.to_bytes()
    for count in (1, 2, 7):
        assert_equal(network, data, windows(contract, count), run_onnx)
    assert graph.notes == ()
    assert tuple(unit.name for unit in graph.units) == (network.config.unit_names if network.config.shrinks else ())


@pytest.mark.slow
def test_equals_pytorch_on_a_thousand_windows(exported: Fixture, windows: Fixture, run_onnx: Fixture) -> None:
    network, contract, graph = exported(**PAPER)
    assert_equal(network, graph.to_bytes(), windows(contract, 1000), run_onnx)


@pytest.mark.parametrize(
    "options",
    [
        {"model": "drsn-cw", "widths": (32, 32, 64), "units": (1, 1, 1), "window": 256},
        {"model": "drsn-cs", "channels": ("x", "y", "z"), "window": 99, "detrend": "none"},
        {"model": "resnet", "standardise": "none", "detrend": "none", "units": (1,), "widths": (3,)},
    ],
    ids=lambda options: "-".join(str(value) for value in options.values()),
)
def test_equals_pytorch_in_other_shapes(
    exported: Fixture, windows: Fixture, run_onnx: Fixture, options: dict[str, Any]
) -> None:
    network, contract, graph = exported(**options)
    assert_equal(network, graph.to_bytes(), windows(contract, 16), run_onnx)


@pytest.mark.parametrize("value", [0.0, 9.81, -32_768.3])
def test_a_dead_sensor_gives_the_same_decision_in_both(exported: Fixture, run_onnx: Fixture, value: float) -> None:
    network, contract, graph = exported()
    assert_equal(network, graph.to_bytes(), np.full((3, *contract.shape), value, np.float32), run_onnx)


@pytest.mark.parametrize(("model", "dims"), [*((model, 1) for model in MODELS), ("drsn-cw", 2), ("drsn-cs", 2)])
def test_operators_are_exactly_those_of_the_network(exported: Fixture, model: str, dims: int) -> None:
    network, _, graph = exported(model, dims=dims)
    found = Counter(node.op_type for node in graph.model.graph)
    assert set(found) <= STANDARD_OPS
    units, stages = sum(network.config.units), len(network.config.units)
    expected = FRONT + Counter(Conv=1 + 2 * units, Relu=2 * units + 1, GlobalAveragePool=1, Flatten=1, Gemm=1)
    if model != "convnet":
        # What the identity reads too, or what is a sum, cannot take the next normalisation in.
        expected += Counter(Mul=units + 1, Add=units + 1)
        expected += Counter(Add=units, Slice=stages * dims, Pad=stages - 1)
    if network.config.shrinks or model == "senet":
        expected += Counter(GlobalAveragePool=units, Flatten=units, Gemm=2 * units, Relu=units, Sigmoid=units)
        expected += Counter(Mul=units, Unsqueeze=units)
    if network.config.shrinks:
        expected += Counter(Abs=units, Neg=units, Min=units, Max=units, Sub=units)
    if model == "drsn-cs":
        expected += Counter(Unsqueeze=units, GlobalAveragePool=units, Flatten=units)
    assert found == expected


@pytest.mark.parametrize("opset", sorted(IR_VERSIONS))
def test_every_opset_is_written_and_runs(exported: Fixture, windows: Fixture, run_onnx: Fixture, opset: int) -> None:
    network, contract, graph = exported("drsn-cs")
    labels = tuple(f"class {index}" for index in range(5))
    graph = canonicalise(
        parse(graph.to_bytes()), contract=contract, labels=labels, options=CanonicalOptions(opset=opset)
    )
    proto = onnx.load_from_string(graph.to_bytes())
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", opset)]
    assert proto.ir_version == IR_VERSIONS[opset]
    onnx.checker.check_model(proto, full_check=True)
    assert_equal(network, graph.to_bytes(), windows(contract, 3), run_onnx)


@pytest.mark.parametrize("opset", [13, 16, 22])
def test_other_opsets_are_refused(opset: int) -> None:
    with pytest.raises(UsageError) as caught:
        CanonicalOptions(opset=opset)
    assert (caught.value.got, caught.value.expected) == (str(opset), "17 to 21")


def test_the_file_says_what_it_is(exported: Fixture) -> None:
    _, contract, graph = exported(**PAPER)
    proto = onnx.load_from_string(graph.to_bytes())
    found = {entry.key: entry.value for entry in proto.metadata_props}
    assert SignalContract.from_json(json.loads(found["drsn_edge.contract"])) == contract
    assert json.loads(found["drsn_edge.labels"]) == [f"class {index}" for index in range(10)]
    assert (found["drsn_edge.precision"], found["drsn_edge.version"]) == ("fp32", __version__)
    assert (proto.producer_name, proto.producer_version) == ("drsn-edge", __version__)


def test_axes_are_a_dynamic_batch_and_nothing_else(exported: Fixture) -> None:
    _, _, graph = exported(**PAPER)
    proto = onnx.load_from_string(graph.to_bytes())
    (window,), (logits,) = proto.graph.input, proto.graph.output
    shapes = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (window, logits)
    }
    assert shapes == {"window": ["batch", 1, 2048], "logits": ["batch", 10]}


def test_names_are_those_of_the_modules(exported: Fixture) -> None:
    network, _, graph = exported("drsn-cs")
    nodes = [node.name for node in graph.model.graph]
    assert len(set(nodes)) == len(nodes)
    modules = {name for name, _ in network.named_modules()} | {"main"}
    for node in graph.model.graph:
        path, _, kind = node.name.rpartition("/")
        assert path in modules, node.name
        assert re.fullmatch(rf"{node.op_type}(_\d+)?", kind), node.name
        for index, value in enumerate(node.outputs):
            assert value.name in (f"{node.name}:{index}", "logits")
    assert {"stem/Conv", "units.0.conv1/Conv", "units.1.shrinkage/Sub", "units.1.shrinkage.gate.fc1/Gemm"} <= set(nodes)
    parameters = set(network.state_dict())
    for name in graph.model.graph.initializers:
        known = name in parameters or re.sub(r"\.(scale|shift)$", ".weight", name) in parameters
        assert known or re.sub(r"\.\d+$", "", name) in nodes, name
    assert {"stem.weight", "stem.bias", "units.0.bn1.scale", "units.0.bn1.shift"} <= set(graph.model.graph.initializers)


def test_nothing_of_the_machine_is_in_the_file(exported: Fixture) -> None:
    _, _, graph = exported(**PAPER)
    proto = onnx.load_from_string(graph.to_bytes())
    texts = re.findall(rb"[\x20-\x7e]{4,}", graph.to_bytes())
    for text in texts:
        for sign in (b".py", b"/home", b"/root", b"/tmp", b"site-packages", b"pkg.torch", str(ROOT).encode()):
            assert sign not in text
    assert not proto.doc_string
    assert not proto.graph.doc_string
    assert not any(item.doc_string or item.metadata_props for item in (*proto.graph.node, *proto.graph.value_info))
    assert not any(item.doc_string or item.metadata_props for item in proto.graph.initializer)
    assert not proto.functions


def test_exporting_twice_gives_the_same_bytes(exported: Fixture, make_network: Fixture) -> None:
    _, contract, graph = exported("drsn-cs")
    labels = tuple(f"class {index}" for index in range(5))
    network, _ = make_network("drsn-cs", widths=(4, 7), units=(1, 1))
    network.train()
    again = export_network(network, contract=contract, labels=labels)
    assert again.to_bytes() == graph.to_bytes()
    assert network.training, "evaluation mode is set on a copy"
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert graph.clone().to_bytes() == graph.to_bytes()


HASHES = """
import hashlib, sys
from pathlib import Path
from drsn_edge.exporters.precision import to_half, with_probes, with_telemetry
from drsn_edge.exporters.torch_graph import export_network
from drsn_edge.model.checkpoint import load_checkpoint

found = load_checkpoint(Path("."))
graph = export_network(found.network, contract=found.contract, labels=found.labels)
half = to_half(graph).to_bytes()
for data in (graph.to_bytes(), half, with_probes(graph.to_bytes()), with_telemetry(half)):
    print(hashlib.sha256(data).hexdigest())
"""


@pytest.mark.slow
def test_another_process_gives_the_same_bytes(exported: Fixture, tmp_path: Path) -> None:
    """With another seed of Python's hashes, which decides the order of sets."""
    network, contract, graph = exported("drsn-cs")
    save_checkpoint(tmp_path, Checkpoint(network, contract, tuple(f"class {index}" for index in range(5))))
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    there = subprocess.run(
        [sys.executable, "-c", HASHES], cwd=tmp_path, capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    ).stdout.split()  # fmt: skip
    half = to_half(graph).to_bytes()
    here = [graph.to_bytes(), half, with_probes(graph.to_bytes()), with_telemetry(half)]
    assert there == [sha256_bytes(data) for data in here]
    assert len(set(there)) == 4


@pytest.mark.parametrize("model", ["drsn-cw", "drsn-cs"])
def test_the_canonical_form_of_a_canonical_graph_is_itself(exported: Fixture, model: str) -> None:
    _, contract, graph = exported(model)
    labels = tuple(f"class {index}" for index in range(5))
    again = canonicalise(parse(graph.to_bytes()), contract=contract, labels=labels)
    assert Counter(node.op_type for node in again.model.graph) == Counter(node.op_type for node in graph.model.graph)
    assert [node.name for node in again.model.graph] == [node.name for node in graph.model.graph]
    assert set(again.model.graph.initializers) == set(graph.model.graph.initializers)


def test_units_know_their_branch(exported: Fixture) -> None:
    for model in ("drsn-cw", "drsn-cs"):
        _, _, graph = exported(model)
        for unit in graph.units:
            inside = {node for node in graph.model.graph if (node.name or "").startswith(f"{unit.name}.shrinkage")}
            assert set(unit.nodes) == inside
            assert len(set(unit.nodes)) == len(unit.nodes)
            assert sorted(node.op_type for node in set(unit.nodes) - set(unit.branch)) == ["Max", "Min", "Neg", "Sub"]
            assert unit.features.producer() is not None
            assert unit.features.producer().name == f"{unit.name}.conv2/Conv"


def test_a_wrong_label_count_or_window_is_refused(make_network: Fixture) -> None:
    network, contract = make_network("resnet", units=(1,), widths=(4,))
    with pytest.raises(InputError) as caught:
        export_network(network, contract=contract, labels=("a", "b"))
    assert (caught.value.got, caught.value.expected) == ("[batch, 5]", "[batch, 2]")
    other = replace(contract, channels=("a", "b"))
    with pytest.raises(InputError, match="cannot be traced") as caught:
        export_network(network, contract=other, labels=tuple("abcde"))
    assert caught.value.expected is not None
    assert "[batch, 2, 64]" in caught.value.expected


def test_a_module_that_cannot_be_traced_is_an_input_error(make_network: Fixture) -> None:
    class Branching(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x.mean(dim=2) if float(x.sum()) > 0 else x.amax(dim=2)

    contract = make_network()[1]
    with pytest.raises(InputError, match="cannot be traced") as caught:
        export_network(Branching(), contract=contract, labels=("a",))
    assert caught.value.got is not None
    assert len(caught.value.got.splitlines()) == 1
    assert caught.value.hint


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (lambda model: model.graph.opset_imports.update({"": 18}), "18"),
        (lambda model: model.graph.opset_imports.update({"com.example": 1}), "com.example"),
        (lambda model: setattr(model.graph.inputs[0], "shape", ir.Shape([2, 1, 64])), "[2, 1, 64]"),
        (lambda model: setattr(model.graph.inputs[0], "shape", ir.Shape(["batch", 1, "samples"])), "samples"),
        (lambda model: setattr(model.graph.outputs[0], "shape", ir.Shape(["n", 5])), "n"),
        (lambda model: setattr(model.graph[3], "op_type", "NoSuchOperator"), "NoSuchOperator"),
        (lambda model: setattr(model.graph.outputs[0], "type", ir.TensorType(ir.DataType.FLOAT16)), "fc/Gemm"),
    ],
)  # fmt: skip
def test_every_promise_is_checked(exported: Fixture, fault: Callable[[Any], None], named: str) -> None:
    model = exported()[2].clone().model
    assert ensure_promises(model, opset=17) == serialise(model)
    fault(model)
    with pytest.raises(InputError) as caught:
        ensure_promises(model, opset=17)
    assert named in str(caught.value)
    assert caught.value.expected


@pytest.mark.parametrize("data", [b"", b"\x00" * 10, b"not an onnx file at all"])
def test_something_else_than_a_graph_is_refused(data: bytes) -> None:
    with pytest.raises(InputError) as caught:
        parse(data)
    assert caught.value.expected


def test_serialise_is_the_files_bytes(exported: Fixture) -> None:
    graph = exported()[2]
    assert serialise(parse(graph.to_bytes())) == graph.to_bytes()


def test_who_only_reads_a_graph_does_not_load_what_folds_constants() -> None:
    code = "import sys, drsn_edge.exporters.precision; print([m for m in sys.modules if m.startswith('onnxscript')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
