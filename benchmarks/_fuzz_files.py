"""Every kind of file that is read: good examples, and what reads it."""

from __future__ import annotations

import contextlib
import io
import json
import struct
import wave
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from drsn_edge.bundle import Bundle
from drsn_edge.calibration.contract import Bindings, Calibration, digest
from drsn_edge.calibration.plan import LayerPlan, PrecisionPlan
from drsn_edge.files import read_json
from drsn_edge.golden import Golden
from drsn_edge.parity.gate import load_gate
from drsn_edge.pipeline.inspect import inspect
from drsn_edge.pipeline.sources import read_config
from drsn_edge.runtime.driver import DeviceInfo, DeviceProbe
from drsn_edge.runtime.engine_info import check_engine_info
from drsn_edge.runtime.onnx_file import refuse_external_data
from drsn_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner
from drsn_edge.runtime.plan import read_plan_header
from drsn_edge.runtime.preflight import BackendInfo, Here, preflight
from drsn_edge.runtime.verification import outdated, unverified
from drsn_edge.signals.contract import SignalContract
from drsn_edge.signals.readers import read_signal
from drsn_edge.signals.splits import Split

CONTRACT = SignalContract(sample_rate_hz=1000.0, channels=("a",), window=64).to_json()
HERE = Here(
    {"tensorrt": BackendInfo("tensorrt", "10.3.0"), "tensorrt-rtx": BackendInfo("tensorrt-rtx", "1.7.1.116")},
    DeviceProbe(DeviceInfo("Orin", "sm87", "12.6", 64 << 30, integrated=True)), "linux-aarch64",
)  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        suffix: Of its name.
        examples: Good ones.
        read: Reads one; what it raises is judged.
        seal: Makes a changed JSON document fit its own hashes again.
    """

    suffix: str
    examples: tuple[bytes, ...]
    read: Callable[[Path], object]
    seal: Callable[[Any], Any] | None = None

    @property
    def json(self) -> bool:
        return self.suffix == ".json"


def arrays(writer: Callable[..., object], *args: Any, **named: Any) -> bytes:
    stream = io.BytesIO()
    writer(stream, *args, **named)
    return stream.getvalue()


def wav(width: int) -> bytes:
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setparams((2, width, 8000, 0, "NONE", ""))
        file.writeframes(bytes(range(240)) * width)
    return stream.getvalue()


def mat(*, packed: bool) -> bytes:
    """A file of version 5 with one array, by hand."""
    data = np.arange(40.0).tobytes()
    body = struct.pack("<IIII", 6, 8, 6, 0) + struct.pack("<IIii", 5, 8, 1, 40)
    body += struct.pack("<HH4s", 1, 1, b"x") + struct.pack("<II", 9, len(data)) + data
    element = struct.pack("<II", 14, len(body)) + body
    if packed:
        inner = zlib.compress(element)
        element = struct.pack("<II", 15, len(inner)) + inner
    return b"MATLAB 5.0".ljust(124) + struct.pack("<H", 0x0100) + b"IM" + element


def mat_old() -> bytes:
    return struct.pack("<5i", 0, 1, 40, 0, 2) + b"x\0" + np.arange(40.0).tobytes()


def plan(tag: bytes) -> bytes:
    header = bytearray(128)
    header[:4], header[24:28], header[32] = tag, bytes((10, 3, 0, 26)), 0x04
    return bytes(header)


def golden() -> bytes:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((4, 3)).astype(np.float32)
    windows = rng.standard_normal((4, 1, 64)).astype(np.float32)
    y, snr = np.zeros(4, np.int64), np.zeros(4, np.float32)
    return Golden(windows, y, snr, {"pytorch": logits, "onnx-fp32": logits}, {"units.0": logits}).to_bytes()


def calibration() -> dict[str, Any]:
    rows = PrecisionPlan((LayerPlan("conv", "Conv", "int8", "constant weights", "", "x"),))
    bound = Bindings("a" * 64, "b" * 64, "c" * 64, digest(rows.to_json()), {"onnx": "1"})
    return Calibration("mse", {"conv": 0.1}, rows, bound, 512, {"mse": 0.1}).to_json()


def sealed(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    body = {key: item for key, item in value.items() if key != "seal"}
    with contextlib.suppress(TypeError, KeyError):
        body["bindings"]["plan"] = digest(body["plan"])
    return body | {"seal": digest(body)}


MANIFEST = {
    "format_version": 1, "drsn_edge": "0.1.0", "name": "x", "labels": ["a", "b"], "contract": CONTRACT,
    "model": {"source": "x", "network": {"model": "drsn-cw"}, "units": ["units.0"], "weights_sha256": "0" * 64},
    "tolerances": {"gate": {}}, "provenance": {"training": None, "tools": {}},
    "files": {
        "model.fp32.onnx": {"sha256": "0" * 64, "size": 3, "role": "graph"},
        "engines/k/model.fp16.engine": {"sha256": "1" * 64, "size": 3, "role": "engine"},
        "engines/k/engine.json": {"sha256": "1" * 64, "size": 3, "role": "engine-info"},
    },
}  # fmt: skip
ENGINE = {
    "format_version": 1, "backend": "tensorrt", "runner": "tensorrt", "version": "10.3.0", "platform": "linux-aarch64",
    "gpu": "Orin", "sm": "sm87", "driver": "12.6", "targets": ["sm87"], "precision": "fp16",
    "flags": {"version_compatible": True, "hardware_compatible": True},
    "verified": {"passed": True, "reason": None, "device": {"gpu": "Orin", "sm": "sm87"}},
}  # fmt: skip
SPLIT = {
    "format_version": 1, "protocol": "time", "fold": 0, "seed": 0, "labels": ["a", "b"], "dropped": [], "notes": [],
    "parts": {"f" * 64: {"train": [[0, 100]], "test": [[120, 200]]}},
}  # fmt: skip
CONFIG = 'labels = ["a", "b"]\n[contract]\n' + "".join(
    f"{key} = {json.dumps(value)}\n" for key, value in CONTRACT.items() if value is not None
)


def onnx_graph() -> bytes:
    import onnx
    from onnx import helper

    weight = onnx.numpy_helper.from_array(np.ones((3, 4), np.float32), "w")
    bias = onnx.numpy_helper.from_array(np.ones(3, np.float32), "b")
    nodes = [
        helper.make_node("Relu", ["window"], ["r"]),
        helper.make_node("Gemm", ["r", "w", "b"], ["logits"], transB=1),
    ]
    ends = [helper.make_tensor_value_info(name, 1, ["batch", size]) for name, size in (("window", 4), ("logits", 3))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], initializer=[weight, bias])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def read_manifest(path: Path) -> None:
    folder = path.parent / "fuzz.drsn"
    folder.mkdir(exist_ok=True)
    path.replace(folder / "manifest.json")
    bundle = Bundle.open(folder)
    for found in (bundle.files, bundle.labels, bundle.units, bundle.engines(), bundle.precisions, bundle.contract):
        str(found)
    bundle.check()


def read_engine_json(path: Path) -> None:
    info = read_json(path)
    check_engine_info(info, where=path)
    for header in (plan(b"ftrt"), plan(b"vtrt"), b"?"):
        preflight(read_plan_header(header), info, HERE)
    unverified(info, HERE)
    outdated(info, HERE)


def read_onnx(path: Path) -> None:
    from drsn_edge.exporters.canonical import parse

    refuse_external_data(path.read_bytes())
    parse(path.read_bytes())
    with OnnxRuntimeRunner(path) as runner:
        str(runner.inputs)


def read_header(path: Path) -> None:
    preflight(read_plan_header(path), {}, HERE)
    inspect(path)


def kinds() -> dict[str, Kind]:
    """Every kind of file by its name."""
    signal = np.random.default_rng(0).standard_normal((2, 50)).astype(np.float32)
    text = "left,right\n" + "".join(f"{a},{b}\n" for a, b in signal.T.tolist())

    def document(value: Any) -> bytes:
        return json.dumps(value).encode()

    return {
        "manifest": Kind(".json", (document(MANIFEST),), read_manifest),
        "calibration": Kind(
            ".json", (document(calibration()),), lambda path: Calibration.from_json(read_json(path)), sealed
        ),
        "split": Kind(".json", (document(SPLIT),), lambda path: Split.from_json(read_json(path))),
        "engine.json": Kind(".json", (document(ENGINE),), read_engine_json),
        "golden": Kind(".npz", (golden(),), lambda path: Golden.from_bytes(path.read_bytes())),
        "npz": Kind(
            ".npz", (arrays(np.savez, x=signal[0], fs=8000), arrays(np.savez_compressed, x=signal)), read_signal
        ),
        "npy": Kind(".npy", (arrays(np.save, signal), arrays(np.save, signal.astype("i2"))), read_signal),
        "wav": Kind(".wav", (wav(2), wav(3), wav(4)), read_signal),
        "csv": Kind(".csv", (text.encode(), text.replace(",", ";").encode()), read_signal),
        "mat": Kind(".mat", (mat(packed=False), mat(packed=True), mat_old()), read_signal),
        "onnx": Kind(".onnx", (onnx_graph(),), read_onnx),
        "engine": Kind(".engine", (plan(b"ftrt"), plan(b"vtrt")), read_header),
        "config": Kind(".toml", (CONFIG.encode(),), read_config),
        "gate": Kind(".toml", (b"[gate]\ngated_from_db = -4.0\nchanged_limit = {fp16 = 0.005}\n",), load_gate),
    }
