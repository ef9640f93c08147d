"""The bare runner in a process of its own, as `run` is one: in a loop, whenever it is told to."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from drsn_edge.bundle import Bundle, graph_name
from drsn_edge.runtime.runner import open_runner


class Bare:
    """Measures in slots; a context manager.

    Attributes:
        windows, seconds, cpu_s: Of all slots together.
        speeds: Windows a second in each slot.
    """

    def __init__(self, bundle: Bundle, x: NDArray[np.float32]) -> None:
        self.windows, self.seconds, self.cpu_s = 0, 0.0, 0.0
        self.speeds: list[float] = []
        self._bundle, self._x = bundle, x

    def __enter__(self) -> Bare:
        with tempfile.NamedTemporaryFile(suffix=".npy") as file:
            np.save(file.name, self._x)
            command = [sys.executable, "-m", "benchmarks._soak_bare", str(self._bundle.path), file.name]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            )
            self._ask("0.1")  # warm, and the file has been read
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def slot(self, seconds: float) -> None:
        """Run for so long."""
        windows, wall, cpu = self._ask(str(seconds))
        self.windows, self.seconds, self.cpu_s = self.windows + int(windows), self.seconds + wall, self.cpu_s + cpu
        self.speeds.append(windows / wall)

    def _ask(self, text: str) -> tuple[float, float, float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(text + "\n")
        windows, wall, cpu = map(float, self._process.stdout.readline().split())
        return windows, wall, cpu


def main() -> None:
    import time

    x = np.load(sys.argv[2])
    with open_runner("onnxruntime", Bundle.open(Path(sys.argv[1])).read(graph_name("fp32")), optimise=True) as runner:
        for line in sys.stdin:
            began, cpu, count = time.perf_counter(), time.process_time(), 0
            while count == 0 or time.perf_counter() - began < float(line):
                runner.run({"window": x})
                count += len(x)
            print(count, time.perf_counter() - began, time.process_time() - cpu, flush=True)


if __name__ == "__main__":
    main()
