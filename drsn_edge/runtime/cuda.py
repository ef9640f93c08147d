"""The little of CUDA that running an engine needs, on cuda-bindings (12.8 and later, 13): streams, buffers, graphs.

Handles are plain integers outside of this file. Everything is a context manager or has `close()`, which may be called
twice. The runtime API is used throughout, so that all of it lives in the primary context, where TensorRT is.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge.errors import DrsnError, MissingDevice
from drsn_edge.extras import require
from drsn_edge.runtime.driver import DeviceInfo, DeviceProbe, probe_device, require_device

__all__ = [
    "DeviceInfo",
    "DeviceProbe",
    "Event",
    "Graph",
    "Stream",
    "TransferBuffer",
    "capture",
    "probe_device",
    "require_device",
    "use_device",
]

# Statuses that say something about the machine and not about the call (driver_types.h).
_DEVICE_STATUSES = {
    3,
    35,
    38,
    46,
    100,
    101,
}  # initialisation, old driver, none, busy or unavailable, no device, invalid


def _api() -> Any:
    return require("cuda.bindings.runtime", purpose="running an engine on the GPU")


def _call(function: str, *arguments: Any) -> Any:
    """Call a function of the runtime API; its result, or None where it has none.

    Raises:
        MissingDevice: No usable GPU or driver.
        DrsnError: Any other status.
    """
    api = _api()
    try:
        status, *values = getattr(api, function)(*arguments)
    except RuntimeError as error:  # cuda-bindings 12 loads the driver itself, on the first call
        raise MissingDevice(f"{function} failed", got=error, expected="an NVIDIA driver") from error
    code = int(status)
    if code != 0:
        _, text = api.cudaGetErrorString(status)
        kind = MissingDevice if code in _DEVICE_STATUSES else DrsnError
        raise kind(
            f"{function} failed",
            got=f"CUDA error {code}: {text.decode(errors='replace')}",
            hint="`drsn-edge doctor` says what the machine has" if kind is MissingDevice else None,
        )
    return values[0] if values else None


def use_device(index: int = 0) -> DeviceInfo:
    """Make a GPU the current one of this thread, after asking the driver whether there is one.

    Raises:
        MissingDevice: There is none, or its driver is too old for the installed cuda-bindings.
        MissingDependency: cuda-bindings is not installed.
    """
    device = require_device(purpose="running an engine")
    _call("cudaSetDevice", index)
    return device


class Stream:
    """A queue of work on the GPU. `int(stream)` is its handle."""

    def __init__(self) -> None:
        # Non-blocking: work of others on the default stream must not get between, a capture least of all.
        self._handle = _call("cudaStreamCreateWithFlags", _api().cudaStreamNonBlocking)

    def __int__(self) -> int:
        return int(self._handle)

    def synchronize(self) -> None:
        """Wait until all of it is done; errors of the work appear here."""
        _call("cudaStreamSynchronize", self._handle)

    def close(self) -> None:
        """Give it back."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            _call("cudaStreamDestroy", handle)


class Event:
    """A point in a stream, to measure with."""

    def __init__(self) -> None:
        self._handle = _call("cudaEventCreateWithFlags", _api().cudaEventDefault)

    def record(self, stream: Stream) -> None:
        """Put the point behind what is in the stream now."""
        _call("cudaEventRecord", self._handle, int(stream))

    def synchronize(self) -> None:
        """Wait until the stream has passed the point."""
        _call("cudaEventSynchronize", self._handle)

    def elapsed_ms(self, later: Event) -> float:
        """Milliseconds of GPU time from here to `later`; both have been passed."""
        return float(_call("cudaEventElapsedTime", self._handle, later._handle))

    def close(self) -> None:
        """Give it back."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            _call("cudaEventDestroy", handle)


class TransferBuffer:
    """Bytes that CPU and GPU both reach: page-locked memory here, and its counterpart on the GPU.

    On an integrated GPU (every Jetson) both are the same memory, mapped: the copies are no-ops, and the engine reads
    what the CPU wrote.

    Attributes:
        device: The GPU's pointer.
        host: The CPU's view, `uint8[size]`.
    """

    def __init__(self, size: int, *, mapped: bool) -> None:
        api = _api()
        self._pinned: int | None = None
        self._private: int | None = None
        self._pinned = int(
            _call("cudaHostAlloc", size, api.cudaHostAllocMapped if mapped else api.cudaHostAllocDefault)
        )
        try:
            if mapped:
                self.device = int(_call("cudaHostGetDevicePointer", self._pinned, 0))
            else:
                self.device = self._private = int(_call("cudaMalloc", size))
        except DrsnError:
            self.close()
            raise
        # As bytes: ctypes has no float16.
        self.host: NDArray[np.uint8] = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self._pinned))

    def view(self, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        """The first bytes of the CPU's side as an array; valid until `close`."""
        kind = np.dtype(dtype)
        count = int(np.prod(shape, dtype=np.int64))
        return self.host[: count * kind.itemsize].view(kind).reshape(shape)

    def to_device(self, size: int, stream: Stream) -> None:
        """Queue the copy of the first `size` bytes to the GPU."""
        self._copy(self._private, self._pinned, size, "cudaMemcpyHostToDevice", stream)

    def to_host(self, size: int, stream: Stream) -> None:
        """Queue the copy of the first `size` bytes from the GPU."""
        self._copy(self._pinned, self._private, size, "cudaMemcpyDeviceToHost", stream)

    def _copy(self, target: int | None, source: int | None, size: int, kind: str, stream: Stream) -> None:
        if self._private is not None:
            _call("cudaMemcpyAsync", target, source, size, getattr(_api().cudaMemcpyKind, kind), int(stream))

    def close(self) -> None:
        """Give both sides back; arrays from `view` must not be used any more."""
        private, self._private = self._private, None
        pinned, self._pinned = self._pinned, None
        if private is not None:
            _call("cudaFree", private)
        if pinned is not None:
            _call("cudaFreeHost", pinned)


class Graph:
    """Recorded work, launched as one piece: an engine of many small kernels is bound by launches."""

    def __init__(self) -> None:
        self._executable: Any = None

    def launch(self, stream: Stream) -> None:
        """Queue all of it."""
        _call("cudaGraphLaunch", self._executable, int(stream))

    def close(self) -> None:
        """Give it back."""
        if self._executable is not None:
            executable, self._executable = self._executable, None
            _call("cudaGraphExecDestroy", executable)


@contextlib.contextmanager
def capture(stream: Stream) -> Iterator[Graph]:
    """Record what the block queues on `stream`, without running it. The graph can be launched after the block.

    Raises:
        DrsnError: Something in the block cannot be captured.
    """
    graph = Graph()
    # Thread-local: other threads of the process may allocate meanwhile, which a global capture would forbid them.
    _call("cudaStreamBeginCapture", int(stream), _api().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
    try:
        yield graph
    except BaseException:
        with contextlib.suppress(DrsnError):  # a failed capture still has to be ended, and ending it fails as well
            _call("cudaStreamEndCapture", int(stream))
        raise
    recorded = _call("cudaStreamEndCapture", int(stream))
    try:
        graph._executable = _call("cudaGraphInstantiate", recorded, 0)
    finally:
        _call("cudaGraphDestroy", recorded)
