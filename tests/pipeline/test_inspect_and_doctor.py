"""`inspect` and `doctor`: what files and machines say of themselves."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from drsn_edge.bundle import Bundle, NewFile
from drsn_edge.cli import app
from drsn_edge.errors import HashMismatch, InputError
from drsn_edge.extras import EXTRAS
from drsn_edge.pipeline.doctor import Finding, doctor, to_json
from drsn_edge.pipeline.inspect import inspect
from drsn_edge.runtime.driver import DeviceInfo, DeviceProbe
from drsn_edge.runtime.preflight import Here, describe_here


def run(*args: object) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture
def engine(workshop: Any) -> str:
    """Name of the plan in the workshop's bundle."""
    engines = Bundle.open(workshop.bundle).engines()
    if not engines:
        pytest.skip("needs TensorRT for RTX, which builds without a GPU")
    return next(iter(engines.values()))


# --- inspect


def test_a_bundle_shows_plan_and_engines(workshop: Any, engine: str) -> None:
    facts = inspect(workshop.bundle)
    assert facts["kind"] == "bundle"
    assert facts["damaged"] == []
    assert facts["precisions"] == ["fp32", "fp16", "int8"]
    plan = {row["layer"]: row for row in facts["plan"]}
    assert plan["stem/Conv"]["precision"] == "fp16"
    assert plan["units.1.conv2/Conv"]["precision"] == "int8"
    assert "dead zone" in plan["units.0/threshold"]["reason"]
    assert "expect no gain" in plan["units.1.conv2/Conv"]["warning"]
    (info,) = facts["engines"].values()
    assert info["precision"] == "fp16"
    said = run("inspect", workshop.bundle)
    assert said.exit_code == 0
    for text in (
        "units.1.conv2/Conv",
        "dead zone",
        "for sm86",
        "expect no gain",
        "model.int8.onnx",
        "provenance.training",
    ):
        assert text in said.stdout
    assert json.loads(run("inspect", workshop.bundle, "--json").stdout) == json.loads(json.dumps(facts))


def test_a_narrow_terminal_folds_nothing_but_long_texts(workshop: Any) -> None:
    from rich.console import Console

    from drsn_edge.cli.facts import facts_table

    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    with console.file:
        facts_table(console, inspect(workshop.bundle))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("units.0.conv1/Conv" in line for line in lines) == 1


def test_damage_is_shown_and_is_exit_code_4(workshop: Any, tmp_path: Path) -> None:
    path = workshop.copy(tmp_path)
    (path / "golden.npz").write_bytes(b"other")
    (path / "model.fp16.onnx").unlink()
    damaged = {item["file"]: item for item in inspect(path)["damaged"]}
    assert set(damaged) == {"golden.npz", "model.fp16.onnx"}
    assert damaged["golden.npz"]["got"].endswith("golden.npz: 5 bytes")
    said = run("inspect", path)
    assert said.exit_code == 4
    assert "DAMAGED  golden.npz: golden.npz is not the file that the manifest lists" in said.stdout
    assert "DAMAGED  model.fp16.onnx: a file of the bundle is absent" in said.stdout
    assert run("inspect", path, "--json").exit_code == 4


def test_an_engine(workshop: Any, engine: str, tmp_path: Path) -> None:
    facts = inspect(workshop.bundle / engine)
    assert (facts["kind"], facts["backend"], facts["targets"]) == ("engine", "tensorrt-rtx", ["sm86"])
    assert facts["info"]["precision"] == "fp16"
    shown = run("inspect", workshop.bundle / engine).stdout
    assert "units.1.conv2/Conv" in shown
    assert "{" not in shown
    # The same plan beside the notes of another one.
    path = workshop.copy(tmp_path) / engine
    path.write_bytes(path.read_bytes() + b"\0")
    assert inspect(path)["damaged"][0]["file"] == path.name
    said = run("inspect", path)
    assert said.exit_code == 4
    assert "is not the plan that engine.json describes" in said.stdout
    # And without any: the header of the plan alone says that it is too long.
    path.with_name("engine.json").unlink()
    assert inspect(path)["info"] is None
    assert run("inspect", path).exit_code == 4
    path.write_bytes(path.read_bytes()[:-1])
    assert run("inspect", path).exit_code == 0


def test_a_run_and_its_weights(workshop: Any) -> None:
    facts = inspect(workshop.run)
    assert facts["kind"] == "run"
    assert facts["network"]["widths"] == [4, 6]
    weights = inspect(workshop.run / "model.safetensors")
    assert weights["kind"] == "safetensors"
    assert weights["tensors"]["stem.weight"] == {"dtype": "F32", "shape": [4, 1, 3]}
    assert "4 x 1 x 3" in run("inspect", workshop.run / "model.safetensors").stdout


