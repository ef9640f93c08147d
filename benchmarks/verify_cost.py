"""What `verify` costs with many windows: wall time, CPU time and peak memory, each run in a process of its own.

A network of the paper's preset is trained for a few passes and exported once; recordings are
made that hold the number of test windows asked for. `verify` then runs PyTorch and the FP32, FP16 and INT8 graphs on
all of them, once clean and once with noise, besides the golden windows. The number of windows is that of independent
test windows; each is run twice.

    python -m benchmarks.verify_cost [--windows 500,1000,5000] [--quick] [--work DIR] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

RATE, WINDOW = 12_000, 2048
LABELS = tuple(f"class {index}" for index in range(10))


def recordings(folder: Path, windows: int) -> str:
    """A table of recordings that hold so many windows, and its name as a data set."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["path,label,sample_rate_hz"]
    for index, label in enumerate(LABELS):
        rng = np.random.default_rng(index)
        count = (windows // len(LABELS)) * WINDOW
        turn = 2 * np.pi * (index + 2) * np.arange(count) / 256
        signal = np.sin(turn) + 0.5 * rng.standard_normal(count)
        np.save(folder / f"{index}.npy", signal.astype(np.float32))
        lines.append(f"{index}.npy,{label},{RATE}")
    (folder / "recordings.csv").write_text("\n".join(lines) + "\n")
    return f"table:{folder / 'recordings.csv'}"


def bundle(work: Path) -> Path:
    """The paper's network, exported once."""
    out = work / "paper.drsn"
    if out.exists():
        return out
    import torch

    from drsn_edge.model.checkpoint import Checkpoint, save_checkpoint
    from drsn_edge.model.config import NetworkConfig
    from drsn_edge.model.network import Network
    from drsn_edge.pipeline.export import ExportOptions, export
    from drsn_edge.pipeline.sweep import SweepOptions
    from drsn_edge.signals.datasets import load_dataset
    from drsn_edge.signals.splits import split
    from drsn_edge.signals.windows import cut
    from drsn_edge.training.loop import fit
    from drsn_edge.training.options import FitOptions

    torch.manual_seed(0)
    data = load_dataset(f"table:{work / 'small' / 'recordings.csv'}", window=WINDOW, hop=WINDOW)
    network = Network(NetworkConfig.preset("paper", model="drsn-cw", classes=len(LABELS)), data.contract)
    parts = split(data, protocol="time")
    train, validation = (
        cut(data, parts.segments(part, data), data.contract, hop=WINDOW, labels=parts.labels)
        for part in ("train", "validation")
    )
    fit(network, train, validation, options=FitOptions(epochs=6, batch=32, lr=0.1, validation_draws=1))
    save_checkpoint(work / "run", Checkpoint(network.eval(), data.contract, parts.labels, None, None))
    export(
        work / "run",
        out=out,
        calibrate=f"table:{work / 'small' / 'recordings.csv'}",
        options=ExportOptions(method="mse", calibration_windows=64, engines=(), report=False),
        sweep=SweepOptions(draws=1, snrs_db=(0.0,)),
    )
    return out


# The peak is the kernel's VmHWM: `ru_maxrss` of a child begins with what its parent, which has trained, held.
CHILD = """
import sys, json, time
began, cpu = time.perf_counter(), time.process_time()
from pathlib import Path
from drsn_edge.pipeline.verify import verify
from drsn_edge.pipeline.sweep import SweepOptions
imported = time.process_time()
result = verify(Path(sys.argv[1]), data=sys.argv[2], options=SweepOptions(draws=1, snrs_db=(0.0,)))
print(json.dumps({
    "windows": result.decisions[0].windows, "draws": sum(point.draws for point in result.decisions),
    "variants": len(result.decisions[0].changed) + 1,
    "wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu,
    "peak_mb": next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024,
}))
"""


def measure(path: Path, data: str) -> dict[str, Any]:
    """One `verify` in a fresh process; its peak memory is its own."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path), data], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", default="500,1000,5000", help="numbers of test windows")
    parser.add_argument("--quick", action="store_true", help="100 and 500 windows")
    parser.add_argument("--work", type=Path, help="where recordings and bundle are kept")
    parser.add_argument("--json", action="store_true", help="only the JSON document on stdout")
    args = parser.parse_args()
    work = args.work or Path(tempfile.mkdtemp(prefix="verify-cost-"))
    recordings(work / "small", 600)
    path = bundle(work)
    rows = []
    for count in (100, 500) if args.quick else [int(item) for item in args.windows.split(",")]:
        began = time.perf_counter()
        rows.append(measure(path, recordings(work / f"of-{count}", count)) | {"asked": count})
        if not args.json:
            row = rows[-1]
            print(
                f"{row['windows']} windows, {row['draws']} draws, {row['variants']} forms: {row['wall_s']:.1f} s wall, "
                f"{row['cpu_s']:.1f} s CPU, {row['peak_mb']:.0f} MB peak ({time.perf_counter() - began:.0f} s in all)",
                flush=True,
            )
    first, last = rows[0], rows[-1]
    more = last["windows"] - first["windows"]
    summary = {
        "windows": last["windows"],
        "wall_s": last["wall_s"],
        "cpu_s": last["cpu_s"],
        "peak_mb": last["peak_mb"],
        "cpu_ms_per_draw": 1000 * (last["cpu_s"] - first["cpu_s"]) / (last["draws"] - first["draws"]) if more else None,
        "kb_per_window": 1024 * (last["peak_mb"] - first["peak_mb"]) / more if more else None,
        "recording_kb_per_window": WINDOW * 4 / 1024,
        "load_average": os.getloadavg()[0],
        "cpus": os.cpu_count(),
    }
    print(json.dumps({"rows": rows, "summary": summary}, indent=1))


if __name__ == "__main__":
    main()
