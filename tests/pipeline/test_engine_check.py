"""An engine is usable only after golden windows went through it where it runs, and only as long as nothing changed."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from drsn_edge.bundle import GOLDEN, Bundle
from drsn_edge.cli import app
from drsn_edge.errors import InputError
from drsn_edge.golden import Golden
from drsn_edge.pipeline.build import build
from drsn_edge.pipeline.engine_check import mark_engines, outdated_engines
from drsn_edge.pipeline.engine_notes import notes_of
from drsn_edge.runtime.driver import DeviceInfo, DeviceProbe
from drsn_edge.runtime.preflight import BackendInfo, Here, this_platform
from drsn_edge.runtime.runner import Runner, TensorSpec, open_runner
from drsn_edge.runtime.verification import Verification, VerifiedOn, outdated, unverified

pytest.importorskip("tensorrt_rtx", reason="needs TensorRT for RTX, which builds without a GPU")

Answer = Callable[[NDArray[Any]], NDArray[Any]]


class FakeEngine(Runner):
    """Answers golden windows as it is told."""

    name = "tensorrt-rtx"
    answer: Answer

    def __init__(self, path: Path) -> None:
        window = TensorSpec("window", "float32", ("batch", 1, 64))
        logits = TensorSpec("logits", "float32", ("batch", 3))
        super().__init__(inputs={"window": window}, outputs={"logits": logits})

    def _activate(self) -> None:
        pass

    def _deactivate(self) -> None:
        pass

    def _infer(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return {"logits": type(self).answer(feeds["window"])}


@dataclasses.dataclass
class Device:
    """A machine that a test may change: its GPU, its library, and how its engines answer."""

    gpu: DeviceInfo | None
    version: str
    error: Answer

    def here(self) -> Here:
        probe = DeviceProbe(self.gpu, None if self.gpu else "no CUDA driver")
        return Here({"tensorrt-rtx": BackendInfo("tensorrt-rtx", self.version)}, probe, this_platform())


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, workshop: Any) -> Device:
    """A desktop GPU whose engines answer what the FP16 graph answered."""
    import tensorrt_rtx

    golden = Golden.from_bytes(Bundle.open(workshop.bundle).read(GOLDEN))
    rows = {window.tobytes(): row for window, row in zip(golden.windows, golden.logits["onnx-fp16"], strict=True)}
    gpu = DeviceInfo("NVIDIA Test", "sm86", "13.0", 8 << 30, integrated=False)
    made = Device(gpu, str(tensorrt_rtx.__version__), lambda logits: logits)
    answer = staticmethod(lambda x: made.error(np.stack([rows[window.tobytes()] for window in x]).astype(np.float32)))
    monkeypatch.setattr(FakeEngine, "answer", answer, raising=False)
    monkeypatch.setattr("drsn_edge.runtime.preflight.describe_here", made.here)
    monkeypatch.setattr("drsn_edge.runtime.preflight.describe_device", lambda: made.here().device)
    monkeypatch.setattr(
        "drsn_edge.pipeline.variants.open_runner",
        lambda name, path: FakeEngine(path) if name == FakeEngine.name else open_runner(name, path),
    )
    monkeypatch.setattr("drsn_edge.pipeline.build.describe_device", lambda: made.here().device)
    return made


def verdicts(path: Path) -> dict[str, Any]:
    bundle = Bundle.open(path)
    bundle.check()
    return {key: bundle.read_json(notes_of(bundle, key))["verified"] for key in bundle.engines()}


def run(*args: object) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def test_an_engine_that_cannot_run_here_stays_unverified(workshop: Any, tmp_path: Path) -> None:
    path = workshop.copy(tmp_path)
    result = build(path, backend="rtx", targets=("sm89",))
    assert set(verdicts(path).values()) == {None}
    (verdict,) = result.verdicts
    assert (verdict.verification, verdict.reason) == (None, "no GPU: no CUDA driver")
    assert "not verified yet: no GPU" in result.notes[0]
    assert run("verify", path, "--mark").exit_code == 0
    assert set(verdicts(path).values()) == {None}


def test_build_verifies_and_marks(workshop: Any, tmp_path: Path, device: Device) -> None:
    path = workshop.copy(tmp_path)
    said = run("build", path, "--backend", "rtx", "--target", "sm86", "--json")
    assert said.exit_code == 0, said.stderr
    value = json.loads(said.stdout)
    (engine,), (verdict,) = value["engines"], value["verdicts"]
    mark = verdicts(path)[engine["key"]]
    assert mark == verdict["verified"] == engine["info"]["verified"]
    assert (mark["passed"], mark["reason"], mark["max_abs"], mark["top1_agreement"]) == (True, None, 0.0, 1.0)
    assert mark["device"] == {
        "gpu": "NVIDIA Test", "sm": "sm86", "driver": "13.0", "version": device.version, "platform": this_platform(),
    }  # fmt: skip
    assert mark["windows"] == 96
    assert "verified here" in run("build", path, "--backend", "rtx", "--target", "sm86").stdout


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (lambda logits: -logits, "rmse .*limit"),
        (lambda logits: logits * np.float32("nan"), "nonfinite"),
        (lambda logits: logits[:, :2], r"another shape: \[96, 2\]"),
    ],
)
def test_an_engine_that_decides_otherwise_is_marked_and_is_exit_code_5(
    workshop: Any, tmp_path: Path, device: Device, error: Answer, words: str
) -> None:
    device.error = error
    path = workshop.copy(tmp_path)
    said = run("build", path, "--backend", "rtx", "--target", "sm86", "--json")
    assert said.exit_code == 5
    (verdict,) = json.loads(said.stdout)["verdicts"]
    assert verdict["verified"]["passed"] is False
    assert re.search(words, verdict["verified"]["reason"])
    assert verdicts(path) == {verdict["key"]: verdict["verified"]}
    assert "does not decide as its graph does" in said.stderr
    bundle = Bundle.open(path)
    reason = unverified(bundle.read_json(notes_of(bundle, verdict["key"])), device.here())
    assert reason is not None
    assert reason.startswith("its verification failed: ")


def test_an_engine_that_was_copied_here_is_marked_by_verify(workshop: Any, tmp_path: Path, device: Device) -> None:
    path = workshop.copy(tmp_path)
    assert set(verdicts(path).values()) == {None}
    assert run("verify", path).exit_code == 0
    assert set(verdicts(path).values()) == {None}, "verify alone writes nothing"
    assert run("verify", path, "--mark").exit_code == 0
    (mark,) = verdicts(path).values()
    assert mark["passed"] is True
    said = run("verify", "--from", path / "report.json", "--mark")
    assert said.exit_code == 2
    assert "a saved result marks no engine" in said.stderr


def test_an_upgrade_is_named_and_rebuild_replaces(workshop: Any, tmp_path: Path, device: Device) -> None:
    path = workshop.copy(tmp_path)
    build(path, backend="rtx", targets=("sm86",))
    (key,) = verdicts(path)
    assert unverified(Bundle.open(path).read_json(f"engines/{key}/engine.json"), device.here()) is None
    assert device.gpu is not None
    device.gpu = dataclasses.replace(device.gpu, driver="13.2")
    info = Bundle.open(path).read_json(f"engines/{key}/engine.json")
    assert unverified(info, device.here()) == "verified with driver 13.0, here 13.2"
    words = f"engine {key} is out of date, built with a driver for CUDA 13.0, here 13.2"
    for command in (("verify", path), ("build", path, "--dry-run", "--backend", "rtx", "--precision", "int8")):
        said = run(*command)
        assert words in said.stderr, said.stderr
        assert f"drsn-edge build {path} --rebuild" in said.stderr
    said = run("build", path, "--rebuild", "--backend", "rtx", "--target", "sm86", "--json")
    assert said.exit_code == 0, said.stderr
    assert json.loads(said.stdout)["removed"] == [key]
    (mark,) = verdicts(path).values()
    assert mark["device"]["driver"] == "13.2"
    again = run("build", path, "--rebuild")
    assert again.exit_code == 0
    assert "no engine is out of date" in again.stderr


def test_rebuild_removes_the_engine_of_another_version(workshop: Any, tmp_path: Path, device: Device) -> None:
    from drsn_edge.bundle import NewFile

    path = workshop.copy(tmp_path)
    bundle = Bundle.open(path)
    (plan,) = bundle.engines().values()
    (key,) = bundle.engines()
    info = bundle.read_json(f"engines/{key}/engine.json") | {"version": "1.5.0.1"}
    bundle = bundle.update(
        {
            "engines/old/model.fp16.engine": NewFile(bundle.read(plan), "engine"),
            "engines/old/engine.json": NewFile(json.dumps(info).encode(), "engine-info"),
        },
        remove=(plan, f"engines/{key}/engine.json"),
    )
    result = build(bundle, rebuild=True, backend="rtx", targets=("sm86",))
    assert result.removed == ("old",)
    assert set(verdicts(path)) == {key}
    assert verdicts(path)[key]["passed"] is True
    assert not (path / "engines" / "old" / "engine.json").exists()


def test_engines_of_other_devices_are_not_out_of_date(device: Device) -> None:
    info = {
        "runner": "tensorrt-rtx", "platform": this_platform(), "targets": ["sm86"], "version": "1.0", "driver": None,
    }  # fmt: skip
    assert outdated(info, device.here()) == f"built with tensorrt-rtx 1.0, here {device.version}"
    assert outdated(info | {"targets": ["sm87"]}, device.here()) is None
    assert outdated(info | {"platform": "linux-riscv"}, device.here()) is None
    assert outdated(info | {"version": device.version}, device.here()) is None
    device.gpu = None
    assert outdated(info, device.here()) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [("gpu", "NVIDIA Other"), ("sm", "sm89"), ("driver", "12.0"), ("version", "1.5"), ("platform", "linux-riscv")],
)
def test_a_verdict_holds_for_one_machine(device: Device, field: str, value: str) -> None:
    on = VerifiedOn.here("tensorrt-rtx", device.here())
    assert on is not None
    verdict = Verification(True, dataclasses.replace(on, **{field: value}), None, 0.0, 1.0, 96)
    info = {"runner": "tensorrt-rtx", "verified": verdict.to_json()}
    assert unverified(info, device.here()) == f"verified with {field} {value}, here {getattr(on, field)}"
    assert unverified({"runner": "tensorrt-rtx"}, device.here()) == "not verified on this device yet"
    for damaged in ({"passed": 1}, {"passed": True, "device": 3}, {"passed": True}, "yes", True):
        assert unverified({"runner": "tensorrt-rtx", "verified": damaged}, device.here()) is not None
    device.gpu = None
    assert unverified(info, device.here()) == "needs an NVIDIA GPU: no CUDA driver"


def test_a_key_that_is_not_there(workshop: Any) -> None:
    bundle = Bundle.open(workshop.bundle)
    with pytest.raises(InputError, match=r"(?s)no such engine.*elsewhere.*rtx-"):
        mark_engines(bundle, ["elsewhere"])


def test_without_a_gpu_no_engine_library_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Here:
        raise AssertionError("TensorRT was loaded")

    monkeypatch.setattr("drsn_edge.runtime.preflight.describe_here", refuse)
    monkeypatch.setattr("drsn_edge.runtime.preflight.describe_device", lambda: DeviceProbe(None, "no CUDA driver"))
    bundle: Any = SimpleNamespace(engines=lambda: {"rtx-sm86-fp16": "engines/rtx-sm86-fp16/model.fp16.engine"})
    assert outdated_engines(bundle) == {}
