"""What calibrating costs: time and peak memory, drsn-edge against ONNX Runtime's entropy calibrator.

Protocol: one canonical FP32 graph of the preset `paper` (drawn weights, or those of `--run`) and the same windows for
all, a drawn signal in noise. Every cell is a process of its own. What it measures begins when graph and windows are in
memory and one batch has been run, and ends when every range is known; peak memory is the highest resident size in
between, less that at its beginning. Time is wall and CPU time; on a busy machine CPU time says more.

    drsn-edge ranges      one pass, histograms of the inputs of all convolutions; then min-max, percentile, squared
                          error and entropy of each
    ... learned rounding  the same, and integers and biases from a second pass
    ONNX Runtime          its entropy calibrator on Conv alone: inputs and outputs of convolutions, the fewest tensors
                          that it takes for them. It keeps every activation of what it is given before it counts
    ... all operators     the same as it comes, with every tensor of the graph
    ... chunks            Conv again, given one batch at a time (CalibStridedMinMax of quantize_static, one step of its
                          reader; CalibMaxIntermediateOutputs is for min-max alone)

A cell that needs more memory than `--memory-gb` ends there and says so.

    python -m benchmarks.calibration_cost [--run DIR] [--windows 500,5000] [--memory-gb 8] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge._version import __version__

OURS, LEARNED = "drsn-edge ranges", "drsn-edge ranges, learned rounding"
PEER, CHUNKS = "ONNX Runtime entropy", "ONNX Runtime entropy, chunks of one batch"
WHOLE = "ONNX Runtime entropy, all operators"
# ONNX Runtime's entropy calibrator wants batches of one size: this one divides 500 and 5,000.
BATCH, CLASSES, WINDOW = 25, 10, 2048
GOALS = {"times_faster": 5.0, "memory_share": 0.2}


def export_graph(run: Path | None) -> bytes:
    """The FP32 graph of a run, or of drawn weights."""
    from drsn_edge.exporters.torch_graph import export_network
    from drsn_edge.pipeline.sources import load_source

    if run is not None:
        source = load_source(str(run))
        return export_network(source.module, contract=source.contract, labels=source.labels).to_bytes()
    import torch

    from drsn_edge.model.config import NetworkConfig
    from drsn_edge.model.network import Network
    from drsn_edge.signals.contract import SignalContract

    torch.manual_seed(0)
    contract = SignalContract(sample_rate_hz=12_000, channels=("a",), window=WINDOW, hop=WINDOW)
    network = Network(NetworkConfig.preset("paper", model="drsn-cw", classes=CLASSES), contract).eval()
    labels = tuple(f"class {index}" for index in range(CLASSES))
    return export_network(network, contract=contract, labels=labels).to_bytes()


def draw_windows(count: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Tones in as much noise, piece by piece: no second copy is ever there."""
    rng = np.random.default_rng(0)
    x = np.empty((count, *shape), np.float32)
    turn = np.arange(shape[-1], dtype=np.float32) * np.float32(2 * np.pi / 256)
    for start in range(0, count, BATCH):
        piece = x[start : start + BATCH]
        order = rng.integers(2, 40, (len(piece), *[1] * len(shape))).astype(np.float32)
        piece[...] = np.sin(turn * order) + rng.standard_normal(piece.shape, dtype=np.float32)
    return x


def resident(key: str) -> int:
    """`VmRSS` or `VmHWM` of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {key}: peak memory is read on Linux alone")


def measured(job: Callable[[], Any]) -> dict[str, Any]:
    """Wall time, CPU time and peak memory above what was resident before."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before, wall, cpu = resident("VmRSS"), time.perf_counter(), time.process_time()
    found = job()
    return {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "peak_mb": (resident("VmHWM") - before) / 1e6,
        "tensors": found,
    }


