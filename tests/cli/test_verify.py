"""`drsn-edge verify`: its JSON, its exit codes, damage that it must find."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from drsn_edge.errors import MissingDependency
from drsn_edge.pipeline.variants import Variants, open_variants
from drsn_edge.pipeline.verify import verify

HOP = {
    "from", "to", "runner", "status", "reason", "windows", "max_abs", "max_rel", "rmse", "sqnr_db", "cosine",
    "top1_agreement", "margin_eaten", "margin_eaten_p99", "nonfinite", "tolerance", "first_divergence",
    "just_passes", "share",
}  # fmt: skip
POINT = {
    "noise", "snr_db", "windows", "draws", "gated", "accuracy", "changed", "mcnemar_p", "accuracy_ci95",
    "balanced_accuracy", "macro_f1", "confusion",
}  # fmt: skip
CHAIN = [
    ("recorded-pytorch", "pytorch", "torch"),
    ("recorded-fp32", "onnx-fp32", "onnxruntime"),
    ("recorded-fp16", "onnx-fp16", "onnxruntime"),
    ("recorded-int8", "onnx-int8", "onnxruntime"),
    ("pytorch-fp64", "pytorch", "torch"),
    ("pytorch", "onnx-fp32", "onnxruntime"),
    ("onnx-fp32", "onnx-fp16", "onnxruntime"),
    ("onnx-fp32", "onnx-int8", "onnxruntime"),
]


@pytest.fixture(scope="module")
def has_gpu() -> bool:
    from drsn_edge.runtime.driver import probe_device

    return probe_device().device is not None


def test_json_has_the_documented_shape(cli: Callable[..., Any], workshop: Any, has_gpu: bool) -> None:
    said = cli("verify", workshop.bundle, "--data", workshop.data, "--snr", "0:4:4", "--draws", 10, "--json")
    assert said.code == 0
    value = said.json
    assert set(value) == {
        "format_version", "passed", "reference", "hops", "decisions", "shrinkage", "failures", "notes", "gate",
    }  # fmt: skip
    assert (value["format_version"], value["passed"], value["reference"]) == (1, True, "pytorch")
    assert [(hop["from"], hop["to"], hop["runner"]) for hop in value["hops"][: len(CHAIN)]] == CHAIN
    for hop in value["hops"]:
        assert set(hop) == HOP
        assert hop["status"] in ("passed", "not_run")
        if hop["status"] == "passed":
            assert hop["windows"] == 96
            assert hop["tolerance"]["reason"]
            assert hop["reason"] is None
            judged = {name for name, limit in hop["tolerance"].items() if isinstance(limit, float)}
            assert set(hop["just_passes"]) == judged
            assert (hop["share"] is None) == hop["from"].startswith("recorded-")
    for hop in value["hops"][len(CHAIN) :]:
        assert (hop["from"], hop["to"], hop["runner"]) == ("onnx-fp16", "engine-fp16", "tensorrt-rtx")
        if not has_gpu:
            assert hop["status"] == "not_run"
            assert hop["reason"].startswith("no GPU: ")
            assert [hop[key] for key in ("windows", "max_abs", "sqnr_db", "top1_agreement")] == [None] * 4
    clean, low, high = value["decisions"]
    assert (clean["noise"], clean["snr_db"]) == ("none", None)
    assert [(point["noise"], point["snr_db"]) for point in (low, high)] == [("gaussian", 0.0), ("gaussian", 4.0)]
    for point in value["decisions"]:
        assert set(point) == POINT
        assert point["gated"] is True
        assert {"pytorch", "onnx-fp32", "onnx-fp16", "onnx-int8"} <= set(point["accuracy"])
        changed = point["changed"]["onnx-int8"]
        assert changed["ci95"][0] <= changed["rate"] <= changed["ci95"][1]
        assert changed["rate"] == pytest.approx(changed["count"] / point["draws"])
    assert low["draws"] == 10 * low["windows"]
    assert {(item["unit"], item["variant"]) for item in value["shrinkage"]} == {
        (unit, variant) for unit in ("units.0", "units.1") for variant in ("onnx-fp16", "onnx-int8")
    }
    assert all(0 <= item["dead_zone_flips"] <= 1 for item in value["shrinkage"])
    assert min(item["tau_relative_error"] for item in value["shrinkage"]) > 0
    assert set(value["gate"]) == {"changed_limit", "gated_from_db", "fp16_top1_clean", "fp32_identical", "hops"}


def test_the_test_part_alone_is_swept(cli: Callable[..., Any], workshop: Any) -> None:
    split = json.loads((workshop.bundle / "split.json").read_text())
    said = cli("verify", workshop.bundle, "--data", workshop.data, "--snr", "0", "--draws", 1, "--json", "-q").json
    seen = said["decisions"][1]["windows"]
    assert seen == 114
    assert seen < 6 * 6400 // 64 / 4
    assert split["protocol"] == "time"


def test_one_scale_times_three_is_found_by_its_hash_and_by_its_decisions(
    cli: Callable[..., Any], workshop: Any, tmp_path: Path, rehash: Callable[..., None]
) -> None:
    onnx = pytest.importorskip("onnx")
    bundle = workshop.copy(tmp_path)
    model = onnx.load(bundle / "model.int8.onnx")
    quantizer = next(node for node in model.graph.node if node.op_type == "QuantizeLinear" and "conv2" in node.name)
    (scale,) = (item for item in model.graph.initializer if item.name == quantizer.input[1])
    scale.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(scale) * 3, scale.name))
    damaged = model.SerializeToString()
    (bundle / "model.int8.onnx").write_bytes(damaged)
    said = cli("verify", bundle)
    assert said.code == 4
    assert "model.int8.onnx is not the file that the manifest lists" in said.err
    assert "sha256" in said.err
    rehash(bundle, "model.int8.onnx", damaged)
    said = cli("verify", bundle, "--json")
    assert said.code == 5
    assert said.json["passed"] is False
    failed = {(hop["from"], hop["to"]) for hop in said.json["hops"] if hop["status"] == "failed"}
    assert ("recorded-int8", "onnx-int8") in failed
    assert all(to == "onnx-int8" for _, to in failed)
    assert {failure["where"] for failure in said.json["failures"]} >= {"recorded-int8 to onnx-int8"}
    shown = cli("verify", bundle)
    assert shown.code == 5
    assert "FAILED  recorded-int8 to onnx-int8" in shown.out
    assert "Out of tolerance" in shown.out


def test_a_pinned_digest(cli: Callable[..., Any], workshop: Any) -> None:
    digest = cli("inspect", workshop.bundle, "--json").json["digest"]
    assert cli("verify", workshop.bundle, "--expect-digest", digest.upper(), "-q").code == 0
    wrong = "0" * 64
    said = cli("verify", workshop.bundle, "--expect-digest", wrong)
    assert said.code == 4
    assert digest in said.err
    assert wrong in said.err


def test_a_saved_result_is_judged_again_without_running_anything(
    cli: Callable[..., Any], workshop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = cli("verify", workshop.bundle, "--data", workshop.data, "--snr", "0", "--draws", 10, "--json")
    value = said.json
    for point in value["decisions"]:
        point["changed"]["onnx-int8"] |= {"count": 20, "rate": 0.02, "ci95": [0.015, 0.025]}
    saved = tmp_path / "parity.json"
    saved.write_text(json.dumps(value))
    monkeypatch.setattr("drsn_edge.pipeline.verify.open_variants", None)
    assert cli("verify", "--from", saved).code == 0
    strict = tmp_path / "strict.toml"
    strict.write_text("[gate]\nchanged_limit = {int8 = 0.01}\n")
    again = cli("verify", "--from", saved, "--tolerance", strict, "--json")
    assert again.code == 5
    assert [failure["limit"] for failure in again.json["failures"]] == [0.01, 0.01]
    assert again.json["gate"]["changed_limit"] == {"int8": 0.01}
    assert again.json["hops"] == value["hops"]
    lenient = tmp_path / "lenient.json"
    lenient.write_text('{"changed_limit": {}}')
    assert cli("verify", "--from", saved, "--tolerance", lenient).code == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("not json", ["parity.json", "is not JSON"]),
        ('{"format_version": 2}', ["format_version 2", "format_version 1"]),
        ('{"format_version": 1}', ["wrong shape", "KeyError", "what verify --json prints"]),
        ('{"parity": 3}', ["wrong shape", "parity.json"]),
    ],
)
def test_what_is_no_saved_result(cli: Callable[..., Any], tmp_path: Path, text: str, words: list[str]) -> None:
    saved = tmp_path / "parity.json"
    saved.write_text(text)
    said = cli("verify", "--from", saved)
    assert said.code == 4
    for word in words:
        assert word in said.err


def test_an_engine_that_must_run(cli: Callable[..., Any], workshop: Any, has_gpu: bool, tmp_path: Path) -> None:
    if has_gpu:
        pytest.skip("needs a machine without a GPU")
    said = cli("verify", workshop.bundle, "--require", "engine", "--json")
    assert said.code == 3
    assert said.json["error"] == "MissingDevice"
    assert "no GPU" in said.json["got"] or "the bundle holds no engine" in said.json["got"]
    assert said.json["expected"] == "every engine of the bundle to run here"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], ["neither", "drsn-edge verify NAME.drsn"]),
        (["BUNDLE", "--from", "x.json"], ["both", "drsn-edge verify --from"]),
        (["BUNDLE", "--require", "gpu"], ["gpu", "engine"]),
        (["BUNDLE", "--snr=4:0:1"], ["4:0:1", "LOW:HIGH:STEP"]),
        (["BUNDLE", "--noise", "white"], ["white", "gaussian, laplacian, pink"]),
        (["BUNDLE", "--where", "load"], ["load", "GROUP=VALUE"]),
        (["BUNDLE", "--where", "load=0", "--load", "1"], ["load=1", "load=0"]),
    ],
)
def test_options_that_cannot_be(cli: Callable[..., Any], workshop: Any, args: list[str], words: list[str]) -> None:
    said = cli("verify", *(workshop.bundle if arg == "BUNDLE" else arg for arg in args))
    assert said.code == 2
    for word in words:
        assert word in said.err


def test_a_report_beside_the_bundle(cli: Callable[..., Any], workshop: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the report is drawn with it")
    report = tmp_path / "report.html"
    assert cli("verify", workshop.bundle, "--report", report, "-q").code == 0
    assert "units.1" in report.read_text()
    before = report.read_bytes()
    said = cli("verify", workshop.bundle, "--report", report)
    assert said.code == 2
    assert str(report) in said.err
    assert report.read_bytes() == before
    saved = cli("verify", "--from", workshop.bundle / "report.json", "--report", report, "--force", "-q")
    assert saved.code == 0
    assert report.read_bytes() != before


def test_the_sweep_needs_a_reference_that_runs(workshop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device with an engine, but neither PyTorch nor ONNX Runtime."""

    @contextlib.contextmanager
    def only_fp16(bundle: Any) -> Iterator[Variants]:
        with open_variants(bundle) as variants:
            items = tuple(
                item if item.name == "onnx-fp16" else dataclasses.replace(item, runner=None, reason="taken away")
                for item in variants.items
            )
            yield dataclasses.replace(variants, items=items)

    monkeypatch.setattr("drsn_edge.pipeline.verify.open_variants", only_fp16)
    assert verify(workshop.bundle).passed
    with pytest.raises(
        MissingDependency, match=r"(?s)need a reference.*pytorch: taken away.*ONNX Runtime.*pip install"
    ):
        verify(workshop.bundle, data=workshop.data)
