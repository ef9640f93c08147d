"""One line of tegrastats: power of every rail, temperatures, memory.

NVIDIA's Jetson Linux developer guide ("tegrastats utility") describes the fields; what differs from board to board and
from release to release was seen in recorded lines:

    Xavier, AGX (JetPack 4, 5)   `GPU 120/100 CPU 468/450 SOC 937/900 CV 0/0 VDDRQ 312/234 SYS5V 1458/1400`: mW, no unit
    Xavier, NX (JetPack 5)       `VDD_IN 2763mW/2846mW VDD_CPU_GPU_CV 650mW/670mW VDD_SOC 650mW/711mW`
    Orin, Nano and NX            the same rails, lower-case temperatures: `gpu@49.625C`
    Orin, AGX                    `VDD_GPU_SOC 2412mW/2412mW VDD_CPU_CV 1607mW/1607mW VIN_SYS_5V0 4707mW/4707mW`
    Thor (JetPack 7)             `VDD_GPU 0mW/0mW VDD_CPU_SOC_MSS 5535mW/5535mW VIN_SYS_5V0 ... VIN 16802mW/16802mW`;
                                 a third figure, or none behind the first one; negative ones around zero

The first figure of a rail is now, the second the average since tegrastats started, a third the highest. A temperature
of -256 C is a sensor that is off.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_OFF_C = -256.0
# "mW" in newer releases; without a unit a rail is known by its two figures, and only behind the temperatures.
_RAIL = re.compile(r"(?<![\w@])([A-Za-z][\w.]*) (-?\d+)mW(?:/-?\d+(?:mW)?)*(?=\s|$)")
_BARE_RAIL = re.compile(r"(?<![\w@])([A-Z][A-Z0-9_]*) (-?\d+)/(-?\d+)(?=\s|$)")
_TEMPERATURE = re.compile(r"(?<!\S)([A-Za-z][\w-]*)@(-?\d+(?:\.\d+)?)C(?=\s|$)")
_RAM = re.compile(r"(?<!\S)RAM (\d+)/(\d+)MB")


@dataclass(frozen=True)
class TegrastatsLine:
    """What one line says.

    Attributes:
        rails_w: Power now, in W, by the rail's name.
        temperatures_c: By the sensor's name, as it is written; those that are off are left out.
        ram_mb: In use and in all; CPU and GPU share it.
    """

    rails_w: dict[str, float]
    temperatures_c: dict[str, float]
    ram_mb: tuple[int, int] | None

    @property
    def gpu_temperature_c(self) -> float | None:
        """Of the GPU; of the hottest part where that sensor is off, as it is while the GPU sleeps."""
        by_name = {name.lower(): value for name, value in self.temperatures_c.items()}
        return by_name.get("gpu", by_name.get("tj"))


def parse_tegrastats(line: str) -> TegrastatsLine | None:
    """Read a line; None for one that is not of tegrastats."""
    memory = _RAM.search(line)
    temperatures = {name: float(value) for name, value in _TEMPERATURE.findall(line)}
    if memory is None and not temperatures:
        return None
    # A connector without a load is called NC, on more than one channel.
    rails = {name: int(value) / 1e3 for name, value in _RAIL.findall(line) if name != "NC"}
    if not rails:
        behind = max((match.end() for match in _TEMPERATURE.finditer(line)), default=0)
        rails = {name: int(now) / 1e3 for name, now, _ in _BARE_RAIL.findall(line[behind:])}
    return TegrastatsLine(
        rails_w=rails,
        temperatures_c={name: value for name, value in temperatures.items() if value > _OFF_C},
        ram_mb=None if memory is None else (int(memory[1]), int(memory[2])),
    )