def ours(graph: bytes, x: NDArray[np.float32], *, learned: bool) -> dict[str, Any]:
    """A cell of drsn-edge."""
    from drsn_edge.calibration.collect import observe
    from drsn_edge.calibration.observers import METHODS, scale_of
    from drsn_edge.calibration.offsets import full_range_layers
    from drsn_edge.calibration.plan import make_plan
    from drsn_edge.calibration.rounding import learn_rounding
    from drsn_edge.exporters.canonical import CanonicalGraph, parse
    from drsn_edge.exporters.units import find_units

    model = parse(graph)
    canonical = CanonicalGraph(model, find_units(model), ())
    plan = make_plan(canonical, quantize_first=True)
    tensors = {layer.layer: layer.tensor for layer in plan.int8}
    full = full_range_layers(canonical, list(tensors))

    def job() -> int:
        found = observe(graph, x, tensors=list(tensors.values()), batch=BATCH)
        ranges = {method: {name: item.amax(method) for name, item in found.items()} for method in METHODS}
        if learned:
            scales = {
                layer: scale_of(ranges["entropy"][tensor] / (2 if layer in full else 1))
                for layer, tensor in tensors.items()
            }
            learn_rounding(canonical, plan=plan, scales=scales, full_range=full, windows=x, batch=BATCH)
        return len(found)

    observe(graph, x[:BATCH], tensors=list(tensors.values()), batch=BATCH)
    return measured(job)


