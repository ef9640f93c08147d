"""Is there a GPU? Asked of the driver itself through ctypes: no package needed, and never a crash.

This comes before everything else: without a driver, TensorRT's own objects wrap a null pointer and the next attribute
access ends the process (8.6 and 11.4, segmentation fault).
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from typing import Any

from drsn_edge.errors import MissingDevice

# cuda.h
_ATTRIBUTE_INTEGRATED = 18
_ATTRIBUTE_MAJOR = 75
_ATTRIBUTE_MINOR = 76
_ERROR_NO_DEVICE = 100


@dataclass(frozen=True)
class DeviceInfo:
    """One GPU.

    Attributes:
        name: As the driver calls it.
        sm: Compute capability as TensorRT's targets are written: `sm87` is an Orin.
        driver: The newest CUDA version that the driver can serve, e.g. `12.6`.
        memory_bytes: All of it; shared with the CPU on an integrated GPU.
        integrated: CPU and GPU share memory, as on every Jetson.
    """

    name: str
    sm: str
    driver: str
    memory_bytes: int
    integrated: bool


@dataclass(frozen=True)
class DeviceProbe:
    """A GPU, or the reason why there is none."""

    device: DeviceInfo | None
    reason: str | None = None


def probe_device(index: int = 0) -> DeviceProbe:
    """The GPU of this machine, or why there is none. Never raises."""
    driver = _load_driver()
    if driver is None:
        return DeviceProbe(None, "no CUDA driver")
    status = driver.cuInit(0)
    if status == _ERROR_NO_DEVICE:
        return DeviceProbe(None, "a CUDA driver, but no GPU")
    if status != 0:
        return DeviceProbe(None, f"the CUDA driver does not start: {_error_text(driver, status)}")
    version, count = ctypes.c_int(), ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(version)) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return DeviceProbe(None, "the CUDA driver does not answer")
    if index >= count.value:
        return DeviceProbe(None, f"no GPU number {index}: {count.value} found")
    handle, memory, name = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(256)
    statuses = [
        driver.cuDeviceGet(ctypes.byref(handle), index),
        driver.cuDeviceGetName(name, len(name), handle),
        driver.cuDeviceTotalMem_v2(ctypes.byref(memory), handle),
    ]
    if any(statuses):
        return DeviceProbe(None, f"the GPU does not answer: {_error_text(driver, max(statuses))}")
    return DeviceProbe(
        DeviceInfo(
            name=name.value.decode(errors="replace"),
            sm=f"sm{_attribute(driver, _ATTRIBUTE_MAJOR, handle)}{_attribute(driver, _ATTRIBUTE_MINOR, handle)}",
            driver=f"{version.value // 1000}.{version.value % 1000 // 10}",
            memory_bytes=memory.value,
            integrated=bool(_attribute(driver, _ATTRIBUTE_INTEGRATED, handle)),
        )
    )


def require_device(*, purpose: str) -> DeviceInfo:
    """The GPU of this machine.

    Raises:
        MissingDevice: There is none; says why.
    """
    probe = probe_device()
    if probe.device is None:
        raise MissingDevice(
            f"{purpose} needs an NVIDIA GPU",
            got=probe.reason,
            expected="a GPU with its driver",
            hint="run it on the device; `drsn-edge doctor` says what a machine has",
        )
    return probe.device


def _load_driver() -> Any:
    """The driver's library, or None. It comes with the driver and never with a package."""
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None


def _attribute(driver: Any, attribute: int, handle: ctypes.c_int) -> int:
    value = ctypes.c_int()
    driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, handle)
    return value.value


def _error_text(driver: Any, status: int) -> str:
    text = ctypes.c_char_p()
    driver.cuGetErrorString(status, ctypes.byref(text))
    return text.value.decode(errors="replace") if text.value else f"error {status}"
