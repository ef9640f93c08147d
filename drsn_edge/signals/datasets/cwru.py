"""Bearing recordings of the Case Western Reserve University Bearing Data Center: `cwru:DIR`, `cwru:DIR,or=all`,
`cwru:DIR,healthy=fan-end`.

The 12 kHz drive-end set: ball, inner-race and outer-race faults of 7, 14 and 21 mil at 0 to 3 hp, and healthy. Files
are known by their number, under the data centre's names (`118.mat`) or longer ones (`12k_Drive_End_B007_0_118.mat`).
Four things have fooled published work and are handled here:

- The healthy recordings are sampled at 48 kHz, the others at 12 kHz: they are decimated by 4, with a filter.
- A file may hold the variables of another one too: the variable is chosen by the file's number.
- Amplitude gives classes away: the contract standardises every window.
- There is one bearing for each fault and size, on both sides of any split but `bearing`, which leaves sizes out. Its
  folds are those of Rosa et al. (arXiv 2509.22267).

What is healthy: `healthy=drive-end` takes the recordings of the healthy drive-end bearing, a single one, which no split
by bearing can have on one side only. `healthy=fan-end`, the default under the protocol `bearing`, takes the fan-end
channel of the recordings with a drive-end fault, as Rosa et al. do: the bearing there had no fault. The two channels of
one recording are always in the same part, so no recording is on both sides. But the fan-end bearing is one bearing (a
6203, where the faults are in 6205s) at one place, on every side: a network that tells the fan end from the drive end
calls it healthy. The class makes the task whole and shows that a fault heard through the motor is not mistaken for one
of the bearing beside the sensor; it does not show that another healthy bearing would be recognised.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drsn_edge import extras
from drsn_edge.errors import InputError, UsageError
from drsn_edge.signals.contract import SignalContract
from drsn_edge.signals.datasets import Dataset
from drsn_edge.signals.datasets.spec import DatasetSpec
from drsn_edge.signals.readers import read_signal
from drsn_edge.signals.recording import Recording

_RATE_HZ = 12_000.0
_HEALTHY = "healthy"
_DRIVE_END, _FAN_END = "drive-end", "fan-end"
_ONE_FAN_END = (
    "Healthy is the fan-end channel of the recordings with a drive-end fault: one physical bearing in every part, of "
    "another type and at another place than the faulty ones. It does not show that another healthy one is recognised."
)
_POSITIONS = ("6", "3", "12")  # of an outer-race fault, o'clock; the load zone is centred at 6
_SOURCE = "https://engineering.case.edu/bearingdatacenter/download-data-file"
_FOLDS = (
    frozenset({"B014", "IR007", "OR014"}),
    frozenset({"B021", "IR021", "OR007"}),
    frozenset({"B007", "IR014", "OR021"}),
)


@dataclass(frozen=True)
class _File:
    """What the data centre's tables say of a file number."""

    fault: str
    size: str
    load: str
    position: str = ""

    @property
    def bearing(self) -> str:
        return f"{self.fault}{self.size}" if self.size else self.fault


def _series(fault: str, size: str, numbers: tuple[int, ...], position: str = "") -> dict[int, _File]:
    return {number: _File(fault, size, str(load), position) for load, number in enumerate(numbers)}


FILES = {
    **_series(_HEALTHY, "", (97, 98, 99, 100)),
    **_series("B", "007", (118, 119, 120, 121)),
    **_series("B", "014", (185, 186, 187, 188)),
    **_series("B", "021", (222, 223, 224, 225)),
    **_series("IR", "007", (105, 106, 107, 108)),
    **_series("IR", "014", (169, 170, 171, 172)),
    **_series("IR", "021", (209, 210, 211, 212)),
    **_series("OR", "007", (130, 131, 132, 133), "6"),
    **_series("OR", "014", (197, 198, 199, 200), "6"),
    **_series("OR", "021", (234, 235, 236, 237), "6"),
    **_series("OR", "007", (144, 145, 146, 147), "3"),
    **_series("OR", "021", (246, 247, 248, 249), "3"),
    **_series("OR", "007", (156, 158, 159, 160), "12"),
    **_series("OR", "021", (258, 259, 260, 261), "12"),
}


