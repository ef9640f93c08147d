"""What people see of a study."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from drsn_edge.parity.paired import Difference
    from drsn_edge.pipeline.study_result import StudyResult


def study_table(console: Console, result: StudyResult) -> None:
    """Balanced accuracy in per cent, and differences to the reference in points, with 95 % intervals."""
    summary = result.summary
    if summary is not None:
        for noise in dict.fromkeys(condition.noise for condition in summary.conditions):
            models = list(summary.parameters)
            table = Table(box=None, pad_edge=False, header_style="bold")
            table.add_column(f"{noise}, balanced accuracy %", no_wrap=True)
            for model in models:
                table.add_column(model, justify="right", no_wrap=True)
            for model in models:
                if model != summary.reference:
                    table.add_column(f"{model} - {summary.reference}", justify="right", no_wrap=True)
            for condition in summary.conditions:
                if condition.noise != noise:
                    continue
                row = [condition.name]
                for model in models:
                    found = condition.models.get(model)
                    figure = None if found is None else found.figures["balanced_accuracy"]
                    row.append("" if figure is None else f"{100 * figure.mean:.1f}{_spread(figure.std)}")
                row += [
                    _difference(found.difference) if (found := condition.models.get(model)) is not None else ""
                    for model in models
                    if model != summary.reference
                ]
                table.add_row(*row)
            console.print(table)
    console.print(f"{result.out}: {len(result.cells)} cells finished, {result.planned} planned", highlight=False)


def _spread(std: float | None) -> str:
    return "" if std is None else f" ±{100 * std:.1f}"


def _difference(value: Difference | None) -> str:
    if value is None:
        return ""
    ends = "" if value.low is None or value.high is None else f" ({100 * value.low:+.1f} to {100 * value.high:+.1f})"
    return f"{100 * value.mean:+.1f}{ends} n={value.n}"
