"""What people see of `bench`: a row for each form and batch size, then which precision to use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from drsn_edge.pipeline.bench_result import BenchResult, BenchRow


def bench_table(console: Console, result: BenchResult) -> None:
    """The same figures as in the JSON."""
    measured = [row for row in result.rows if row.status == "measured"]
    energy = any(row.energy for row in measured)
    before = {(item.variant, item.engine, item.batch): item for item in result.against}
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("form", no_wrap=True)
    table.add_column("runner", no_wrap=True)
    columns = ["batch", "p50 ms", "p95 ms", "p99 ms", "windows/s", *(["mJ/decision", "idle W"] if energy else [])]
    for name in (*columns, *(["times as fast"] if before else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for row in measured:
        cells = [
            str(row.batch), *(_ms(value) for value in (row.p50_ms, row.p95_ms, row.p99_ms)), f"{row.windows_per_s:,.0f}"
        ]  # fmt: skip
        cells += _energy(row) if energy else []
        if before:
            found = before.get(row.key)
            cells.append("" if found is None else f"{found.speedup:.2f}")
        table.add_row(row.variant + (f"\n  {row.engine}" if row.engine else ""), row.runner, *cells)
    console.print(table)
    for reason in dict.fromkeys(f"{row.variant}: {row.reason}" for row in result.rows if row.status != "measured"):
        console.print(f"not run: {reason}", highlight=False, markup=False)
    said = ["copies between host and GPU are included", *_totals(result)]
    console.print(f"\n{result.device.summary}; {'; '.join(said)}", highlight=False, markup=False)
    for runner, verdict in result.verdicts.items():
        console.print(f"\n{runner}:", highlight=False, markup=False)
        for reason in verdict.reasons:
            console.print(f"  {reason}", highlight=False, markup=False)


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if value < 100 else f"{value:.1f}"


def _energy(row: BenchRow) -> list[str]:
    if row.energy is None:
        return ["", ""]
    joules = row.energy.joules_per_decision
    return ["below idle noise" if joules is None else f"{1e3 * joules:.4g}", f"{row.energy.idle_watts:.2f}"]


def _totals(result: BenchResult) -> list[str]:
    names = {"peak_rss_bytes": "peak memory", "device_used_bytes": "GPU memory in use by all"}
    return [f"{names[key]} {value / 1e6:.0f} MB" for key, value in result.memory.items() if value is not None]
