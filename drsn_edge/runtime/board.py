"""What a board says of itself in files: Jetson Linux, JetPack, packages, power mode, clocks, memory. No command is run.

Everything is read below a root folder, so that a recorded tree answers as the board did. What is not there is None:
a desktop has no power mode, a container no device tree.

Sources: NVIDIA's Jetson Linux developer guide (nv_tegra_release, nvpmodel), Documentation/ABI/testing of Linux
(devfreq, PCI), deb-control(5).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

# Jetson Linux release -> JetPack, from NVIDIA's archive of releases; where the package nvidia-jetpack is installed its
# own version counts.
_JETPACK = {
    "35.1": "5.0.2", "35.2": "5.1", "35.3": "5.1.1", "35.4": "5.1.2", "35.5": "5.1.3", "35.6": "5.1.4",
    "36.3": "6.0", "36.4.0": "6.1", "36.4.3": "6.2", "36.4.4": "6.2.1", "38.2": "7.0", "38.4": "7.1",
}  # fmt: skip
_PACKAGES = ("nvidia-jetpack", "nvidia-l4t-core", "libnvinfer8", "libnvinfer10", "python3-libnvinfer", "tensorrt")
# The GPU under devfreq: Xavier, Orin (JetPack 5 and 6), Thor.
_GPU_CLOCKS = ("17000000.gv11b", "17000000.ga10b", "17000000.gpu", "gpu-gpc-0")
# Nodes through which a process reaches the GPU: desktop and Thor, Jetson until Orin.
_NODES = ("dev/nvidia0", "dev/nvidiactl", "dev/nvhost-gpu", "dev/nvgpu/igpu0/nvsched", "dev/nvmap")


@dataclass(frozen=True)
class PowerMode:
    """The mode that nvpmodel last set: its number, and its name where the configuration tells it."""

    number: int
    name: str | None


@dataclass(frozen=True)
class Clock:
    """The GPU's clock in Hz, and between which limits it may move."""

    current_hz: int
    lowest_hz: int
    highest_hz: int

    @property
    def locked(self) -> bool:
        """Whether it cannot move, as after `jetson_clocks`."""
        return self.lowest_hz == self.highest_hz


@dataclass(frozen=True)
class Board:
    """What was found.

    Attributes:
        model: As the device tree calls the board.
        l4t: Release of Jetson Linux, `36.4.3`.
        jetpack: The JetPack that it belongs to, where that is known.
        packages: Versions of NVIDIA's Debian packages that are installed.
        driver: Version of the desktop driver.
        cuda: Version of the CUDA toolkit under /usr/local/cuda.
        power_mode: Of a Jetson.
        gpu_clock: Where the kernel shows it.
        memory_bytes: All of it, and what is available.
        nodes: Device files of the GPU that are there.
        pci_gpu: Whether a GPU of NVIDIA is plugged in, driver or not.
    """

    model: str | None
    l4t: str | None
    jetpack: str | None
    packages: dict[str, str]
    driver: str | None
    cuda: str | None
    power_mode: PowerMode | None
    gpu_clock: Clock | None
    memory_bytes: tuple[int, int] | None
    nodes: tuple[Path, ...]
    pci_gpu: bool

    @property
    def jetson(self) -> bool:
        """Whether this is one, container or not."""
        return self.l4t is not None or "Jetson" in (self.model or "")

    @property
    def tensorrt(self) -> str | None:
        """Version of the system's TensorRT, without the Debian revision."""
        found = self.packages.get("libnvinfer10") or self.packages.get("libnvinfer8")
        return None if found is None else found.partition("-")[0]


def read_board(root: Path = Path("/")) -> Board:
    """Read a board's files. Never raises: what cannot be read counts as absent.

    Args:
        root: `/`, or where a recorded tree lies.
    """
    l4t, packages = _l4t(_text(root / "etc/nv_tegra_release")), _packages(root / "var/lib/dpkg/status")
    if l4t is None and "nvidia-l4t-core" in packages:
        l4t = packages["nvidia-l4t-core"].partition("-")[0]
    return Board(
        model=_text(root / "proc/device-tree/model") or None,
        l4t=l4t,
        jetpack=packages.get("nvidia-jetpack", "").partition("+")[0] or _jetpack(l4t),
        packages=packages,
        driver=_match(r"Kernel Module[\w ]*?\s+(\d[\d.]+)", _text(root / "proc/driver/nvidia/version")),
        cuda=_match(r'"cuda"\s*:\s*\{[^}]*"version"\s*:\s*"([^"]+)"', _text(root / "usr/local/cuda/version.json")),
        power_mode=_power_mode(root),
        gpu_clock=_gpu_clock(root / "sys/class/devfreq"),
        memory_bytes=_memory(_text(root / "proc/meminfo")),
        nodes=tuple(root / node for node in _NODES if (root / node).exists()),
        pci_gpu=any(_is_gpu(device) for device in root.glob("sys/bus/pci/devices/*")),
    )


def _is_gpu(device: Path) -> bool:
    """NVIDIA's vendor number, and a class of display controllers."""
    return _text(device / "vendor") == "0x10de" and _text(device / "class").startswith("0x03")


def _text(path: Path) -> str:
    """At most 1 MB, without the NUL bytes that end strings of a device tree."""
    try:
        with path.open("rb") as handle:
            return handle.read(1 << 20).decode(errors="replace").replace("\0", "").strip()
    except OSError:
        return ""


def _match(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text)
    return None if found is None else found[1]


def _l4t(text: str) -> str | None:
    """`# R36 (release), REVISION: 4.3, GCID: ...` as `36.4.3`."""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return None if found is None else f"{found[1]}.{found[2]}"


def _jetpack(l4t: str | None) -> str | None:
    """The longest release of the table that the whole one begins with."""
    parts = (l4t or "").split(".")
    names = (".".join(parts[:length]) for length in range(len(parts), 1, -1))
    return next((_JETPACK[name] for name in names if name in _JETPACK), None)


def _packages(path: Path) -> dict[str, str]:
    """Versions out of dpkg's status file, a paragraph for each package."""
    found: dict[str, str] = {}
    name, installed = "", False
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                key, _, value = line.rstrip("\n").partition(": ")
                if not key:
                    name, installed = "", False
                elif key == "Package":
                    name = value
                elif key == "Status":
                    installed = value.endswith(" installed")
                elif key == "Version" and installed and name in _PACKAGES:
                    found[name] = value
    except OSError:
        return {}
    return found


def _power_mode(root: Path) -> PowerMode | None:
    """`pmode:0002 fmode:quiet` as nvpmodel left it, named by its configuration."""
    number = _match(r"pmode:(\d+)", _text(root / "var/lib/nvpmodel/status"))
    if number is None:
        return None
    modes = re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>", _text(root / "etc/nvpmodel.conf"))
    return PowerMode(int(number), {int(mode): name for mode, name in modes}.get(int(number)))


def _gpu_clock(folder: Path) -> Clock | None:
    for name in _GPU_CLOCKS:
        values = [_text(folder / name / item) for item in ("cur_freq", "min_freq", "max_freq")]
        if all(value.isdecimal() for value in values):
            return Clock(*map(int, values))
    return None


def _memory(text: str) -> tuple[int, int] | None:
    values = [_match(rf"{name}:\s+(\d+) kB", text) for name in ("MemTotal", "MemAvailable")]
    total, free = values
    return None if total is None or free is None else (int(total) << 10, int(free) << 10)
