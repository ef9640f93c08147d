"""The figures of the report. Each takes results and gives an `<svg>` element, or nothing where there is no data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from drsn_edge.parity.decision_point import DecisionPoint
from drsn_edge.parity.gate import Gate
from drsn_edge.parity.result import Hop
from drsn_edge.parity.shrinkage import ShrinkageDrift
from drsn_edge.parity.variants import precision_of
from drsn_edge.report.svg import INK, draw
from drsn_edge.report.text import level, percent

# Okabe and Ito's palette, told apart by people with any common colour vision; markers tell lines apart in print.
COLOURS = {
    "pytorch": INK,
    "onnx-fp32": "#0072B2",
    "onnx-fp16": "#E69F00",
    "onnx-int8": "#D55E00",
    "engine-fp32": "#56B4E9",
    "engine-fp16": "#CC79A7",
    "engine-int8": "#009E73",
}
MARKERS = {
    "pytorch": "o",
    "onnx-fp32": "s",
    "onnx-fp16": "^",
    "onnx-int8": "D",
    "engine-fp32": "P",
    "engine-fp16": "v",
    "engine-int8": "X",
}
_OTHER = "#8A8A8A"


def look(variant: str) -> dict[str, Any]:
    """Colour and marker of a variant, the same in every figure."""
    colour = COLOURS.get(variant, _OTHER)
    return {"color": colour, "marker": MARKERS.get(variant, "*"), "markeredgecolor": colour}


def accuracy(points: Sequence[DecisionPoint], noise: str) -> str | None:
    """Accuracy of every variant over the noise levels, with 95 % intervals."""
    variants = variants_of(points, "accuracy")
    if not variants:
        return None
    worst, best = points[0], points[-1]
    said = ", ".join(
        f"{variant} {percent(worst.accuracy.get(variant))} at {worst.name}, {percent(best.accuracy.get(variant))} at "
        f"{best.name}"
        for variant in variants
    )

    def build(figure: Any) -> None:
        axes = figure.add_subplot()
        places = level_places(axes, [point.snr_db for point in points])
        for index, variant in enumerate(variants):
            rows = [(place, point) for place, point in zip(places, points, strict=True) if variant in point.accuracy]
            value = [100 * point.accuracy[variant] for _, point in rows]
            ends = [point.accuracy_ci95.get(variant, (point.accuracy[variant],) * 2) for _, point in rows]
            _line(axes, [place for place, _ in rows], value, ends, variant, index - (len(variants) - 1) / 2)
        axes.set_ylabel("accuracy, %")
        figure.legend(loc="outside lower center", ncols=_columns(variants))

    return draw(
        f"accuracy-{noise}", f"Accuracy against signal-to-noise ratio, {noise} noise: {said}.", build, height=3.4
    )


def changed(points: Sequence[DecisionPoint], noise: str, gate: Gate) -> str | None:
    """Share of changed decisions over the noise levels, with 95 % intervals and the gate's limits."""
    variants = variants_of(points, "changed")
    if not variants:
        return None
    # fp32 changes nothing, as a rule: a row of zeros with intervals only hides the others.
    moving = [name for name in variants if any(p.changed[name].count for p in points if name in p.changed)]
    variants = moving or variants
    said = ", ".join(
        f"{variant} at most {percent(max(p.changed[variant].rate for p in points if variant in p.changed))}"
        for variant in variants
    )

    def build(figure: Any) -> None:
        axes = figure.add_subplot()
        places = level_places(axes, [point.snr_db for point in points])
        for index, variant in enumerate(variants):
            rows = [(place, point) for place, point in zip(places, points, strict=True) if variant in point.changed]
            value = [100 * point.changed[variant].rate for _, point in rows]
            spans = [point.changed[variant].ci95 for _, point in rows]
            _line(axes, [place for place, _ in rows], value, spans, variant, index - (len(variants) - 1) / 2)
        # Below 0.1 % the axis is linear, so that zero has a place; above it counts in decades.
        axes.set_yscale("symlog", linthresh=0.1, linscale=0.6)
        limits = [gate.changed_limit.get(precision_of(variant), 0.0) for variant in variants]
        ends = [p.changed[name].ci95[1] for p in points for name in variants if name in p.changed]
        top = 100 * max([*limits, *ends])
        ticks = [tick for tick in (0, 0.1, 1, 10, 100) if tick <= 3 * max(top, 1)]
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_ylim(-0.02, max(1.3 * top, 1))
        axes.minorticks_off()
        axes.set_ylabel("changed decisions, %")
        _limits(axes, points, places, variants, gate)
        figure.legend(loc="outside lower center", ncols=_columns(variants))

    label = f"Changed decisions against signal-to-noise ratio, {noise} noise: {said}."
    return draw(f"changed-{noise}", label, build, height=3.4)


