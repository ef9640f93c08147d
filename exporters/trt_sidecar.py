"""`engine.json`: what is known about a plan, beside the plan. The plan itself stays as TensorRT wrote it."""

from __future__ import annotations

from typing import Any

from drsn_edge.exporters.trt_layers import contraction_precision, count_precisions
from drsn_edge.exporters.trt_types import EngineBuild
from drsn_edge.files import sha256_bytes
from drsn_edge.runtime.driver import DeviceInfo
from drsn_edge.runtime.preflight import this_platform


def sidecar(
    build: EngineBuild, *, onnx_name: str, onnx_sha256: str, device: DeviceInfo | None = None
) -> dict[str, Any]:
    """The content of `engine.json`.

    Args:
        build: The engine.
        onnx_name: The graph it was built from, as the bundle calls it.
        onnx_sha256: Of that graph: plans of the same graph differ from build to build, byte for byte.
        device: The GPU that it was built on; None for one that was built without.
    """
    local = device is not None and build.backend == "tensorrt"
    return {
        "format_version": 1,
        "backend": build.backend,
        "runner": "tensorrt" if build.backend == "tensorrt" else "tensorrt-rtx",
        "version": build.version,
        "platform": this_platform(),
        "gpu": device.name if device is not None else None,
        "sm": device.sm if device is not None and local else None,
        "driver": device.driver if device is not None else None,
        "targets": list(build.targets),
        "precision": build.precision,
        "flags": {
            "strongly_typed": build.strongly_typed,
            "tf32": False,
            "version_compatible": "VERSION_COMPATIBLE" in build.flags,
            "hardware_compatible": build.hardware_compatible,
            "refit": "REFIT" in build.flags,
            "stripped": "STRIP_PLAN" in build.flags,
            "set": list(build.flags),
        },
        "onnx": {"name": onnx_name, "sha256": onnx_sha256},
        "plan": {"sha256": sha256_bytes(build.plan), "size": len(build.plan)},
        "tensors": [
            {
                "name": tensor.spec.name,
                "mode": tensor.mode,
                "dtype": tensor.spec.dtype,
                "shape": list(tensor.spec.shape),
                "profile": None
                if tensor.profile is None
                else dict(zip(("min", "opt", "max"), map(list, tensor.profile), strict=True)),
            }
            for tensor in build.tensors
        ],
        "kernels": build.kernels,
        "precisions": count_precisions(build.layers),
        "layers": [
            {
                "name": layer.name,
                "type": layer.type,
                "onnx_nodes": list(layer.onnx_nodes),
                "inputs": list(layer.inputs),
                "outputs": list(layer.outputs),
                "precision": contraction_precision(layer),
                "tactic": layer.tactic,
            }
            for layer in build.layers
        ],
        "build_seconds": round(build.seconds, 3),
        "log": list(build.log),
        # Until golden windows went through it where it runs: runtime/verification.py.
        "verified": None,
    }
