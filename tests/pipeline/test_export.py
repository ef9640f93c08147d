"""`export`: from whatever was given to a bundle that is checked."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drsn_edge.bundle import Bundle
from drsn_edge.errors import InputError, MissingDependency, UsageError
from drsn_edge.pipeline.export import ExportOptions, ExportResult, check_export, export
from drsn_edge.pipeline.sweep import SweepOptions

onnx = pytest.importorskip("onnx", reason="graphs are read with it")
torch = pytest.importorskip("torch", reason="networks are PyTorch modules")

# What the canonical form may be made of; design and TensorRT facts say why nothing else.
CANONICAL = {
    "Conv", "Relu", "Abs", "GlobalAveragePool", "Gemm", "Sigmoid", "Mul", "Add", "Sub", "Min", "Max", "Neg", "Slice",
    "Pad", "Concat", "Reshape", "Flatten", "Unsqueeze", "Squeeze", "Sqrt", "Div",
}  # fmt: skip
TYPED = {"fp32": set(), "fp16": {"Cast"}, "int8": {"Cast", "QuantizeLinear", "DequantizeLinear"}}
TYPED["int8-fp32"] = TYPED["int8"]
PLAIN = ExportOptions(precisions=("fp32", "fp16"), engines=(), report=False)
FP32 = ExportOptions(precisions=("fp32",), engines=(), report=False)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made(source: object, out: Path, options: ExportOptions = PLAIN, **more: Any) -> ExportResult:
    result = export(str(source), out=out, options=options, **more)
    assert result.parity.passed, result.parity.failures
    result.bundle.check()
    return result


def graph(bundle: Bundle | Path, precision: str = "fp32", *, probe: bool = False) -> Any:
    path = bundle.path if isinstance(bundle, Bundle) else bundle
    return onnx.load(path / f"model.{precision}{'.probe' if probe else ''}.onnx")


@pytest.fixture
def description(workshop: Any, tmp_path: Path) -> Path:
    """Contract and labels of a network that is not ours, as somebody writes them."""
    config = json.loads((workshop.run / "config.json").read_text())
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"contract": config["contract"], "labels": config["labels"]}))
    return path


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A file with somebody else's network in it, soft threshold in the form of the paper."""
    (tmp_path / "theirs.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Block(nn.Module):\n"
        "    def __init__(self, channels):\n"
        "        super().__init__()\n"
        "        self.conv = nn.Conv1d(channels, channels, 3, padding=1)\n"
        "        self.gate = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels),\n"
        "                                  nn.Sigmoid())\n"
        "    def forward(self, x):\n"
        "        y = self.conv(x)\n"
        "        mean = y.abs().mean(2)\n"
        "        tau = (mean * self.gate(mean)).unsqueeze(2)\n"
        "        return x + torch.sign(y) * torch.relu(y.abs() - tau)\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.stem, self.norm = nn.Conv1d(1, 4, 3, stride=2, padding=1), nn.BatchNorm1d(4)\n"
        "        self.block, self.head = Block(4), nn.Linear(4, 3)\n"
        "    def forward(self, x):\n"
        "        return self.head(self.block(torch.relu(self.norm(self.stem(x)))).mean(2))\n"
        "def seeded():\n"
        "    torch.manual_seed(3)\n"
        "    return Net()\n"
        "def wants(width):\n"
        "    return Net()\n"
        "number = int\n"
    )
    (tmp_path / "broken.py").write_text("raise RuntimeError('no licence found')\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "theirs"
    for name in ("theirs", "broken"):
        sys.modules.pop(name, None)


# --- what a bundle holds


def test_the_bundle_of_the_workshop(workshop: Any) -> None:
    bundle = Bundle.open(workshop.bundle)
    assert bundle.precisions == ("fp32", "fp16", "int8")
    assert set(bundle.labels) == {"low", "middle", "high"}
    assert bundle.units == ("units.0", "units.1")
    names = set(bundle.files)
    for precision in ("fp32", "fp16", "int8", "int8-fp32"):
        assert {f"model.{precision}.onnx", f"model.{precision}.probe.onnx"} <= names
    assert {"calibration.json", "golden.npz", "model.safetensors", "split.json", "report.json"} <= names
    training = bundle.manifest["provenance"]["training"]
    assert training["dataset"] == workshop.data
    assert bundle.manifest["provenance"]["calibration"]["windows"] == 512
    assert bundle.manifest["name"] == "tiny"
    leftovers = [path.name for path in workshop.bundle.parent.iterdir() if path.name.startswith(".")]
    assert leftovers == []
    assert ".tiny.drsn." not in (workshop.bundle / "report.json").read_text(), "the name while it was being made"


@pytest.mark.parametrize("precision", sorted(TYPED))
def test_graphs_are_made_of_the_canonical_operators_alone(workshop: Any, precision: str) -> None:
    model = graph(workshop.bundle, precision)
    used = {node.op_type for node in model.graph.node}
    assert used <= CANONICAL | TYPED[precision]
    assert {"GlobalAveragePool", "Abs", "Min", "Max", "Neg"} <= used
    assert "ReduceMean" not in used
    assert {node.domain for node in model.graph.node} == {""}
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 17)]
    assert [item.name for item in model.graph.input] == ["window"]
    assert [item.name for item in model.graph.output] == ["logits"]
    batch = [item.type.tensor_type.shape.dim[0].dim_param for item in (*model.graph.input, *model.graph.output)]
    assert batch == ["batch", "batch"]
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert all(name.rpartition("/")[0] for name in names), "every node is named by its module"


