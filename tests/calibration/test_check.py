"""Whether what a bundle says of its integers agrees: seeded faults, each of which must be named."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drsn_edge.bundle import Bundle, NewFile, graph_name, write_bundle
from drsn_edge.files import dump_json, sha256_bytes
from drsn_edge.golden import Golden
from drsn_edge.signals.windows import Windows

pytest.importorskip("onnxscript", reason="networks are exported with torch's exporter")
pytest.importorskip("onnxruntime", reason="calibration runs the FP32 graph")

import onnx

from drsn_edge.calibration.calibrate import CalibrationOptions
from drsn_edge.calibration.check import check_bundle_calibration
from drsn_edge.calibration.quantize import quantize_as
from drsn_edge.exporters.precision import emulated, with_probes

LAYER = "units.0.conv1/Conv"
GRAPHS = ("int8", "int8-fp32")
Edit = Callable[[Any], None]


@pytest.fixture(scope="module")
def original(
    run: Callable[..., Any],
    fitted: Callable[..., Any],
    tones: Callable[..., Windows],
    run_onnx: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Bundle:
    """A bundle as `export` makes it, of a small network, without engines."""
    contract, graph = fitted()
    windows = tones(24, seed=8)
    weights = b"stands for safetensors"
    found = run(options=CalibrationOptions(method="min-max"))
    found = dataclasses.replace(found, bindings=dataclasses.replace(found.bindings, weights=sha256_bytes(weights)))
    data = {"fp32": graph.to_bytes()}
    for glue, name in (("fp16", "int8"), ("fp32", "int8-fp32")):
        data[name] = quantize_as(graph, found, glue=glue).to_bytes()  # type: ignore[arg-type]
    files = {graph_name(name): NewFile(content, "graph") for name, content in data.items()}
    files |= {graph_name(name, probe=True): NewFile(with_probes(item), "probe") for name, item in data.items()}
    logits = {f"onnx-{name}": run_onnx(emulated(content), window=windows.x)["logits"] for name, content in data.items()}
    golden = Golden(
        windows=windows.x,
        y=windows.y,
        snr_db=np.full(len(windows), np.nan, np.float32),
        logits=logits | {"pytorch": logits["onnx-fp32"], "pytorch-fp64": logits["onnx-fp32"].astype(np.float64)},
        thresholds={},
    )
    files["calibration.json"] = NewFile(dump_json(found.to_json()).encode(), "calibration")
    files["golden.npz"] = NewFile(golden.to_bytes(), "golden")
    files["model.safetensors"] = NewFile(weights, "weights")
    manifest = {
        "model": {
            "source": "test",
            "network": None,
            "units": [unit.name for unit in graph.units],
            "weights_sha256": sha256_bytes(weights),
        },
        "contract": contract.to_json(),
        "labels": list(windows.labels),
        "tolerances": {},
        "provenance": {},
    }
    return write_bundle(tmp_path_factory.mktemp("check") / "small.drsn", manifest, files)


@pytest.fixture
def bundle(original: Bundle, tmp_path: Path) -> Bundle:
    """A copy that may be damaged."""
    shutil.copytree(original.path, tmp_path / "small.drsn")
    return Bundle.open(tmp_path / "small.drsn")


def reseal(value: dict[str, Any], *, weights: str | None = None) -> dict[str, Any]:
    body = {key: item for key, item in value.items() if key != "seal"}
    if weights is not None:
        body["bindings"] = body["bindings"] | {"weights": weights}
    return body | {"seal": sha256_bytes(dump_json(body).encode())}


def edit(bundle: Bundle, name: str, change: Edit) -> Bundle:
    """Change a graph and hash everything anew, as somebody does who means it."""
    model = onnx.load_from_string(bundle.read(name))
    change(model)
    return bundle.update({name: NewFile(model.SerializeToString(), bundle.files[name].role)})


def constant(model: Any, name: str) -> Any:
    (found,) = [item for item in model.graph.initializer if item.name == name]
    return found


def set_constant(name: str, change: Callable[[Any], Any]) -> Edit:
    def apply(model: Any) -> None:
        item = constant(model, name)
        array = np.asarray(change(onnx.numpy_helper.to_array(item).copy()))
        item.CopyFrom(onnx.numpy_helper.from_array(array, name))

    return apply


def names_of(bundle: Bundle) -> dict[str, str]:
    """Names of the constants of one layer's pairs."""
    model = onnx.load_from_string(bundle.read(graph_name("int8")))
    makers = {name: node for node in model.graph.node for name in node.output}
    (node,) = [node for node in model.graph.node if node.name == LAYER]
    steps = [makers[makers[source].input[0]] for source in node.input[:2]]
    return {
        "scale": steps[0].input[1],
        "zero": steps[0].input[2],
        "weight": steps[1].input[0],
        "weight_scale": steps[1].input[1],
    }


def test_a_bundle_as_it_was_made_agrees(original: Bundle) -> None:
    assert check_bundle_calibration(original) == []


