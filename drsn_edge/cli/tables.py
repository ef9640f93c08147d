"""What people see of a result: tables for a terminal, the same figures as in the JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from drsn_edge.parity.result import ParityResult
    from drsn_edge.pipeline.export import ExportResult
    from drsn_edge.pipeline.train import TrainResult


def training_table(console: Console, result: TrainResult) -> None:
    """Scores on the test part; of a dry run, what would be trained."""
    record = result.training
    if not record.scores:
        parts = ", ".join(f"{count} to {_VERBS[part]}" for part, count in result.windows.items())
        console.print(f"would train {record.epochs} epochs into {result.run}; windows: {parts}", highlight=False)
        return
    table = _table("test part", "balanced accuracy")
    for condition, score in record.scores.items():
        table.add_row(condition, f"{score:.1%}")
    console.print(table)
    if result.qat is not None:
        changes = _table("decisions that differ from the original's", "post-training int8", "this int8", "this fp32")
        for row in result.qat.changed:
            changes.add_row(row.condition, f"{row.post_training:.2%}", f"{row.int8:.2%}", f"{row.fp32:.2%}")
        console.print(changes)
        console.print(f"{result.qat.plan}, ranges by {result.qat.method}", highlight=False)
    console.print(f"{result.run}: best epoch {record.best_epoch} of {record.epochs}", highlight=False)


_VERBS = {"train": "train", "validation": "validate", "test": "test"}


def plan_table(console: Console, plan: Mapping[str, Any]) -> None:
    """What a dry run of `export` found."""
    lines = {
        "bundle": plan["bundle"],
        "network": (plan["network"] or {}).get("model", "no class of drsn-edge"),
        "classes": ", ".join(plan["labels"]),
        "graphs": ", ".join(plan["graphs"]),
        "engines": "; ".join(plan["engines"]) or "none",
        "calibration": f"{plan['calibration_windows']} windows" if plan["calibration_windows"] else "none",
    }
    for name, value in lines.items():
        console.print(f"{name + ':':<12} {value}", highlight=False, markup=False)
    console.print("nothing was written: --dry-run")


def export_table(console: Console, result: ExportResult) -> None:
    """Files, the precision plan, engines, then the parity tables."""
    table = _table("file", "kB", "role", left=("role",))
    for name, entry in sorted(result.bundle.files.items()):
        table.add_row(name, f"{entry.size / 1e3:,.0f}", entry.role)
    console.print(table)
    if result.plan:
        console.print()
        precision_table(console, result.plan)
    for engine in result.engines:
        console.print(f"engine: {engine.summary}", highlight=False)
    parity_table(console, result.parity)
    console.print(f"{result.bundle.path}  sha256 {result.bundle.digest}", highlight=False)


def precision_table(console: Console, plan: Sequence[Mapping[str, str]]) -> None:
    """What layers compute in, and why; those with the same words share a row. `--json` has every layer."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for row in plan:
        words = f"{row['reason']} ({row['warning']})" if row["warning"] else row["reason"]
        alike.setdefault((row["precision"], row["kind"], words), []).append(row["layer"])
    table = _table("layers", "kind", "precision", "why", left=("kind", "precision", "why"))
    for (precision, kind, words), layers in alike.items():
        more = f" and {len(layers) - 1} more" if len(layers) > 1 else ""
        # Names come from graphs, and words from plans that people edit: a bracket in them is no markup.
        table.add_row(escape(f"{layers[0]}{more}"), kind, precision, escape(words))
    console.print(table)
    console.print()


def parity_table(console: Console, result: ParityResult) -> None:
    """Hops, decisions, drift of the thresholds, and the verdict."""
    _hops(console, result)
    if result.decisions:
        _decisions(console, result)
    if result.shrinkage:
        _shrinkage(console, result)
    for failure in result.failures:
        value = "" if failure.value is None else f" {failure.value:.3g}"
        limit = "" if failure.limit is None else f", limit {failure.limit:.3g}"
        console.print(f"FAILED  {failure.where}: {failure.what}{value}{limit}", style="bold red", highlight=False)
    from drsn_edge.pipeline.reporting import verdict

    console.print(verdict(result), style="bold", highlight=False)