def test_the_threshold_branch_is_never_quantized(workshop: Any) -> None:
    model = graph(workshop.bundle, "int8")
    users: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    fed = {
        user.op_type
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
        for user in users[node.output[0]]
    }
    assert fed == {"Conv"}
    assert {node.op_type for node in model.graph.node if "shrinkage" in node.name} & TYPED["int8"] <= {"Cast"}


def test_exported_twice_is_the_same_to_the_byte(workshop: Any, tmp_path: Path) -> None:
    options = ExportOptions(engines=(), report=False, calibration_windows=64)
    sweep = SweepOptions(draws=1, snrs_db=())
    first, second = (
        made(workshop.run, tmp_path / name, options, calibrate=workshop.data, sweep=sweep).bundle
        for name in ("a.drsn", "b.drsn")
    )
    hashes = [{name: entry.sha256 for name, entry in bundle.files.items()} for bundle in (first, second)]
    assert {name for name in hashes[0] if hashes[0][name] != hashes[1][name]} <= {"report.json"}
    assert "model.int8.onnx" in hashes[0]


# --- what can be exported


@pytest.mark.parametrize("opset", [17, 18, 19, 20, 21])
def test_every_opset(workshop: Any, tmp_path: Path, opset: int) -> None:
    options = ExportOptions(precisions=("fp32", "fp16"), engines=(), report=False, opset=opset)
    bundle = made(workshop.run, tmp_path / "x.drsn", options).bundle
    for precision in ("fp32", "fp16"):
        model = graph(bundle, precision)
        assert [(item.domain, item.version) for item in model.opset_import] == [("", opset)]
        assert {node.op_type for node in model.graph.node} <= CANONICAL | TYPED[precision]


def test_without_calibration_data_there_is_no_int8_and_it_says_so(workshop: Any, tmp_path: Path) -> None:
    result = made(workshop.run, tmp_path / "x.drsn", ExportOptions(engines=(), report=False))
    assert result.bundle.precisions == ("fp32", "fp16")
    assert "calibration.json" not in result.bundle.files
    assert result.plan == ()
    assert any("no int8 graph: it needs --calibrate DATASET" in note for note in result.notes)
    assert result.to_json()["notes"] == list(result.notes)


@pytest.mark.parametrize(
    "options",
    [ExportOptions(precisions=("int8",)), ExportOptions(precisions=("fp32", "int8")), ExportOptions(engines=("int8",))],
)
def test_int8_by_name_needs_calibration_data(workshop: Any, tmp_path: Path, options: ExportOptions) -> None:
    for function in (export, check_export):
        with pytest.raises(UsageError, match=r"(?s)int8 needs calibration data.*no --calibrate.*--calibrate DATASET"):
            function(workshop.run, out=tmp_path / "x.drsn", options=options)
    assert list(tmp_path.iterdir()) == []


def test_telemetry(workshop: Any, tmp_path: Path) -> None:
    options = ExportOptions(precisions=("fp32", "fp16"), engines=(), report=False, telemetry=True)
    bundle = made(workshop.run, tmp_path / "x.drsn", options).bundle
    for precision in ("fp32", "fp16"):
        outputs = graph(bundle, precision).graph.output
        assert [item.name for item in outputs] == ["logits", "threshold", "zero_share"]
        for item in outputs[1:]:
            assert [dim.dim_param or dim.dim_value for dim in item.type.tensor_type.shape.dim] == ["batch", 2]


