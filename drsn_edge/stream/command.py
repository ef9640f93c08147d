"""A command for every alarm, one at a time; it gets the alarm as JSON on its standard input."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections import deque
from collections.abc import Mapping
from typing import Any

from drsn_edge.errors import UsageError

_QUEUE = 16
_LIMIT_S = 30.0


class CommandSink:
    """Runs a command without waiting for it.

    At most sixteen alarms wait for their turn; those beyond are skipped, and a command that takes longer than 30 s is
    ended. Both are counted.

    Args:
        command: Program and arguments, as in a shell but without one.

    Raises:
        UsageError: No such program.
    """

    def __init__(self, command: str) -> None:
        try:
            self._arguments = shlex.split(command)
        except ValueError as error:
            raise UsageError(
                "--command is not understood", got=f"{command}: {error}", expected="PROGRAM ARG..."
            ) from None
        if not self._arguments or shutil.which(self._arguments[0]) is None:
            raise UsageError(
                "the command of --command is not there", got=command, expected="a program that can be executed"
            )
        self.command = command
        self.started = self.failed = self.skipped = 0
        self._queue: deque[bytes] = deque()
        self._running: subprocess.Popen[bytes] | None = None
        self._since = 0.0

    def write(self, record: Mapping[str, Any]) -> None:
        """Queue an alarm; other records are none of its business."""
        if record["type"] != "alarm":
            return
        if len(self._queue) >= _QUEUE:
            self.skipped += 1
        else:
            self._queue.append(json.dumps(record).encode() + b"\n")

    def flush(self, now: float) -> None:
        """Look after the one that runs; start the next."""
        if self._running is not None:
            code = self._running.poll()
            if code is None and now - self._since > _LIMIT_S:
                self._running.kill()
                code = self._running.wait()
            if code is None:
                return
            self.failed += code != 0
            self._running = None
        if self._queue:
            self._start(self._queue.popleft(), now)

    def _start(self, text: bytes, now: float) -> None:
        try:
            self._running = subprocess.Popen(
                self._arguments, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        except OSError:
            self.failed += 1
            return
        self.started += 1
        self._since = now
        assert self._running.stdin is not None
        try:
            # Shorter than a pipe holds: it does not wait for the command to read.
            self._running.stdin.write(text)
            self._running.stdin.close()
        except OSError:  # it does not want to know
            self._running.stdin = None

    def close(self, now: float) -> None:
        """Run what waits, each for its time at most."""
        while self._running is not None or self._queue:
            self.flush(now)
            if self._running is not None:
                try:
                    self._running.wait(_LIMIT_S)
                except subprocess.TimeoutExpired:
                    self._running.kill()
                    self._running.wait()

    def to_json(self) -> dict[str, Any]:
        """Counts."""
        return {"command": self.command, "started": self.started, "failed": self.failed, "skipped": self.skipped}
