"""How long the device part takes to start, and what it costs: import, `--help`, memory, and the size of the install.

Protocol: every figure is a fresh process, the median over `--repeats`, after one that warms the file cache. "Above
NumPy" is a process that imports `drsn_edge.runtime` less one that imports numpy, taken in turns. Memory is the largest
resident set of the process, from its `rusage`.

    python -m benchmarks.startup [--repeats 9] [--json]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

TARGETS = {"import_above_numpy_s": 0.15, "import_memory_mb": 60.0, "help_s": 0.3}
COMMANDS = {
    "python": ["-c", "pass"],
    "numpy": ["-c", "import numpy"],
    "runtime": ["-c", "import drsn_edge.runtime"],
    "help": ["-m", "drsn_edge", "--help"],
    "version": ["-m", "drsn_edge", "--version"],
}


def run(arguments: list[str]) -> tuple[float, float]:
    """Seconds and megabytes of one process."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    began = time.perf_counter()
    process = os.posix_spawn(
        sys.executable, [sys.executable, *arguments], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, quiet, 1)]
    )
    _, status, used = os.wait4(process, 0)
    took = time.perf_counter() - began
    os.close(quiet)
    if status:
        raise SystemExit(f"{' '.join(arguments)} ended with {status}")
    return took, used.ru_maxrss / 1024  # Linux counts in kB


def installed_bytes() -> int:
    """Of the package's own files, without compiled Python."""
    spec = importlib.util.find_spec("drsn_edge")
    assert spec is not None
    assert spec.origin is not None
    files = Path(spec.origin).parent.glob("**/*")
    return sum(path.stat().st_size for path in files if path.is_file() and path.suffix != ".pyc")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", action="store_true", help="only JSON on stdout")
    args = parser.parse_args()
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for turn in range(args.repeats + 1):
        for name, arguments in COMMANDS.items():
            figures = run(arguments)
            if turn:
                rounds[name].append(figures)
    rows = [
        {
            "command": name,
            "median_s": statistics.median(took for took, _ in figures),
            "fastest_s": min(took for took, _ in figures),
            "memory_mb": statistics.median(memory for _, memory in figures),
        }
        for name, figures in rounds.items()
    ]
    shown = sys.stderr if args.json else sys.stdout
    print(f"{'process':<10}{'median s':>10}{'fastest s':>11}{'MB':>8}", file=shown)
    for row in rows:
        print(
            f"{row['command']:<10}{row['median_s']:>10.3f}{row['fastest_s']:>11.3f}{row['memory_mb']:>8.1f}", file=shown
        )
    by_name = {str(row["command"]): row for row in rows}
    above = [one[0] - other[0] for one, other in zip(rounds["runtime"], rounds["numpy"], strict=True)]
    summary = {
        "import_above_numpy_s": statistics.median(above),
        "import_memory_mb": by_name["runtime"]["memory_mb"],
        "help_s": by_name["help"]["median_s"],
        "package_mb": installed_bytes() / 1e6,
        "targets": TARGETS,
    }
    device = {
        "machine": platform.machine(), "cpus": os.cpu_count(), "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }  # fmt: skip
    print(json.dumps({"device": device, "repeats": args.repeats, "rows": rows, "summary": summary}, indent=2))


if __name__ == "__main__":
    main()
