"""`build` with TensorRT on a device that is not there: options, the timing cache in the bundle, builds that differ."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from drsn_edge.bundle import Bundle
from drsn_edge.cli import app
from drsn_edge.errors import HashMismatch, UsageError
from drsn_edge.exporters import trt_choice
from drsn_edge.extras import available
from drsn_edge.pipeline import build_noise
from drsn_edge.pipeline.build import build
from drsn_edge.runtime import driver, preflight, trt_log
from drsn_edge.runtime.driver import DeviceInfo, DeviceProbe
from drsn_edge.runtime.runner import Runner, TensorSpec

ORIN = DeviceInfo("Orin", "sm87", "12.6", 64 << 30, integrated=True)
CACHE = "engines/timing-10.3.0-sm87.cache"


@pytest.fixture
def device(trt_api: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An Orin with TensorRT 10.3, as a builder only: engines cannot run."""
    fake = trt_api.builder("10.3", built="fp16")
    monkeypatch.setattr(trt_log, "_LOGGERS", {})
    for module in (driver, preflight):
        monkeypatch.setattr(module, "probe_device", lambda index=0: DeviceProbe(ORIN))
    monkeypatch.setattr(trt_choice, "available", lambda name: name == "tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt", fake.trt)
    return fake


def timing(fake: Any) -> list[str]:
    return [call for call in fake.calls if call.startswith("create_timing_cache")]


def test_the_timing_cache_is_kept_in_the_bundle(device: Any, workshop: Any, tmp_path: Path) -> None:
    path = workshop.copy(tmp_path)
    build(path, backend="tensorrt")
    bundle = Bundle.open(path)
    bundle.check()
    assert bundle.read(CACHE) == b"measured"
    assert bundle.files[CACHE].role == "timing-cache"
    assert timing(device) == ["create_timing_cache b''"]
    device.calls.clear()
    build(path, backend="tensorrt")
    assert timing(device) == ["create_timing_cache b'measured'"]
    assert set(Bundle.open(path).engines()) == set(bundle.engines())


def test_without_it_every_build_measures(device: Any, workshop: Any, tmp_path: Path) -> None:
    path = workshop.copy(tmp_path)
    for _ in range(2):
        build(path, backend="tensorrt", timing_cache=False)
    assert timing(device) == ["create_timing_cache b''"] * 2
    assert CACHE not in Bundle.open(path).files


def test_a_timing_cache_that_was_damaged_is_not_used(device: Any, workshop: Any, tmp_path: Path) -> None:
    path = workshop.copy(tmp_path)
    build(path, backend="tensorrt")
    (path / CACHE).write_bytes(b"mistaken")
    with pytest.raises(HashMismatch, match="timing-10"):
        build(path, backend="tensorrt")


def test_engines_of_several_kinds_stand_side_by_side(device: Any, workshop: Any, tmp_path: Path) -> None:
    path = workshop.copy(tmp_path)
    before = set(Bundle.open(path).engines())
    kinds: list[dict[str, Any]] = [
        {}, {"version_compatible": True}, {"hardware_compatible": True}, {"refit": True}, {"stripped": True},
        {"version_compatible": True, "hardware_compatible": True},
    ]  # fmt: skip
    for kind in kinds:
        (record,) = build(path, backend="tensorrt", **kind).engines
        flags = record.info["flags"]
        assert {
            name for name in ("version_compatible", "hardware_compatible", "refit", "stripped") if flags[name]
        } == set(kind)
    added = set(Bundle.open(path).engines()) - before
    stem = "tensorrt-10.3.0-sm87-fp16"
    assert added == {stem, *(f"{stem}-{kind}" for kind in ("vc", "hc", "refit", "stripped", "vc-hc"))}


def test_options_reach_the_builder_from_the_command_line(device: Any, workshop: Any, tmp_path: Path) -> None:
    path = workshop.copy(tmp_path)
    said = CliRunner().invoke(
        app,
        ["build", str(path), "--backend", "tensorrt", "--version-compatible", "--hardware-compatible", "--stripped",
         "--no-external-tactics", "--no-timing-cache", "--workspace", "7", "--json"],
    )  # fmt: skip
    assert said.exit_code == 0, said.output
    assert {
        "set_flag VERSION_COMPATIBLE", "set_flag EXCLUDE_LEAN_RUNTIME", "hardware_compatibility_level = AMPERE_PLUS",
        "set_flag STRIP_PLAN", f"set_memory_pool_limit WORKSPACE {7 << 20}",
    } <= set(device.calls)  # fmt: skip
    assert any(call.startswith("set_tactic_sources") for call in device.calls)
    assert CACHE not in Bundle.open(path).files


