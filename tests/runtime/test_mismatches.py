"""Twelve ways in which an engine and the machine that it is on do not belong together: the right reason, no crash.

Each is met twice: in a bundle, where it makes the engine one that was not run, and by the runner itself.
"""

from __future__ import annotations

import contextlib
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drsn_edge.bundle import Bundle, NewFile, write_bundle
from drsn_edge.errors import DrsnError, HashMismatch, InputError, MissingDependency, MissingDevice
from drsn_edge.files import dump_json, sha256_bytes
from drsn_edge.pipeline.variants import open_engine
from drsn_edge.runtime import driver, preflight
from drsn_edge.runtime.driver import DeviceInfo, DeviceProbe
from drsn_edge.runtime.tensorrt_runner import TensorRTRunner
from drsn_edge.signals.contract import SignalContract

GRAPH = b"the graph"
KEY = "tensorrt-10.3.0-sm86-fp16"
HERE = DeviceInfo("Test GPU", "sm86", "13.0", 8 << 30, integrated=False)
MANIFEST: dict[str, Any] = {
    "model": {"source": "test", "network": None, "units": [], "weights_sha256": "0" * 64},
    "contract": SignalContract(sample_rate_hz=1000.0, window=4).to_json(),
    "labels": ["a", "b"],
    "tolerances": {"gate": {}},
    "provenance": {"training": None},
}


