"""How many decisions INT8 changes: drsn-edge against onnxruntime.quantization, the same calibration windows for all.

Protocol: trained networks (`--runs DIR`, every run folder in it, the seeds) are exported to one canonical FP32 graph;
the calibration windows are those that `export` chooses (training part, noise of the training), in their number and
noise the same for every row. Scored are test windows that do not overlap, clean and at four SNRs, with the same noise
for every row: share of decisions other than FP32's, accuracy, and on one draw per window the relative error of
thresholds and the share of features that cross into or out of the dead zone. Every row runs in ONNX Runtime with graph
optimisation off, FP32 between the integers: what differs is the quantizer alone.

    drsn-edge learned, nearest     as `export` makes them; `25/25`: the first convolution too
    symmetric nearest              drsn-edge without the full range behind ReLUs
    ORT default                    quantize_static as it comes: all operators that it knows
    ORT conv outputs excluded      the best informed recipe: Conv only, OpTypesToExcludeOutputQuantization=['Conv']
    ModelOpt default, max          modelopt.onnx.quantization as it comes (entropy), and with max; in an environment of
                                   its own that is made in `--modelopt DIR` and kept there. Where it cannot be made,
                                   `not_measured` says why
    QAT, QAT 25/25                 run folders of `train --init RUN --qat`, named as those of --runs (`--qat-runs DIR`,
                                   `--qat-first-runs DIR`: with --quantize-first), with the plan and the scales that
                                   they were trained with
    fine-tuned FP32                a control, run folders named likewise (`--control-runs DIR`), against the original

    python -m benchmarks.int8_quality --runs DIR --data cwru:../shared/data/cwru [--draws 200] [--quick] [--json]

All runs of one call are of one preset; `edge` has a folder of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._int8_rows import (
    Subject,
    integer_convolutions,
    modelopt_rows,
    onnxruntime_rows,
    ours,
    rebuilt,
    subject,
)
from benchmarks._modelopt import environment
from drsn_edge._version import __version__
from drsn_edge.calibration.calibrate import tool_versions
from drsn_edge.exporters.precision import with_probes
from drsn_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner
from drsn_edge.runtime.runner import run_batched
from drsn_edge.signals.noise import add_noise, noise_rng

SNRS: tuple[float | None, ...] = (None, -4.0, -6.0, -8.0, -10.0)
GOALS = (-4.0, -8.0, -10.0)


def score(item: Subject, rows: Mapping[str, bytes], draws: int, batch: int = 416) -> dict[str, dict[str, Any]]:
    """Changed decisions and accuracy by row and level; one batch of windows is in memory at a time."""
    windows = item.data.windows("test", overlap=False)
    counts = {name: {level(snr): [0, 0] for snr in SNRS} for name in ("FP32", *rows)}
    totals = {level(snr): 0 for snr in SNRS}
    with contextlib.ExitStack() as stack:
        runners = {
            name: stack.enter_context(OnnxRuntimeRunner(data))
            for name, data in {"FP32": item.graph.to_bytes(), **rows}.items()
        }
        for snr in SNRS:
            key = level(snr)
            together = max(1, batch // len(windows)) if snr is not None else 1
            for first in range(0, draws if snr is not None else 1, together):
                seeds = range(first, min(first + together, draws)) if snr is not None else (0,)
                pieces = [
                    windows.x if snr is None else add_noise(windows.x, snr, "gaussian", noise_rng(1, "int8", snr, draw))
                    for draw in seeds
                ]
                x, y = np.concatenate(pieces), np.tile(windows.y, len(pieces))
                totals[key] += len(y)
                reference: NDArray[np.int64] | None = None
                for name, runner in runners.items():
                    found = run_batched(runner, x, batch=104, workers=1)["logits"].argmax(axis=1)
                    reference = found if reference is None else reference
                    counts[name][key][0] += int(np.count_nonzero(found != reference))
                    counts[name][key][1] += int(np.count_nonzero(found == y))
    return {
        name: {
            "changed": {key: value[0] / totals[key] for key, value in found.items()},
            "accuracy": {key: value[1] / totals[key] for key, value in found.items()},
            "draws": totals,
        }
        for name, found in counts.items()
    }


def drift(item: Subject, rows: Mapping[str, bytes]) -> dict[str, dict[str, float]]:
    """Relative threshold error and dead-zone flips, at -4 dB, one draw per window, mean over units.

    Rows whose soft thresholds a quantizer has cut up have no units left to look at, and no figures.
    """
    windows = item.data.windows("test", overlap=False)
    x = add_noise(windows.x, -4.0, "gaussian", noise_rng(2, "int8"))
    units = [unit.name for unit in item.graph.units]
    found: dict[str, dict[str, float]] = {}
    reference: dict[str, NDArray[Any]] | None = None
    for name, data in {"FP32": item.graph.to_bytes(), **rows}.items():
        try:
            with OnnxRuntimeRunner(with_probes(data)) as runner:
                values = run_batched(runner, x, batch=52, workers=1)
        except Exception:  # noqa: BLE001 - graphs of others: whatever keeps their units from being found
            found[name] = {"threshold": math.nan, "flips": math.nan}
            continue
        if reference is None:
            reference = values
        if any(f"{unit}.threshold" not in values for unit in units):
            found[name] = {"threshold": math.nan, "flips": math.nan}
            continue
        errors, flips = [], []
        for unit in units:
            wanted = reference[f"{unit}.threshold"]
            errors.append(float(np.abs(values[f"{unit}.threshold"] - wanted).sum() / np.abs(wanted).sum()))
            flips.append(float(np.mean((values[f"{unit}.shrunk"] == 0) != (reference[f"{unit}.shrunk"] == 0))))
        found[name] = {"threshold": float(np.mean(errors)), "flips": float(np.mean(flips))}
    return found


def level(snr: float | None) -> str:
    """`clean`, `-4`."""
    return "clean" if snr is None else f"{snr:g}"


def mean(values: list[float]) -> float | None:
    """None where there is none: JSON has no NaN."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="folder of run folders, the seeds")
    parser.add_argument("--qat-runs", type=Path, help="run folders of the same names, after QAT")
    parser.add_argument("--qat-first-runs", type=Path, help="likewise, the first convolution in int8 too")
    parser.add_argument("--control-runs", type=Path, help="run folders of the same names, trained on in FP32")
    parser.add_argument("--modelopt", type=Path, help="folder of an environment with ModelOpt; made if it is not there")
    parser.add_argument("--data", default="cwru:../shared/data/cwru")
    parser.add_argument("--windows", type=int, default=512, help="calibration windows")
    parser.add_argument("--draws", type=int, default=200, help="draws of noise per window and SNR")
    parser.add_argument("--quick", action="store_true", help="10 draws, without ORT's defaults, under 10 minutes")
    parser.add_argument("--json", action="store_true", help="only JSON on stdout, the table on stderr")
    args = parser.parse_args()
    draws = 10 if args.quick else args.draws
    others = (
        ("QAT", "--qat-runs DIR", args.qat_runs), ("QAT 25/25", "--qat-first-runs DIR", args.qat_first_runs),
        ("fine-tuned FP32", "--control-runs DIR", args.control_runs),
    )  # fmt: skip
    began = time.perf_counter()
    runs: dict[str, Any] = {}
    kinds: dict[str, str] = {}
    widths: set[str] = set()
    missing: dict[str, str] = {} if args.modelopt else {"ModelOpt": "no --modelopt DIR"}
    missing |= {kind: f"no {option}" for kind, option, folder in others if folder is None}
    modelopt: Path | None = None
    if args.modelopt is not None:
        modelopt, reason = environment(args.modelopt)
        missing |= {} if modelopt is not None else {"ModelOpt": reason}
    for path in sorted(path for path in args.runs.iterdir() if (path / "scores.json").is_file()):
        item = subject(path, args.data, args.windows)
        widths.add(json.dumps((item.source.config or {}).get("widths")))
        if len(widths) > 1:
            raise SystemExit(
                f"{args.runs} holds runs of several presets, {', '.join(sorted(widths))}: one folder for each"
            )
        rows = dict(ours(item))
        rows |= dict(onnxruntime_rows(item, quick=args.quick))
        if modelopt is not None:
            rows |= dict(modelopt_rows(modelopt, item, missing))
        for kind, _, folder in others:
            rows |= dict(rebuilt(folder, item, kind))
        kinds |= {name: integer_convolutions(data) for name, data in rows.items()}
        kinds["FP32"] = integer_convolutions(item.graph.to_bytes())
        moved = drift(item, rows)
        runs[item.name] = {name: found | moved[name] for name, found in score(item, rows, draws).items()}
        print(f"{item.name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    if not runs:
        raise SystemExit(f"there is no finished run in {args.runs}")
    table = summarise(runs, kinds)
    show(table, stream=sys.stderr if args.json else sys.stdout)
    levels = {level(snr): next(iter(runs.values()))["FP32"]["draws"][level(snr)] for snr in SNRS}
    document = {
        "device": {"machine": platform.machine(), "tools": tool_versions(), "drsn_edge": __version__},
        "options": {"runs": sorted(runs), "draws": levels, "calibration_windows": args.windows, "data": args.data},
        "widths": json.loads(next(iter(widths))),
        "not_measured": missing,
        "rows": table,
        "runs": {
            run: {name: {k: clean(v) for k, v in found.items()} for name, found in rows.items()}
            for run, rows in runs.items()
        },
        "summary": summary(table),
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time(),
    }
    print(json.dumps(document, indent=2, allow_nan=False))


def clean(value: Any) -> Any:
    """NaN as null."""
    return None if isinstance(value, float) and math.isnan(value) else value


def summarise(runs: Mapping[str, Any], kinds: Mapping[str, str]) -> list[dict[str, Any]]:
    """A row by quantizer, mean over the networks: of those rows that every network has."""
    table = []
    for name in [name for name in next(iter(runs.values())) if all(name in rows for rows in runs.values())]:
        found = [rows[name] for rows in runs.values()]
        table.append(
            {
                "row": name,
                "int8": kinds[name],
                "changed": {level(snr): mean([item["changed"][level(snr)] for item in found]) for snr in SNRS},
                "worst": {level(snr): max(item["changed"][level(snr)] for item in found) for snr in SNRS},
                "accuracy": {level(snr): mean([item["accuracy"][level(snr)] for item in found]) for snr in SNRS},
                "threshold": mean([item["threshold"] for item in found]),
                "flips": mean([item["flips"] for item in found]),
            }
        )
    return table


def summary(table: list[dict[str, Any]]) -> dict[str, Any]:
    """Shares of changed decisions against the best peer row at each level, which its issue's goals speak of."""
    rows = {row["row"]: row for row in table}
    peers = [row for name, row in rows.items() if name.startswith(("ORT", "ModelOpt"))]
    found: dict[str, Any] = {}
    for snr in map(level, GOALS):
        best = min(peers, key=lambda row, snr=snr: row["changed"][snr])  # type: ignore[misc]
        figure = best["changed"][snr]
        found[snr] = {
            "best_peer": best["row"],
            "best_peer_changed": figure,
            **{
                name: rows[name]["changed"][snr] / figure if figure else None
                for name in rows
                if name.startswith(("drsn-edge", "QAT", "fine"))
            },
        }
    return {
        "times_best_peer": found,
        "threshold_error": {name: row["threshold"] for name, row in rows.items()},
        "accuracy_lost_at_-4": {
            name: rows["FP32"]["accuracy"]["-4"] - row["accuracy"]["-4"] for name, row in rows.items()
        },
    }


def show(table: list[dict[str, Any]], *, stream: Any) -> None:
    """For people: shares in percent."""
    names = [level(snr) for snr in SNRS]
    print(f"{'changed decisions, %':<40}{'int8':>7}" + "".join(f"{name:>8}" for name in names), end="", file=stream)
    print(f"{'tau err':>9}{'flips':>8}{'acc -4':>8}", file=stream)
    for row in table:
        cells = "".join(f"{100 * row['changed'][name]:>8.2f}" for name in names)
        extra = "".join(
            f"{'' if row[key] is None else format(100 * row[key], '.2f'):>{width}}"
            for key, width in (("threshold", 9), ("flips", 8))
        )
        print(f"{row['row']:<40}{row['int8']:>7}{cells}{extra}{100 * row['accuracy']['-4']:>8.1f}", file=stream)


if __name__ == "__main__":
    main()
