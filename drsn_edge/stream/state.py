"""The state file: where every sensor is, so that a process that was killed goes on and says what it missed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drsn_edge.errors import InputError, UsageError
from drsn_edge.files import read_json, write_json
from drsn_edge.stream.outbox import LineSink
from drsn_edge.stream.sensor import Sensor

FORMAT_VERSION = 1


class StateFile:
    """Written by rename every few seconds, and only when all lines before it are out.

    Args:
        path: The file.
        digest: Of the bundle.
        hop: Samples from window to window.
        every_s: How often.

    Attributes:
        errors: Writes that failed; the stream goes on.
    """

    def __init__(self, path: Path, *, digest: str, hop: int, every_s: float) -> None:
        self.path, self.errors = path, 0
        self._same = {"bundle": digest, "hop": hop}
        self._every_s = every_s
        self._next = 0.0

    def read(self) -> dict[str, Any] | None:
        """What a former run left; None where there was none.

        Raises:
            InputError: Damaged, or of another format version.
            UsageError: Of another bundle or hop.
        """
        if not self.path.exists():
            return None
        value = read_json(self.path, what="the state file")
        if value.get("format_version") != FORMAT_VERSION or not isinstance(value.get("sensors"), dict):
            raise InputError(
                "the state file cannot be used", got=f"{self.path}: format {value.get('format_version')}",
                expected=f"format {FORMAT_VERSION}", hint="remove it to begin anew",
            )  # fmt: skip
        for key, wanted in self._same.items():
            if value.get(key) != wanted:
                raise UsageError(
                    f"the state file is of another {key}", got=f"{self.path}: {value.get(key)}", expected=wanted,
                    hint="remove it to begin anew, or give another --state",
                )  # fmt: skip
        return value

    def due(self, steady: float) -> bool:
        """Whether it is time to write it."""
        return steady >= self._next

    def write(
        self, sensors: Sequence[Sensor], sinks: Sequence[LineSink], steady: float, wall: float, *, now: bool = False
    ) -> None:
        """Write it if it is time to and nothing waits."""
        if not self.due(steady) and not now:
            return
        if not all(sensor.settled for sensor in sensors) or not all(sink.settled or sink.error for sink in sinks):
            return
        self._next = steady + self._every_s
        value = {
            "format_version": FORMAT_VERSION,
            **self._same,
            "wall": wall,
            "outputs": {sink.target: sink.size for sink in sinks if sink.size is not None},
            "sensors": {sensor.name: sensor.to_json(wall - steady) for sensor in sensors},
        }
        try:
            write_json(self.path, value)
        except OSError:  # a full disk: what is missing here is counted again after the next restart
            self.errors += 1


def resume(state: Mapping[str, Any], sensors: Sequence[Sensor], found: Mapping[str, Mapping[str, Any]]) -> None:
    """Put every sensor where it was.

    Args:
        state: Of `StateFile.read`.
        sensors: Of this run; those that the state does not know begin at 0.
        found: The last line of each sensor that was written after the state file.

    Raises:
        InputError: The state file cannot be used.
    """
    for sensor in sensors:
        value = state["sensors"].get(sensor.name)
        if value is None:
            continue
        sensor.restore(value)
        last = found.get(sensor.name)
        if last is not None and not sensor.source.replayable:
            wall = value.get("wall")
            if wall is not None:
                wall = float(wall) + (int(last["start"]) - int(value["position"])) / sensor.rate
            sensor.seen(int(last["seq"]), int(last["start"]), wall)
