"""TensorRT 8.5 to 11: plans on the GPU.

Only the tensor-name API is used, which all of these versions have. Page-locked buffers for the largest batch of the
engine's profile are made once; after that a call allocates nothing but the arrays that it returns, and not even those
with `reuse_outputs`. `trt_lane.py` has what happens in a call, and how CUDA graphs are kept.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray

from drsn_edge.errors import DrsnError, InputError, UsageError
from drsn_edge.extras import require
from drsn_edge.files import read_json
from drsn_edge.runtime.cuda import DeviceInfo, DeviceProbe, Stream, use_device
from drsn_edge.runtime.engine_info import check_engine_info
from drsn_edge.runtime.plan import read_plan_header
from drsn_edge.runtime.preflight import HOST_CODE, BackendInfo, Here, preflight, this_platform
from drsn_edge.runtime.runner import Runner
from drsn_edge.runtime.trt_lane import Lane
from drsn_edge.runtime.trt_log import MessageLog, error_text, trt_logger
from drsn_edge.runtime.trt_refit import refit
from drsn_edge.runtime.trt_tensors import engine_tensors, profile_limits


class TensorRTRunner(Runner):
    """Runs a plan.

    Args:
        path: The plan, unmodified.
        cuda_graph: Capture repeated calls.
        lean_runtime: The library of a lean runtime, for a version-compatible plan of another TensorRT.
        weights: A graph whose weights are put into the engine: a stripped plan needs those of its own graph, a
            refittable one takes those of another training.
        graphs: Batch sizes whose graphs are kept at a time. Each costs the scratch memory of one context.
        streams: Calls that may run at a time, each on a stream with contexts and buffers of its own; `run` may then be
            called from as many threads. More throughput for small networks, no better latency.
        reuse_outputs: `run` returns views of the page-locked buffers, which the next call writes over and the end of
            the `with` block takes away.

    Raises:
        UsageError: `graphs` or `streams` below one; `reuse_outputs` together with several streams.
        InputError: On activation: no such file, or a plan that is not for this TensorRT or this GPU.
        MissingDevice: On activation: no GPU, no driver, or too old a driver.
        MissingDependency: On activation: TensorRT or cuda-bindings is not installed.
    """

    name = "tensorrt"
    module: ClassVar[str] = "tensorrt"

    def __init__(
        self,
        path: Path | str,
        *,
        cuda_graph: bool = True,
        lean_runtime: Path | str | None = None,
        weights: Path | bytes | None = None,
        graphs: int = 4,
        streams: int = 1,
        reuse_outputs: bool = False,
    ) -> None:
        super().__init__()
        for option, value in (("graphs", graphs), ("streams", streams)):
            if value < 1:
                raise UsageError(f"the {self.name} runner has too few {option}", got=value, expected="1 or more")
        if reuse_outputs and streams > 1:
            raise UsageError(
                "buffers cannot be handed out while other calls use them",
                got=f"reuse_outputs=True, streams={streams}",
                expected="one of both",
            )
        self._path = Path(path)
        self._graphs = graphs if cuda_graph else 0
        self._lean_runtime = lean_runtime
        self._weights = weights
        self._streams, self._copy = streams, not reuse_outputs
        self.concurrent = streams > 1
        self._trt: Any = None
        self._log = MessageLog()
        self._runtime: Any = None
        self._engine: Any = None
        self._making = threading.Lock()
        self._lanes: list[Lane] = []
        self._free: queue.SimpleQueue[Lane] = queue.SimpleQueue()
        self._limits: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}

    @property
    def max_batch(self) -> int | None:
        """The largest batch of the engine's profile; None before activation."""
        return min((largest[0] for _, largest in self._limits.values() if largest), default=None)

    @property
    def calls_at_a_time(self) -> int:
        """As many as there are streams."""
        return self._streams

    def _activate(self) -> None:
        if not self._path.is_file():
            raise InputError("the engine is not there", got=self._path, expected="a TensorRT plan")
        plan = self._path.read_bytes()
        device = use_device()  # before any object of TensorRT: without a driver those crash
        self._trt = require(self.module, purpose="running a TensorRT engine")
        title = f"{self.module} {self._trt.__version__} on {device.name} ({device.sm})"
        self._preflight(plan, title, device)
        logger, self._log = trt_logger(self._trt)
        with self._log.record() as said:
            # Whether plans may hold code that runs on the CPU is left as it is by default: they may not.
            self._runtime = self._trt.Runtime(logger)
            if self._lean_runtime is not None:
                self._runtime = self._runtime.load_runtime(str(self._lean_runtime))
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                raise InputError(
                    f"{title} does not take the engine",
                    got=HOST_CODE if "HostCodeAllowed" in error_text(said)
                    else f"{self._path}, {read_plan_header(plan)}: {error_text(said)}",
                    expected="an engine built for this TensorRT and this GPU",
                    hint="rebuild it here: drsn-edge build BUNDLE",
                )  # fmt: skip
        if self._weights is not None:
            refit(self._trt, self._engine, logger, log=self._log, weights=self._weights)
        inputs, outputs = engine_tensors(self._trt, self._engine)
        self._declare(inputs, outputs)
        self._limits = {spec.name: profile_limits(self._engine, spec) for spec in inputs}
        self._free = queue.SimpleQueue()
        for _ in range(self._streams):
            lane = Lane(
                self._context,
                inputs=self.inputs,
                outputs=self.outputs,
                limits=self._limits,
                mapped=device.integrated,
                graphs=self._graphs,
                log=self._log,
            )
            self._lanes.append(lane)
            self._free.put(lane)

    def _preflight(self, plan: bytes, title: str, device: DeviceInfo) -> None:
        """Refuse a plan that cannot work, in words, before TensorRT is asked; what is not known is left to it.

        Raises:
            InputError: Its header or the `engine.json` beside it says so.
        """
        header, beside = read_plan_header(plan), self._path.with_name("engine.json")
        sidecar = read_json(beside, what="the description of the engine") if beside.is_file() else {}
        if sidecar:
            check_engine_info(sidecar, where=beside)
        elif header.kind == "unknown":
            return
        # A lean runtime brings its own version.
        version = header.version if self._lean_runtime is not None else str(self._trt.__version__)
        here = Here(
            {self.name: BackendInfo(self.name, version or str(self._trt.__version__))},
            DeviceProbe(device),
            this_platform(),
        )
        if header.kind not in ("unknown", self.name):
            reasons = [f"{header}, which the {header.kind} runner takes"]
        else:
            reasons = preflight(header, sidecar, here, plan=plan)
        if reasons:
            raise InputError(
                f"{title} does not take the engine",
                got=f"{self._path}: {'; '.join(reasons)}",
                expected="an engine built for this TensorRT and this GPU",
                hint="rebuild it here: drsn-edge build BUNDLE",
            )

    def _context(self, stream: Stream) -> Any:
        """A context on the engine's profile; None where another one has taken it and cannot share it."""
        with self._making, self._log.record() as said:
            context = self._create_context(self._engine)
            if context is None:
                raise DrsnError(
                    "TensorRT cannot make an execution context", got=error_text(said), expected="enough GPU memory"
                )
            # The first context of an engine has its profile by itself.
            taken = context.active_optimization_profile < 0
            if taken and not context.set_optimization_profile_async(0, int(stream)):
                return None
            return context

    def _create_context(self, engine: Any) -> Any:
        return engine.create_execution_context()

    def _infer(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        lane = self._free.get()
        try:
            return lane.run(feeds, copy=self._copy)
        finally:
            self._free.put(lane)

    def _deactivate(self) -> None:
        # In this order: each lives inside the one that follows.
        while self._lanes:
            self._lanes.pop().close()
        self._engine = None
        self._runtime = None
        self._limits = {}
