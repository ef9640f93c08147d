"""Power from a board's own sensors, and the energy of a piece of work.

Asked in this order, the first that answers counts:

1. INA3221 and INA238 under /sys/class/hwmon: every Jetson since JetPack 5. Needs no privilege and no process.
2. `tegrastats`, where a container hides those files.
3. NVML: the whole board of a desktop or data-centre GPU.

Sources: Documentation/hwmon/ina3221.rst and ina238.rst of Linux (mV, mA, uW); `tegrastats.py`; `nvml.py`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from drsn_edge.errors import MissingDevice, UsageError
from drsn_edge.runtime.nvml import Nvml
from drsn_edge.runtime.power_sensors import HwmonSensor, NvmlSensor, TegrastatsSensor

if TYPE_CHECKING:
    from typing_extensions import Self

# Rails that carry everything the module or the board takes, in the order of what they include.
_INPUTS = ("VIN", "VDD_IN", "POM_5V_IN")
# Fed by another rail that is measured as well: the sum would count it twice.
_FED_BY_OTHERS = ("VDDQ_VDD2_1V8AO",)
# Below this many samples a mean says little about a short piece of work.
MIN_SAMPLES = 10


class PowerSensor(Protocol):
    """Whatever tells power."""

    name: str

    def read(self) -> dict[str, float]:
        """W by the rail's name; empty where nothing can be read now."""

    def close(self) -> None:
        """Give it back."""


def total(rails_w: Mapping[str, float]) -> tuple[float, str]:
    """Power of all, and which rails that is: the input's where it is measured, else the sum of the rails.

    A sum leaves out what has no rail of its own, such as the carrier board: it is less than a meter at the plug shows.
    """
    for name in _INPUTS:
        if name in rails_w:
            return rails_w[name], name
    summed = {name: value for name, value in rails_w.items() if name not in _FED_BY_OTHERS}
    return sum(summed.values()), " + ".join(sorted(summed))


def find_sensor(root: Path = Path("/"), *, nvml: Nvml | None = None) -> PowerSensor:
    """The first sensor of this machine that answers.

    Raises:
        MissingDevice: None does.
    """
    candidates = (lambda: HwmonSensor(root), TegrastatsSensor, lambda: NvmlSensor(nvml))
    for make in candidates:
        sensor: PowerSensor = make()
        if sensor.read():
            return sensor
        sensor.close()
    raise MissingDevice(
        "this machine does not tell its power",
        got="no INA3221 under /sys/class/hwmon, no tegrastats, no NVML that answers",
        expected="a Jetson, or an NVIDIA GPU with its driver",
        hint="measure at the plug, or leave --energy out",
    )


@dataclass(frozen=True)
class PowerReading:
    """What was sampled over a time.

    Attributes:
        watts: Mean over the time.
        seconds: Between the first sample and the last.
        samples: How many.
        rails: What `watts` is of.
        rails_w: Mean of every rail.
    """

    watts: float
    seconds: float
    samples: int
    rails: str
    rails_w: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dict(vars(self))


class PowerMeter:
    """Samples a sensor in a thread of its own while the block runs; `reading` is there afterwards.

    Args:
        sensor: What to read.
        interval_s: Between samples. The sensors of a Jetson renew their values every few milliseconds to tenths of a
            second; sampling faster than that only repeats them.
    """

    def __init__(self, sensor: PowerSensor, *, interval_s: float = 0.02) -> None:
        if interval_s <= 0:
            raise UsageError("the interval between samples is too short", got=interval_s, expected="more than 0 s")
        self._sensor, self._interval_s = sensor, interval_s
        self._samples: list[tuple[float, dict[str, float]]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            rails = self._sensor.read()
            if rails:
                self._samples.append((time.monotonic(), rails))
            if self._stop.wait(self._interval_s):
                return

    @property
    def reading(self) -> PowerReading | None:
        """The mean over time; None with fewer than `MIN_SAMPLES` samples."""
        return integrate(self._samples)


def integrate(samples: list[tuple[float, dict[str, float]]]) -> PowerReading | None:
    """Mean power by the trapezoidal rule: samples need not be evenly spaced. None with too few of them."""
    if len(samples) < MIN_SAMPLES or samples[-1][0] <= samples[0][0]:
        return None
    seconds = samples[-1][0] - samples[0][0]
    # A rail that was not there once is left out, rather than taken for 0 W.
    names = [name for name in samples[0][1] if all(name in rails for _, rails in samples)]
    if not names:
        return None
    means = {
        name: sum(
            (later - before) * (one[name] + other[name]) / 2 for (before, one), (later, other) in pairwise(samples)
        )
        / seconds
        for name in names
    }
    watts, rails = total(means)
    return PowerReading(watts, seconds, len(samples), rails, means)