def _columns(variants: Sequence[str]) -> int:
    return 2 if len(variants) in (2, 4) else min(len(variants), 3)


def variants_of(points: Sequence[DecisionPoint], what: str) -> list[str]:
    """Variants that occur in a figure of the points, in the order of the chain."""
    found = dict.fromkeys(variant for point in points for variant in getattr(point, what))
    order = list(COLOURS)
    return sorted(found, key=lambda variant: order.index(variant) if variant in order else len(order))


def level_places(axes: Any, levels: Sequence[float | None]) -> list[float]:
    """Where the noise levels stand: SNR on a true axis, clean windows (None) a gap to the right of it."""
    clean = max((snr for snr in levels if snr is not None), default=-3.0) + 3.0
    places = [clean if snr is None else snr for snr in levels]
    names = ["clean" if snr is None else f"{snr:g}" for snr in levels]
    axes.set_xticks(places, names)
    axes.set_xlabel("signal-to-noise ratio, dB")
    axes.grid(visible=False, axis="x")
    return places


def _line(
    axes: Any,
    places: Sequence[float],
    value: Sequence[float],
    ends: Sequence[tuple[float, float]],
    variant: str,
    aside: float,
) -> None:
    spread = [
        [max(0.0, middle - 100 * low) for middle, (low, _) in zip(value, ends, strict=True)],
        [max(0.0, 100 * high - middle) for middle, (_, high) in zip(value, ends, strict=True)],
    ]
    # Variants of one network decide almost alike: a little aside, or one would hide the others.
    shifted = [place + 0.16 * aside for place in places]
    axes.errorbar(shifted, value, yerr=spread, label=variant, capsize=2, elinewidth=0.9, **look(variant))


