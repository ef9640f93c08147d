"""Hours of three sensors at 12 kHz through `drsn-edge run`, faster than real time: is anything lost, doubled or leaked?

A generator feeds three named pipes, in threads of this process; `drsn-edge run` is a process of its own, as on a
device, with a state file, alarms and one JSON line for every window. Each sensor sends blocks of one window out of a
pool, in an order that only the seed knows, so that every decision of the run can be compared with that of an offline
pass over the pool through the bare runner: number for number, and no period hides a block that is lost or doubled.

    lost, doubled, other      windows against the offline pass
    memory_drift_mb           the run's own memory (anonymous, swapped included) in the last tenth less that in the
                              second; resident memory besides, which also falls when the machine takes pages back
    open_files_growth         likewise, the largest number after the first tenth
    throughput_share          windows a second of the run over those of the bare runner in a loop, the same batch
    cpu_share                 the same by seconds of CPU: what a machine with other work can still say
    p99_ms                    from a window's last sample to its decision, waiting for a full batch included

The two are measured in turns: every `--round` seconds the generator holds, and the bare runner has its slot alone. So
other work on the machine meets both, and neither has the other beside it. `feed_cpu_s` is what the generator itself
takes: it is in no share of CPU, but on a machine of two cores it may be in the throughput.

    python -m benchmarks.soak --bundle NAME.drsn [--hours 1] [--quick] [--batch 64] [--round 20] [--work DIR] [--json]

Without a bundle it makes one of the preset `paper` with weights as drawn: speed is that of a trained one. 24 hours are
1.5 million windows and 0.7 GB of lines under --work (the system's temporary folder by default). Progress goes to
stderr. Ctrl-C, SIGTERM and SIGHUP end the run with it and remove the folder; after kill -9 the run ends by itself,
because nobody feeds it, and the folder `soak-*` stays.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._soak_bare import Bare
from benchmarks._soak_watch import Watch
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


def feed(path: Path, pool: NDArray[np.float32], order: NDArray[np.int64], gate: threading.Event) -> None:
    with contextlib.suppress(BrokenPipeError), path.open("wb", buffering=0) as pipe:
        for at in range(0, len(order), 8):
            gate.wait()
            pipe.write(pool[order[at : at + 8]].astype("<f4").tobytes())


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


def play(process: subprocess.Popen[bytes], bare: Bare, watch: Watch, gate: threading.Event, total: int,
         args: argparse.Namespace) -> float:  # fmt: skip
    """Rounds until the run ends; seconds that it was fed."""
    active, began, share = 0.0, time.monotonic(), 0.0
    while process.poll() is None:
        start = time.monotonic()
        gate.set()
        while process.poll() is None and time.monotonic() - start < args.round:
            time.sleep(min(1.0, args.round / 10))
            watch.look()
        gate.clear()
        if process.poll() is None:
            watch.idle()
            active += time.monotonic() - start - 0.3  # it had nothing to do while we made sure of that
            bare.slot(max(1.0, args.round / 6))
        else:
            active += time.monotonic() - start
        lines = watch.look() / 430  # a decision has about so many bytes
        if (now := min(1.0, lines / total)) - share >= 0.01:
            share, spent = now, time.monotonic() - began
            print(f"{100 * share:5.1f} %  {spent / 60:6.1f} min  {spent / share * (1 - share) / 60:6.1f} min to go",
                  file=sys.stderr, flush=True)  # fmt: skip
    return active


def soak(bundle: Bundle, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    window = bundle.contract.window
    each = int(args.hours * 3600 * RATE) // window
    pool = pool_of(bundle)
    logits = offline(bundle, pool, args.batch)
    top = np.sort(logits, axis=1)
    ties = (top[:, -1] - top[:, -2]) < 2e-5 * np.abs(logits).max()
    orders = [order_of(sensor, each) for sensor in range(SENSORS)]
    pipes = [folder / f"s{sensor}" for sensor in range(SENSORS)]
    for pipe in pipes:
        os.mkfifo(pipe)
    events, gate = folder / "events.jsonl", threading.Event()
    with Bare(bundle, pool[: args.batch, None]) as bare, contextlib.ExitStack() as stack:
        bare.slot(max(1.0, args.round / 6))
        process = subprocess.Popen(
            [
                sys.executable, "-m", "drsn_edge", "run", str(bundle.path),
                *(f"{pipe},format=float32" for pipe in pipes), "--fast", "--once", "--hop", str(window), "--batch",
                str(args.batch), "--events", str(events), "--alarms", str(folder / "alarms.jsonl"), "--state",
                str(folder / "state.json"), "--min-confidence", "0", "--runner", "onnxruntime", "--json", "--quiet",
            ],
            stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        stack.callback(process.kill)
        feeders = [
            threading.Thread(target=feed, args=(*pair, gate), daemon=True)
            for pair in zip(pipes, [pool] * SENSORS, orders, strict=True)
        ]
        for thread in feeders:
            thread.start()
        began = time.process_time()
        watch = Watch(process, events)
        active = play(process, bare, watch, gate, SENSORS * each, args)
        feed_cpu = time.process_time() - began
        out, _ = process.communicate()
    start_cpu_s, cpu_s = watch.cpu_s()
    result = json.loads(out)
    checked = compare(events, orders, logits.argmax(axis=1), bundle.labels, ties)
    gaps = sum(item["counters"]["gaps"] + item["counters"]["nan"] for item in result["sensors"].values())
    return {
        "hours": args.hours,
        **checked,
        "expected_windows": SENSORS * each,
        "gaps_and_nan": gaps,
        "seconds": active,
        "times_real_time": args.hours * 3600 / active,
        "windows_per_s": result["windows"] / active,
        "bare_windows_per_s": bare.windows / bare.seconds,
        "bare_slots": [len(bare.speeds), min(bare.speeds), float(np.median(bare.speeds)), max(bare.speeds)],
        "throughput_share": result["windows"] / active / (bare.windows / bare.seconds),
        # None: over before it was looked at twice.
        "cpu_share": result["windows"] / cpu_s / (bare.windows / bare.cpu_s) if cpu_s else None,
        "cpu_us_per_window": [1e6 * cpu_s / result["windows"], 1e6 * bare.cpu_s / bare.windows],
        "start_cpu_s": start_cpu_s,
        "feed_cpu_s": feed_cpu,
        "infer_s": result["infer_s"],
        "windows_per_batch": result["windows"] / result["batches"],
        "p50_ms": result["latency"]["p50_ms"],
        "p99_ms": result["latency"]["p99_ms"],
        **watch.summary(),
        "passed": checked["lost"] == checked["doubled"] == checked["other_decisions"] == checked["out_of_order"] == 0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--quick", action="store_true", help="a minute of signal")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--round", type=float, help="seconds between slots of the bare runner; 20")
    parser.add_argument("--work", type=Path, help="where the lines go")
    parser.add_argument("--json", action="store_true", help="no table")
    args = parser.parse_args()
    if args.quick:
        args.hours = 1 / 60
    args.round = args.round or (3.0 if args.quick else 20.0)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))  # as Ctrl-C: through all that is to be closed
    with tempfile.TemporaryDirectory(prefix="soak-", dir=args.work) as name:
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
