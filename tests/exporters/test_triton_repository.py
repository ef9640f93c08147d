"""What is written for Triton is read back by Triton's own protobuf."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from drsn_edge.bundle import Bundle, NewFile
from drsn_edge.cli import app
from drsn_edge.errors import UsageError
from drsn_edge.exporters.triton_repository import TritonOptions, triton_files
from drsn_edge.files import dump_json, sha256_bytes
from drsn_edge.pipeline.triton import triton
from drsn_edge.runtime.runner import TensorSpec

pool_module = pytest.importorskip("google.protobuf.descriptor_pool", reason="onnx brings protobuf")
WINDOW = TensorSpec("window", "float32", ("batch", 1, 64))
LOGITS = TensorSpec("logits", "float32", ("batch", 3))


def config(data: bytes) -> Any:
    """`config.pbtxt` as Triton parses it: unknown fields and wrong types are errors."""
    from google.protobuf import message_factory, text_format

    pool = pool_module.DescriptorPool()
    pool.AddSerializedFile((Path(__file__).parent / "triton" / "model_config.desc").read_bytes())
    cls = message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))
    return text_format.Parse(data.decode("ascii"), cls())


def files(**options: Any) -> dict[str, bytes]:
    settings = {"name": "cw", **options}
    return triton_files(
        b"model", kind="onnx", inputs=[WINDOW], outputs=[LOGITS], labels=("a", "b", "c"),
        options=TritonOptions(**settings),
    )  # fmt: skip


def test_a_configuration_with_everything() -> None:
    made = files(max_batch=64, preferred=(8, 32), queue_delay_us=300, instances=2, version=3)
    assert set(made) == {"cw/config.pbtxt", "cw/labels.txt", "cw/3/model.onnx"}
    assert made["cw/3/model.onnx"] == b"model"
    assert made["cw/labels.txt"] == b"a\nb\nc\n"
    parsed = config(made["cw/config.pbtxt"])
    assert (parsed.name, parsed.backend, parsed.max_batch_size) == ("cw", "onnxruntime", 64)
    (window,), (logits,) = parsed.input, parsed.output
    assert (window.name, list(window.dims)) == ("window", [1, 64])
    types = type(window).DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_name
    assert window.data_type == types["TYPE_FP32"].number
    assert (logits.name, list(logits.dims), logits.label_filename) == ("logits", [3], "labels.txt")
    assert list(parsed.dynamic_batching.preferred_batch_size) == [8, 32]
    assert parsed.dynamic_batching.max_queue_delay_microseconds == 300
    (group,) = parsed.instance_group
    assert group.count == 2
    assert group.kind == type(group).KIND_GPU


def test_a_plan_and_the_cpu() -> None:
    made = triton_files(
        b"plan", kind="plan", inputs=[WINDOW], outputs=[LOGITS], labels=("a",), options=TritonOptions(name="x")
    )
    assert made["x/1/model.plan"] == b"plan"
    assert config(made["x/config.pbtxt"]).backend == "tensorrt"
    with pytest.raises(UsageError, match="needs a GPU") as caught:
        triton_files(
            b"plan", kind="plan", inputs=[WINDOW], outputs=[LOGITS], labels=("a",),
            options=TritonOptions(name="x", device="cpu"),
        )  # fmt: skip
    assert "cpu" in str(caught.value)
    parsed = config(files(device="cpu")["cw/config.pbtxt"])
    assert parsed.instance_group[0].kind == type(parsed.instance_group[0]).KIND_CPU


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=40), max_size=3), st.text(min_size=1, max_size=10))
def test_any_text_survives(parameters: dict[str, str], tensor: str) -> None:
    encodable = {key: value for key, value in parameters.items() if _utf8(key + value)}
    if not _utf8(tensor):
        return
    made = triton_files(
        b"", kind="onnx", inputs=[TensorSpec(tensor, "float32", ("batch", "samples"))], outputs=[LOGITS], labels=("a",),
        options=TritonOptions(name="x"), parameters=encodable,
    )  # fmt: skip
    parsed = config(made["x/config.pbtxt"])
    assert {key: value.string_value for key, value in parsed.parameters.items()} == encodable
    assert (parsed.input[0].name, list(parsed.input[0].dims)) == (tensor, [-1])


def _utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@pytest.mark.parametrize(
    ("options", "got"),
    [
        ({"name": "a/b"}, "a/b"), ({"name": ""}, "''"), ({"version": 0}, "0"), ({"max_batch": 0}, "0"),
        ({"queue_delay_us": -1}, "-1"), ({"instances": 0}, "0"), ({"max_batch": 8, "preferred": (16,)}, "16"),
        ({"device": "tpu"}, "tpu"),
    ],
)  # fmt: skip
def test_options_out_of_range(options: dict[str, Any], got: str) -> None:
    with pytest.raises(UsageError) as caught:
        files(**options)
    assert got in str(caught.value)
    assert caught.value.expected


@pytest.mark.parametrize(
    "spec",
    [
        TensorSpec("x", "float32", (1, 64)),
        TensorSpec("x", "float64", ("batch", 4)),
        TensorSpec("x", "float32", ("batch",)),
    ],
)
def test_tensors_that_triton_cannot_batch(spec: TensorSpec) -> None:
    with pytest.raises(UsageError, match="cannot batch") as caught:
        triton_files(b"", kind="onnx", inputs=[spec], outputs=[LOGITS], labels=("a",), options=TritonOptions(name="x"))
    assert str(spec) in str(caught.value)


def test_a_bundle_and_the_command(workshop: Any, tmp_path: Path) -> None:
    bundle = Bundle.open(workshop.bundle)
    args = ["triton", str(workshop.bundle), "--out", str(tmp_path / "models"), "--precision", "fp16", "--json"]
    dry = CliRunner().invoke(app, [*args, "--dry-run"])
    assert dry.exit_code == 0, dry.stderr
    assert not (tmp_path / "models").exists()
    said = CliRunner().invoke(app, args)
    assert said.exit_code == 0, said.stderr
    value = json.loads(said.stdout)
    assert value["files"] == ["tiny/1/model.onnx", "tiny/config.pbtxt", "tiny/labels.txt"]
    # Byte for byte the graph of the bundle.
    served = (tmp_path / "models/tiny/1/model.onnx").read_bytes()
    assert sha256_bytes(served) == bundle.files["model.fp16.onnx"].sha256
    parsed = config((tmp_path / "models/tiny/config.pbtxt").read_bytes())
    assert parsed.parameters["drsn_edge.digest"].string_value == bundle.digest
    assert list(parsed.input[0].dims) == [1, bundle.contract.window]
    assert (tmp_path / "models/tiny/labels.txt").read_text().split() == list(bundle.labels)
    again = CliRunner().invoke(app, args)
    assert again.exit_code == 2
    assert "exists already" in json.loads(again.stdout)["what"]


def with_engine(bundle: Bundle, runner: str) -> Bundle:
    """An engine that was not built here: only its notes are read."""
    profile = {"min": [1, 1, 64], "opt": [16, 1, 64], "max": [32, 1, 64]}
    info = {
        "format_version": 1, "precision": "fp16", "runner": runner, "backend": "tensorrt", "version": "10.3.0",
        "targets": ["sm87"],
        "tensors": [
            {"name": "window", "mode": "input", "dtype": "float32", "shape": ["batch", 1, 64], "profile": profile},
            {"name": "logits", "mode": "output", "dtype": "float32", "shape": ["batch", 3], "profile": None},
        ],
    }  # fmt: skip
    return bundle.update(
        {
            "engines/k/model.fp16.engine": NewFile(b"ftrt plan", "engine"),
            "engines/k/engine.json": NewFile(dump_json(info).encode(), "engine-info"),
        }
    )


def test_an_engine_is_served_as_it_is_and_within_its_profile(workshop: Any, tmp_path: Path) -> None:
    bundle = with_engine(Bundle.open(workshop.copy(tmp_path)), "tensorrt")
    result = triton(bundle, out=tmp_path / "m", source="k", options=TritonOptions(name="n", preferred=(16, 64)))
    assert (result.max_batch, result.source) == (32, "engines/k/model.fp16.engine")
    assert any("at most 32" in note for note in result.notes)
    assert any("TensorRT 10.3.0 on sm87" in note for note in result.notes)
    assert (tmp_path / "m/n/1/model.plan").read_bytes() == b"ftrt plan"
    parsed = config((tmp_path / "m/n/config.pbtxt").read_bytes())
    assert (parsed.max_batch_size, list(parsed.dynamic_batching.preferred_batch_size)) == (32, [16])


def test_what_cannot_be_served(workshop: Any, tmp_path: Path) -> None:
    bundle = Bundle.open(workshop.copy(tmp_path))
    with pytest.raises(UsageError, match="no such engine"):
        triton(bundle, out=tmp_path / "m", source="nothing")
    with pytest.raises(UsageError, match="no such graph") as caught:
        triton(bundle, out=tmp_path / "m", precision="bf16")
    assert "bf16" in str(caught.value)
    with pytest.raises(UsageError, match="no backend for this engine"):
        triton(with_engine(bundle, "tensorrt-rtx"), out=tmp_path / "m", source="k")
    assert not (tmp_path / "m").exists()
