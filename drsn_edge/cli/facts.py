"""What people see of `inspect` and `doctor`: one fact a line, the same values as in the JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from drsn_edge.pipeline.doctor import Finding

_TABLES = ("plan", "files", "tensors", "layers")
_MARKS = {"ok": "[green]ok[/]", "missing": "[yellow]--[/]", "problem": "[red]!![/]"}


def findings_table(console: Console, findings: Sequence[Finding]) -> None:
    """One line for each finding, and one for what to do about it."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for finding in findings:
        table.add_row(_MARKS[finding.level], _plain(finding.subject), _plain(finding.found))
        if finding.fix:
            table.add_row("", "", _plain(finding.fix), style="dim")
    console.print(table)


def facts_table(console: Console, facts: Mapping[str, Any]) -> None:
    """Scalars as lines, lists of rows as tables, damage last and loudest."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _lines(facts):
        table.add_row(_plain(name), _plain(value))
    console.print(table)
    for rows in (_plan(facts.get("plan")), _files(facts.get("files")), _tensors(facts)):
        if rows is not None:
            console.print()
            console.print(rows)
    for item in facts.get("damaged", ()):
        console.print(f"DAMAGED  {item['file']}: {item['problem']}", style="bold red", highlight=False)


def _lines(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """`provenance.training.seed` and its value, without what has a table of its own and without what is empty."""
    lines: list[tuple[str, str]] = []
    for key, value in facts.items():
        if value is None and facts.get("kind") == "engine" and key in ("backend", "version", "targets"):
            lines.append((key, "unknown"))
        if key in (*_TABLES, "damaged") or value in (None, [], {}, ""):
            continue
        if key == "engines":
            lines += [(f"engine {name}", _engine(info)) for name, info in value.items()]
        elif isinstance(value, Mapping) and key not in ("trials", "scores", "tools", "precisions", "where"):
            lines += _lines(value, f"{prefix}{key}.")
        else:
            lines.append((f"{prefix}{key}", _text(value)))
    return lines


def _engine(info: Mapping[str, Any] | None) -> str:
    if info is None:
        return "not read: the bundle is damaged"
    made = ", ".join(f"{count} in {name}" for name, count in info["precisions"].items() if count)
    return f"{info['precision']} for {', '.join(info['targets']) or 'any GPU'}: {info['kernels']} kernels, {made}"


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_text(item) for item in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _plain(text: str) -> str:
    """Text that rich must not take for markup."""
    return text.replace("[", r"\[")


def _rows(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if column in ("bytes",) else "left")
    return table


def _plan(rows: Sequence[Mapping[str, str]] | None) -> Table | None:
    if not rows:
        return None
    table = _rows("layer", "precision", "why")
    for row in rows:
        why = row["reason"] + (f" ({row['warning']})" if row["warning"] else "")
        table.add_row(row["layer"], row["precision"], _plain(why))
    return table


def _files(files: Mapping[str, Mapping[str, Any]] | None) -> Table | None:
    if not files:
        return None
    table = _rows("file", "bytes", "role", "sha256")
    for name, entry in sorted(files.items()):
        table.add_row(_plain(name), str(entry["size"]), entry["role"], entry["sha256"][:12])
    return table


def _tensors(facts: Mapping[str, Any]) -> Table | None:
    """Tensors of a safetensors file; layers of an engine."""
    if facts.get("tensors"):
        table = _rows("tensor", "type", "shape")
        for name, tensor in facts["tensors"].items():
            table.add_row(_plain(name), tensor["dtype"], " x ".join(map(str, tensor["shape"])) or "scalar")
        return table
    layers = (facts.get("info") or {}).get("layers")
    if not layers:
        return None
    table = _rows("layer", "precision", "computes")
    for layer in layers:
        table.add_row(_plain(layer["type"]), layer["precision"] or "", _plain(", ".join(layer["onnx_nodes"])))
    return table
