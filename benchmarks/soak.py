"""Hours of three sensors at 12 kHz through `drsn-edge run`, faster than real time: is anything lost, doubled or leaked?

A generator feeds three named pipes, in a thread of this process; `drsn-edge run` is a process of its own, as on a
device, with a state file, alarms and one JSON line for every window. Each sensor sends blocks of one window out of a
pool, in an order that only the seed knows, so that every decision of the run can be compared with that of an offline
pass over the pool through the bare runner: number for number, and no period hides a block that is lost or doubled.

    lost, doubled, other      windows against the offline pass
    memory_drift_mb           resident memory at the end less that after the first tenth of the windows
    open_files_growth         likewise
    throughput_share          windows a second of the run over those of the bare runner in a loop, the same batch;
                              the bare runner is measured before and after, and the faster counts
    cpu_share                 the same by seconds of CPU, start included: what a machine with other work can still say
    p99_ms                    from a window's last sample to its decision, waiting for a full batch included

    python -m benchmarks.soak --bundle NAME.drsn [--hours 1] [--quick] [--batch 64] [--json]

Without a bundle it makes one of the preset `paper` with weights as drawn: speed is that of a trained one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge.bundle import Bundle, graph_name
from drsn_edge.runtime.runner import open_runner

POOL, SENSORS, RATE = 512, 3, 12_000


def make_bundle(folder: Path) -> Path:
    """The paper's network, untrained, for 12 kHz."""
    from drsn_edge import ExportOptions, SweepOptions, export
    from drsn_edge.model.checkpoint import Checkpoint, save_checkpoint
    from drsn_edge.model.config import NetworkConfig
    from drsn_edge.model.network import Network
    from drsn_edge.signals.contract import SignalContract

    contract = SignalContract(sample_rate_hz=float(RATE), window=2048, hop=2048)
    network = Network(NetworkConfig.preset("paper", model="drsn-cw", classes=10), contract).eval()
    save_checkpoint(folder / "run", Checkpoint(network, contract, tuple(f"class-{index}" for index in range(10))))
    options = ExportOptions(precisions=("fp32",), telemetry=True, engines=(), report=False)
    export(folder / "run", out=folder / "soak.drsn", options=options, sweep=SweepOptions(draws=10, snrs_db=(0.0,)))
    return folder / "soak.drsn"


def pool_of(bundle: Bundle) -> NDArray[np.float32]:
    """Windows of the bundle's golden file with fresh noise: near as many decisions as the network has."""
    golden: NDArray[np.float32] = np.load(bundle.file("golden.npz"))["windows"][:, 0]
    rng = np.random.default_rng(1)
    rows = golden[rng.integers(0, len(golden) - 6, POOL)]  # the last six are no sensor's
    noise = rng.standard_normal(rows.shape, dtype=np.float32) * rows.std(axis=1, keepdims=True)
    pool: NDArray[np.float32] = (rows + noise * rng.uniform(0, 1, (POOL, 1))).astype(np.float32)
    return pool


def order_of(sensor: int, windows: int) -> NDArray[np.int64]:
    """Which block of the pool each window of a sensor is."""
    return np.random.default_rng([7, sensor]).integers(0, POOL, windows)


def offline(bundle: Bundle, pool: NDArray[np.float32], batch: int) -> NDArray[np.float32]:
    with open_runner("onnxruntime", bundle.read(graph_name("fp32")), optimise=True) as runner:
        pieces = [runner.run({"window": pool[at : at + batch, None]})["logits"] for at in range(0, POOL, batch)]
    return np.concatenate(pieces)


