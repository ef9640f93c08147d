"""The sections of the page, each from results to HTML, or to nothing where there is nothing to show."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from drsn_edge.parity.decision_point import Changed, Confusion, DecisionPoint
from drsn_edge.parity.gate import Gate
from drsn_edge.parity.result import Hop, ParityResult
from drsn_edge.parity.variants import PRECISIONS, precision_of
from drsn_edge.report import charts, window_charts
from drsn_edge.report.data import Example, WorstWindow
from drsn_edge.report.text import NONE, number, percent, plain, table


def section(title: str, introduction: str, *parts: str) -> str:
    """A heading, a sentence that says how to read what follows, and what follows; nothing without parts."""
    shown = "".join(part for part in parts if part)
    return f"<section><h2>{escape(title)}</h2><p>{escape(introduction)}</p>{shown}</section>" if shown else ""


def figure(caption: str, svg: str | None) -> str:
    """A figure with its caption on top; nothing without a drawing."""
    return f"<figure><figcaption>{escape(caption)}</figcaption>{svg}</figure>" if svg else ""


def verdict(result: ParityResult, sentence: str) -> str:
    """The outcome in one sentence, then every failure and note."""
    state, word = ("", "✓ Passed.") if result.passed else (" bad", "✕ Out of tolerance.")
    top = f'<div class="verdict{state}" role="status"><p><strong>{word}</strong> {escape(sentence)}</p></div>'
    failures = [
        f"{item.where}: {item.what}"
        + (
            ""
            if item.limit is None
            else f" is {_figure(item.what, item.value)}, limit {_figure(item.what, item.limit)}"
        )
        for item in result.failures
    ]
    return top + bullets("What is out of tolerance", failures) + bullets("To know", result.notes)


def _figure(what: str, value: float | None) -> str:
    share = "agreement" in what or what.startswith(("rate", "upper end"))
    return percent(value) if share else number(value)


def bullets(title: str, items: Sequence[str]) -> str:
    """Sentences as a list under a title; nothing without any."""
    rows = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f'<p class="soft">{escape(title)}:</p><ul>{rows}</ul>' if items else ""


def decisions(result: ParityResult) -> str:
    """Accuracy and changed decisions over the noise levels."""
    if not result.decisions:
        return ""
    clean = [point for point in result.decisions if point.snr_db is None]
    kinds = list(dict.fromkeys(point.noise for point in result.decisions if point.snr_db is not None)) or ["no"]
    figures, tables = [], []
    for kind in kinds:
        noisy = [point for point in result.decisions if point.noise == kind and point.snr_db is not None]
        points = [*sorted(noisy, key=lambda point: point.snr_db or 0.0), *clean]
        figures.append(figure(f"Accuracy, {kind} noise, with 95 % intervals", charts.accuracy(points, kind)))
        caption = (
            f"Changed decisions against {result.reference}, {kind} noise; dashed: limit for the interval's upper end"
        )
        figures.append(figure(caption, charts.changed(points, kind, result.gate)))
        tables += [_accuracy_table(f"Accuracy, {kind} noise", points), _changed_table(f"Changed, {kind} noise", points)]
    introduction = (
        f"How often each precision is right, and how often it decides otherwise than {result.reference} on the same "
        "noisy window. Intervals count independent windows, not draws: several draws of one window are not independent."
    )
    return section("Decisions", introduction, f'<div class="figures">{"".join(figures)}</div>', *tables)


def _accuracy_table(caption: str, points: Sequence[DecisionPoint]) -> str:
    variants = charts.variants_of(points, "accuracy")
    rows = [
        [point.name, point.windows, point.draws, *(percent(point.accuracy.get(name)) for name in variants)]
        for point in points
    ]
    return table(caption, ["level", "windows", "draws", *variants], rows) if variants else ""


def _changed_table(caption: str, points: Sequence[DecisionPoint]) -> str:
    variants = charts.variants_of(points, "changed")
    tested = [name for name in variants if any(name in point.mcnemar_p for point in points)]
    columns = ["level", "judged", *variants, *(f"McNemar p, {name}" for name in tested)]
    rows = [
        [
            point.name,
            point.gated,
            *(_changed(point.changed.get(name)) for name in variants),
            *(number(point.mcnemar_p.get(name)) for name in tested),
        ]
        for point in points
    ]
    return table(caption, columns, rows) if variants else ""


def _changed(item: Changed | None) -> str:
    if item is None:
        return NONE
    return f"{item.count} ({percent(item.ci95[0])} to {percent(item.ci95[1])})"


def shrinkage(result: ParityResult) -> str:
    """Drift of thresholds and dead zones."""
    found = {(item.unit, item.variant): item for item in result.shrinkage}
    units = list(dict.fromkeys(unit for unit, _ in found))
    variants = list(dict.fromkeys(variant for _, variant in found))
    columns = ["unit", "set to zero, reference"]
    columns += [f"{what}, {name}" for name in variants for what in ("threshold error", "flips", "set to zero")]
    rows = []
    for unit in units:
        items = [found.get((unit, variant)) for variant in variants]
        row: list[str] = [unit, percent(next(item.zero_share_reference for item in items if item is not None))]
        for item in items:
            figures = (item.tau_relative_error, item.dead_zone_flips, item.zero_share) if item else (None,) * 3
            row += [percent(value) for value in figures]
        rows.append(row)
    introduction = (
        "A shrinkage unit sets to zero what it takes for noise. Threshold error is the mean error of its thresholds "
        "over their mean; a dead-zone flip is a feature that is zero in one execution and not in the other."
    )
    drift = figure("Drift per unit", charts.drift(result.shrinkage))
    drawn = (
        f'<div class="figures">{drift}{figure("What was zeroed", charts.zeroed(result.shrinkage))}</div>'
        if drift
        else ""
    )
    return section("Shrinkage drift", introduction, drawn, table("Drift per unit", columns, rows) if rows else "")


def ledger(result: ParityResult) -> str:
    """Every hop with its error, and its share of all error."""
    shares = result.shares
    columns = ["hop", "status", "max |diff|", "RMSE", "SQNR, dB", "top-1", "margin eaten", "share of error"]
    columns += ["nearest limit", "would just pass", "limit"]
    rows = []
    for hop, share in zip(result.hops, shares, strict=True):
        error = hop.error
        figures = (
            [None] * 9
            if error is None
            else [
                number(error.max_abs),
                number(error.rmse),
                number(error.sqnr_db),
                percent(error.top1_agreement),
                percent(error.margin_eaten),
                percent(share),
                *_judged(hop, result.gate),
            ]
        )
        rows.append([f"{hop.from_} → {hop.to}", hop.status.replace("_", "\u00a0"), *figures])
    remarks = [f"{hop.from_} → {hop.to} was not run: {hop.reason}" for hop in result.hops if hop.status == "not_run"]
    remarks += [f"{hop.from_} → {hop.to}: {hop.reason}" for hop in result.hops if hop.status == "failed" and hop.reason]
    remarks += [
        f"{hop.from_} → {hop.to} first leaves its limit in {hop.first_divergence}"
        for hop in result.hops
        if hop.first_divergence
    ]
    introduction = (
        "Where error enters between PyTorch and the engine. Margin eaten is the largest share of a window's decision "
        "margin that the error takes up: below 100 % no decision can have changed. Share of error is a hop's part of "
        "the squared error of its chain, from float64 to the last form of its precision."
    )
    drawn = figure("Error of each hop", charts.hops(result.hops))
    run = sorted({hop.runner for hop in result.hops if hop.error is not None})
    windows = max((hop.error.windows for hop in result.hops if hop.error is not None), default=0)
    caption = f"Hops on {windows} golden windows, run by {', '.join(run)}"
    return section(
        "Error ledger",
        introduction,
        drawn,
        table(caption, columns, rows) if rows else "",
        bullets("Hops in words", remarks),
    )


def _judged(hop: Hop, gate: Gate) -> list[str | None]:
    """The figure that is nearest to its limit, what would just pass, and the limit."""
    tolerance = gate.tolerance(hop)
    found = tolerance.tightest(hop.error) if tolerance is not None and hop.error is not None else None
    if found is None:
        return [None, None, None]
    return [found.figure.replace("_", " "), number(found.value), number(found.limit)]


def confusion(result: ParityResult, labels: Sequence[str]) -> str:
    """Confusion matrices of the reference and of the least precise variant, at the noisiest level that is judged."""
    points = [point for point in result.decisions if point.confusion and point.gated]
    if not points:
        return ""
    point = min(points, key=lambda item: float("inf") if item.snr_db is None else item.snr_db)
    others = [variant for variant in point.confusion if variant != result.reference]
    chosen = [result.reference] if result.reference in point.confusion else []
    if others:
        chosen.append(max(others, key=lambda variant: PRECISIONS.index(precision_of(variant))))
    matrices = "".join(matrix(f"{variant} at {point.name}", point.confusion[variant], labels) for variant in chosen)
    introduction = "Rows are true classes, columns decisions, counted in draws."
    return section("Confusion", introduction, f'<div class="figures">{matrices}</div>')


def matrix(caption: str, rows: Confusion, labels: Sequence[str]) -> str:
    """Counts by true class and decision, shaded by their share of the row."""
    count = len(rows)
    names = list(labels) if len(labels) == count else [str(index) for index in range(count)]
    width = count + any(row[count] for row in rows if len(row) > count)
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in [*names, "no decision"][:width])
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f'<td style="--share:{value / max(sum(row), 1):.3f}">{value}</td>' for value in row[:width])
        + "</tr>"
        for name, row in zip(names, rows, strict=True)
    )
    return (
        f'<div class="scroll matrix" role="region" tabindex="0" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def example(item: Example | None) -> str:
    """One window and what shrinkage makes of it."""
    if item is None:
        return ""
    return section("One window", item.caption, figure("", window_charts.example(item)))


def worst(items: Sequence[WorstWindow]) -> str:
    """The windows that came nearest to another decision."""
    if not items:
        return ""
    rows = [
        [
            item.number,
            item.caption,
            item.reference,
            item.decided,
            item.decided != item.reference,
            percent(item.margin_eaten),
        ]
        for item in items
    ]
    columns = ["", "window", "reference decides", f"{items[0].variant} decides", "changed", "margin eaten"]
    introduction = (
        f"The golden windows on which the error of {items[0].variant} takes the largest share of the reference's "
        "margin. At 100 % a decision can change; most of these windows were chosen because their margin is small."
    )
    drawn = figure("Raw samples of the first channel", window_charts.worst(items))
    return section("Worst windows", introduction, drawn, table("Worst windows", columns, rows))


def gate(result: ParityResult) -> str:
    """The gate in words."""
    stated = {name: value for name, value in result.gate.to_json().items() if value not in (None, {})}
    return ", ".join(f"{name.replace('_', ' ')} {plain(value)}" for name, value in stated.items())
