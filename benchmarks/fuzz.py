"""Damaged and hostile files: only errors of drsn-edge may come of them.

Protocol: every kind of file that is read has a few good examples. An input is one of them, changed by a seeded draw:
bytes flipped, cut, doubled, spliced with another example or set to the extremes of integers; JSON also by putting
another value in some place, with its seals made good again. Reading must end well or in a `DrsnError`; anything else, a
crash of the process, more than 4 GB of memory or more than 20 s counts as a failure, with the seed that repeats it.
Each kind is read in a process of its own.

With `--engine atheris` (pip install atheris) libFuzzer changes them instead, guided by which lines of drsn-edge an
input reaches; an input that fails is kept in `--keep DIR`, and `--repeat KIND:FILE` reads it again.

    python -m benchmarks.fuzz [--inputs 104000] [--only KIND ...] [--repeat KIND:SEED] [--json]
                              [--engine atheris [--keep DIR]]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks._fuzz_files import Kind, kinds
from benchmarks._fuzz_inputs import changed
from drsn_edge.errors import DrsnError, MissingDependency
from drsn_edge.extras import available

__all__ = ["Kind", "changed", "fuzz", "fuzz_atheris", "judge", "kinds"]

MEMORY, SECONDS = 4 << 30, 20


def judge(kind: Kind, data: bytes, folder: Path) -> str | None:
    """What is wrong with how an input was taken; None where it was read, or refused with an error of ours."""
    path = folder / f"input{kind.suffix}"
    path.write_bytes(data)
    began = time.monotonic()
    try:
        kind.read(path)
    except DrsnError as error:
        if not error.what or (error.got is None and error.expected is None):
            return f"an error without its parts: {error!r}"
    except Exception as error:  # noqa: BLE001 - that is the finding
        return f"{type(error).__name__}: {str(error)[:200]}"
    took = time.monotonic() - began
    return f"{took:.1f} s" if took > SECONDS else None


def _work(name: str, start: int, stop: int, place: Any, out: Any) -> None:
    """In a process of its own: seeds from `start` on; `place` is the one in work, failures go to `out`."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What compiled parsers say of damaged graphs goes past Python's streams.
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    kind = kinds()[name]
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(start, stop):
            place.value = seed
            problem = judge(kind, changed(kind, seed), Path(folder))
            if problem is not None:
                out.put((seed, problem))
    place.value = stop


def fuzz(name: str, inputs: int) -> Iterator[tuple[int, str]]:
    """Failures of a kind: the seed and what happened. A process that dies is one, and the next begins behind it."""
    context = multiprocessing.get_context("fork")
    place, out = context.Value("q", 0), context.Queue()
    start = 0
    while start < inputs:
        process = context.Process(target=_work, args=(name, start, inputs, place, out))
        process.start()
        while process.is_alive():
            seen = place.value
            process.join(SECONDS * 3)
            if process.is_alive() and place.value == seen:
                process.kill()
                process.join()
        with contextlib.suppress(Exception):
            while True:
                yield out.get(timeout=0.2)
        if process.exitcode == 0:
            return
        yield place.value, f"the process ended with {process.exitcode}"
        start = place.value + 1


def fuzz_atheris(name: str, inputs: int, keep: Path) -> Iterator[tuple[str, str]]:
    """Failures of a kind that libFuzzer found: the file that was kept and what happened."""
    keep = keep.absolute() / name
    keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told.jsonl"
        command = [sys.executable, "-m", "benchmarks._fuzz_atheris", name, str(inputs), str(keep), str(told)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, cwd=folder,
                              env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})  # fmt: skip
        for line in told.read_text().splitlines() if told.exists() else ():
            item = json.loads(line)
            yield item["file"], item["problem"]
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [""])[-1]
            newest = max(keep.glob("*-*"), key=lambda path: path.stat().st_mtime, default=keep)
            yield str(newest), f"the process ended with {done.returncode}: {last[:200]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = kinds()
    parser.add_argument("--inputs", type=int, default=104_000, help="over all kinds")
    parser.add_argument("--only", nargs="+", choices=[*known], default=[*known])
    parser.add_argument("--repeat", metavar="KIND:SEED", help="read one input here, and show what it raises")
    parser.add_argument("--engine", choices=["seeds", "atheris"], default="seeds", help="what changes the examples")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"), help="atheris: where inputs that fail go")
    parser.add_argument("--json", action="store_true", help="only JSON on stdout")
    args = parser.parse_args()
    if args.repeat:
        name, _, seed = args.repeat.partition(":")
        data = changed(known[name], int(seed)) if seed.isdecimal() else Path(seed).read_bytes()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"input{known[name].suffix}"
            path.write_bytes(data)
            print(data[:2000], file=sys.stderr)
            known[name].read(path)
        return
    if args.engine == "atheris" and not available("atheris"):
        print("error: --engine atheris needs the package atheris: pip install atheris", file=sys.stderr)
        sys.exit(MissingDependency.exit_code)
    each = -(-args.inputs // len(args.only))
    rows, shown = [], sys.stderr if args.json else sys.stdout
    print(f"{'kind':<14}{'inputs':>10}{'failures':>10}{'s':>8}", file=shown)
    for name in args.only:
        began = time.monotonic()
        failures = fuzz(name, each) if args.engine == "seeds" else fuzz_atheris(name, each, args.keep)
        found = [{"seed": seed, "problem": problem} for seed, problem in failures]
        row = {"kind": name, "inputs": each, "failures": found, "seconds": round(time.monotonic() - began, 1)}
        rows.append(row)
        print(f"{name:<14}{each:>10}{len(found):>10}{row['seconds']:>8}", file=shown, flush=True)
        for item in found[:5]:
            print(f"  {name}:{item['seed']}  {item['problem']}", file=shown)
    summary = {"inputs": each * len(rows), "failures": sum(len(row["failures"]) for row in rows)}
    device = {"machine": platform.machine(), "cpus": os.cpu_count(), "python": platform.python_version()}
    print(json.dumps({"device": device, "engine": args.engine, "rows": rows, "summary": summary}, indent=2))
    sys.exit(summary["failures"] > 0)


if __name__ == "__main__":
    main()