@pytest.mark.parametrize("name", [graph_name(item, probe=probe) for item in GRAPHS for probe in (False, True)])
def test_a_scale_three_times_too_large_is_named(bundle: Bundle, name: str) -> None:
    changed = edit(bundle, name, set_constant(names_of(bundle)["scale"], lambda array: array * np.float32(3)))
    changed.check()
    found = check_bundle_calibration(changed)
    assert found
    assert all(text.startswith(f"{name}: units.0.conv1/Conv: the input scale is") for text in found)
    assert "(3 times that)" in found[0]


def test_one_unit_in_the_last_place_is_a_difference(bundle: Bundle) -> None:
    changed = edit(
        bundle, "model.int8.onnx", set_constant(names_of(bundle)["scale"], lambda a: np.nextafter(a, np.float32(9)))
    )
    assert "the input scale is" in check_bundle_calibration(changed)[0]


@pytest.mark.parametrize(
    ("what", "change", "words"),
    [
        ("weight_scale", lambda a: a * np.float32(1.5), "the weights' scale of channel 0 is"),
        ("weight_scale", lambda a: np.concatenate([a[:2], a[2:3] * 2, a[3:]]), "the weights' scale of channel 2 is"),
        ("weight_scale", lambda a: a[:1].reshape(()), "not one for each of 4 output channels"),
        ("weight", lambda a: a[::-1], "the weights are not those of model.fp32.onnx"),
        ("weight", lambda a: a * np.float32(1.03), "the weights are not those of model.fp32.onnx"),
    ],
)
def test_other_weights_are_named(bundle: Bundle, what: str, change: Callable[[Any], Any], words: str) -> None:
    found = check_bundle_calibration(edit(bundle, "model.int8.onnx", set_constant(names_of(bundle)[what], change)))
    assert any(text.startswith(f"model.int8.onnx: {LAYER}: ") and words in text for text in found), found


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (f"{LAYER}.offset", "what its offset makes is not given back behind it"),
        (f"{LAYER}.input_offset", "the offset of its input is float32[]"),
        (f"{LAYER}.bias", "its integers and bias have sha256"),
    ],
)
def test_another_offset_or_bias_is_named(bundle: Bundle, name: str, words: str) -> None:
    changed = edit(bundle, "model.int8-fp32.onnx", set_constant(name, lambda a: a + np.float32(0.01)))
    found = check_bundle_calibration(changed)
    assert any(text.startswith(f"model.int8-fp32.onnx: {LAYER}: {words}") for text in found), found


def test_an_integer_that_was_not_learned_is_named(bundle: Bundle) -> None:
    """One step of one weight: within what nearest and learned rounding may differ by, and no rounding of this file."""
    names = names_of(bundle)
    model = onnx.load_from_string(bundle.read("model.int8.onnx"))
    step = float(onnx.numpy_helper.to_array(constant(model, names["weight_scale"]))[0])

    def move(array: Any) -> Any:
        array[0, 0, 0] -= np.float32(np.copysign(step, array[0, 0, 0]))
        return array

    found = check_bundle_calibration(edit(bundle, "model.int8.onnx", set_constant(names["weight"], move)))
    assert any(f"{LAYER}: its integers and bias have sha256" in text for text in found), found


def test_weights_quantized_along_another_axis_are_named(bundle: Bundle) -> None:
    def turn(model: Any) -> None:
        for node in model.graph.node:
            for item in node.attribute:
                if item.name == "axis" and node.name.startswith(LAYER):
                    item.i = 1

    found = check_bundle_calibration(edit(bundle, "model.int8.onnx", turn))
    assert found
    assert all(LAYER in text and "not one for each of 4 output channels" in text for text in found)


def test_a_zero_point_is_named(bundle: Bundle) -> None:
    found = check_bundle_calibration(
        edit(bundle, "model.int8.onnx", set_constant(names_of(bundle)["zero"], lambda a: a + np.int8(5)))
    )
    # The zero-point is one constant for all activations.
    assert any(
        text.startswith(f"model.int8.onnx: {LAYER}: ") and "int8[] 5, not an int8 zero" in text for text in found
    )


def test_a_convolution_that_is_not_quantized_is_named(bundle: Bundle) -> None:
    def unquantize(model: Any) -> None:
        (node,) = [node for node in model.graph.node if node.name == LAYER]
        makers = {name: item for item in model.graph.node for name in item.output}
        node.input[1] = makers[makers[node.input[1]].input[0]].input[0]

    found = check_bundle_calibration(edit(bundle, "model.int8-fp32.onnx", unquantize))
    assert f"model.int8-fp32.onnx: {LAYER} computes in float, and the plan has it in int8" in found