def load(spec: DatasetSpec, protocol: str | None) -> Dataset:
    """The recordings of a folder that belong to the 12 kHz drive-end set; other files are left out, with a note.

    The option `or` chooses outer-race faults by position: `6` (the default), `3`, `12` or `all`; `healthy` chooses what
    is healthy, see the module. Groups: `load` (hp), `fault`, `size` (mil), `bearing`, and `position` (outer race only);
    with `healthy=fan-end` also `end`, and the bearing there is named after the faulty one beside it (`FE@B007`).
    Classes are fault and size; under the protocol `bearing` the fault alone.

    Raises:
        UsageError: An unknown option.
        InputError: No folder, none of the files in it, a number twice, or a file that is damaged or another one.
        MissingDependency: scipy is not installed.
    """
    spec.check(path="DIR", options=("or", "healthy"))
    position = spec.options.get("or", "6")
    if position not in (*_POSITIONS, "all"):
        raise UsageError(
            "the data set cwru has no outer-race faults at this position",
            got=f"or={position}",
            expected=f"or= {', '.join(_POSITIONS)} or all",
        )
    healthy = spec.options.get("healthy", _FAN_END if protocol == "bearing" else _DRIVE_END)
    if healthy not in (_DRIVE_END, _FAN_END):
        raise UsageError(
            "the data set cwru has no such healthy bearing",
            got=f"healthy={healthy}",
            expected=f"healthy= {_DRIVE_END} or {_FAN_END}",
        )
    folder = spec.path
    if folder is None or not folder.is_dir():
        raise InputError(
            "the folder of CWRU recordings is not there",
            got=folder,
            expected="a folder with .mat files of the 12 kHz drive-end set",
            hint=f"get them from {_SOURCE}",
        )
    found, others = _find(folder, positions=_POSITIONS if position == "all" else (position,))
    by_fault = protocol == "bearing"
    fan_end = healthy == _FAN_END
    if fan_end:
        found = {number: path for number, path in found.items() if FILES[number].fault != _HEALTHY}
    recordings = tuple(_read(path, number, by_fault=by_fault) for number, path in sorted(found.items()))
    notes = (f"{others} .mat files are not of the 12 kHz drive-end set and are left out.",) if others else ()
    folds: tuple[frozenset[str], ...] = _FOLDS
    if fan_end:
        recordings = tuple(item for faulty in recordings for item in _both_ends(faulty))
        notes = (*notes, _ONE_FAN_END)
        folds = tuple(frozenset({*fold, *(_beside(bearing) for bearing in fold)}) for fold in _FOLDS)
    return Dataset(
        name="cwru",
        spec=spec.text,
        recordings=recordings,
        labels=tuple(
            sorted({recording.label for recording in recordings}, key=lambda label: (label != _HEALTHY, label))
        ),
        contract=SignalContract(sample_rate_hz=_RATE_HZ, channels=("housing" if fan_end else "DE",), units="g"),
        folds={"bearing": folds},
        notes=notes,
    )


def _find(folder: Path, *, positions: tuple[str, ...]) -> tuple[dict[int, Path], int]:
    """Files by number, and how many are of another set."""
    found: dict[int, Path] = {}
    others = 0
    for path in sorted(folder.glob("*.mat")):
        number = _number(path)
        file = FILES.get(number)
        if file is None:
            others += 1
            continue
        if file.position and file.position not in positions:
            continue
        if number in found:
            raise InputError(
                f"two files have the CWRU number {number}",
                got=f"{found[number].name} and {path.name}",
                expected="every number once",
                hint="take one of them away",
            )
        found[number] = path
    if not found:
        raise InputError(
            f"{folder} holds none of the CWRU recordings that were asked for",
            got=f"{others} other .mat files",
            expected="files with the data centre's numbers, e.g. 118.mat or 12k_Drive_End_B007_0_118.mat",
            hint=f"get them from {_SOURCE}",
        )
    return found, others


def _number(path: Path) -> int:
    """The data centre's number at the end of a name; -1 for a name without one."""
    match = re.search(r"(?:^|_)(\d+)$", path.stem, re.ASCII)
    return int(match.group(1)) if match else -1


def _read(path: Path, number: int, *, by_fault: bool) -> Recording:
    file = FILES[number]
    signal, _, _ = read_signal(path, channel=f"X{number:03d}_DE_time")
    if file.fault == _HEALTHY:
        signal = _decimate(signal)
    groups = {"load": file.load, "fault": file.fault, "size": file.size, "bearing": file.bearing}
    groups["position"] = file.position
    return Recording(
        signal=signal,
        sample_rate_hz=_RATE_HZ,
        label=file.fault if by_fault else file.bearing,
        groups={key: value for key, value in groups.items() if value},
        source=str(path),
    )


def _both_ends(faulty: Recording) -> tuple[Recording, Recording]:
    """A recording with a drive-end fault, and what was measured at the healthy fan end meanwhile."""
    path = Path(faulty.source)
    signal, _, _ = read_signal(path, channel=f"X{_number(path):03d}_FE_time")
    groups = {"load": faulty.groups["load"], "fault": _HEALTHY, "bearing": _beside(faulty.groups["bearing"])}
    healthy = Recording(signal, _RATE_HZ, _HEALTHY, {**groups, "end": "fan"}, f"{path}, fan end")
    return dataclasses.replace(faulty, groups={**faulty.groups, "end": "drive"}), healthy


def _beside(bearing: str) -> str:
    """The name of the fan-end bearing while this one stood at the drive end: they are on the same side of a split."""
    return f"FE@{bearing}"


def _decimate(signal: NDArray[np.float32]) -> NDArray[np.float32]:
    """From 48 kHz to 12 kHz: everything that the other recordings cannot hold (above 6 kHz) is filtered off first."""
    scipy_signal = extras.require("scipy.signal", purpose="decimating the healthy CWRU recordings")
    reduced = scipy_signal.decimate(signal.astype(np.float64), 4, ftype="fir", axis=-1, zero_phase=True)
    return np.ascontiguousarray(reduced, dtype=np.float32)
