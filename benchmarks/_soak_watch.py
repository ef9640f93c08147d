"""What a process takes of memory and files while it writes its lines."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np


class Watch:
    """What the run takes, and how far it is."""

    def __init__(self, process: subprocess.Popen[bytes], events: Path) -> None:
        self.kept: list[tuple[int, float, float, int]] = []  # bytes of output, own and resident MB, open files
        self.cpu: list[tuple[int, float]] = []  # bytes of output, seconds of CPU
        self._process, self._events = process, events
        self._proc = Path(f"/proc/{process.pid}")

    def look(self) -> int:
        """Take a sample; bytes of output."""
        done = self._events.stat().st_size if self._events.exists() else 0
        with contextlib.suppress(OSError, KeyError):  # it has just ended
            lines = (line.split() for line in (self._proc / "status").read_text().splitlines())
            kib = {words[0]: int(words[1]) for words in lines if words[-1] == "kB"}
            files = len(list((self._proc / "fd").iterdir()))
            ticks = (self._proc / "stat").read_text().rpartition(")")[2].split()[11:13]
            self.cpu.append((done, sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")))
            self.kept.append((done, (kib["RssAnon:"] + kib["VmSwap:"]) / 1024, kib["VmRSS:"] / 1024, files))
        return done

    def idle(self) -> None:
        """Wait until all that was fed is decided."""
        before, still = -1, 0
        while still < 3 and self._process.poll() is None:
            time.sleep(0.1)
            now = self.look()
            still = still + 1 if now == before else 0
            before = now

    def cpu_s(self) -> tuple[float, float]:
        """Seconds of CPU before the first output, and those for all of the output as far as was seen since."""
        first = next(item for item in self.cpu if item[0])
        last = self.cpu[-1]
        return first[1], (last[1] - first[1]) * last[0] / max(1, last[0] - first[0])

    def summary(self) -> dict[str, Any]:
        """Of memory and files, from a tenth of the output on: until then code is loaded and buffers are filled."""
        size = self.kept[-1][0]
        warm = [item for item in self.kept if item[0] >= size / 10]
        early = [item for item in warm if item[0] <= size / 5] or warm[:1]
        late = [item for item in warm if item[0] >= 0.9 * size]
        own = [float(np.median([item[1] for item in part])) for part in (early, late)]
        tenths = [[item[1] for item in self.kept if tenth <= 10 * item[0] / size < tenth + 1] for tenth in range(10)]
        return {
            "memory_mb": own,
            "memory_drift_mb": own[1] - own[0],
            "memory_samples": [len(early), len(late)],
            "memory_by_tenth_mb": [round(float(np.median(values)), 2) if values else None for values in tenths],
            "resident_mb": [float(np.median([item[2] for item in part])) for part in (early, late)],
            "open_files": [float(np.median([item[3] for item in part])) for part in (early, late)],
            "open_files_most": max(item[3] for item in warm),  # one more while the state file is written
            "open_files_growth": float(np.median([item[3] for item in late]) - np.median([item[3] for item in early])),
        }