def test_a_pair_that_no_plan_knows_is_named(bundle: Bundle) -> None:
    def quantize_the_logits(model: Any) -> None:
        (head,) = [node for node in model.graph.node if node.op_type == "Gemm" and node.output[0] == "logits"]
        head.output[0] = "raw"
        scale, zero = constant_names(model)
        model.graph.node.append(onnx.helper.make_node("QuantizeLinear", ["raw", scale, zero], ["q"], name="out/Q"))
        model.graph.node.append(
            onnx.helper.make_node("DequantizeLinear", ["q", scale, zero], ["logits"], name="out/DQ")
        )

    def constant_names(model: Any) -> tuple[str, str]:
        step = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
        return step.input[1], step.input[2]

    found = check_bundle_calibration(edit(bundle, "model.int8-fp32.onnx", quantize_the_logits))
    assert [text.split(": ")[1].split()[0] for text in found] == ["out/Q", "out/DQ"]
    assert all("quantizes where the plan has nothing in int8" in text for text in found)


def test_a_missing_convolution_is_named(bundle: Bundle) -> None:
    def rename(model: Any) -> None:
        (node,) = [node for node in model.graph.node if node.name == LAYER]
        node.name = "units.7.conv1/Conv"

    found = check_bundle_calibration(edit(bundle, "model.int8.onnx", rename))
    assert f"model.int8.onnx: {LAYER} is not there, and the plan has it in int8" in found


def test_a_changed_calibration_is_named(bundle: Bundle) -> None:
    value = bundle.read_json("calibration.json")
    value["scales"][LAYER] *= 3
    broken = bundle.update({"calibration.json": NewFile(dump_json(value).encode(), "calibration")})
    (found,) = check_bundle_calibration(broken)
    assert found.startswith("calibration.json: the calibration was changed after it was written")
    forged = broken.update({"calibration.json": NewFile(dump_json(reseal(value)).encode(), "calibration")})
    found_all = check_bundle_calibration(forged)
    assert all(LAYER in text for text in found_all)
    # Four graphs, each a quantizer and a dequantizer; the offset hangs on the scale, and is wrong too.
    assert sum("(0.3333 times that)" in text for text in found_all) == 8
    assert sum("the offset of its input is" in text for text in found_all) == 4


def test_a_calibration_of_other_weights_is_named(bundle: Bundle) -> None:
    value = reseal(bundle.read_json("calibration.json"), weights="0" * 64)
    (found,) = check_bundle_calibration(
        bundle.update({"calibration.json": NewFile(dump_json(value).encode(), "calibration")})
    )
    assert found.startswith("calibration.json belongs to other weights: sha256 ")
    assert "0" * 64 in found


def test_weights_of_another_network_are_named(bundle: Bundle) -> None:
    (found,) = check_bundle_calibration(bundle.update({"model.safetensors": NewFile(b"others", "weights")}))
    assert sha256_bytes(b"others") in found
    assert found.startswith("model.safetensors has sha256")


def test_another_contract_is_named(bundle: Bundle) -> None:
    manifest = dict(bundle.manifest)
    manifest["contract"] = manifest["contract"] | {"sample_rate_hz": 1.0}
    (bundle.path / "manifest.json").write_text(dump_json(manifest))
    (found,) = check_bundle_calibration(Bundle.open(bundle.path))
    assert "calibration.json belongs to another signal contract" in found


def test_integers_without_a_calibration_are_named(bundle: Bundle) -> None:
    found = check_bundle_calibration(bundle.update({}, remove=("calibration.json",)))
    assert len(found) == 4
    assert found[0] == "model.int8.onnx is there, and no calibration.json says where its scales come from"


def test_a_bundle_without_integers_agrees(bundle: Bundle) -> None:
    names = [name for name in bundle.files if "int8" in name or name == "calibration.json"]
    assert check_bundle_calibration(bundle.update({}, remove=tuple(names))) == []


def test_verify_fails_and_names_the_layer(bundle: Bundle) -> None:
    from drsn_edge.parity.result import ParityResult
    from drsn_edge.pipeline.verify import verify

    good = verify(bundle)
    assert good.passed, good.failures
    assert all(hop.from_ != "calibration" for hop in good.hops)
    changed = edit(bundle, "model.int8.onnx", set_constant(names_of(bundle)["scale"], lambda a: a * np.float32(3)))
    result = verify(changed)
    assert not result.passed
    (failure,) = [item for item in result.failures if item.where == "calibration to onnx-int8"]
    assert f"model.int8.onnx: {LAYER}: the input scale is" in failure.what
    assert "(3 times that)" in failure.what
    again = ParityResult.from_json(json.loads(dump_json(result.to_json()))).judged()
    assert failure in again.failures, "a saved result is judged the same"


def test_the_command_exits_with_5_and_names_the_layer(bundle: Bundle) -> None:
    from typer.testing import CliRunner

    from drsn_edge.cli import app

    scale = names_of(bundle)["scale"]
    edit(bundle, "model.int8.onnx", set_constant(scale, lambda a: np.nextafter(a, np.float32(9))))
    result = CliRunner().invoke(app, ["verify", str(bundle.path), "--json"])
    assert result.exit_code == 5
    failures = json.loads(result.stdout)["failures"]
    assert [item["where"] for item in failures] == ["calibration to onnx-int8"], "one bit is nothing that logits show"
    assert LAYER in failures[0]["what"]
