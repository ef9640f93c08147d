"""Where lines go: files, pipes, stdout. A consumer that is slow or a disk that is full never stops the stream."""

from __future__ import annotations

import csv
import io
import json
import os
import select
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drsn_edge.errors import InputError, UsageError

COLUMNS = (
    "type", "sensor", "seq", "start", "t_s", "time", "kind", "event", "label", "before", "confidence", "state",
    "reason",
)  # fmt: skip
_HEADER = ",".join(COLUMNS).encode() + b"\n"
# Within one window number, in this order: after a kill it is known which were written.
ORDER = {"drift": 0, "input": 1, "state": 2, "decision": 3}
_LIMIT = 1 << 20  # bytes that may wait for a consumer
_PIECE = 4096  # PIPE_BUF: where select says that there is room, there is room for so much
_RETRY_S = 1.0

Place = tuple[int, int]


class LineSink:
    """JSON lines or CSV to one place.

    Lines that cannot be written wait, up to a megabyte; beyond it the newest are dropped, whole, and counted.

    Args:
        target: A path, or `-` for stdout. `.csv` makes CSV.
        alarms_only: Leave decisions out.
        waits: Wait for a slow consumer instead of dropping lines (a disk that is full is not waited for).

    Attributes:
        alarms_only, csv: As given.
        lines, lost: Accepted, and dropped.
        error: Why the last attempt failed; None where it did not.
        closed_by_reader: Nobody reads any more.
    """

    def __init__(self, target: str, *, alarms_only: bool = False, waits: bool = True) -> None:
        self.target = target
        self.lines = self.lost = 0
        self.error: str | None = None
        self.closed_by_reader = False
        self.alarms_only, self._waits = alarms_only, waits
        self.csv = target.endswith(".csv")
        self._pending = bytearray()
        self._written: dict[str, Place] = {}
        self._retry = 0.0
        self._handle = -1

    def open(self, *, resume_at: int | None, force: bool = False) -> dict[str, dict[str, Any]]:
        """Open it; after a kill, see what is there beyond what the state file knows.

        Args:
            resume_at: Bytes that were there when the state file was written; None without one.
            force: Empty a file that exists.

        Returns:
            The last line of every sensor beyond those bytes.

        Raises:
            UsageError: It exists, and there is nothing to resume.
            InputError: It cannot be opened.
        """
        if self.target == "-":
            self._handle = sys.stdout.fileno()
            self._header()
            return {}
        path = Path(self.target)
        regular = not path.exists() or path.is_file()
        if regular and path.exists() and resume_at is None and not force and not self._unused(path):
            raise UsageError(
                "the output exists already", got=path, expected="a new name",
                hint="add --force to replace it, or --state FILE to go on with it after a stop",
            )  # fmt: skip
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (os.O_TRUNC if resume_at is None and regular else 0)
        try:
            self._handle = os.open(path, flags, 0o644)
        except OSError as error:
            raise InputError(
                "the output cannot be opened", got=f"{path}: {error.strerror}", expected="a file that can be written"
            ) from None
        found: dict[str, dict[str, Any]] = {}
        if resume_at is not None and stat.S_ISREG(os.fstat(self._handle).st_mode):
            found = self._beyond(path, resume_at)
        if os.fstat(self._handle).st_size == 0:
            self._header()
        return found

    def _unused(self, path: Path) -> bool:
        """Whether it holds no line; killed before the first state file was there, a CSV has its header already."""
        try:
            with path.open("rb") as handle:
                return handle.read(len(_HEADER) + 1) in (b"", _HEADER if self.csv else b"")
        except OSError:  # may not be read: whatever it is, it is somebody's
            return False

    def _header(self) -> None:
        if self.csv:
            self._pending += _HEADER

    def _beyond(self, path: Path, resume_at: int) -> dict[str, dict[str, Any]]:
        """Lines that the state file does not know; half a line at the end is cut off."""
        with path.open("rb") as handle:
            handle.seek(min(resume_at, path.stat().st_size))
            data = handle.read()
        whole = data[: data.rfind(b"\n") + 1]
        os.truncate(self._handle, path.stat().st_size - (len(data) - len(whole)))
        last: dict[str, dict[str, Any]] = {}
        for record in _records(whole, csv_lines=self.csv):
            if record.get("seq") not in (None, ""):
                place = (int(record["seq"]), ORDER.get(record.get("kind") or record["type"], 0))
                sensor = str(record["sensor"])
                if place > self._written.get(sensor, (-1, -1)):
                    self._written[sensor] = place
                    last[sensor] = record
        return last

    def write(self, record: Mapping[str, Any]) -> None:
        """Accept a line, unless it was written before a kill already."""
        if self.alarms_only and record["type"] != "alarm":
            return
        line = _csv_line(record) if self.csv else json.dumps(record, separators=(",", ":"), allow_nan=False) + "\n"
        self.put(line, record["sensor"], record.get("seq"), record.get("kind") or record["type"])

    def put(self, line: str, sensor: str | None, seq: int | None, kind: str) -> None:
        """Accept a line that has been made already, with its end."""
        if seq is not None and (seq, ORDER.get(kind, 0)) <= self._written.get(str(sensor), (-1, -1)):
            return
        self._keep(line.encode(), 1)

    def put_all(self, lines: list[str], sensors: list[str], numbers: list[int]) -> None:
        """Accept lines of decisions, in order."""
        data = "".join(lines).encode()
        if self._written or len(self._pending) + len(data) > _LIMIT:  # one by one: some may be left out
            for line, sensor, seq in zip(lines, sensors, numbers, strict=True):
                self.put(line, sensor, seq, "decision")
        else:
            self._keep(data, len(lines))

    def _keep(self, data: bytes, lines: int) -> None:
        if self.closed_by_reader or len(self._pending) + len(data) > _LIMIT:
            self.lost += lines
            return
        self._pending += data
        self.lines += lines

    def flush(self, now: float, *, wait: bool = False) -> None:
        """Write what can be written without waiting; with `wait`, for as long as a slow consumer takes."""
        while self._pending and not self.closed_by_reader and (now >= self._retry or wait):
            if not select.select([], [self._handle], [], 0.2 if wait and self._waits else 0)[1]:
                if wait and self._waits:
                    continue
                return
            try:
                done = os.write(self._handle, self._pending[:_PIECE] if self._pipe else self._pending)
            except BrokenPipeError:
                self.closed_by_reader, self.error = True, "nobody reads it any more"
                return
            except OSError as error:
                self.error, self._retry = str(error.strerror), now + _RETRY_S
                return
            self.error = None
            del self._pending[:done]

    @property
    def _pipe(self) -> bool:
        return not stat.S_ISREG(os.fstat(self._handle).st_mode)

    @property
    def crowded(self) -> bool:
        """Whether lines begin to pile up."""
        return self._waits and self.error is None and len(self._pending) > _LIMIT // 4

    @property
    def settled(self) -> bool:
        """Whether all that was accepted has been written."""
        return not self._pending

    @property
    def size(self) -> int | None:
        """Bytes in the file; None where it is none."""
        info = os.fstat(self._handle)
        return info.st_size if stat.S_ISREG(info.st_mode) else None

    def close(self, now: float) -> None:
        """Write the rest; what cannot be written is lost."""
        if self._handle < 0:
            return
        self._retry = now
        self.flush(now, wait=True)
        left = self._pending.count(b"\n")
        self.lost, self.lines = self.lost + left, self.lines - left
        if self.target != "-":
            os.close(self._handle)
        self._handle = -1

    def to_json(self) -> dict[str, Any]:
        """Counts."""
        return {"target": self.target, "lines": self.lines, "lost": self.lost, "error": self.error}


def _records(data: bytes, *, csv_lines: bool) -> list[dict[str, Any]]:
    text = data.decode(errors="replace")
    if csv_lines:
        return [row for row in csv.DictReader(io.StringIO(text), fieldnames=COLUMNS) if row["type"] != "type"]
    found = []
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict) and "type" in value and "sensor" in value:
            found.append(value)
    return found


def _csv_line(record: Mapping[str, Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(["" if record.get(key) is None else record[key] for key in COLUMNS])
    return text.getvalue()
