"""Where power can be read: the power monitors of a board, a running tegrastats, a GPU's own."""

from __future__ import annotations

import re
import subprocess
import threading
from pathlib import Path

from drsn_edge.runtime.nvml import Nvml
from drsn_edge.runtime.tegrastats import parse_tegrastats


class HwmonSensor:
    """Texas Instruments' power monitors under hwmon.

    Args:
        root: `/`, or where a recorded tree lies.
    """

    name = "hwmon"

    def __init__(self, root: Path = Path("/")) -> None:
        self._channels: dict[str, tuple[Path, ...]] = {}
        for chip in sorted(root.glob("sys/class/hwmon/hwmon*")):
            kind = _text(chip / "name")
            if kind.startswith("ina"):
                self._channels |= _channels(chip, kind)

    @property
    def rails(self) -> tuple[str, ...]:
        """Names of the rails that were found."""
        return tuple(self._channels)

    def read(self) -> dict[str, float]:
        """W by the rail's name."""
        found = {}
        for rail, files in self._channels.items():
            values = [_text(file) for file in files]
            if all(re.fullmatch(r"-?\d+", value) for value in values):
                # mV times mA, or uW: both are millionths of a W.
                product = 1.0
                for value in values:
                    product *= int(value)
                found[rail] = product / 1e6
        return found

    def close(self) -> None:
        """Nothing is held."""


def _channels(chip: Path, kind: str) -> dict[str, tuple[Path, ...]]:
    found: dict[str, tuple[Path, ...]] = {}
    for number in (1, 2, 3):
        label = _text(chip / f"in{number}_label")
        volts, amperes, watts = (chip / f"{what}{number}_input" for what in ("in", "curr", "power"))
        # The INA3221's kernel driver calls an unused channel NC, or gives it no label.
        if volts.is_file() and amperes.is_file() and label not in ("", "NC"):
            found[label] = (volts, amperes)
        elif watts.is_file() and kind != "ina3221":
            # A chip of one channel has no label of it; on Thor it stands at the board's input.
            found[label or _text(chip / "label") or "VIN"] = (watts,)
    return found


class TegrastatsSensor:
    """A running `tegrastats`, and the last line that it wrote.

    Args:
        command: What to run; tests give another one.
    """

    name = "tegrastats"

    def __init__(self, command: tuple[str, ...] = ("tegrastats", "--interval", "100")) -> None:
        self._rails: dict[str, float] = {}
        self._first = threading.Event()
        try:
            self._process: subprocess.Popen[str] | None = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        except OSError:
            self._process = None
            return
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        self._first.wait(3.0)

    def read(self) -> dict[str, float]:
        """W by the rail's name."""
        return dict(self._rails)

    def _follow(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            found = parse_tegrastats(line)
            if found is not None and found.rails_w:
                self._rails = found.rails_w
                self._first.set()
        self._rails = {}
        self._first.set()

    def close(self) -> None:
        """End the process that was started."""
        if self._process is not None:
            process, self._process = self._process, None
            process.terminate()
            process.wait()
            self._thread.join()
            if process.stdout is not None:
                process.stdout.close()


class NvmlSensor:
    """The whole board of a GPU that is plugged in."""

    name = "nvml"

    def __init__(self, nvml: Nvml | None = None) -> None:
        self._nvml = nvml or Nvml()

    def read(self) -> dict[str, float]:
        """W of the board."""
        watts = self._nvml.read().power_w if self._nvml.usable else None
        return {} if watts is None else {"GPU board": watts}

    def close(self) -> None:
        """Nothing is held."""


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").replace("\0", "").strip()
    except OSError:  # absent, or a channel that is switched off
        return ""
