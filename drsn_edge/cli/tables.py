"""What people see of a result: tables for a terminal, the same figures as in the JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from drsn_edge.parity.result import Hop, ParityResult
    from drsn_edge.pipeline.export import ExportResult


def training_table(console: Console, result: Any) -> None:
    """Scores on the test part."""
    table = _table("test part", "balanced accuracy")
    for condition, score in result.training.scores.items():
        table.add_row(condition, f"{score:.1%}")
    console.print(table)
    console.print(f"{result.run}: best epoch {result.training.best_epoch} of {result.training.epochs}", highlight=False)


def export_table(console: Console, result: ExportResult) -> None:
    """Files, engines, then the parity tables."""
    table = _table("file", "kB", "role")
    for name, entry in sorted(result.bundle.files.items()):
        table.add_row(name, f"{entry.size / 1e3:,.0f}", entry.role)
    console.print(table)
    for engine in result.engines:
        console.print(f"engine: {engine.summary}", highlight=False)
    parity_table(console, result.parity)
    console.print(f"{result.bundle.path}  sha256 {result.bundle.digest}", highlight=False)


def parity_table(console: Console, result: ParityResult) -> None:
    """Hops, decisions, drift of the thresholds, and the verdict."""
    console.print(_hops(result.hops))
    if result.decisions:
        console.print(_decisions(result))
    if result.shrinkage:
        console.print(_shrinkage(result))
    for failure in result.failures:
        value = "" if failure.value is None else f" {failure.value:.3g}"
        limit = "" if failure.limit is None else f", limit {failure.limit:.3g}"
        console.print(f"FAILED  {failure.where}: {failure.what}{value}{limit}", style="bold red", highlight=False)
    from drsn_edge.pipeline.reporting import verdict

    console.print(verdict(result), style="bold", highlight=False)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    return table


def _hops(hops: Iterable[Hop]) -> Table:
    table = _table("hop", "runner", "status", "windows", "max abs", "SQNR dB", "top-1", "first divergence")
    for hop in hops:
        name = f"{hop.from_} -> {hop.to}"
        if hop.error is None:
            table.add_row(name, hop.runner, hop.status, "", "", "", "", hop.reason or "")
            continue
        sqnr = hop.error.sqnr_db
        table.add_row(
            name,
            hop.runner,
            hop.status,
            str(hop.error.windows),
            f"{hop.error.max_abs:.2e}",
            "exact" if sqnr is None or sqnr == float("inf") else f"{sqnr:.1f}",
            f"{hop.error.top1_agreement:.2%}",
            hop.first_divergence or "",
        )
    return table


def _decisions(result: ParityResult) -> Table:
    variants = list(dict.fromkeys(name for point in result.decisions for name in point.changed))
    table = _table(
        "noise", "draws", "judged", f"accuracy {result.reference}",
        *(f"{name} changed" for name in variants),
    )  # fmt: skip
    for point in result.decisions:
        accuracy = point.accuracy.get(result.reference)
        cells = []
        for name in variants:
            changed = point.changed[name]
            cells.append(f"{changed.rate:.2%} (to {changed.ci95[1]:.2%})")
        table.add_row(
            point.name, str(point.draws), "yes" if point.gated else "shown",
            "" if accuracy is None else f"{accuracy:.1%}", *cells,
        )  # fmt: skip
    return table


def _shrinkage(result: ParityResult) -> Table:
    variants = list(dict.fromkeys(item.variant for item in result.shrinkage))
    table = _table("unit", *(f"{name} {what}" for name in variants for what in ("threshold error", "dead-zone flips")))
    for unit in dict.fromkeys(item.unit for item in result.shrinkage):
        cells = []
        for name in variants:
            item = next(item for item in result.shrinkage if item.unit == unit and item.variant == name)
            flips = item.dead_zone_flips
            cells += [f"{item.tau_relative_error:.2%}", "" if flips is None else f"{flips:.2%}"]
        table.add_row(unit, *cells)
    return table


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


def facts_table(console: Console, facts: dict[str, Any]) -> None:
    """What `inspect` found: scalars as lines, lists of rows as tables."""
    for key, value in facts.items():
        if key == "plan" and value:
            table = _table("layer", "precision", "why")
            for row in value:
                why = row["reason"] + (f" ({row['warning']})" if row["warning"] else "")
                table.add_row(row["layer"], row["precision"], why)
            console.print(table)
        elif key == "files":
            table = _table("file", "bytes", "role", "sha256")
            for name, entry in sorted(value.items()):
                table.add_row(name, str(entry["size"]), entry["role"], entry["sha256"][:16])
            console.print(table)
        elif key == "engines":
            for name, info in value.items():
                found = "" if info is None else f"{info['precision']}, {info['kernels']} kernels, {info['precisions']}"
                console.print(f"engine {name}: {found}", highlight=False, markup=False)
        elif isinstance(value, dict):
            for name, item in value.items():
                console.print(f"{key}.{name}: {item}", highlight=False, markup=False)
        elif value not in (None, [], ""):
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            console.print(f"{key}: {text}", highlight=False, markup=False)
