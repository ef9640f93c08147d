"""`inspect`: what a file says of itself. Needs neither torch nor onnx."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from drsn_edge.bundle import CALIBRATION, MANIFEST, Bundle
from drsn_edge.errors import InputError
from drsn_edge.files import read_json, sha256_file
from drsn_edge.pipeline.inspect_engine import NOTES, inspect_engine
from drsn_edge.pipeline.int8_worth import int8_worth

_HEADER_LIMIT = 16 << 20


def inspect(path: Path | str) -> dict[str, Any]:
    """What is at a path: a bundle, a run folder, an engine, an ONNX file, or safetensors.

    Returns:
        Plain JSON values; `kind` says which.

    Raises:
        InputError: Nothing there, or nothing that is known.
    """
    target = Path(path)
    if not target.exists():
        raise InputError(
            "there is nothing to inspect", got=target, expected="a bundle, a run, an engine, or a model file"
        )
    if (target / MANIFEST).is_file():
        return _bundle(target)
    if (target / "config.json").is_file():
        return _run(target)
    plans = sorted(target.glob("*.engine")) if (target / NOTES).is_file() else []
    if len(plans) == 1:
        (target,) = plans  # a folder engines/KEY of a bundle
    elif target.is_dir():
        raise InputError(
            "this folder is neither a bundle nor a run", got=target, expected=f"{MANIFEST} or config.json in it"
        )
    facts: dict[str, Any] = {"path": str(target), "size": target.stat().st_size, "sha256": sha256_file(target)}
    if target.suffix == ".safetensors":
        return facts | {"kind": "safetensors", "tensors": _safetensors(target)}
    if target.suffix == ".onnx":
        return facts | _onnx(target)
    return facts | inspect_engine(target, size=facts["size"], sha256=facts["sha256"])


def _bundle(path: Path) -> dict[str, Any]:
    bundle = Bundle.open(path)
    damaged = []
    for name in bundle.files:
        try:
            bundle.file(name)
        except InputError as error:
            damaged.append({"file": name, "problem": error.what, "got": error.got})
    plan = bundle.read_json(CALIBRATION)["plan"] if CALIBRATION in bundle.files and not damaged else []
    engines = {}
    for key in bundle.engines():
        info = f"engines/{key}/engine.json"
        engines[key] = bundle.read_json(info) if not damaged else None
    return {
        "kind": "bundle",
        "path": str(path),
        "digest": bundle.digest,
        "damaged": damaged,
        "model": bundle.manifest["model"],
        "contract": bundle.manifest["contract"],
        "labels": list(bundle.labels),
        "precisions": list(bundle.precisions),
        "plan": plan,
        "engines": engines,
        "int8_worth": {key: item.text for key, item in int8_worth(bundle).items()} if not damaged else {},
        "provenance": bundle.manifest["provenance"],
        "files": bundle.manifest["files"],
    }


def _run(path: Path) -> dict[str, Any]:
    value = read_json(path / "config.json", what="the run's configuration")
    missing = [key for key in ("format_version", "network", "contract", "labels") if key not in value]
    if missing:
        raise InputError(
            "this config.json is not that of a run",
            got=f"{path / 'config.json'} without {', '.join(missing)}",
            expected="what `drsn-edge train` wrote",
        )
    return {"kind": "run", "path": str(path)} | value


def _safetensors(path: Path) -> dict[str, Any]:
    """Names, types and shapes from the header: 8 bytes of length, then JSON."""
    with path.open("rb") as handle:
        start = handle.read(8)
        size = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= size <= _HEADER_LIMIT:
            raise InputError(
                "this is no safetensors file", got=f"{path}: header of {size} bytes", expected="a JSON header"
            )
        try:
            header = json.loads(handle.read(size))
            tensors = {name: item for name, item in header.items() if name != "__metadata__"}
            return {name: {"dtype": item["dtype"], "shape": item["shape"]} for name, item in tensors.items()}
        except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
            raise InputError(
                "this is no safetensors file",
                got=f"{path}: {type(error).__name__}: {error}",
                expected="a JSON header with dtype and shape of every tensor",
            ) from None


def _onnx(path: Path) -> dict[str, Any]:
    """Through ONNX Runtime: what a device has."""
    from drsn_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner

    with OnnxRuntimeRunner(path) as runner:
        return {
            "kind": "onnx",
            "inputs": [str(spec) for spec in runner.inputs.values()],
            "outputs": [str(spec) for spec in runner.outputs.values()],
            "metadata": runner.metadata,
        }
