"""What a process takes of memory and files while it writes its lines."""

from __future__ import annotations

import contextlib
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np


class Watch:
    """What the run takes, and how far it is."""

    def __init__(self, process: subprocess.Popen[bytes], events: Path) -> None:
        self.kept: list[tuple[int, float, float, int]] = []  # bytes of output, own and resident MB, open files
        self._process, self._events = process, events
        self._proc = Path(f"/proc/{process.pid}")

    def look(self) -> int:
        """Take a sample; bytes of output."""
        done = self._events.stat().st_size if self._events.exists() else 0
        with contextlib.suppress(OSError, KeyError):  # it has just ended
            lines = (line.split() for line in (self._proc / "status").read_text().splitlines())
            kib = {words[0]: int(words[1]) for words in lines if words[-1] == "kB"}
            files = len(list((self._proc / "fd").iterdir()))
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

    def summary(self) -> dict[str, Any]:
        """Of memory and files, from a tenth of the output on: until then code is loaded and buffers are filled."""
        size = self.kept[-1][0]
        warm = [item for item in self.kept if item[0] >= size / 10]
        early = [item for item in warm if item[0] <= size / 5] or warm[:1]
        late = [item for item in warm if item[0] >= 0.9 * size]
        own = [float(np.median([item[1] for item in part])) for part in (early, late)]
        return {
            "memory_mb": own,
            "memory_drift_mb": own[1] - own[0],
            "memory_samples": [len(early), len(late)],
            "resident_mb": [float(np.median([item[2] for item in part])) for part in (early, late)],
            "open_files": [early[0][3], max(item[3] for item in warm)],
            "open_files_growth": max(item[3] for item in warm) - early[0][3],
        }