def _limits(
    axes: Any, points: Sequence[DecisionPoint], places: Sequence[float], variants: Sequence[str], gate: Gate
) -> None:
    judged = [place for place, point in zip(places, points, strict=True) if point.gated]
    if not judged:
        return
    reach = [min(judged) - 0.5, max(judged) + 0.5]
    for precision in sorted({precision_of(variant) for variant in variants}):
        limit = gate.changed_limit.get(precision)
        if limit is not None:
            axes.plot(reach, [100 * limit] * 2, color=INK, linestyle=(0, (4, 2)), linewidth=1)
            # Beside the axes: above the line it would stand on the intervals that it is for.
            note = f"limit {precision}\n{percent(limit)}"
            axes.annotate(
                note, (1.0, 100 * limit), (4, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
                ha="left", va="center", fontsize=8.5, annotation_clip=False,
            )  # fmt: skip
    axes.set_xlim(min(places) - 1, max(places) + 1)


def drift(drifts: Sequence[ShrinkageDrift]) -> str | None:
    """Threshold error and dead-zone flips of every unit, per variant."""
    units = list(dict.fromkeys(item.unit for item in drifts))
    variants = list(dict.fromkeys(item.variant for item in drifts))
    if not units:
        return None
    worst = max(drifts, key=lambda item: item.tau_relative_error)
    panels = [("threshold error, %", "tau_relative_error"), ("dead-zone flips, %", "dead_zone_flips")]

    def build(figure: Any) -> None:
        both = figure.subplots(1, 2, sharey=True)
        for axes, (title, name) in zip(both, panels, strict=True):
            for variant in variants:
                rows = [item for item in drifts if item.variant == variant]
                drawn = [(item.unit, getattr(item, name)) for item in rows]
                kept = [(units.index(unit), 100 * value) for unit, value in drawn if value is not None]
                finite = [(place, value) for place, value in kept if math.isfinite(value)]
                if finite:
                    style = {**look(variant), "linestyle": "none"}
                    axes.plot([value for _, value in finite], [place for place, _ in finite], label=variant, **style)
            axes.set_title(title)
            axes.set_xlim(left=0)
            axes.margins(x=0.1)
        both[0].set_yticks(range(len(units)), units)
        both[0].invert_yaxis()
        handles, names = both[0].get_legend_handles_labels()
        if handles:
            figure.legend(handles, names, loc="outside lower center", ncols=_columns(names))

    label = (
        f"Shrinkage drift of {len(units)} units: largest threshold error {percent(worst.tau_relative_error)} in "
        f"{worst.unit} of {worst.variant}."
    )
    return draw("drift", label, build, height=1.2 + 0.21 * len(units))


def zeroed(drifts: Sequence[ShrinkageDrift]) -> str | None:
    """Share of features that every unit sets to zero: the reference as bars, the variants as markers on them."""
    kept = [item for item in drifts if item.zero_share is not None and item.zero_share_reference is not None]
    units = list(dict.fromkeys(item.unit for item in kept))
    variants = list(dict.fromkeys(item.variant for item in kept))
    if not units:
        return None
    reference = {item.unit: 100 * (item.zero_share_reference or 0.0) for item in kept}
    said = ", ".join(f"{unit} {reference[unit]:.0f} %" for unit in units)

    def build(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.barh(
            range(len(units)), [reference[unit] for unit in units], height=0.6, color=INK, alpha=0.16, label="onnx-fp32"
        )
        for index, variant in enumerate(variants):
            rows = [
                (units.index(item.unit), 100 * (item.zero_share or 0.0)) for item in kept if item.variant == variant
            ]
            aside = 0.18 * (index - (len(variants) - 1) / 2)
            style = {**look(variant), "linestyle": "none"}
            axes.plot([value for _, value in rows], [place + aside for place, _ in rows], label=variant, **style)
        axes.set_yticks(range(len(units)), units)
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        axes.grid(visible=False, axis="y")
        axes.set_title("features set to zero, %")
        figure.legend(loc="outside lower center", ncols=_columns([*variants, "reference"]))

    return draw("zeroed", f"Share of features set to zero per unit: {said}.", build, height=1.2 + 0.21 * len(units))


def hops(items: Sequence[Hop]) -> str | None:
    """How loud the error of each hop is, in dB below the logits."""
    if not items:
        return None
    levels = [-hop.error.sqnr_db if hop.error is not None else -math.inf for hop in items]
    finite = [value for value in levels if math.isfinite(value)]
    bottom = min([-60.0, *(value - 15 for value in finite)])
    top = max([0.0, *(value + 5 for value in finite)])
    said = "; ".join(f"{hop.from_} to {hop.to}: {_said(hop)}" for hop in items)

    def build(figure: Any) -> None:
        axes = figure.add_subplot()
        for row, (hop, value) in enumerate(zip(items, levels, strict=True)):
            end = top if value == math.inf else value
            if math.isfinite(end):
                hatch = "////" if hop.status == "failed" else None
                colour = COLOURS.get(hop.to, _OTHER)
                axes.barh(row, end - bottom, left=bottom, height=0.42, color=colour, edgecolor=INK, hatch=hatch, lw=0.6)
            axes.text(bottom, row - 0.31, f"{hop.from_} → {hop.to}: {_said(hop)}", va="bottom", fontsize=9)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False, axis="y")
        axes.set_xlim(bottom, top)
        axes.set_ylim(len(items) - 0.6, -0.85)
        axes.set_xlabel("error power relative to the logits, dB")

    return draw("hops", f"Error of each hop. {said}.", build, height=0.7 + 0.52 * len(items))


def _said(hop: Hop) -> str:
    if hop.error is None:
        return "not run" if hop.status == "not_run" else "failed"
    if hop.error.identical:
        return "identical"
    if hop.error.nonfinite:
        return "NaN or infinity"
    return level(-hop.error.sqnr_db) + (", out of tolerance" if hop.status == "failed" else "")