def test_probes(workshop: Any) -> None:
    names = {item.name for item in graph(workshop.bundle, probe=True).graph.output}
    expected = {f"units.{unit}.{what}" for unit in (0, 1) for what in ("threshold", "zero_share", "shrunk")}
    assert names == {"logits"} | expected


def test_a_state_dict_with_a_configuration(workshop: Any, tmp_path: Path) -> None:
    from drsn_edge.model.checkpoint import load_checkpoint

    torch.save(load_checkpoint(workshop.run).network.state_dict(), tmp_path / "mine.pt")
    result = made(tmp_path / "mine.pt", tmp_path / "x.drsn", config=workshop.run / "config.json")
    assert result.bundle.manifest["provenance"]["training"] is None
    same = Bundle.open(workshop.bundle)
    assert result.bundle.read("model.fp32.onnx") == same.read("model.fp32.onnx")
    with pytest.raises(UsageError, match=r"(?s)mine.pt does not say.*no --config.*contract.*labels.*formats.md"):
        export(tmp_path / "mine.pt", out=tmp_path / "y.drsn", options=FP32)


def test_somebody_elses_class(module: str, description: Path, tmp_path: Path) -> None:
    result = made(f"{module}:seeded", tmp_path / "x.drsn", config=description)
    assert result.bundle.units == ("block",)
    assert result.bundle.manifest["model"]["network"] is None
    assert {node.op_type for node in graph(result.bundle).graph.node} <= CANONICAL
    assert any("its recorded logits stand in" in note for note in result.notes)
    weights = tmp_path / "trained.pt"
    torch.save({f"module.{name}": value for name, value in sys.modules[module].Net().state_dict().items()}, weights)
    other = made(f"{module}:seeded", tmp_path / "y.drsn", FP32, config=description, weights=weights)
    hashes = {item.bundle.manifest["model"]["weights_sha256"] for item in (result, other)}
    assert len(hashes) == 2, "--weights are those that are exported"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("theirs:Missing", "AttributeError.*Missing"),
        ("nowhere:Net", "ModuleNotFoundError.*nowhere"),
        ("broken:Net", "RuntimeError: no licence found"),
        ("theirs:wants", "width.*a callable without arguments"),
        ("theirs:number", "int.*torch.nn.Module"),
    ],
)
def test_a_class_that_cannot_be_used(module: str, description: Path, tmp_path: Path, source: str, words: str) -> None:
    with pytest.raises(UsageError, match=rf"(?s){words}"):
        export(source, out=tmp_path / "x.drsn", config=description, options=FP32)


def test_weights_of_something_else(module: str, description: Path, workshop: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)do not fit the model.*those of theirs:Net"):
        export(
            f"{module}:Net", out=tmp_path / "x.drsn", config=description,
            weights=workshop.run / "model.safetensors", options=FP32,
        )  # fmt: skip


def test_a_foreign_graph_described_in_toml(workshop: Any, tmp_path: Path, description: Path) -> None:
    contract = json.loads(description.read_text())["contract"]
    lines = [f"{key} = {json.dumps(value)}" for key, value in contract.items() if value is not None]
    toml = tmp_path / "mine.toml"
    toml.write_text('labels = ["high", "low", "middle"]\n\n[contract]\n' + "\n".join(lines) + "\n")
    result = made(workshop.bundle / "model.fp32.onnx", tmp_path / "x.drsn", config=toml)
    assert result.bundle.units == ("units.0", "units.1")
    assert "model.safetensors" not in result.bundle.files
    hops = [(hop.from_, hop.to) for hop in result.parity.hops]
    assert ("pytorch", "onnx-fp32") in hops
    assert ("recorded-pytorch", "pytorch") not in hops


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"labels": ["a", "b", "c"]}, "lacks contract or labels.*labels"),
        ({"contract": {}, "labels": ["a", "a", "b"]}, "unusable labels.*'a', 'a', 'b'.*none twice"),
        ({"contract": {"window": 64}, "labels": ["a", "b", "c"]}, "signal contract.*window.*sample_rate_hz"),
    ],
)
def test_descriptions_that_cannot_be_used(workshop: Any, tmp_path: Path, config: Any, words: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match=rf"(?s){words}"):
        export(workshop.bundle / "model.fp32.onnx", out=tmp_path / "x.drsn", config=path, options=FP32)


