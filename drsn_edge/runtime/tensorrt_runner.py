"""TensorRT 8.5 to 11: plans on the GPU.

Only the tensor-name API is used, which all of these versions have. Page-locked buffers for the largest batch of the
engine's profile are made once; after that a call allocates nothing but the arrays that it returns.

The first call with a shape runs plainly (TensorRT finishes its preparations for a shape then, which must not be
captured), the second is captured as a CUDA graph, later ones launch the graph. Another shape starts over: a graph is
bound to the state of its execution context, and before TensorRT 10 several contexts cannot share a profile.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from drsn_edge.errors import DrsnError, InputError
from drsn_edge.extras import require
from drsn_edge.runtime.cuda import Graph, Stream, TransferBuffer, capture, use_device
from drsn_edge.runtime.plan import read_plan_header
from drsn_edge.runtime.runner import Runner, TensorSpec
from drsn_edge.runtime.trt_log import MessageLog, error_text, trt_logger
from drsn_edge.runtime.trt_tensors import engine_tensors, profile_limits


class TensorRTRunner(Runner):
    """Runs a plan.

    Args:
        path: The plan, unmodified.
        cuda_graph: Capture repeated calls.
        lean_runtime: The library of a lean runtime, for a version-compatible plan of another TensorRT.

    Raises:
        InputError: On activation: no such file, or a plan that is not for this TensorRT or this GPU.
        MissingDevice: On activation: no GPU, no driver, or too old a driver.
        MissingDependency: On activation: TensorRT or cuda-bindings is not installed.
    """

    name = "tensorrt"
    module: ClassVar[str] = "tensorrt"

    def __init__(self, path: Path | str, *, cuda_graph: bool = True, lean_runtime: Path | str | None = None) -> None:
        super().__init__()
        self._path = Path(path)
        self._cuda_graph = cuda_graph
        self._lean_runtime = lean_runtime
        self._trt: Any = None
        self._log = MessageLog()
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._stream: Stream | None = None
        self._graph: Graph | None = None
        self._buffers: dict[str, TransferBuffer] = {}
        self._limits: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._warm = False

    @property
    def max_batch(self) -> int | None:
        """The largest batch of the engine's profile; None before activation."""
        return min((largest[0] for _, largest in self._limits.values() if largest), default=None)

    def _activate(self) -> None:
        if not self._path.is_file():
            raise InputError("the engine is not there", got=self._path, expected="a TensorRT plan")
        plan = self._path.read_bytes()
        device = use_device()  # before any object of TensorRT: without a driver those crash
        self._trt = require(self.module, purpose="running a TensorRT engine")
        logger, self._log = trt_logger(self._trt)
        with self._log.record() as said:
            self._runtime = self._trt.Runtime(logger)
            if self._lean_runtime is not None:
                self._runtime = self._runtime.load_runtime(str(self._lean_runtime))
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                raise InputError(
                    f"{self.module} {self._trt.__version__} on {device.name} ({device.sm}) does not take the engine",
                    got=f"{self._path}, {read_plan_header(plan)}: {error_text(said)}",
                    expected="an engine built for this TensorRT and this GPU",
                    hint="rebuild it here: drsn-edge build BUNDLE",
                )
            self._context = self._create_context(self._engine)
            if self._context is None:
                raise DrsnError(
                    "TensorRT cannot make an execution context", got=error_text(said), expected="enough GPU memory"
                )
        self._stream = Stream()
        inputs, outputs = engine_tensors(self._trt, self._engine)
        self._declare(inputs, outputs)
        self._limits = {spec.name: profile_limits(self._engine, spec) for spec in inputs}
        # Everything is allocated for the largest shapes, so that no later call has to.
        self._bind({name: largest for name, (_, largest) in self._limits.items()})
        for spec in (*inputs, *outputs):
            buffer = TransferBuffer(self._size(spec), mapped=device.integrated)
            self._buffers[spec.name] = buffer
            if not self._context.set_tensor_address(spec.name, buffer.device):
                raise DrsnError("TensorRT does not take a buffer", got=spec, expected="an address for every tensor")

    def _create_context(self, engine: Any) -> Any:
        return engine.create_execution_context()

    def _bind(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Set the shapes of the inputs; learn those of the outputs."""
        self._drop_graph()
        self._shapes = {}  # none, should this fail half-way
        with self._log.record() as said:
            for name, shape in shapes.items():
                smallest, largest = self._limits[name]
                inside = all(low <= size <= high for low, size, high in zip(smallest, shape, largest, strict=True))
                if not inside or not self._context.set_input_shape(name, shape):
                    raise InputError(
                        f"input {name} is outside of the engine's profile",
                        got=list(shape),
                        expected=f"{list(smallest)} to {list(largest)}",
                        hint="run it in pieces (run_batched), or build the engine for larger batches",
                    )
            unknown = self._context.infer_shapes()
            if unknown:
                raise DrsnError("TensorRT cannot derive shapes", got=f"{unknown}: {error_text(said)}")
        self._shapes = dict(shapes)
        for name in self.outputs:
            self._shapes[name] = tuple(self._context.get_tensor_shape(name))

    def _infer(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        stream = self._stream
        assert stream is not None
        if any(value.shape != self._shapes.get(name) for name, value in feeds.items()):
            self._bind({name: value.shape for name, value in feeds.items()})
        for name, value in feeds.items():
            self._buffers[name].view(self.inputs[name].dtype, value.shape)[...] = value
        if self._graph is None and self._warm and self._cuda_graph:
            with capture(stream) as graph:
                self._enqueue(stream)
            self._graph = graph
        if self._graph is not None:
            self._graph.launch(stream)
        else:
            self._enqueue(stream)
            self._warm = True
        stream.synchronize()
        return {
            name: self._buffers[name].view(spec.dtype, self._shapes[name]).copy() for name, spec in self.outputs.items()
        }

    def _enqueue(self, stream: Stream) -> None:
        for name, spec in self.inputs.items():
            self._buffers[name].to_device(self._size(spec), stream)
        with self._log.record() as said:
            if not self._context.execute_async_v3(int(stream)):
                raise DrsnError("TensorRT cannot run the engine", got=error_text(said))
        for name, spec in self.outputs.items():
            self._buffers[name].to_host(self._size(spec), stream)

    def _size(self, spec: TensorSpec) -> int:
        """Bytes of a tensor at the bound shapes."""
        return int(np.prod(self._shapes[spec.name], dtype=np.int64)) * np.dtype(spec.dtype).itemsize

    def _drop_graph(self) -> None:
        self._warm = False
        if self._graph is not None:
            graph, self._graph = self._graph, None
            graph.close()

    def _deactivate(self) -> None:
        self._drop_graph()
        # In this order: each lives inside the one that follows.
        self._context = None
        self._engine = None
        self._runtime = None
        while self._buffers:
            self._buffers.popitem()[1].close()
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        self._limits, self._shapes = {}, {}