def test_a_graph(workshop: Any) -> None:
    pytest.importorskip("onnxruntime", reason="graphs are read through it")
    facts = inspect(workshop.bundle / "model.int8.onnx")
    assert facts["kind"] == "onnx"
    assert facts["inputs"] == ["window: float32[batch, 1, 64]"]
    assert facts["outputs"] == ["logits: float32[batch, 3]"]
    assert facts["metadata"]["drsn_edge.precision"] == "int8"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "header of 0 bytes"),
        (b"\xff" * 8, "header of 18446744073709551615 bytes"),
        (b"\x04" + bytes(7) + b"[12]", "AttributeError"),
        (b"\x08" + bytes(7) + b'{"a": 1}', "TypeError"),
        (b"\x0a" + bytes(7) + b'{"a": {}} ', "KeyError"),
        (b"\x08" + bytes(7) + b"no json.", "JSONDecodeError"),
    ],
)
def test_what_is_no_safetensors_file(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(content)
    with pytest.raises(InputError, match=rf"(?s)no safetensors file.*x.safetensors.*{words}.*JSON header"):
        inspect(file)


def test_what_is_nothing_known(tmp_path: Path) -> None:
    for path, words in (
        (tmp_path / "none", "nothing to inspect.*none.*a bundle, a run"),
        (tmp_path, "neither a bundle nor a run.*manifest.json or config.json"),
    ):
        with pytest.raises(InputError, match=rf"(?s){words}"):
            inspect(path)
    (tmp_path / "plan").write_bytes(b"12 bytes of x")
    with pytest.raises(InputError, match=r"(?s)no kind that is known.*plan.*an engine, .onnx or .safetensors"):
        inspect(tmp_path / "plan")
    (tmp_path / "config.json").write_text('{"format_version": 1, "network": {}}')
    with pytest.raises(InputError, match=r"(?s)without contract, labels.*drsn-edge train"):
        inspect(tmp_path)


# --- doctor


def subjects(findings: tuple[Finding, ...]) -> dict[str, Finding]:
    return {finding.subject: finding for finding in findings}


def test_this_machine() -> None:
    found = subjects(doctor())
    assert found["Python"].level == "ok"
    # Everything that an extra brings is looked for.
    names = {"tensorrt_rtx": "tensorrt-rtx"}
    assert {names.get(module, module) for module in EXTRAS} <= set(found)
    assert all(finding.fix for finding in found.values() if finding.level != "ok")
    assert "GPU" in found
    value = json.loads(run("doctor", "--json").stdout)
    assert value["ok"] is True
    assert {item["subject"] for item in value["findings"]} == set(found)
    assert run("doctor").exit_code == 0


def test_what_is_missing_comes_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drsn_edge.pipeline.doctor.available", lambda module: module != "onnxruntime")
    found = subjects(doctor())["onnxruntime"]
    assert found.level == "missing"
    assert found.found == "not installed: running graphs on the CPU"
    assert found.fix == "pip install 'drsn-edge[onnxruntime]'"


Gpu = Callable[[str | None], None]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """A machine with this GPU, or with none."""

    def use(sm: str | None) -> None:
        device = None if sm is None else DeviceInfo("NVIDIA Test", sm, "13.0", 8 << 30, integrated=False)
        probe = DeviceProbe(device, None if device else "no CUDA driver")
        here: Here = dataclasses.replace(describe_here(), device=probe)
        monkeypatch.setattr("drsn_edge.pipeline.doctor.describe_here", lambda: here)

    return use


def test_a_bundle_on_the_device_it_is_for(workshop: Any, engine: str, gpu: Gpu) -> None:
    gpu("sm86")
    findings = doctor(workshop.bundle)
    key = Path(engine).parent.name
    assert subjects(findings)[f"engine {key}"] == Finding(
        f"engine {key}", "missing", "fits this machine, but not verified on this device yet",
        f"drsn-edge verify {workshop.bundle} --mark",
    )  # fmt: skip
    assert subjects(findings)["GPU"].found.startswith("NVIDIA Test, sm86")
    assert to_json(findings)["ok"] is True
    assert run("doctor", workshop.bundle).exit_code == 0


@pytest.mark.parametrize(
    ("sm", "words"), [("sm89", ("sm86", "sm89")), (None, ("needs an NVIDIA GPU", "no CUDA driver"))]
)
def test_a_bundle_on_another_device(
    workshop: Any, engine: str, gpu: Gpu, sm: str | None, words: tuple[str, ...]
) -> None:
    gpu(sm)
    finding = subjects(doctor(workshop.bundle))[f"engine {Path(engine).parent.name}"]
    assert finding.level == "problem"
    for word in words:
        assert word in finding.found
    # Building here helps only where there is a GPU to build for.
    assert ("drsn-edge build" in finding.fix) == (sm is not None)
    said = run("doctor", workshop.bundle)
    assert said.exit_code == 3
    assert words[0] in said.stdout


def test_one_engine_that_fits_is_enough(workshop: Any, engine: str, gpu: Gpu, tmp_path: Path) -> None:
    path = workshop.copy(tmp_path)
    key = Path(engine).parent.name
    plan = (path / engine).read_bytes()
    info = json.loads((path / "engines" / key / "engine.json").read_text())
    Bundle.open(path).update(
        {
            "engines/rtx-other/model.fp16.engine": NewFile(plan, "engine"),
            "engines/rtx-other/engine.json": NewFile(
                json.dumps(info | {"platform": "linux-riscv"}).encode(), "engine-info"
            ),
        }
    )
    gpu("sm86")
    found = subjects(doctor(path))
    assert found[f"engine {key}"].found.startswith("fits this machine")
    assert found["engine rtx-other"].level == "missing"
    assert "linux-riscv" in found["engine rtx-other"].found


def test_a_bundle_without_engines(workshop: Any, tmp_path: Path) -> None:
    path = workshop.copy(tmp_path)
    bundle = Bundle.open(path)
    bundle.update({}, remove=tuple(name for name in bundle.files if name.startswith("engines/")))
    finding = subjects(doctor(path))["engine"]
    assert (finding.level, finding.found) == ("missing", "the bundle holds none")
    assert finding.fix == f"drsn-edge build {path}"
    assert run("doctor", path).exit_code == 0


def test_a_damaged_bundle(workshop: Any, tmp_path: Path) -> None:
    path = workshop.copy(tmp_path)
    (path / "calibration.json").write_text("{}")
    with pytest.raises(HashMismatch, match=r"(?s)calibration.json is not the file.*sha256"):
        doctor(path)
    assert run("doctor", path).exit_code == 4