def bare_speed(bundle: Bundle, pool: NDArray[np.float32], batch: int, seconds: float) -> tuple[float, float]:
    """Windows a second of the runner alone, in a process of its own as `run` is; and those a second of CPU."""
    code = (
        "import sys, time, numpy as np\n"
        "from drsn_edge.bundle import Bundle, graph_name\n"
        "from drsn_edge.runtime.runner import open_runner\n"
        "x = np.load(sys.argv[2])[:int(sys.argv[3]), None]\n"
        "with open_runner('onnxruntime', Bundle.open(sys.argv[1]).read(graph_name('fp32')), optimise=True) as runner:\n"
        "    for _ in range(3): runner.run({'window': x})\n"
        "    began, count, cpu = time.perf_counter(), 0, time.process_time()\n"
        "    while time.perf_counter() - began < float(sys.argv[4]):\n"
        "        runner.run({'window': x}); count += len(x)\n"
        "    print(count / (time.perf_counter() - began), count / (time.process_time() - cpu))\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "pool.npy", pool)
        command = [sys.executable, "-c", code, str(bundle.path), f"{folder}/pool.npy", str(batch), str(seconds)]
        wall, cpu = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        return float(wall), float(cpu)


def feed(path: Path, pool: NDArray[np.float32], order: NDArray[np.int64]) -> None:
    with contextlib.suppress(BrokenPipeError), path.open("wb", buffering=0) as pipe:
        for at in range(0, len(order), 8):
            pipe.write(pool[order[at : at + 8]].astype("<f4").tobytes())


def watch(process: subprocess.Popen[bytes], events: Path, kept: list[tuple[int, float, int]]) -> None:
    """Bytes of output, resident memory in MB and open files, up to five times a second."""
    page = os.sysconf("SC_PAGE_SIZE")
    while process.poll() is None:
        with contextlib.suppress(OSError, IndexError):
            pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            files = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
            kept.append((events.stat().st_size, pages * page / 2**20, files))
        time.sleep(1.0 if len(kept) > 30 else 0.2)


def compare(events: Path, wanted: list[NDArray[np.int64]], best: NDArray[np.int64], labels: tuple[str, ...],
            ties: NDArray[np.bool_]) -> dict[str, int]:  # fmt: skip
    """Every line against the offline pass."""
    seen = [np.zeros(len(order), np.int64) for order in wanted]
    other = out_of_order = 0
    last = [-1] * SENSORS
    with events.open() as lines:
        for line in lines:
            item = json.loads(line)
            if item["type"] != "decision":
                continue
            sensor, seq = int(item["sensor"][1:]), item["seq"]
            seen[sensor][seq] += 1
            out_of_order += seq != last[sensor] + 1
            last[sensor] = seq
            block = wanted[sensor][seq]
            other += item["label"] != labels[best[block]] and not ties[block]
    return {
        "windows": int(sum(count.sum() for count in seen)),
        "lost": int(sum((count == 0).sum() for count in seen)),
        "doubled": int(sum((count > 1).sum() for count in seen)),
        "out_of_order": out_of_order,
        "other_decisions": int(other),
    }


def soak(bundle: Bundle, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    window = bundle.contract.window
    each = int(args.hours * 3600 * RATE) // window
    pool = pool_of(bundle)
    logits = offline(bundle, pool, args.batch)
    top = np.sort(logits, axis=1)
    ties = (top[:, -1] - top[:, -2]) < 2e-5 * np.abs(logits).max()
    seconds = 3.0 if args.quick else 15.0
    before = bare_speed(bundle, pool, args.batch, seconds)
    orders = [order_of(sensor, each) for sensor in range(SENSORS)]
    pipes = [folder / f"s{sensor}" for sensor in range(SENSORS)]
    for pipe in pipes:
        os.mkfifo(pipe)
    events = folder / "events.jsonl"
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(
        [
            sys.executable, "-m", "drsn_edge", "run", str(bundle.path), *(f"{pipe},format=float32" for pipe in pipes),
            "--fast", "--once", "--hop", str(window), "--batch", str(args.batch), "--events", str(events), "--alarms",
            str(folder / "alarms.jsonl"), "--state", str(folder / "state.json"), "--min-confidence", "0",
            "--runner", "onnxruntime", "--json", "--quiet",
        ],
        stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    kept: list[tuple[int, float, int]] = []
    threads = [threading.Thread(target=feed, args=pair) for pair in zip(pipes, [pool] * SENSORS, orders, strict=True)]
    threads.append(threading.Thread(target=watch, args=(process, events, kept)))
    for thread in threads:
        thread.start()
    out, _ = process.communicate()
    for thread in threads:
        thread.join()
    done = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = done.ru_utime + done.ru_stime - used.ru_utime - used.ru_stime
    result = json.loads(out)
    after = bare_speed(bundle, pool, args.batch, seconds)
    checked = compare(events, orders, logits.argmax(axis=1), bundle.labels, ties)
    # Warm once a tenth of the windows has been decided; until then code is loaded and buffers are filled.
    warm = [item for item in kept if item[0] > events.stat().st_size / 10]
    gaps = sum(item["counters"]["gaps"] + item["counters"]["nan"] for item in result["sensors"].values())
    return {
        "hours": args.hours,
        **checked,
        "expected_windows": SENSORS * each,
        "gaps_and_nan": gaps,
        "seconds": result["seconds"],
        "times_real_time": args.hours * 3600 / result["seconds"],
        "windows_per_s": result["windows_per_s"],
        "bare_windows_per_s": [before, after],
        "throughput_share": result["windows_per_s"] / max(before[0], after[0]),
        "cpu_share": result["windows"] / cpu_s / max(before[1], after[1]),
        "cpu_seconds": cpu_s,
        "infer_share": result["infer_s"] / result["seconds"],
        "windows_per_batch": result["windows"] / result["batches"],
        "p50_ms": result["latency"]["p50_ms"],
        "p99_ms": result["latency"]["p99_ms"],
        "memory_mb": [warm[0][1], warm[-1][1]],
        "memory_drift_mb": warm[-1][1] - warm[0][1],
        "open_files_growth": max(item[2] for item in warm) - warm[0][2],
        "passed": checked["lost"] == checked["doubled"] == checked["other_decisions"] == checked["out_of_order"] == 0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--quick", action="store_true", help="a minute of signal")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--json", action="store_true", help="no table")
    args = parser.parse_args()
    if args.quick:
        args.hours = 1 / 60
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        bundle = Bundle.open(args.bundle if args.bundle is not None else make_bundle(Path(name)))
        summary = soak(bundle, args, Path(name))
    if not args.json:
        for key, value in summary.items():
            print(f"{key:<22}{value}")
    device = {"machine": platform.machine(), "cpus": os.cpu_count(), "load": os.getloadavg()[0]}
    options = {"sensors": SENSORS, "rate_hz": RATE, "window": 2048, "hop": 2048, "batch": args.batch}
    print(json.dumps({"format_version": 1, "device": device, "options": options, "summary": summary}, indent=2))


if __name__ == "__main__":
    main()
