"""In which state a machine is while something is measured on it. Figures of unlike states are not comparable.

What must be equal is equal or not; temperatures may differ by 15 K. Versions of software are stated and do not count:
comparing two of them on one machine is what a comparison is often for.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from drsn_edge._version import __version__
from drsn_edge.errors import InputError
from drsn_edge.runtime.board import read_board
from drsn_edge.runtime.cpus import usable_cpus
from drsn_edge.runtime.driver import probe_device
from drsn_edge.runtime.nvml import Nvml

TEMPERATURE_TOLERANCE_K = 15.0
_DISTRIBUTIONS = ("numpy", "torch", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "cuda-bindings")
# Hotter than these no part of a machine is; -256 is a sensor that is off.
_PLAUSIBLE_C = (-50.0, 150.0)
_ZONES = ("gpu-thermal", "GPU-therm", "tj-thermal", "x86_pkg_temp", "cpu-thermal", "CPU-therm")
# Of a field: what people call it. These must be equal for two results to be compared.
_COMPARED = {
    "platform": "platform", "board": "board", "cpu": "CPU", "cpus": "number of CPUs", "cpu_governor": "CPU governor",
    "gpu": "GPU", "sm": "compute capability", "gpu_memory_bytes": "GPU memory", "power_mode": "power mode",
    "gpu_max_clock_mhz": "highest GPU clock", "gpu_clock_locked": "locked GPU clock", "power_limit_w": "power limit",
}  # fmt: skip


@dataclass(frozen=True)
class DeviceState:
    """One machine at one moment; None for what it does not tell.

    Attributes:
        platform: `linux-aarch64`.
        board: Model of a Jetson.
        cpu: Model of the CPU.
        cpus: That this process may use.
        cpu_governor: Of the kernel's frequency scaling.
        gpu: As the driver calls it.
        sm: Its compute capability.
        gpu_memory_bytes: All of it.
        driver: The newest CUDA that the driver serves.
        power_mode: As nvpmodel calls it.
        gpu_clock_mhz: Now.
        gpu_max_clock_mhz: The highest that the state allows.
        gpu_clock_locked: Whether it cannot move, as after `jetson_clocks`.
        power_limit_w: Of a GPU that is plugged in.
        temperature_c: Of the GPU, else of the CPU.
        l4t: Release of Jetson Linux.
        software: Versions of what computes.
    """

    platform: str
    board: str | None = None
    cpu: str | None = None
    cpus: int | None = None
    cpu_governor: str | None = None
    gpu: str | None = None
    sm: str | None = None
    gpu_memory_bytes: int | None = None
    driver: str | None = None
    power_mode: str | None = None
    gpu_clock_mhz: int | None = None
    gpu_max_clock_mhz: int | None = None
    gpu_clock_locked: bool | None = None
    power_limit_w: float | None = None
    temperature_c: float | None = None
    l4t: str | None = None
    software: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DeviceState:
        """The state that `to_json` wrote.

        Raises:
            InputError: It is none.
        """
        names = {item.name for item in fields(cls)}
        if not isinstance(value, Mapping) or set(value) != names:
            raise InputError(
                "the state of the device is not one that was recorded here",
                got=", ".join(sorted(value)) if isinstance(value, Mapping) else type(value).__name__,
                expected=", ".join(sorted(names)),
            )
        return cls(**value)

    @property
    def summary(self) -> str:
        """One line for people."""
        parts = [
            self.board,
            self.cpu,
            None if self.cpus is None else f"{self.cpus} CPUs",
            f"{self.gpu} ({self.sm})" if self.gpu else "no GPU",
            None if self.power_mode is None else f"power mode {self.power_mode}",
            None if self.gpu_clock_mhz is None else f"GPU at {self.gpu_clock_mhz} of {self.gpu_max_clock_mhz} MHz",
            None if self.temperature_c is None else f"{self.temperature_c:.0f} C",
        ]
        return ", ".join(part for part in parts if part)


def unlike(one: DeviceState, other: DeviceState) -> tuple[str, ...]:
    """What differs between two states so that figures of them must not be compared; empty where nothing does."""
    found = [
        f"{name}: {getattr(one, key)} there, {getattr(other, key)} here"
        for key, name in _COMPARED.items()
        if getattr(one, key) != getattr(other, key)
    ]
    if one.temperature_c is not None and other.temperature_c is not None:
        apart = abs(one.temperature_c - other.temperature_c)
        if apart > TEMPERATURE_TOLERANCE_K:
            found.append(f"temperature: {one.temperature_c:.0f} C there, {other.temperature_c:.0f} C here")
    return tuple(found)


def read_device_state(root: Path = Path("/"), *, nvml: Nvml | None = None) -> DeviceState:
    """The state of this machine now. Never raises: what cannot be read is None.

    Args:
        root: `/`, or where a recorded tree lies.
        nvml: Of the GPU; the first one by default.
    """
    board, device = read_board(root), probe_device().device
    asked = Nvml() if nvml is None else nvml
    reading = asked.read() if asked.usable else None
    mode, clock = board.power_mode, board.gpu_clock
    temperature = reading.temperature_c if reading is not None else None
    return DeviceState(
        platform=f"{platform.system()}-{platform.machine()}".lower(),
        board=board.model,
        cpu=_cpu(root),
        cpus=usable_cpus(),
        cpu_governor=_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or None,
        gpu=None if device is None else device.name,
        sm=None if device is None else device.sm,
        gpu_memory_bytes=None if device is None else device.memory_bytes,
        driver=None if device is None else device.driver,
        power_mode=None if mode is None else mode.name or str(mode.number),
        gpu_clock_mhz=clock.current_hz // 10**6 if clock else reading.clock_mhz if reading else None,
        gpu_max_clock_mhz=clock.highest_hz // 10**6 if clock else reading.max_clock_mhz if reading else None,
        gpu_clock_locked=None if clock is None else clock.locked,
        power_limit_w=None if reading is None else reading.power_limit_w,
        temperature_c=_temperature(root) if temperature is None else temperature,
        l4t=board.l4t,
        software={"drsn-edge": __version__, "python": platform.python_version(), **_versions()},
    )


def peak_rss_bytes() -> int | None:
    """The most memory that this process has had; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if platform.system() == "Darwin" else int(peak) << 10


def device_memory_used() -> int | None:
    """Memory of the GPU that all processes use together, where NVML tells it."""
    nvml = Nvml()
    return nvml.read().memory_used_bytes if nvml.usable else None


def _cpu(root: Path) -> str | None:
    """`model name` on x86; ARM has numbers only, of which the part says the core's kind."""
    for key in ("model name", "CPU part"):
        for line in _text(root / "proc/cpuinfo").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip() if key == "model name" else f"ARM part {value.strip()}"
    return platform.processor() or None if root == Path("/") else None


def _temperature(root: Path) -> float | None:
    found: dict[str, float] = {}
    for zone in sorted(root.glob("sys/class/thermal/thermal_zone*")):
        text = _text(zone / "temp")
        value = int(text) / 1e3 if text.lstrip("-").isdecimal() else None
        if value is not None and _PLAUSIBLE_C[0] < value < _PLAUSIBLE_C[1]:
            found.setdefault(_text(zone / "type"), value)
    return next((found[name] for name in _ZONES if name in found), None)


def _versions() -> dict[str, str]:
    found = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").replace("\0", "").strip()
    except OSError:  # a sensor that is off answers with an error
        return ""
