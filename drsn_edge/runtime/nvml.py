"""The little of NVML that a measurement needs: power, temperature, clocks and memory of one GPU, through ctypes.

The library comes with the driver, as `nvidia-smi` does, and needs no package; a call costs microseconds where a process
of `nvidia-smi` costs a tenth of a second. On a Jetson it is absent, or answers "not supported" to most questions.

Source: NVML API reference (nvml.h); power in mW, clocks in MHz, memory in bytes.
"""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from typing import Any

_TEMPERATURE_GPU = 0
_CLOCK_SM = 1


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


@dataclass(frozen=True)
class GpuReading:
    """One look at a GPU; None for what it does not tell.

    Attributes:
        power_w: Of the whole board.
        temperature_c: Of the chip.
        clock_mhz: Of the multiprocessors, now.
        max_clock_mhz: The highest that they can have.
        memory_used_bytes: By all processes together.
        power_limit_w: What the board is held to.
    """

    power_w: float | None
    temperature_c: float | None
    clock_mhz: int | None
    max_clock_mhz: int | None
    memory_used_bytes: int | None
    power_limit_w: float | None


class Nvml:
    """One GPU as NVML sees it.

    Args:
        library: NVML, already loaded; looked for by default.
        index: Of the GPU; the first one that CUDA may use by default.
    """

    def __init__(self, library: Any = None, *, index: int | None = None) -> None:
        self._library = _load() if library is None else library
        self._handle: ctypes.c_void_p | None = None
        if self._library is None or self._library.nvmlInit_v2() != 0:
            return
        handle = ctypes.c_void_p()
        number = _first_visible() if index is None else index
        if self._library.nvmlDeviceGetHandleByIndex_v2(number, ctypes.byref(handle)) == 0:
            self._handle = handle

    @property
    def usable(self) -> bool:
        """Whether there is a GPU to ask."""
        return self._handle is not None

    def read(self) -> GpuReading:
        """What the GPU tells of itself now."""
        power, limit = self._uint("nvmlDeviceGetPowerUsage"), self._uint("nvmlDeviceGetEnforcedPowerLimit")
        temperature = self._uint("nvmlDeviceGetTemperature", _TEMPERATURE_GPU)
        return GpuReading(
            power_w=None if power is None else power / 1e3,
            temperature_c=None if temperature is None else float(temperature),
            clock_mhz=self._uint("nvmlDeviceGetClockInfo", _CLOCK_SM),
            max_clock_mhz=self._uint("nvmlDeviceGetMaxClockInfo", _CLOCK_SM),
            memory_used_bytes=self._memory(),
            power_limit_w=None if limit is None else limit / 1e3,
        )

    def _uint(self, function: str, *arguments: int) -> int | None:
        value = ctypes.c_uint()
        if self._handle is None:
            return None
        status = getattr(self._library, function)(self._handle, *arguments, ctypes.byref(value))
        return int(value.value) if status == 0 else None

    def _memory(self) -> int | None:
        found = _Memory()
        if self._handle is None or self._library.nvmlDeviceGetMemoryInfo(self._handle, ctypes.byref(found)) != 0:
            return None
        return int(found.used)


def _load() -> Any:
    try:
        return ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
    except OSError:
        return None


def _first_visible() -> int:
    """NVML counts every GPU of the machine; CUDA only those that this variable leaves."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    return int(first) if first.isdecimal() else 0