# Builds that differ.


class OfPlan(Runner):
    """A runner whose second logit is the last byte of its plan, in hundredths; the first is 0.005."""

    name = "tensorrt"

    def __init__(self, path: Path, **options: Any) -> None:
        shape = ("batch", 1, 64)
        super().__init__(
            inputs={"window": TensorSpec("window", "float32", shape)},
            outputs={"logits": TensorSpec("logits", "float32", ("batch", 2))},
        )
        self.value = path.read_bytes()[-1] / 100

    def _activate(self) -> None: ...

    def _deactivate(self) -> None: ...

    def _infer(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return {"logits": np.tile(np.array([0.005, self.value], np.float32), (len(feeds["window"]), 1))}


@pytest.fixture
def running(device: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The device, whose engines run."""
    monkeypatch.setattr(preflight, "preflight", lambda *arguments: [])
    monkeypatch.setattr(build_noise, "open_runner", lambda name, path, **options: OfPlan(path, **options))
    return device


def plan_of(number: int) -> bytes:
    return b"ftrt" + bytes(99) + bytes([number])


def test_spread_of_builds_with_and_without_the_timing_cache(running: Any, workshop: Any) -> None:
    before = Bundle.open(workshop.bundle).digest
    running.plans = [plan_of(number) for number in (0, 1, 3, 1, 1, 1)]
    alone, shared = build(workshop.bundle, backend="tensorrt", repeat=3).noise
    assert (alone.timing_cache, shared.timing_cache) == ("none", "shared")
    assert timing(running) == ["create_timing_cache b''"] * 3 + ["create_timing_cache b'measured'"] * 3
    assert alone.max_abs == pytest.approx(0.03, rel=1e-6)
    assert alone.max_rel == pytest.approx(1.0, rel=1e-6)
    assert alone.disagreements == alone.windows == 96
    assert (shared.max_abs, shared.disagreements) == (0.0, 0)
    found = alone.to_json()
    assert found["distinct"] == {"plans": 3, "layer_lists": 1}
    assert shared.to_json()["distinct"] == {"plans": 1, "layer_lists": 1}
    assert len(found["latency_ms"]) == 2
    assert all(item["latency_ms"] > 0 for item in found["builds"])
    assert "96 of 96 golden windows decided in more than one way" in alone.summary
    assert Bundle.open(workshop.bundle).digest == before, "the bundle is left as it is"


def test_without_a_run_it_says_that_outputs_were_not_compared(device: Any, workshop: Any) -> None:
    of_another_version = b"ftrt" + bytes(20) + bytes([10, 7, 0, 1]) + bytes(75)
    device.plans = [of_another_version + bytes([number]) for number in range(4)]
    alone, _ = build(workshop.bundle, backend="tensorrt", repeat=2).noise
    assert (alone.windows, alone.max_abs, alone.disagreements) == (None, None, None)
    assert "outputs were not compared: built for TensorRT" in alone.summary
    assert alone.to_json()["latency_ms"] is None


@pytest.mark.skipif(not available("tensorrt_rtx"), reason="needs TensorRT for RTX, which builds without a GPU")
def test_rtx_builds_are_compared_by_what_can_be_seen_without_a_gpu(workshop: Any) -> None:
    said = CliRunner().invoke(
        app, ["build", str(workshop.bundle), "--backend", "rtx", "--target", "sm86", "--repeat", "2"]
    )
    assert said.exit_code == 0, said.output
    assert "fp16 with rtx" in said.stdout
    assert "2 builds, no timing cache" in said.stdout
    assert "1 layer lists" in said.stdout
    if driver.probe_device().device is None:
        assert "outputs were not compared: no GPU" in said.stdout


def test_one_build_has_nothing_to_be_compared_with(device: Any, workshop: Any) -> None:
    with pytest.raises(UsageError) as error:
        build(workshop.bundle, backend="tensorrt", repeat=1)
    assert (error.value.got, error.value.expected) == ("1", "2 or more builds")


def test_the_result_is_plain(running: Any, workshop: Any) -> None:
    result = build(workshop.bundle, backend="tensorrt", repeat=2)
    assert result.engines == ()
    (first, _) = result.to_json()["noise"]
    assert set(first) == {field.name for field in dataclasses.fields(build_noise.BuildNoise)} | {
        "distinct", "kernels", "size", "latency_ms",
    }  # fmt: skip
