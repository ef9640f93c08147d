"""What the number and the kind of calibration windows do to INT8: changed decisions and threshold error.

Protocol: trained networks (`--runs DIR`, run folders with the data that trained them) are calibrated on windows of
the training part, of each kind in each number and several times with other draws. By default weights are rounded to
nearest and the range method is one for all, for time; `--method auto --rounding learned` is what `export` does, and
then as many windows of the same kind, of the validation part, choose the method. Each form decides test windows that
do not overlap, clean and at -4, -8 and -10 dB, the same draws of noise for all, and is held against FP32: share of
changed decisions, and mean relative error of all thresholds.

    stratified   as `export` chooses them: even over class, group and SNR of the training, every eighth clean
    random       any windows at any SNR of the training
    clean        even over class, without noise
    lowest SNR   even over class, all at the lowest SNR of the training
    unbalanced   three of four windows of the first class

The minimum: the fewest windows from which on, whatever their kind, thresholds err at most 1.25 times as much as with
the most windows of that kind. Changed decisions are counted in tens, and their share moves more from draw to draw than
with the number of windows.

With it goes the distance of windows without classes from what BatchNorm remembers of training, by kind of data.

    python -m benchmarks.calibration_windows --runs DIR [--networks 1] [--draws 3] [--method auto] [--json]
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge._version import __version__
from drsn_edge.calibration.calibrate import CalibrationOptions, measure, tool_versions
from drsn_edge.calibration.collect import tap
from drsn_edge.calibration.familiar import LARGEST, training_distance
from drsn_edge.calibration.plan import make_plan
from drsn_edge.calibration.quantize import quantize_as
from drsn_edge.calibration.windows import MINIMUM, MINIMUM_HELD_OUT, NoisyWindows, choose
from drsn_edge.exporters.canonical import CanonicalGraph
from drsn_edge.exporters.torch_graph import export_network
from drsn_edge.pipeline.data import ModelData, open_data
from drsn_edge.pipeline.sources import Source, load_source
from drsn_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner
from drsn_edge.runtime.runner import run_batched
from drsn_edge.signals.noise import add_noise, noise_rng
from drsn_edge.signals.windows import Windows

KINDS = ("stratified", "random", "clean", "lowest SNR", "unbalanced")
COUNTS = (16, 32, 64, 128, 256, 512, 1024)
SNRS = (-4.0, -8.0, -10.0)
SLACK = 1.25


def drawn(pool: Windows, kind: str, count: int, snr: tuple[float, float], draw: int, *, held: bool) -> NoisyWindows:
    """Windows of a kind; `held` for those that judge, which reach 4 dB below the training's noise as in `export`."""
    low, high = snr[0] - 4 if held else snr[0], snr[1]
    stream = "held-out" if held else "calibration"
    pick = functools.partial(choose, seed=draw, stream=stream)
    noisy = functools.partial(pick, noises=("gaussian",), snr_db=(low, high))
    if kind == "clean":
        return pick(pool, count=count)
    if kind == "lowest SNR":
        return noisy(pool, count=count, snr_db=(low, low))
    if kind == "random":
        rng = noise_rng(draw, "random windows", stream)
        chosen = pool.select(rng.integers(0, len(pool), count))
        levels = rng.uniform(low, high, count).astype(np.float32)
        return NoisyWindows(dataclasses.replace(chosen, x=add_noise(chosen.x, levels, "gaussian", rng)), levels)
    if kind == "unbalanced":
        first = noisy(pool.select(pool.y == 0), count=count * 3 // 4)
        rest = noisy(pool.select(pool.y != 0), count=count - count * 3 // 4)
        one, other = first.windows, rest.windows
        both = Windows(
            np.concatenate([one.x, other.x]), np.concatenate([one.y, other.y]),
            np.concatenate([one.cluster, other.cluster]), pool.labels,
        )  # fmt: skip
        return NoisyWindows(both, np.concatenate([first.snr_db, rest.snr_db]))
    return noisy(pool, count=count)


class Judge:
    """FP32's decisions and thresholds on noisy test windows, and how far a form is from them."""

    def __init__(self, graph: CanonicalGraph, windows: Windows, draws: int) -> None:
        self.taps = [unit.threshold.name or "" for unit in graph.units]
        self.parts = {"clean": windows.x}
        for snr in SNRS:
            pieces = [
                add_noise(windows.x, snr, "gaussian", noise_rng(3, "windows", snr, draw)) for draw in range(draws)
            ]
            self.parts[f"{snr:g}"] = np.concatenate(pieces)
        self.reference = self._run(graph.to_bytes())

    def _run(self, data: bytes) -> dict[str, dict[str, NDArray[Any]]]:
        with OnnxRuntimeRunner(tap(data, self.taps)) as runner:
            return {name: run_batched(runner, x, batch=52, workers=1) for name, x in self.parts.items()}

    def __call__(self, data: bytes) -> dict[str, Any]:
        changed, errors = {}, []
        for name, found in self._run(data).items():
            wanted = self.reference[name]
            changed[name] = float(np.mean(found["logits"].argmax(1) != wanted["logits"].argmax(1)))
            errors += [
                float(np.abs(found[unit] - wanted[unit]).sum() / np.abs(wanted[unit]).sum()) for unit in self.taps
            ]
        return {"changed": changed, "threshold": float(np.mean(errors))}


def network_rows(
    path: Path, dataset: str, kinds: Mapping[str, tuple[int, ...]], draws: int, noisy: int, options: CalibrationOptions
) -> list[dict[str, Any]]:
    """Every cell of one network."""
    source, data = opened(path, dataset)
    graph = export_network(source.module, contract=source.contract, labels=source.labels)
    plan = make_plan(graph)
    pools = data.windows("train", overlap=True), data.windows("validation", overlap=True)
    snr = trained_snr(source)
    judge = Judge(graph, data.windows("test", overlap=False), noisy)
    # With one method there is nothing to choose, and nobody has to judge.
    judges = None if options.method == "auto" else MINIMUM_HELD_OUT
    rows: list[dict[str, Any]] = []
    for kind, counts in kinds.items():
        for count in counts:
            began = time.process_time()
            for draw in range(draws):
                calibrating, judging = (
                    drawn(pool, kind, size, snr, draw, held=held)
                    for pool, size, held in zip(pools, (count, judges or count), (False, True), strict=True)
                )
                found = measure(
                    graph, calibrating, judging, plan=plan, contract=source.contract, weights_sha256="0" * 64,
                    options=options,
                )  # fmt: skip
                scores = judge(quantize_as(graph, found, glue="fp32").to_bytes())
                rows.append(
                    {"network": path.name, "kind": kind, "windows": len(calibrating.windows), "draw": draw,
                     "method": found.method, **scores}
                )  # fmt: skip
            spent = time.process_time() - began
            print(
                f"{path.name}  {kind:<12}{count:>5}  {mean_changed(rows[-1]):.4f}  {spent:.0f} s",
                file=sys.stderr,
                flush=True,
            )
    return rows


def opened(path: Path, dataset: str) -> tuple[Source, ModelData]:
    """A run and the data that trained it."""
    source = load_source(str(path))
    return source, open_data(
        dataset, contract=source.contract, labels=source.labels, training=source.training, split=source.split
    )


def trained_snr(source: Source) -> tuple[float, float]:
    """The range of SNR of the training."""
    if source.training is None or source.training["snr_db"] is None:
        raise SystemExit(f"{source.name} was not trained in noise")
    low, high = source.training["snr_db"]
    return float(low), float(high)


def distances(path: Path, dataset: str) -> dict[str, float]:
    """How far windows are from what BatchNorm remembers, by what they are; recordings with the training's noise."""
    source, data = opened(path, dataset)
    snr, count = trained_snr(source), 256
    rng = np.random.default_rng(0)
    pool = data.windows("train", overlap=True)
    shape = (count, *pool.x.shape[1:])

    def noisy(windows: Windows) -> NDArray[np.float32]:
        return choose(windows, count=count, noises=("gaussian",), snr_db=snr).windows.x

    clean = choose(pool, count=count).windows.x
    kinds = {
        "training part": noisy(pool), "test part": noisy(data.windows("test", overlap=True)),
        "training part, clean": clean,
        "one class": noisy(pool.select(pool.y == 1)),
        "Gaussian numbers": rng.standard_normal(shape, dtype=np.float32),
        "uniform numbers": rng.random(shape, dtype=np.float32),
        "random walk": np.cumsum(rng.standard_normal(shape, dtype=np.float32), axis=-1),
        "half the sample rate": np.repeat(clean, 2, axis=-1)[..., : shape[-1]],
    }  # fmt: skip
    for load in data.dataset.groups().get("load", ()) and ("1", "2", "3"):
        other = open_data(
            dataset, contract=source.contract, labels=source.labels, training=source.training, split=source.split,
            where={"load": load},
        )  # fmt: skip
        kinds[f"load {load}"] = noisy(other.windows("train", overlap=True))
    found = {name: training_distance(source.module, x) for name, x in kinds.items()}
    return {name: value for name, value in found.items() if value is not None}


def mean_changed(row: Mapping[str, Any]) -> float:
    """Share of changed decisions, mean over the noisy levels."""
    return float(np.mean([row["changed"][f"{snr:g}"] for snr in SNRS]))


def points(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and worst of the draws by kind and number, over all networks."""
    found = []
    for kind in KINDS:
        for count in sorted({row["windows"] for row in rows if row["kind"] == kind}):
            some = [row for row in rows if (row["kind"], row["windows"]) == (kind, count)]
            shares = [mean_changed(row) for row in some]
            levels = {name: float(np.mean([row["changed"][name] for row in some])) for name in some[0]["changed"]}
            found.append(
                {"kind": kind, "windows": count, "draws": len(some), "changed": float(np.mean(shares)),
                 "worst": max(shares), "threshold": float(np.mean([row["threshold"] for row in some])),
                 "by_level": levels}
            )  # fmt: skip
    return found


def minimum(table: list[dict[str, Any]]) -> int:
    """The fewest windows from which on thresholds err little more than with the most of their kind, in every kind."""
    counts: set[int] = set.intersection(
        *({row["windows"] for row in table if row["kind"] == kind} for kind in kinds_of(table))
    )
    least = max(counts)
    for count in sorted(counts, reverse=True):
        for kind in kinds_of(table):
            rows = {row["windows"]: row["threshold"] for row in table if row["kind"] == kind}
            if rows[count] > SLACK * rows[max(rows)]:
                return least
        least = count
    return least


def kinds_of(table: list[dict[str, Any]]) -> list[str]:
    """The kinds that were measured."""
    return list(dict.fromkeys(row["kind"] for row in table))


def show(table: list[dict[str, Any]], far: Mapping[str, Mapping[str, float]], *, stream: Any) -> None:
    """For people: shares in percent."""
    names = list(table[0]["by_level"])
    head = "".join(f"{name:>8}" for name in names)
    print(f"{'changed decisions, %':<22}{'windows':>8}{'mean':>8}{'worst':>8}{head}{'tau err':>9}", file=stream)
    for row in table:
        cells = "".join(f"{100 * row['by_level'][name]:>8.2f}" for name in names)
        print(
            f"{row['kind']:<22}{row['windows']:>8}{100 * row['changed']:>8.2f}{100 * row['worst']:>8.2f}{cells}"
            f"{100 * row['threshold']:>9.2f}", file=stream,
        )  # fmt: skip
    for network, kinds in far.items():
        for name, value in kinds.items():
            print(f"{network}  distance of {name:<24}{value:>9.4f}", file=stream)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder of run folders")
    parser.add_argument("--data", default="cwru:../shared/data/cwru")
    parser.add_argument("--networks", type=int, default=1, help="so many of them")
    parser.add_argument("--counts", default=",".join(map(str, COUNTS)))
    parser.add_argument("--kinds", default=",".join(KINDS), help="all but the first in every second number")
    parser.add_argument("--draws", type=int, default=3, help="of windows, for each point")
    parser.add_argument("--method", default="percentile", help="range method; percentile is 99.99")
    parser.add_argument("--rounding", default="nearest", help="nearest or learned")
    parser.add_argument("--noisy", type=int, default=4, help="draws of noise per test window and SNR")
    parser.add_argument("--json", action="store_true", help="only JSON on stdout, the table on stderr")
    args = parser.parse_args()
    began = time.process_time()
    counts = tuple(int(count) for count in args.counts.split(","))
    kinds = {kind: counts if kind == KINDS[0] else counts[::2] for kind in args.kinds.split(",")}
    options = CalibrationOptions(method=args.method, rounding=args.rounding)
    paths = sorted(path for path in args.runs.iterdir() if (path / "config.json").is_file())[: args.networks]
    if not paths:
        raise SystemExit(f"there is no run in {args.runs}")
    far = {path.name: distances(path, args.data) for path in paths}
    rows = [row for path in paths for row in network_rows(path, args.data, kinds, args.draws, args.noisy, options)]
    table = points(rows)
    show(table, far, stream=sys.stderr if args.json else sys.stdout)
    document = {
        "device": {"machine": platform.machine(), "cpus": os.cpu_count(), "tools": tool_versions()},
        "options": {
            "drsn_edge": __version__, "data": args.data, "networks": [path.name for path in paths], "draws": args.draws,
            "noisy": args.noisy, "rounding": args.rounding, "method": args.method,
            "slack": SLACK,
        },
        "points": table,
        "rows": rows,
        "distances": far,
        "summary": {"minimum": minimum(table), "refused_below": MINIMUM, "largest_distance": LARGEST},
        "cpu_seconds": time.process_time() - began,
    }  # fmt: skip
    print(json.dumps(document, indent=2, allow_nan=False))


if __name__ == "__main__":
    main()