def test_graphs_that_cannot_be_used(workshop: Any, tmp_path: Path, description: Path) -> None:
    graphs = workshop.bundle
    for name, words in (
        ("model.int8.onnx", "is not FP32.*FLOAT throughout"),
        ("none.onnx", "No such file.*an ONNX file"),
    ):
        with pytest.raises(InputError, match=rf"(?s){words}"):
            export(graphs / name, out=tmp_path / "x.drsn", config=description, options=FP32)
    contract = json.loads(description.read_text())
    contract["contract"]["window"] = 128
    description.write_text(json.dumps(contract))
    with pytest.raises(InputError, match=r"(?s)64.*128"):
        export(graphs / "model.fp32.onnx", out=tmp_path / "x.drsn", config=description, options=FP32)


def test_a_run_describes_itself(workshop: Any, tmp_path: Path, description: Path) -> None:
    with pytest.raises(UsageError, match=r"(?s)its own configuration.*--config or --weights.*neither"):
        export(workshop.run, out=tmp_path / "x.drsn", config=description, options=FP32)


# --- replacing, and what a builder that is not here means


def test_force_replaces_a_bundle_and_a_failure_keeps_the_old_one(
    workshop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = workshop.copy(tmp_path)
    before = Bundle.open(out).digest

    def fail(*args: object, **options: object) -> None:
        raise InputError("something is wrong")

    with monkeypatch.context() as patch:
        patch.setattr("drsn_edge.pipeline.export.verify", fail)
        with pytest.raises(InputError, match="something is wrong"):
            export(workshop.run, out=out, options=FP32, force=True)
    assert Bundle.open(out).digest == before
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    assert made(workshop.run, out, FP32, force=True).bundle.precisions == ("fp32",)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


@pytest.fixture
def no_builder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drsn_edge.exporters.trt_choice.available", lambda module: False)


@pytest.mark.usefixtures("no_builder")
def test_an_engine_is_built_where_a_builder_is(workshop: Any, tmp_path: Path) -> None:
    result = made(workshop.run, tmp_path / "x.drsn", ExportOptions(precisions=("fp16",), report=False))
    assert result.engines == ()
    note = next(note for note in result.notes if "no engine was built" in note)
    assert "pip install 'drsn-edge[rtx]'" in note


@pytest.mark.usefixtures("no_builder")
@pytest.mark.parametrize(
    "options",
    [ExportOptions(targets=("sm86",)), ExportOptions(backend="rtx"), ExportOptions(engines=("fp16",))],
)
def test_an_engine_that_was_asked_for_by_name_is_no_luxury(
    workshop: Any, tmp_path: Path, options: ExportOptions
) -> None:
    with pytest.raises(MissingDependency, match=r"pip install 'drsn-edge\[rtx\]'"):
        export(workshop.run, out=tmp_path / "x.drsn", options=options)
    assert list(tmp_path.iterdir()) == []


def test_options_that_do_not_fit_together() -> None:
    with pytest.raises(UsageError, match=r"(?s)engine int8, graphs fp32, fp16.*int8 among the precisions"):
        ExportOptions(precisions=("fp16",), engines=("int8",))
    with pytest.raises(UsageError, match=r"(?s)unknown precision.*int4.*fp32, fp16, int8"):
        ExportOptions(precisions=("int4",))
    assert ExportOptions(precisions=("fp32",)).wanted_engines == ()
    assert ExportOptions(precisions=("int8",)).graphs == ("fp32", "int8")


def test_what_an_export_would_make(workshop: Any, tmp_path: Path) -> None:
    plan = check_export(
        workshop.run, out=tmp_path / "x.drsn", calibrate=workshop.data, options=ExportOptions(engines=())
    )
    assert plan["graphs"] == ["fp32", "fp16", "int8"]
    assert plan["engines"] == []
    assert plan["labels"] == ["high", "low", "middle"]
    with pytest.raises(UsageError, match=r"(?s)nothing would calibrate.*0.*at least 1"):
        check_export(workshop.run, out=tmp_path / "x.drsn", options=ExportOptions(engines=(), calibration_windows=0))


def test_a_run_that_moved_is_still_a_run(workshop: Any, tmp_path: Path) -> None:
    run = Path(shutil.copytree(workshop.run, tmp_path / "somewhere else"))
    assert made(run, tmp_path / "x.drsn", FP32).bundle.manifest["model"]["source"] == "somewhere else"
