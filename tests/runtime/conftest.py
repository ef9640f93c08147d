"""A machine that is not there: a driver, CUDA and TensorRT that record what they are asked and compute `y = 2 x + 1`.

Memory is real and graphs replay what was captured, so that data take the same way as on a GPU. Every generation of
TensorRT has only the attributes that it really has.
"""

from __future__ import annotations

import ctypes
import enum
import functools
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drsn_edge.runtime import cuda, driver, trt_log


def move(target: int, source: int, size: int) -> None:
    ctypes.memmove(target, source, size)


class Status(enum.IntEnum):
    ok = 0
    invalid = 1
    old_driver = 35


class FakeCuda:
    """`cuda.bindings.runtime`; `calls` lists the functions in order."""

    cudaStreamNonBlocking = 1
    cudaEventDefault = 0
    cudaHostAllocDefault = 0
    cudaHostAllocMapped = 2

    class cudaMemcpyKind(enum.IntEnum):
        cudaMemcpyHostToDevice = 1
        cudaMemcpyDeviceToHost = 2

    class cudaStreamCaptureMode(enum.IntEnum):
        cudaStreamCaptureModeGlobal = 0
        cudaStreamCaptureModeThreadLocal = 1

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.failing: dict[str, Status] = {}
        self.memory: dict[int, Any] = {}
        self.pinned_flags: list[int] = []
        self.recording: list[Callable[[], None]] | None = None
        self._next = 1000

    def fail(self, name: str, status: str = "invalid") -> None:
        """Let a function fail from now on."""
        self.failing[name] = Status[status]

    def _do(self, name: str, *values: Any) -> tuple[Any, ...]:
        self.calls.append(name)
        if name in self.failing:
            return (self.failing[name], *(None for _ in values))
        return (Status.ok, *values)

    def _handle(self) -> int:
        self._next += 1
        return self._next

    def _allocate(self, name: str, size: int) -> tuple[Any, ...]:
        result = self._do(name, 0)
        if result[0] != Status.ok:
            return result
        block = (ctypes.c_uint8 * size)()
        address = ctypes.addressof(block)
        self.memory[address] = block
        return (Status.ok, address)

    def queue(self, act: Callable[[], None]) -> None:
        """Work on a stream: captured, or done at once."""
        if self.recording is None:
            act()
        else:
            self.recording.append(act)

    def cudaGetErrorString(self, status: Status) -> tuple[Status, bytes]:
        return Status.ok, f"text of {status.name}".encode()

    def cudaSetDevice(self, index: int) -> tuple[Any, ...]:
        return self._do("cudaSetDevice")

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        return self._do("cudaStreamCreateWithFlags", self._handle())

    def cudaStreamSynchronize(self, stream: Any) -> tuple[Any, ...]:
        return self._do("cudaStreamSynchronize")

    def cudaStreamDestroy(self, stream: Any) -> tuple[Any, ...]:
        return self._do("cudaStreamDestroy")

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        return self._do("cudaEventCreateWithFlags", self._handle())

    def cudaEventRecord(self, event: Any, stream: int) -> tuple[Any, ...]:
        return self._do("cudaEventRecord")

    def cudaEventSynchronize(self, event: Any) -> tuple[Any, ...]:
        return self._do("cudaEventSynchronize")

    def cudaEventElapsedTime(self, start: Any, end: Any) -> tuple[Any, ...]:
        return self._do("cudaEventElapsedTime", 1.5)

    def cudaEventDestroy(self, event: Any) -> tuple[Any, ...]:
        return self._do("cudaEventDestroy")

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, ...]:
        self.pinned_flags.append(flags)
        return self._allocate("cudaHostAlloc", size)

    def cudaHostGetDevicePointer(self, pointer: int, flags: int) -> tuple[Any, ...]:
        return self._do("cudaHostGetDevicePointer", pointer)

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        return self._allocate("cudaMalloc", size)

    def cudaFree(self, pointer: int) -> tuple[Any, ...]:
        del self.memory[pointer]
        return self._do("cudaFree")

    def cudaFreeHost(self, pointer: int) -> tuple[Any, ...]:
        del self.memory[pointer]
        return self._do("cudaFreeHost")

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: Any, stream: int) -> tuple[Any, ...]:
        self.queue(functools.partial(move, target, source, size))
        return self._do(f"copy {kind.name.removeprefix('cudaMemcpy')} {size}")

    def cudaStreamBeginCapture(self, stream: int, mode: Any) -> tuple[Any, ...]:
        self.recording = []
        return self._do("cudaStreamBeginCapture")

    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, ...]:
        recorded, self.recording = self.recording, None
        return self._do("cudaStreamEndCapture", recorded)

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[Any, ...]:
        return self._do("cudaGraphInstantiate", graph)

    def cudaGraphDestroy(self, graph: Any) -> tuple[Any, ...]:
        return self._do("cudaGraphDestroy")

    def cudaGraphLaunch(self, graph: Any, stream: int) -> tuple[Any, ...]:
        for act in graph:
            act()
        return self._do("cudaGraphLaunch")

    def cudaGraphExecDestroy(self, graph: Any) -> tuple[Any, ...]:
        return self._do("cudaGraphExecDestroy")


