"""From an ONNX file to an engine, with whatever builder this machine has: TensorRT 8.5 to 11, TensorRT for RTX.

Imports neither torch nor onnx: on a device there is neither. TensorRT needs the GPU that it builds for; TensorRT for
RTX builds without one, for GPUs that are named. After the build the layers are read back, and an engine that has not
got the precision that was asked for is an error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from drsn_edge.errors import BuildError, InputError, MissingDevice
from drsn_edge.exporters.trt_choice import (
    builder_choice,
    check_device,
    check_targets,
    graph_for,
    is_rtx,
    load_builder,
    typing_for,
    wanted_graph,
)
from drsn_edge.exporters.trt_config import configure
from drsn_edge.exporters.trt_layers import check_precision, parse_inspector, parse_rtx_log
from drsn_edge.exporters.trt_network import add_profile, describe_tensors, keep_fp32, network_flags, parse_onnx
from drsn_edge.exporters.trt_progress import PERCENT, Watch, monitor
from drsn_edge.exporters.trt_sidecar import sidecar
from drsn_edge.exporters.trt_types import EngineBuild, EngineOptions, EngineTensor, LayerInfo, Precision
from drsn_edge.progress import SILENT, Progress
from drsn_edge.runtime.plan import read_plan_header
from drsn_edge.runtime.trt_log import Message, error_text, trt_logger

__all__ = [
    "EngineBuild",
    "EngineOptions",
    "EngineTensor",
    "LayerInfo",
    "build_engine",
    "builder_choice",
    "check_targets",
    "graph_for",
    "load_builder",
    "sidecar",
    "typing_for",
    "wanted_graph",
]


def build_engine(
    onnx: Path | bytes,
    *,
    options: EngineOptions,
    progress: Progress = SILENT,
    cancel: Callable[[], bool] | None = None,
    expected: Mapping[str, Precision] | None = None,
    trt: Any = None,
) -> EngineBuild:
    """Build an engine.

    Args:
        onnx: The graph, of the kind that `wanted_graph(options)` names; no external data.
        options: How.
        progress: Told about the builder's phases, where it tells them (TensorRT 10 and later).
        cancel: Asked between steps; the build ends as soon as it answers yes.
        expected: Precision per node of the graph, from the precision plan, to check every layer and not only some.
        trt: The builder's module, instead of the one that `options.backend` chooses.

    Raises:
        InputError: No such file, or not an ONNX graph.
        UsageError: Options that this builder does not have; a target that it cannot build for.
        MissingDependency, MissingDevice: No builder here, or none that can work here.
        BuildError: The builder failed, was cancelled, or built something else than was asked.
    """
    graph = _read(onnx)
    trt = load_builder(options) if trt is None else trt
    here = () if is_rtx(trt) else (check_device(options.targets).sm,)
    strongly_typed = typing_for(trt, options.strongly_typed)
    logger, log = trt_logger(trt)
    watch = Watch(cancel, log)
    title, tells = f"building the {options.precision} engine", hasattr(trt, "IProgressMonitor")
    with log.turn, log.record() as said, progress.step(title, PERCENT if tells else None) as step:
        log.interrupted, started = False, time.monotonic()
        builder = _builder(trt, logger, said)
        flags = network_flags(trt, strongly_typed=strongly_typed)
        network = builder.create_network(sum(flags.values()))
        parse_onnx(trt, network, logger, graph, said)
        tensors = describe_tensors(network, options)
        config = builder.create_builder_config()
        names = (*flags, *configure(trt, config, options, strongly_typed=strongly_typed))
        add_profile(builder, config, tensors)
        if not strongly_typed and options.precision != "fp32":
            keep_fp32(trt, network)
        cache = _TimingCache(trt, config, options.timing_cache, progress)
        if tells:
            config.progress_monitor = monitor(trt, watch, step)
        plan = None if watch.stop() else builder.build_serialized_network(network, config)
        watch.settle()
        if plan is None:
            _settle(trt, builder)
            raise BuildError(
                f"{trt.__name__} {trt.__version__} built no engine",
                got=error_text(said),
                expected="a plan",
                hint="more --workspace, a smaller --max-batch or another --precision, by what the message says",
            )
        plan = bytes(plan)
        layers = _layers(trt, logger, plan, said)
    check_precision(
        layers, options.precision, strongly_typed=strongly_typed, expected=expected, targets=options.targets
    )
    return EngineBuild(
        plan=plan,
        backend="rtx" if is_rtx(trt) else "tensorrt",
        version=str(trt.__version__),
        precision=options.precision,
        strongly_typed=strongly_typed,
        targets=here or options.targets or read_plan_header(plan).targets or (),
        tensors=tensors,
        layers=layers,
        log=tuple(dict.fromkeys(message.text.strip() for message in said if message.severity == "WARNING")),
        seconds=time.monotonic() - started,
        flags=names,
        hardware_compatible=options.hardware_compatible,
        timing_cache=cache.read(),
    )


def _read(onnx: Path | bytes) -> bytes:
    if isinstance(onnx, bytes):
        return onnx
    if not onnx.is_file():
        raise InputError("the graph is not there", got=onnx, expected="an ONNX file")
    return onnx.read_bytes()


def _builder(trt: Any, logger: Any, said: list[Message]) -> Any:
    try:
        return trt.Builder(logger)
    except TypeError as error:  # pybind11 for a null pointer: a driver that TensorRT cannot work with
        raise MissingDevice(
            f"{trt.__name__} {trt.__version__} cannot make a builder",
            got=error_text(said),
            expected="a GPU and a driver that it supports",
        ) from error


def _settle(trt: Any, builder: Any) -> None:
    """Let TensorRT for RTX forget a failed build.

    In 1.7 a refusal for sm75 leaves a Turing setting behind, and the next engine of the process, for whatever GPU, gets
    more kernels than it needs (78 instead of 68). A build of next to nothing takes that setting away.
    """
    if not is_rtx(trt):
        return
    network = builder.create_network(0)
    nothing = network.add_identity(network.add_input("x", trt.DataType.FLOAT, (1,)))
    network.mark_output(nothing.get_output(0))
    builder.build_serialized_network(network, builder.create_builder_config())


def _layers(trt: Any, logger: Any, plan: bytes, said: list[Message]) -> tuple[LayerInfo, ...]:
    if is_rtx(trt):
        return parse_rtx_log(message.text for message in said)
    # The runtime must outlive the engine, and that the inspector.
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise BuildError(
            "the engine that was just built cannot be loaded", got=error_text(said), expected="an engine for this GPU"
        )
    inspector = engine.create_engine_inspector()
    return parse_inspector(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


class _TimingCache:
    """What the builder has measured on this GPU; absent on RTX, which chooses kernels where they run."""

    def __init__(self, trt: Any, config: Any, content: bytes | None, progress: Progress) -> None:
        self._cache: Any = None
        if is_rtx(trt):
            return
        self._cache = config.create_timing_cache(content or b"")
        # False: refuse times of another GPU or version rather than trust them.
        if not config.set_timing_cache(self._cache, False) and content:
            progress.notice("the timing cache is of another GPU or TensorRT version and was not used")
            self._cache = config.create_timing_cache(b"")
            config.set_timing_cache(self._cache, False)

    def read(self) -> bytes | None:
        return None if self._cache is None else bytes(self._cache.serialize())
