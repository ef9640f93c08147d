"""Which builder, which typing, which of the bundle's graphs.

Builders are told apart by what they have, not by their version numbers, with one exception that says why.
"""

from __future__ import annotations

from typing import Any

from drsn_edge.errors import MissingDependency, MissingDevice, UsageError
from drsn_edge.exporters.trt_types import Backend, EngineOptions, Precision
from drsn_edge.extras import available, install_hint, require
from drsn_edge.runtime import driver

MODULES: dict[Backend, str] = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}


def builder_choice(backend: str = "auto", *, targets: tuple[str, ...] = ()) -> Backend:
    """The builder to use on this machine.

    `auto` is TensorRT where it is installed and has a GPU to build on and for, else TensorRT for RTX, which builds
    without a GPU.

    Raises:
        MissingDependency: What was asked for is not installed, or nothing is; the hint is one pip command.
        MissingDevice: TensorRT was asked for and there is no GPU to build on.
        UsageError: TensorRT was asked for another GPU than this machine's, or there is no such backend.
    """
    if backend not in ("auto", *MODULES):
        raise UsageError("there is no such engine builder", got=backend, expected=f"auto, {', '.join(MODULES)}")
    device = driver.probe_device().device
    here = device is not None and all(target == device.sm for target in targets)
    if backend == "auto":
        if available(MODULES["tensorrt"]) and here:
            return "tensorrt"
        if available(MODULES["rtx"]):
            return "rtx"
        installed = "tensorrt without a GPU to build on" if available(MODULES["tensorrt"]) else "neither is installed"
        raise MissingDependency(
            "building an engine needs TensorRT or TensorRT for RTX",
            got=installed,
            expected="tensorrt with a GPU, or tensorrt_rtx",
            hint=install_hint("rtx"),
        )
    choice: Backend = "tensorrt" if backend == "tensorrt" else "rtx"
    if not available(MODULES[choice]):
        raise MissingDependency(
            "building the engine needs its builder",
            got=f"{MODULES[choice]} is not installed",
            expected=MODULES[choice],
            hint=install_hint(choice),
        )
    if choice == "tensorrt":
        check_device(targets)
    return choice


def check_device(targets: tuple[str, ...]) -> driver.DeviceInfo:
    """TensorRT builds on the GPU that it builds for; asked before its objects are touched, which crash without one.

    Raises:
        MissingDevice: No GPU.
        UsageError: Other targets than this GPU.
    """
    probe = driver.probe_device()
    if probe.device is None:
        raise MissingDevice(
            "TensorRT builds on the GPU that it builds for",
            got=probe.reason,
            expected="a GPU with its driver",
            hint="build on the device, or without a GPU for a desktop GPU: --backend rtx --target sm86",
        )
    others = [target for target in targets if target != probe.device.sm]
    if others:
        raise UsageError(
            "TensorRT builds only for the GPU that it runs on",
            got=", ".join(others),
            expected=f"{probe.device.sm} ({probe.device.name})",
            hint="leave --target out, or build on the device itself",
        )
    return probe.device


def load_builder(options: EngineOptions) -> Any:
    """The module of the builder that `options` ask for.

    Raises:
        MissingDependency, MissingDevice, UsageError: As `builder_choice`.
    """
    choice = builder_choice(options.backend, targets=options.targets)
    return require(MODULES[choice], purpose="building an engine", extra=choice)


def is_rtx(trt: Any) -> bool:
    """Whether a module is TensorRT for RTX: the one that builds for named GPUs."""
    return hasattr(trt.IBuilderConfig, "set_compute_capability")


def check_targets(trt: Any, targets: tuple[str, ...]) -> None:
    """Refuse GPUs that TensorRT for RTX has no name for, before anything is built.

    Raises:
        UsageError: One of them is such.
    """
    for target in targets:
        if target not in rtx_targets(trt):
            raise refused_target(trt, target)


def refused_target(trt: Any, target: str) -> UsageError:
    """The error for a GPU that TensorRT for RTX does not build for."""
    return UsageError(
        f"TensorRT for RTX {trt.__version__} does not build for this GPU",
        got=target,
        expected=", ".join(rtx_targets(trt)),
        hint="build on the device itself with its own TensorRT (a Jetson, a data-centre GPU)",
    )


def rtx_targets(trt: Any) -> dict[str, Any]:
    """GPUs that TensorRT for RTX has a name for, with its values for them."""
    members = trt.ComputeCapability.__members__
    return {name.lower(): value for name, value in members.items() if name not in ("NONE", "CURRENT")}


def typing_for(trt: Any, asked: bool | None = None) -> bool:
    """Whether a builder takes element types from the graph (strongly typed) or is told a precision (weakly).

    Some know one way only. TensorRT 10 knows both; there the version decides, because the difference is not in the
    interface: from 10.12 on weak typing is deprecated, before that it is what the builder is best at.

    Raises:
        UsageError: `asked` is a way that the builder does not know.
    """
    can_weak = hasattr(trt.BuilderFlag, "FP16")
    can_strong = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED") or not can_weak
    if asked is None:
        return can_strong and (not can_weak or version_numbers(trt) >= (10, 12))
    if (asked and not can_strong) or (not asked and not can_weak):
        names = {True: "strongly typed networks", False: "weakly typed networks"}
        raise UsageError(
            f"{trt.__name__} {trt.__version__} does not have {names[asked]}",
            got=f"strongly_typed={asked}",
            expected=names[not asked],
        )
    return asked


def graph_for(precision: Precision, strongly_typed: bool) -> str:
    """Which file of a bundle a builder is given."""
    if precision == "fp16":
        return "model.fp16.onnx" if strongly_typed else "model.fp32.onnx"
    if precision == "int8":
        return "model.int8.onnx" if strongly_typed else "model.int8-fp32.onnx"
    return "model.fp32.onnx"


def wanted_graph(options: EngineOptions, *, trt: Any = None) -> str:
    """Which file of a bundle `build_engine` is to be given for these options, on this machine."""
    module = trt if trt is not None else load_builder(options)
    return graph_for(options.precision, typing_for(module, options.strongly_typed))


def version_numbers(trt: Any) -> tuple[int, ...]:
    """`10.3.0.post1` as (10, 3, 0)."""
    parts = str(trt.__version__).split(".")
    return tuple(int(part) for part in parts if part.isdigit())
