"""Results of `benchmarks.fault_injection` that outlive it: a run that ends goes on where it was."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.faults.row import Row


class Kept:
    """One file for every piece of work, under `work/rows`, with the CPU time that it took.

    Args:
        work: Where networks, bundles and results are kept.
        make: Whether what is not there yet is made.
    """

    def __init__(self, work: Path, *, make: bool) -> None:
        self.work, self.make = work, make
        self.cpu_s = 0.0
        self._began, self._made = time.perf_counter(), 0

    def __str__(self) -> str:
        return f"{self.cpu_s:.0f} s of CPU time"

    def left(self, pieces: int) -> str:
        """Time so far, and how long so many more pieces would take at the pace of this run."""
        if not self._made:
            return str(self)
        pace = (time.perf_counter() - self._began) / self._made
        return f"{self}, about {pace * pieces:.0f} s to go"

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """A result, made when it is not there yet; None where it is not and nothing is to be made."""
        path = self.work / "rows" / f"{name}.json"
        if not path.is_file():
            if not self.make:
                return None
            cpu = time.process_time()
            value = {"value": make(), "cpu_s": time.process_time() - cpu}
            self._made += 1
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            part.write_text(json.dumps(value))
            part.rename(path)
        found = json.loads(path.read_text())
        self.cpu_s += found["cpu_s"]
        return found["value"]

    def rows(self, name: str, make: Callable[[], Iterable[Row]]) -> list[Row]:
        """The faults of one network."""
        found = self.once(name, lambda: [row.to_json() for row in make()])
        return [Row.from_json(item) for item in found or []]