class Scene:
    """An engine that fits, until something about it is changed."""

    def __init__(self, fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fake, self.monkeypatch = fake, monkeypatch
        self.plan = b"ftrt" + struct.pack("<I", 0) + bytes(16) + bytes((10, 3, 0, 26)) + bytes(100)
        self.batch = 2
        self.info: dict[str, Any] = {
            "format_version": 1, "backend": "tensorrt", "runner": "tensorrt", "version": "10.3.0",
            "platform": preflight.this_platform(), "sm": "sm86", "targets": ["sm86"], "precision": "fp16",
            "flags": {"version_compatible": False, "set": []},
            "onnx": {"name": "model.fp16.onnx", "sha256": sha256_bytes(GRAPH)},
        }  # fmt: skip
        self.describe()

    def describe(self) -> None:
        """Let engine.json and TensorRT know the plan as it is now."""
        self.fake.plan = self.plan
        self.info["plan"] = {"sha256": sha256_bytes(self.plan), "size": len(self.plan)}


@pytest.fixture
def scene(tensorrt: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr(preflight, "probe_device", lambda index=0: driver.probe_device(index))
    return Scene(tensorrt("10.3"), monkeypatch)


def other_version(scene: Scene) -> None:
    scene.plan = scene.plan[:24] + bytes((10, 16, 1, 11)) + scene.plan[28:]
    scene.describe()


def other_sm(scene: Scene) -> None:
    scene.info |= {"sm": "sm87", "targets": ["sm87"]}


def truncated(scene: Scene) -> None:
    scene.plan = scene.plan[:-7]


def flipped_byte(scene: Scene) -> None:
    scene.plan = scene.plan[:90] + b"\x01" + scene.plan[91:]


def other_batch(scene: Scene) -> None:
    scene.batch = 9


def missing_profile(scene: Scene) -> None:
    scene.fake.profile = ()


def other_model(scene: Scene) -> None:
    scene.info["onnx"]["sha256"] = "ab" * 32


def no_driver(scene: Scene) -> None:
    scene.monkeypatch.setattr(driver, "probe_device", lambda index=0: DeviceProbe(None, "no CUDA driver"))


def no_tensorrt(scene: Scene) -> None:
    scene.monkeypatch.setitem(sys.modules, "tensorrt", None)


def host_code(scene: Scene) -> None:
    scene.info["flags"]["set"] = ["VERSION_COMPATIBLE"]


def future_format(scene: Scene) -> None:
    scene.info = {"format_version": 2, "what": "nobody knows yet"}


Change = Callable[[Scene], None]
# What is wrong, how the bundle says it, how the runner says it; None where it is none of its business.
MISMATCHES: list[tuple[Change, str | None, tuple[type[DrsnError], str] | None]] = [
    (other_version, r"TensorRT 10\.16\.1\.11 on sm86, here 10\.3\.0: rebuild it here with `drsn-edge build BUNDLE`",
     (InputError, r"TensorRT 10\.16\.1\.11 on sm86, here 10\.3\.0: rebuild")),
    (other_sm, "built for sm87, here Test GPU is sm86: rebuild", (InputError, "for sm87, here Test GPU is sm86")),
    (truncated, r"121 bytes instead of 128: copy it again", (InputError, "121 bytes instead of 128: copy it again")),
    (flipped_byte, "not the one that engine.json describes", (InputError, "not the one that engine.json describes")),
    (other_batch, None, (InputError, r"outside of the engine's profile[\s\S]*\[9, 4\][\s\S]*\[1, 4\] to \[8, 4\]")),
    (missing_profile, "no profile for its input x", (InputError, r"no profile for its input x[\s\S]*--minShapes")),
    (other_model, r"another model, model\.fp16\.onnx of sha256 abababababab, here sha256 [0-9a-f]{12}", None),
    (no_driver, "no GPU: no CUDA driver", (MissingDevice, r"needs an NVIDIA GPU[\s\S]*no CUDA driver")),
    (no_tensorrt, "tensorrt is not installed: pip install", (MissingDependency, "python3-libnvinfer")),
    (host_code, "native code.*is not run", (InputError, "native code")),
    (future_format, None, (InputError, r"engine\.json has another format version[\s\S]*2[\s\S]*expected: 1")),
]  # fmt: skip
NAMES = [change.__name__ for change, *_ in MISMATCHES]


def in_bundle(scene: Scene, folder: Path) -> Bundle:
    files = {
        "model.fp16.onnx": NewFile(GRAPH, "graph"),
        f"engines/{KEY}/model.fp16.engine": NewFile(scene.plan, "engine"),
        f"engines/{KEY}/engine.json": NewFile(dump_json(scene.info).encode(), "engine-info"),
    }
    return write_bundle(folder / "a.drsn", MANIFEST, files)


def test_without_a_change_it_runs(scene: Scene, tmp_path: Path) -> None:
    bundle = in_bundle(scene, tmp_path)
    with contextlib.ExitStack() as stack:
        variant = open_engine(bundle, KEY, stack)
        assert (variant.name, variant.reason) == ("engine-fp16", None)
        assert variant.runner is not None
        x = np.ones((2, 4), np.float32)
        np.testing.assert_array_equal(variant.runner.run({"x": x})["y"], 2 * x + 1)


@pytest.mark.parametrize(("change", "reason", "error"), MISMATCHES, ids=NAMES)
def test_the_bundle_says_why_it_was_not_run(
    change: Change, reason: str | None, error: Any, scene: Scene, tmp_path: Path
) -> None:
    change(scene)
    bundle = in_bundle(scene, tmp_path)
    with contextlib.ExitStack() as stack:
        if change is future_format:  # nothing of it can be relied on, not even its precision
            with pytest.raises(error[0], match=error[1]):
                open_engine(bundle, KEY, stack)
            return
        variant = open_engine(bundle, KEY, stack)
        if reason is None:
            assert variant.reason is None
            return
        assert variant.runner is None
        assert variant.reason is not None
        with pytest.raises(AssertionError, match=reason):
            raise AssertionError(variant.reason)
    ran = [call for call in scene.fake.calls if call != "Runtime"]
    assert change is missing_profile or ran == [], "TensorRT was asked although the answer was known"


@pytest.mark.parametrize(("change", "reason", "error"), MISMATCHES, ids=NAMES)
def test_the_runner_says_why_it_does_not_run(
    change: Change, reason: str | None, error: Any, scene: Scene, tmp_path: Path
) -> None:
    change(scene)
    path = tmp_path / "model.fp16.engine"
    path.write_bytes(scene.plan)
    (tmp_path / "engine.json").write_text(dump_json(scene.info))
    wanted, words = error or (None, "")
    outcome = pytest.raises(wanted, match=words) if wanted else contextlib.nullcontext()
    with outcome, TensorRTRunner(path) as runner:
        runner.run({"x": np.ones((scene.batch, 4), np.float32)})


def test_a_wrong_hash_in_the_manifest_is_refused_before_anything_else(scene: Scene, tmp_path: Path) -> None:
    """The twelfth: the plan is not the one that the bundle lists."""
    bundle = in_bundle(scene, tmp_path)
    path = bundle.path / f"engines/{KEY}/model.fp16.engine"
    path.write_bytes(scene.plan[:-1] + b"?")
    with contextlib.ExitStack() as stack, pytest.raises(HashMismatch, match=r"model\.fp16\.engine"):
        open_engine(bundle, KEY, stack)
    assert scene.fake.calls == []


def test_host_code_that_only_tensorrt_sees_is_told_in_our_words(scene: Scene, tmp_path: Path) -> None:
    """A plan of trtexec has no engine.json beside it."""
    path = tmp_path / "model.engine"
    path.write_bytes(scene.plan)
    scene.fake.plan = b"another"
    scene.fake.complaint = (
        "Cannot deserialize engine with lean runtime since IRuntime::getEngineHostCodeAllowed() is false"
    )
    with pytest.raises(InputError, match=r"native code[\s\S]*--excludeLeanRuntime"), TensorRTRunner(path):
        pass


def test_a_plan_of_the_other_library_names_its_runner(scene: Scene, tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(b"vtrt" + bytes(20) + bytes((1, 7, 1, 116)) + bytes(100))
    with pytest.raises(InputError, match=r"TensorRT for RTX 1\.7\.1\.116, which the tensorrt-rtx runner takes"):
        TensorRTRunner(path).__enter__()
    assert scene.fake.calls == []