def _table(*columns: str, left: tuple[str, ...] = ()) -> Table:
    """Columns of numbers stand right, the first and those named in `left` stand left."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 or column in left else "right", overflow="fold")
    return table


def _hops(console: Console, result: ParityResult) -> None:
    hops = result.hops
    table = _table("hop", "runner", "status", "max abs", "SQNR dB", "top-1", left=("runner", "status"))
    remarks = []
    for hop in hops:
        name = f"{hop.from_} -> {hop.to}"
        if hop.error is None:
            table.add_row(name, hop.runner, hop.status, "", "", "")
            remarks.append(f"{name} {'was not run' if hop.status == 'not_run' else hop.status}: {hop.reason}")
            continue
        sqnr = hop.error.sqnr_db
        table.add_row(
            name,
            hop.runner,
            hop.status,
            f"{hop.error.max_abs:.2e}",
            "exact" if sqnr is None or sqnr == float("inf") else f"{sqnr:.1f}",
            f"{hop.error.top1_agreement:.2%}",
        )
        if hop.first_divergence:
            remarks.append(f"{name} first leaves its limit at {hop.first_divergence}")
    console.print(table)
    for remark in remarks:
        console.print(remark, highlight=False, markup=False)
    _tolerances(console, result)
    windows = {hop.error.windows for hop in hops if hop.error is not None}
    console.print(f"on {max(windows, default=0)} golden windows\n", highlight=False)


def _tolerances(console: Console, result: ParityResult) -> None:
    """What each hop is judged by, how far it is from its limit, and its part of the error of its chain."""
    table = _table("judged", "by", "would just pass", "limit", "margin eaten", "share of error", left=("by",))
    for hop, share in zip(result.hops, result.shares, strict=True):
        tolerance = result.gate.tolerance(hop)
        tightest = tolerance.tightest(hop.error) if hop.error is not None and tolerance is not None else None
        if hop.error is None or tightest is None:
            continue
        table.add_row(
            f"{hop.from_} -> {hop.to}",
            tightest.figure,
            f"{tightest.value:.3g}",
            f"{tightest.limit:.3g}",
            f"{hop.error.margin_eaten:.2%}",
            "" if share is None else f"{share:.2%}",
        )
    if table.row_count:
        console.print()
        console.print(table)


def _decisions(console: Console, result: ParityResult) -> None:
    variants = sorted({name for point in result.decisions for name in point.changed}, key=_chain)
    fixed = ("noise", "draws", "judged", "accuracy")

    def draw(names: Sequence[str]) -> Table:
        table = _table(*fixed, *(f"{name}\nchanged %" for name in names))
        for point in result.decisions:
            accuracy = point.accuracy.get(result.reference)
            cells = []
            for name in names:
                changed = point.changed.get(name)
                cells.append("" if changed is None else f"{100 * changed.rate:.2f} ({100 * changed.ci95[1]:.2f})")
            row = (point.name, str(point.draws), "yes" if point.gated else "shown")
            table.add_row(*row, "" if accuracy is None else f"{accuracy:.1%}", *cells)
        return table

    _in_pieces(console, draw, variants)
    console.print(f"accuracy of {result.reference}; in brackets the upper end of the 95 % interval\n", highlight=False)


def _shrinkage(console: Console, result: ParityResult) -> None:
    found = {(item.unit, item.variant): item for item in result.shrinkage}
    units = list(dict.fromkeys(item.unit for item in result.shrinkage))

    def draw(names: Sequence[str]) -> Table:
        table = _table(
            "unit", *(f"{name}\n{what}" for name in names for what in ("threshold error", "dead-zone flips"))
        )
        for unit in units:
            cells = []
            for name in names:
                item = found[unit, name]
                flips = item.dead_zone_flips
                cells += [f"{100 * item.tau_relative_error:.2f}", "" if flips is None else f"{100 * flips:.2f}"]
            table.add_row(unit, *cells)
        return table

    _in_pieces(console, draw, sorted({item.variant for item in result.shrinkage}, key=_chain))
    console.print(
        "in %: how far thresholds moved, and how many features crossed into or out of zero\n", highlight=False
    )


def _chain(variant: str) -> tuple[int, int]:
    """The place of a variant in the chain; JSON has them sorted by name."""
    form, _, precision = variant.partition("-")
    return ("pytorch", "onnx", "engine").index(form), ("", "fp32", "fp16", "int8").index(precision)


def _in_pieces(console: Console, draw: Callable[[Sequence[str]], Table], variants: Sequence[str]) -> None:
    """One table, or as many as the width of the terminal makes necessary."""
    start, unbounded = 0, console.options.update(max_width=1000)
    while start < len(variants):
        stop = len(variants)
        while (
            stop > start + 1 and console.measure(draw(variants[start:stop]), options=unbounded).maximum > console.width
        ):
            stop -= 1
        console.print(draw(variants[start:stop]))
        start = stop


def survey_table(console: Console, facts: dict[str, Any]) -> None:
    """Windows per class and part."""
    seconds = sum(item["seconds"] for item in facts["recordings"])
    contract = facts["contract"]
    console.print(
        f"{facts['dataset']}: {len(facts['recordings'])} recordings, {seconds:.0f} s "
        f"at {contract['sample_rate_hz']:g} Hz, channels {', '.join(contract['channels'])}; "
        f"window {contract['window']}, hop {contract['hop']}",
        highlight=False,
    )
    for key, values in facts["groups"].items():
        console.print(f"group {key}: {', '.join(values)}", highlight=False)
    parts = facts["parts"]
    table = _table(f"windows ({facts['protocol']}, fold {facts['fold']})", *parts)
    for label in next(iter(parts.values()))["per_class"]:
        table.add_row(label, *(str(part["per_class"][label]) for part in parts.values()))
    table.add_row("all", *(str(part["windows"]) for part in parts.values()))
    table.add_row("independent", *(str(part["independent"]) for part in parts.values()))
    console.print(table)