class Reader:
    """Windows in batches, with the two methods that CalibStridedMinMax asks for."""

    def __init__(self, x: NDArray[np.float32]) -> None:
        self.x, self.at, self.batches = x, 0, math.ceil(len(x) / BATCH)
        self.stop = self.batches

    def __len__(self) -> int:
        return self.batches

    def set_range(self, start_index: int, end_index: int) -> None:
        """The batches that come next."""
        self.at, self.stop = start_index, end_index

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next batch."""
        if self.at >= self.stop:
            return None
        self.at += 1
        return {"window": self.x[(self.at - 1) * BATCH : self.at * BATCH]}

    def __iter__(self) -> Iterator[dict[str, NDArray[np.float32]]]:
        return iter(self.get_next, None)


def peer(
    graph: bytes, x: NDArray[np.float32], *, chunks: bool = False, operators: tuple[str, ...] | None = ("Conv",)
) -> dict[str, Any]:
    """A cell of ONNX Runtime, as `quantize_static` drives its calibrator."""
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        model = Path(folder) / "model.onnx"
        model.write_bytes(graph)

        def made() -> Any:
            return create_calibrator(
                model, operators, augmented_model_path=str(Path(folder) / "augmented.onnx"),
                calibrate_method=CalibrationMethod.Entropy, extra_options={"symmetric": True},
            )  # fmt: skip

        made().collect_data(Reader(x[:BATCH]))

        def job() -> int:
            calibrator, reader = made(), Reader(x)
            for start in range(len(reader) if chunks else 1):
                if chunks:
                    reader.set_range(start, start + 1)
                calibrator.collect_data(reader)
            return len(calibrator.compute_data().data)

        return measured(job)


CELLS: dict[str, Callable[[bytes, NDArray[np.float32]], dict[str, Any]]] = {
    OURS: lambda graph, x: ours(graph, x, learned=False),
    LEARNED: lambda graph, x: ours(graph, x, learned=True),
    PEER: peer,
    WHOLE: lambda graph, x: peer(graph, x, operators=None),
    CHUNKS: lambda graph, x: peer(graph, x, chunks=True),
}


def child(row: str, graph: Path, count: int, limit: int) -> None:
    """Measure one cell in this process and print it."""
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    from drsn_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner

    data = graph.read_bytes()
    with OnnxRuntimeRunner(data) as runner:
        (window,) = runner.inputs.values()
    try:
        found = CELLS[row](data, draw_windows(count, tuple(int(size) for size in window.shape[1:])))
    except Exception as error:
        if not isinstance(error, MemoryError) and "allocate" not in str(error) and "bad_alloc" not in str(error):
            raise
        found = {"seconds": None, "cpu_seconds": None, "peak_mb": None, "tensors": None, "reason": "out of memory"}
    print(json.dumps(found))


def cell(row: str, graph: Path, count: int, limit: int) -> dict[str, Any]:
    """One cell, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.calibration_cost", "--child", row, "--graph", str(graph)]
    command += ["--windows", str(count), "--memory-gb", str(limit / 1e9)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    if done.returncode < 0:  # the kernel's or the allocator's word for the same
        reason = f"ended by signal {-done.returncode}"
        return {"seconds": None, "cpu_seconds": None, "peak_mb": None, "tensors": None, "reason": reason}
    if done.returncode:
        raise SystemExit(f"{row}, {count} windows:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """At the largest count: ONNX Runtime over drsn-edge in time, drsn-edge over ONNX Runtime in memory; and growth."""
    table = {(row["row"], row["windows"]): row for row in rows}
    few, many = min(row["windows"] for row in rows), max(row["windows"] for row in rows)
    found: dict[str, Any] = {"windows": many, "goals": GOALS}
    for name in (OURS, LEARNED):
        mine = table[name, many]
        found[name] = {"growth_mb": mine["peak_mb"] - table[name, few]["peak_mb"]}
        for other in (PEER, WHOLE, CHUNKS):
            theirs = table[other, many]
            done = theirs["seconds"] is not None
            found[name][other] = {
                "times_faster": theirs["seconds"] / mine["seconds"] if done else None,
                "times_less_cpu": theirs["cpu_seconds"] / mine["cpu_seconds"] if done else None,
                "memory_share": mine["peak_mb"] / theirs["peak_mb"] if done else None,
            }
    return found


def show(rows: list[dict[str, Any]], *, stream: Any) -> None:
    """For people."""
    print(f"{'':<44}{'windows':>8}{'tensors':>8}{'wall s':>9}{'CPU s':>9}{'peak MB':>9}", file=stream)
    for row in rows:
        if row["seconds"] is None:
            print(f"{row['row']:<44}{row['windows']:>8}  did not fit: {row['reason']}", file=stream)
            continue
        figures = f"{row['seconds']:>9.1f}{row['cpu_seconds']:>9.1f}{row['peak_mb']:>9.1f}"
        print(f"{row['row']:<44}{row['windows']:>8}{row['tensors']:>8}{figures}", file=stream)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a run folder; without, drawn weights")
    parser.add_argument("--windows", default="500,5000", help="counts")
    parser.add_argument("--memory-gb", type=float, default=8.0, help="at most so much for one cell")
    parser.add_argument("--json", action="store_true", help="only JSON on stdout, the table on stderr")
    parser.add_argument("--child", choices=[*CELLS], help=argparse.SUPPRESS)
    parser.add_argument("--graph", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    limit = math.ceil(args.memory_gb * 1e9)
    if args.child:
        child(args.child, args.graph, int(args.windows), limit)
        return
    from drsn_edge.calibration.calibrate import tool_versions

    counts = [int(count) for count in args.windows.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "paper.onnx"
        graph.write_bytes(export_graph(args.run))
        rows: list[dict[str, Any]] = []
        for count in counts:
            for name in CELLS:
                rows.append({"row": name, "windows": count, **cell(name, graph, count, limit)})
                show(rows[-1:], stream=sys.stderr)
    show(rows, stream=sys.stderr if args.json else sys.stdout)
    document = {
        "device": {"machine": platform.machine(), "cpus": os.cpu_count(), "tools": tool_versions()},
        "options": {
            "drsn_edge": __version__, "weights": "drawn" if args.run is None else str(args.run), "batch": BATCH,
            "memory_gb": args.memory_gb, "ranges": "min-max, percentile, mse and entropy of 25 inputs",
        },
        "rows": rows,
        "summary": summary(rows),
    }  # fmt: skip
    print(json.dumps(document, indent=2, allow_nan=False))


if __name__ == "__main__":
    main()
