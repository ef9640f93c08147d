"""A machine that is not there: a driver, CUDA and TensorRT that record what they are asked and compute `y = 2 x + 1`.

Memory is real and graphs replay what was captured, so that data take the same way as on a GPU. Every generation of
TensorRT has exactly the attributes of the genuine one: `tests/trt_api`.
"""

from __future__ import annotations

import ctypes
import enum
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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
def tensorrt(machine: FakeCuda, trt_api: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Installs a generation of TensorRT."""

    def install(generation: str) -> Any:
        fake = trt_api.runner(generation, machine)
        monkeypatch.setitem(sys.modules, fake.trt.__name__, fake.trt)
        monkeypatch.setattr(trt_log, "_LOGGERS", {})
        return fake

    return install


@pytest.fixture
def plan(tmp_path: Path) -> Callable[[Any], Path]:
    """Writes the plan that a generation takes."""

    def write(trt: Any) -> Path:
        path = tmp_path / "model.engine"
        path.write_bytes(trt.plan)
        return path

    return write
