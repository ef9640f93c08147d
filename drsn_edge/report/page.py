"""The page: sections in the order in which an engineer asks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files as package_files
from pathlib import Path

from drsn_edge._version import __version__
from drsn_edge.files import write_bytes
from drsn_edge.parity.result import ParityResult
from drsn_edge.report import sections
from drsn_edge.report.data import ReportData, Row
from drsn_edge.report.text import pairs, rows_table, size


def write_report(path: Path, report: ReportData) -> None:
    """Write a report as one self-contained HTML file, by rename.

    Equal reports give equal bytes with one version of matplotlib.

    Raises:
        MissingDependency: matplotlib is not installed.
        InputError: The parity result in it cannot be read.
    """
    write_bytes(path, render(report).encode())


def render(report: ReportData) -> str:
    """The page of a report, as text.

    Raises:
        MissingDependency: matplotlib is not installed.
        InputError: The parity result in it cannot be read.
    """
    result = ParityResult.from_json(report.parity)
    listed = [{**row, "size": size(row["size"])} if isinstance(row.get("size"), int) else row for row in report.files]
    body = "\n".join(
        part
        for part in (
            f"<h1>{escape(report.title)}</h1>",
            sections.verdict(result, report.verdict),
            sections.decisions(result),
            sections.shrinkage(result),
            sections.ledger(result),
            sections.confusion(result, report.labels),
            sections.example(report.example),
            sections.worst(report.worst),
            _rows(
                "Precision plan", "What each layer is, and why; layers of the same kind together.", _alike(report.plan)
            ),
            _latency(report),
            _rows("Engines", "Built for one GPU and one TensorRT version each.", report.engines),
            sections.section("Model", "What the network is.", pairs(report.model)) if report.model else "",
            sections.section(
                "Provenance",
                "What this was made from, and by which limits it was judged.",
                pairs({**report.provenance, "gate": sections.gate(result)}),
            ),
            _rows("Files", "As listed in the manifest.", listed),
            f'<footer><p class="soft">drsn-edge {escape(__version__)}</p></footer>',
        )
        if part
    )
    return document(report.title, body)


def document(title: str, body: str) -> str:
    """A whole page that needs nothing from elsewhere; `body` is HTML."""
    style = package_files("drsn_edge.report").joinpath("style.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        "</body>\n</html>\n"
    )


def _latency(report: ReportData) -> str:
    """What `bench` measured, and which precision it recommends."""
    if not report.latency:
        return ""
    introduction = (
        "Measured in turns on one machine, copies between host and GPU included. A figure of another state differs."
    )
    said = sections.bullets("Which precision", report.precision)
    return sections.section("Speed", introduction, said, rows_table("Latency and throughput", report.latency))


def _alike(plan: Sequence[Row]) -> list[Row]:
    """Rows of a plan that say the same of several layers, as one: a network of twelve units has 37 layers."""
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    rows: dict[tuple[tuple[str, str], ...], Row] = {}
    for row in plan:
        said = {name: value for name, value in row.items() if name != "layer"}
        key = tuple((name, str(value)) for name, value in said.items())
        groups.setdefault(key, []).append(str(row.get("layer", "")))
        rows.setdefault(key, said)
    return [{"layers": ", ".join(_ranges(layers)), **rows[key]} for key, layers in groups.items()]


def _ranges(names: Sequence[str]) -> list[str]:
    """Names that differ by their first number alone, as one: `units.0–3.conv1`."""
    numbers: dict[tuple[str, str], list[int]] = {}
    for name in names:
        before, number, after = re.match(r"(\D*)(0|[1-9]\d*)?(.*)", name, re.DOTALL).groups()  # type: ignore[union-attr]
        numbers.setdefault((before, after), []).extend([int(number)] if number else [])
    found: list[str] = []
    for (before, after), values in numbers.items():
        runs: list[list[int]] = []
        for value in sorted(values):
            if runs and value == runs[-1][-1] + 1:
                runs[-1].append(value)
            else:
                runs.append([value])
        found += [f"{before}{run[0]}{f'–{run[-1]}' if len(run) > 1 else ''}{after}" for run in runs] or [before + after]
    return found


def _rows(title: str, introduction: str, rows: Sequence[Row]) -> str:
    return sections.section(title, introduction, rows_table(title, rows)) if rows else ""
