"""`docs/formats.md` says what the files really hold: keys of its examples are those of real ones, its TOML is read."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from drsn_edge.bundle import ROLES, Bundle
from drsn_edge.cli import app
from drsn_edge.extras import available
from drsn_edge.files import dump_json, read_settings
from drsn_edge.golden import Golden
from drsn_edge.parity.gate import Gate, load_gate
from drsn_edge.pipeline.build import build
from drsn_edge.pipeline.doctor import doctor, to_json
from drsn_edge.runtime.verification import Verification, VerifiedOn

PAGE = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
BLOCKS = {(kind, name): body for kind, name, body in re.findall(r"^```(\w+) ([^\n]+)\n(.*?)^```$", PAGE, re.M | re.S)}
# Keyed by data, not by field: one entry stands for all.
MAPS = {
    "files", "scales", "rounded", "trials", "tools", "tensor_errors", "rebuild", "onnx-int8", "accuracy",
    "accuracy_ci95", "changed", "outputs",
    "sensors", "mcnemar_p", "balanced_accuracy", "macro_f1", "confusion", "where", "scores", "parts", "<fingerprint>",
    "software", "verdicts", "speedups", "int8 over fp16",
}  # fmt: skip


def differences(shown: Any, real: Any, where: str) -> list[str]:
    """Keys that the page has and the file has not, and the other way round."""
    if isinstance(shown, list) and isinstance(real, list):
        if shown and real and isinstance(shown[0], dict):
            return differences(shown[0], real[0], f"{where}[]")
        return []
    if not isinstance(shown, dict) or not isinstance(real, dict) or not shown:
        return []
    name = where.rpartition(".")[2]
    if name in MAPS:
        return (
            differences(next(iter(shown.values())), next(iter(real.values())), f"{where}.{next(iter(shown))}")
            if real
            else []
        )
    found = [f"{where}.{key}" for key in sorted(set(shown) ^ set(real))]
    for key in set(shown) & set(real):
        found += differences(shown[key], real[key], f"{where}.{key}")
    return found


@pytest.fixture(scope="module")
def real(workshop: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The document behind every example."""
    bundle = Bundle.open(workshop.bundle)
    documents = {
        "config.json": json.loads((workshop.run / "config.json").read_text()),
        "split.json": json.loads((workshop.run / "split.json").read_text()),
        "manifest.json": json.loads((workshop.bundle / "manifest.json").read_text()),
        "calibration.json": bundle.read_json("calibration.json"),
        "verify --json": json.loads((workshop.bundle / "report.json").read_text())["parity"],
        "error": json.loads(CliRunner().invoke(app, ["verify", "nowhere", "--json"]).stdout),
    }
    documents["doctor --json"] = to_json(doctor())
    documents["bench --json"] = _measured(workshop.bundle)
    on = VerifiedOn("Orin", "sm87", "12.6", "10.3.0", "linux-aarch64")
    documents["verified"] = Verification(True, on, None, 0.0, 1.0, 96).to_json()
    if available("tensorrt_rtx"):
        repeated = build(workshop.bundle, backend="rtx", targets=("sm86",), repeat=2)
        documents["build --json"] = json.loads(json.dumps(repeated.to_json()))
    documents |= streamed(workshop, tmp_path_factory.mktemp("stream"))
    for key in bundle.engines():
        documents["engine.json"] = bundle.read_json(f"engines/{key}/engine.json")
    return documents


def streamed(workshop: Any, folder: Path) -> dict[str, Any]:
    """What `run` writes."""
    source = Path(workshop.data.removeprefix("table:")).parent / "low-one.npy"
    said = CliRunner().invoke(
        app,
        [
            "run", str(workshop.bundle), f"de={source}", "--events", str(folder / "all.jsonl"), "--state",
            str(folder / "s.json"), "--command", f"{sys.executable} -c pass", "--json",
        ],
    )  # fmt: skip
    lines = [json.loads(line) for line in (folder / "all.jsonl").read_text().splitlines()]
    decision = next(item for item in lines if item["type"] == "decision")
    state = json.loads((folder / "s.json").read_text())
    state["outputs"] = {Path(name).name: size for name, size in state["outputs"].items()}
    return {
        "decision": {**decision, "threshold": [], "zero_share": []},  # with --telemetry
        "alarm": next(item for item in lines if item.get("kind") == "state"),
        "state": state,
        "run --json": json.loads(said.stdout),
    }


def _measured(bundle: Path) -> dict[str, Any]:
    """A short measurement, compared with itself."""
    from drsn_edge.pipeline.bench import BenchOptions, bench
    from drsn_edge.pipeline.bench_result import SavedBench
    from drsn_edge.runtime.timing import TimingOptions

    timing = TimingOptions(iterations=2, warmup=1, rounds=1)
    result = bench(bundle, options=BenchOptions(batches=(1,), runners=("onnxruntime",), timing=timing))
    compared = result.compared(SavedBench(bundle, result.device, result.rows))
    return dict(json.loads(dump_json(compared.to_json())))


