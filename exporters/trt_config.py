"""A builder's configuration, by what the builder has: flags, profile sharing, tactic sources, targets."""

from __future__ import annotations

from typing import Any

from drsn_edge.errors import MissingDevice, UsageError
from drsn_edge.exporters.trt_choice import is_rtx, refused_target, rtx_targets
from drsn_edge.exporters.trt_types import EngineOptions
from drsn_edge.runtime import driver


def configure(trt: Any, config: Any, options: EngineOptions, *, strongly_typed: bool) -> tuple[str, ...]:
    """Set up a builder configuration; the flags that were set, by name.

    Raises:
        UsageError: An option that this builder does not have, or a target that it cannot build for.
        MissingDevice: A refittable or stripped engine of TensorRT for RTX, which needs a GPU for that alone.
    """
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mb << 20)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # On by default; its 10-bit mantissas would be an FP32 engine that differs from FP32 like an FP16 one.
    config.clear_flag(trt.BuilderFlag.TF32)
    names = _wanted_flags(trt, options, strongly_typed=strongly_typed)
    _set_flags(trt, config, names)
    if options.hardware_compatible:
        _refuse_on_rtx(trt, "hardware_compatible")
        if not hasattr(trt, "HardwareCompatibilityLevel"):
            raise UsageError(
                f"{trt.__name__} {trt.__version__} cannot build so",
                got="hardware_compatible",
                expected="TensorRT 8.6 or later",
            )
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if not options.external_tactics:
        _own_kernels_only(trt, config)
    _share_profiles(trt, config)
    if is_rtx(trt):
        _set_targets(trt, config, options.targets)
    return tuple(names)


def _wanted_flags(trt: Any, options: EngineOptions, *, strongly_typed: bool) -> list[str]:
    names = []
    if not strongly_typed and options.precision != "fp32":
        # INT8 needs FP16 beside it: what is not quantized would be FP32 otherwise.
        names += ["FP16", "OBEY_PRECISION_CONSTRAINTS"] + (["INT8"] if options.precision == "int8" else [])
    if options.version_compatible:
        _refuse_on_rtx(trt, "version_compatible")
        # Without its lean runtime: a plan with native code in it would have to be trusted like a program.
        names += ["VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME"]
    if options.refit or options.stripped:
        if is_rtx(trt) and driver.probe_device().device is None:
            raise MissingDevice(
                "TensorRT for RTX builds refittable and stripped engines only where there is a GPU",
                got="stripped" if options.stripped else "refit",
                expected="a GPU with its driver, for these two options alone",
                hint="leave the option out: a plan holds the weights of a small network in a few MB",
            )
        # Identical weights put back cost nothing at run time; REFIT, for others, keeps kernels from knowing them.
        names += (["STRIP_PLAN"] if options.stripped else []) + (["REFIT"] if options.refit else ["REFIT_IDENTICAL"])
    return names


def _set_flags(trt: Any, config: Any, names: list[str]) -> None:
    flag = trt.BuilderFlag
    for name in names:
        if not hasattr(flag, name):
            raise UsageError(
                f"{trt.__name__} {trt.__version__} cannot build so", got=name, expected="a version that has this flag"
            )
        config.set_flag(getattr(flag, name))


def _own_kernels_only(trt: Any, config: Any) -> None:
    """Leave out kernels that call cuBLAS or cuDNN; later versions have none of them left."""
    source = trt.TacticSource
    mask = config.get_tactic_sources()
    for name in ("CUBLAS", "CUBLAS_LT", "CUDNN"):
        if hasattr(source, name):
            mask &= ~(1 << int(getattr(source, name)))
    config.set_tactic_sources(mask)


def _share_profiles(trt: Any, config: Any) -> None:
    """Let several contexts run one profile: for graphs of several batch sizes, and for several streams.

    A preview in 8.6, on by default in 10, and no question any more where the name is gone.
    """
    if not hasattr(trt, "PreviewFeature"):  # 8.4
        return
    feature = trt.PreviewFeature
    if hasattr(feature, "PROFILE_SHARING_0806") and not config.get_preview_feature(feature.PROFILE_SHARING_0806):
        config.set_preview_feature(feature.PROFILE_SHARING_0806, True)


def _refuse_on_rtx(trt: Any, option: str) -> None:
    if is_rtx(trt):
        raise UsageError(
            "TensorRT for RTX does not have this option",
            got=option,
            expected="targets, for several GPUs in one engine",
            hint="--target sm86 --target sm89",
        )


def _set_targets(trt: Any, config: Any, targets: tuple[str, ...]) -> None:
    """Name the GPUs of an RTX engine; without any the library's own list holds."""
    if not targets:
        return
    known = rtx_targets(trt)
    config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        if target not in known or not config.set_compute_capability(known[target], index):
            raise refused_target(trt, target)