class FakeTensorRT:
    """One generation of TensorRT, as a module: `8.6`, `10.3`, `11.4` or `rtx`. Runs its own plans only."""

    def __init__(self, generation: str, machine: FakeCuda) -> None:
        self.calls: list[str] = []
        self.machine = machine
        self.profile = ((1, 4), (2, 4), (8, 4))
        self.executes = True
        self.plan = b"plan of " + generation.encode()
        self.cache: list[bytes] = []
        rtx = generation == "rtx"
        trt = self

        class Severity(enum.Enum):
            ERROR = 1

        class ILogger:
            def __init__(self) -> None:
                trt.logger = self

        class DataType(enum.Enum):
            FLOAT = 0
            HALF = 1

        class TensorIOMode(enum.Enum):
            INPUT = 1
            OUTPUT = 2

        class CudaGraphStrategy(enum.Enum):
            DISABLED = 0
            WHOLE_GRAPH_CAPTURE = 1

        class Context:
            def __init__(self) -> None:
                self.shape: tuple[int, ...] = (-1, 4)
                self.address: dict[str, int] = {}

            def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
                trt.calls.append(f"set_input_shape {name} {tuple(shape)}")
                self.shape = tuple(shape)
                return True

            def infer_shapes(self) -> list[str]:
                trt.calls.append("infer_shapes")
                return []

            def get_tensor_shape(self, name: str) -> tuple[int, ...]:
                return self.shape

            def set_tensor_address(self, name: str, address: int) -> bool:
                trt.calls.append(f"set_tensor_address {name}")
                self.address[name] = address
                return True

            def execute_async_v3(self, stream: int) -> bool:
                trt.calls.append("execute_async_v3")
                if not trt.executes:
                    trt.say("ERROR", "enqueueV3: an illegal memory access was encountered")
                    return False
                shape = self.shape
                trt.machine.queue(lambda: self.compute(shape))
                return True

            def compute(self, shape: tuple[int, ...]) -> None:
                count = int(np.prod(shape))
                x, y = (
                    np.ctypeslib.as_array((ctypes.c_float * count).from_address(self.address[name])) for name in "xy"
                )
                y[:] = 2 * x + 1

        class Cache:
            def deserialize(self, content: bytes) -> bool:
                trt.cache.append(content)
                return True

            def serialize(self) -> bytes:
                return b"compiled kernels"

        class Config:
            cuda_graph_strategy = CudaGraphStrategy.DISABLED

            def create_runtime_cache(self) -> Cache:
                return Cache()

            def set_runtime_cache(self, cache: Cache) -> None:
                trt.calls.append("set_runtime_cache")

        class Engine:
            num_io_tensors = 2

            def get_tensor_name(self, index: int) -> str:
                return "xy"[index]

            def get_tensor_mode(self, name: str) -> TensorIOMode:
                return TensorIOMode.INPUT if name == "x" else TensorIOMode.OUTPUT

            def get_tensor_dtype(self, name: str) -> DataType:
                return DataType.FLOAT

            def get_tensor_shape(self, name: str) -> tuple[int, ...]:
                return (-1, 4)

            def get_tensor_profile_shape(self, name: str, profile: int) -> Any:
                return trt.profile

            def create_execution_context(self, config: Any = None) -> Context:
                if not rtx and config is not None:
                    raise TypeError("this generation takes no runtime configuration")
                named = "" if config is None else f" {config.cuda_graph_strategy.name}"
                trt.calls.append(f"create_execution_context{named}")
                return Context()

        if rtx:

            def create_runtime_config(self: Engine) -> Config:
                return Config()

            Engine.create_runtime_config = create_runtime_config  # type: ignore[attr-defined]
            self.CudaGraphStrategy = CudaGraphStrategy

        class Runtime:
            def __init__(self, logger: Any) -> None:
                trt.calls.append("Runtime")

            def load_runtime(self, path: str) -> Runtime:
                trt.calls.append(f"load_runtime {path}")
                return self

            def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
                trt.calls.append("deserialize_cuda_engine")
                if plan != trt.plan:
                    trt.say("ERROR", "The engine plan file is not compatible with this version of TensorRT")
                    return None
                return Engine()

        self.__name__ = "tensorrt_rtx" if rtx else "tensorrt"
        self.__version__ = {"8.6": "8.6.0", "10.3": "10.3.0", "11.4": "11.4.0.106", "rtx": "1.7.1.116"}[generation]
        self.ILogger, self.Severity, self.DataType = ILogger, Severity, DataType
        self.TensorIOMode, self.Runtime = TensorIOMode, Runtime
        self.logger: Any = None

    def say(self, severity: str, text: str) -> None:
        self.logger.log(self.Severity[severity], text)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    """A desktop GPU with CUDA; at the end nothing may be left allocated."""
    fake = FakeCuda()
    monkeypatch.setattr(cuda, "_api", lambda: fake)
    gpu = driver.DeviceInfo("Test GPU", "sm86", "13.0", 8 << 30, integrated=False)
    monkeypatch.setattr(driver, "probe_device", lambda index=0: driver.DeviceProbe(gpu))
    yield fake
    assert not fake.memory, "buffers left"


@pytest.fixture
def jetson(machine: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """The same, integrated."""
    gpu = driver.DeviceInfo("Orin", "sm87", "12.6", 64 << 30, integrated=True)
    monkeypatch.setattr(driver, "probe_device", lambda index=0: driver.DeviceProbe(gpu))
    return machine


@pytest.fixture
def tensorrt(machine: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], FakeTensorRT]:
    """Installs a generation of TensorRT."""

    def install(generation: str) -> FakeTensorRT:
        fake = FakeTensorRT(generation, machine)
        module = types.ModuleType(fake.__name__)
        vars(module).update({key: value for key, value in vars(fake).items() if key not in ("machine", "calls")})
        monkeypatch.setitem(sys.modules, fake.__name__, module)
        monkeypatch.setattr(trt_log, "_LOGGERS", {})
        return fake

    return install


@pytest.fixture
def plan(tmp_path: Path) -> Callable[[FakeTensorRT], Path]:
    """Writes the plan that a generation takes."""

    def write(trt: FakeTensorRT) -> Path:
        path = tmp_path / "model.engine"
        path.write_bytes(trt.plan)
        return path

    return write