EXAMPLES = sorted(name for kind, name in BLOCKS if kind == "json")


def test_every_format_has_its_example() -> None:
    assert set(EXAMPLES) == {
        "config.json", "split.json", "manifest.json", "calibration.json", "engine.json", "verified", "verify --json",
        "build --json", "bench --json", "doctor --json", "error", "decision", "alarm", "state", "run --json",
    }  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_have_the_keys_of_real_files(real: dict[str, Any], name: str) -> None:
    shown = json.loads(BLOCKS["json", name])
    if name not in real:
        pytest.skip("needs TensorRT for RTX, which builds without a GPU")
    if name == "manifest.json":
        shown["model"]["network"] = real[name]["model"]["network"]  # shown with config.json
    if name == "split.json":
        # Parts that a recording has nothing in are left out.
        (part,) = shown["parts"].values()
        assert set(next(iter(real[name]["parts"].values()))) <= set(part)
    if name == "verify --json":
        shown.pop("failures")
        assert real[name].pop("failures") == []
    assert differences(shown, real[name], name) == []


def test_the_comparison_sees_what_it_should() -> None:
    assert differences({"a": 1, "b": {"c": 1}}, {"a": 2, "b": {"d": 1}}, "x") == ["x.b.c", "x.b.d"]
    assert differences([{"a": 1}], [{"a": 1, "b": 2}], "x") == ["x[].b"]
    assert differences({"trials": {"mse": 1}}, {"trials": {"other": 1}}, "x") == []


def test_failures_are_as_shown(real: dict[str, Any]) -> None:
    from drsn_edge.parity.gate import Failure

    (shown,) = json.loads(BLOCKS["json", "verify --json"])["failures"]
    assert Failure.from_json(shown).to_json() == shown


def test_the_gate_that_is_shown_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "gate.toml").write_text(BLOCKS["toml", "gate"])
    assert load_gate(tmp_path / "gate.toml") == Gate()


def test_limits_of_hops_as_shown_are_read(tmp_path: Path) -> None:
    (tmp_path / "gate.toml").write_text(BLOCKS["toml", "gate of hops"])
    assert load_gate(tmp_path / "gate.toml").hops == {"onnx-fp32 to onnx-int8": {"rmse": 0.5}}


def test_the_network_that_is_described_can_be_made(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="networks are PyTorch modules")
    from drsn_edge.model.checkpoint import network_from_config
    from drsn_edge.pipeline.sources import read_config

    file = tmp_path / "mine.toml"
    file.write_text(BLOCKS["toml", "network config"])
    contract, labels = read_config(file)
    assert (contract.window, contract.image, len(labels)) == (2048, None, 3)
    network, _, _ = network_from_config(read_settings(file), file)
    assert network.config.model == "drsn-cw"


def test_the_options_that_are_shown_exist(tmp_path: Path, write_table: Callable[..., str]) -> None:
    pytest.importorskip("torch", reason="training needs it")
    import os

    write_table(tmp_path)
    table = tmp_path / "recordings.csv"
    table.write_text(table.read_text().replace("machine", "bearing", 1))
    (tmp_path / "options.toml").write_text(BLOCKS["toml", "options of train"])
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        said = CliRunner().invoke(
            app, ["train", "--config", "options.toml", "--protocol", "time", "--window", "64", "--dry-run", "--json"]
        )
    finally:
        os.chdir(before)
    assert said.exit_code == 0, said.stderr
    training = json.loads(said.stdout)["training"]
    assert (training["noises"], training["snr_db"], training["epochs"]) == (["gaussian", "pink"], [-6.0, 10.0], 100)


def test_arrays_of_the_golden_file(workshop: Any) -> None:
    golden = Golden.from_bytes((workshop.bundle / "golden.npz").read_bytes())
    section = PAGE[PAGE.index("### `golden.npz`") : PAGE.index("### `engine.json`")]
    assert f"`count` is {len(golden)}" in section
    for name in golden.logits:
        assert f"`logits.{name}`" in section or f"`-{name.removeprefix('onnx-')}`" in section
    assert set(golden.thresholds) == {"units.0", "units.1"}


def test_roles_and_exit_codes_are_all_there() -> None:
    for role in ROLES:
        assert f"`{role}`" in PAGE
    for code in range(7):
        assert f"\n| {code} |" in PAGE


def test_links_within_the_page_lead_somewhere() -> None:
    headings = re.findall(r"^#+ (.+)$", PAGE, re.M)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", PAGE)) <= anchors
