"""Does the gate find faults, name the hop and the unit, and leave sound exports alone?

Small networks are trained and exported once. Then one fault at a time is put into a graph, into the weights or into
what an engine is fed, and `verify`'s hops are measured on the damaged form and judged against what the bundle recorded.
Hashes are left out on purpose: they would find every fault after export, and say nothing of one that a builder makes.

* **After export** counts a fault that changes any logit by more than rebuild noise: the largest change of any sound
  rebuild of that graph (windows shaken in the last places, other batch sizes, two threads). For what an engine is fed
  it is the largest change that the precision itself makes, since an engine may round everything else.
* **Before export** (another BatchNormalization epsilon, scales from the wrong data) counts where it changes more than
  twice the upper bound of the decisions that the clean variant changes, on test windows from -4 dB to clean.
* **Clean exports** (seeds, presets, opsets 17 to 21) must pass hops, calibration and decisions.

Beside it: a gate that compares accuracy on clean test windows (one point), and one that asks every logit to be within
`atol=rtol=1e-3` of PyTorch's.

    python -m benchmarks.fault_injection [--quick] [--work DIR] [--json]
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.faults.after import faults_after
from benchmarks.faults.before import before_export
from benchmarks.faults.bundles import RECIPES, cases
from benchmarks.faults.clean import clean_export
from benchmarks.faults.kept import Kept
from benchmarks.faults.row import Row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer networks, faults and exports: under 3 minutes")
    parser.add_argument("--work", type=Path, help="where networks and bundles are kept; a run goes on where one ended")
    parser.add_argument("--json", action="store_true", help="only the JSON document on stdout")
    parser.add_argument("--only", choices=("faults", "clean"), help="one half; a later run with --work joins them")
    parser.add_argument("--kept", action="store_true", help="make nothing: report what --work holds already")
    parser.add_argument("--show-missed", action="store_true", help="every fault that was missed or misnamed, on stderr")
    args = parser.parse_args()
    kept = Kept(args.work or Path(tempfile.mkdtemp(prefix="fault-injection-")), make=not args.kept)
    recipes = RECIPES[:2] if args.quick else RECIPES[:6]
    rows: list[Row] = []
    clean: list[dict[str, Any]] = []
    if args.only != "clean":
        for recipe in recipes:
            after = functools.partial(faults_after, recipe, kept.work, repeats=1)
            rows += kept.rows(f"after-{recipe.name}", after)
            _say(args, f"{recipe.name}, after export: {len(rows)} faults, {kept}")
        for recipe in recipes:
            before = functools.partial(before_export, recipe, kept.work, quick=args.quick)
            rows += kept.rows(f"before-{recipe.name}", before)
            _say(args, f"{recipe.name}, before export: {len(rows)} faults, {kept}")
    if args.only != "faults":
        planned = list(cases(args.quick))
        for number, (recipe, opset, method, seed) in enumerate(planned, start=1):
            export = functools.partial(clean_export, recipe, kept.work, opset=opset, method=method, seed=seed)
            found = kept.once(f"clean-{recipe.name}-{opset}-{seed}", export)
            clean += [] if found is None else [found]
            alarms = sum(item["alarms"]["drsn_edge"] for item in clean)
            _say(
                args,
                f"{number} of {len(planned)} clean exports, {alarms} false alarms, {kept.left(len(planned) - number)}",
            )
    document = {
        "options": {"quick": args.quick, "networks": sorted({row.network for row in rows})},
        "cpu_seconds": kept.cpu_s,
        "rows": [row.to_json() for row in rows],
        "clean": clean,
        "summary": summary(rows, clean),
    }
    if args.show_missed:
        for row in rows:
            if row.counts and not (row.caught and row.right_hop and row.right_unit is not False):
                print(row, file=sys.stderr)
    if not args.json:
        table(rows, clean)
    print(json.dumps(document, indent=1))
    return 0


def _say(args: argparse.Namespace, text: str) -> None:
    print(text, file=sys.stderr if args.json else sys.stdout, flush=True)


def _share(values: list[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def summary(rows: list[Row], clean: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures that are promised."""
    after = [row for row in rows if row.when == "after" and row.counts]
    before = [row for row in rows if row.when == "before" and row.counts]
    caught = [row for row in after if row.caught]
    gates = ("drsn_edge", "accuracy_only", "atol_rtol_1e3")
    return {
        "faults": len(rows),
        "kinds": len({row.kind for row in rows}),
        "after_export": {
            "injected": sum(row.when == "after" for row in rows),
            "counted": len(after),
            "caught": {gate: _share([row.gates[gate] for row in after]) for gate in gates},
            "right_hop": _share([row.right_hop for row in caught]),
            "right_unit": _share([row.right_unit for row in caught if row.right_unit is not None]),
        },
        "before_export": {
            "injected": sum(row.when == "before" for row in rows),
            "counted": len(before),
            "caught": {gate: _share([row.gates[gate] for row in before]) for gate in gates},
        },
        "clean_exports": {
            "count": len(clean),
            "false_alarms": {gate: sum(item["alarms"][gate] for item in clean) for gate in gates},
        },
    }


def table(rows: list[Row], clean: list[dict[str, Any]]) -> None:
    """For people: one line per kind of fault."""
    kinds: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        kinds[row.when, row.kind].append(row)
    print(f"{'fault':<34}{'injected':>9}{'counted':>8}{'caught':>8}{'accuracy':>9}{'1e-3':>6}{'hop':>6}{'unit':>6}")
    for (when, kind), group in kinds.items():
        counted = [row for row in group if row.counts]
        named = [row for row in counted if row.caught]
        units = [row.right_unit for row in named if row.right_unit is not None]
        print(
            f"{when + ': ' + kind:<34}{len(group):>9}{len(counted):>8}"
            f"{sum(row.caught for row in counted):>8}{sum(row.gates['accuracy_only'] for row in counted):>9}"
            f"{sum(row.gates['atol_rtol_1e3'] for row in counted):>6}"
            f"{sum(row.right_hop for row in named):>6}{sum(units):>6}"
        )
    alarms = {gate: sum(item["alarms"][gate] for item in clean) for gate in ("drsn_edge", "accuracy_only")}
    last = sum(item["alarms"]["atol_rtol_1e3"] for item in clean)
    own, accuracy = alarms["drsn_edge"], alarms["accuracy_only"]
    print(f"{'clean exports: alarms':<34}{len(clean):>9}{'':>8}{own:>8}{accuracy:>9}{last:>6}")


if __name__ == "__main__":
    sys.exit(main())
