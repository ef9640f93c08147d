"""Figures of single windows: raw samples, and what a shrinkage unit makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge.report.data import Example, WorstWindow
from drsn_edge.report.svg import INK, draw
from drsn_edge.report.text import percent


def worst(items: Sequence[WorstWindow]) -> str | None:
    """The windows on which a variant came nearest to another decision, or took it."""
    if not items:
        return None

    def build(figure: Any) -> None:
        rows = figure.subplots(len(items), 1, squeeze=False)[:, 0]
        for axes, item in zip(rows, items, strict=True):
            time_ms = np.arange(len(item.window)) / item.sample_rate_hz * 1e3
            axes.plot(*_thin(time_ms, np.asarray(item.window)), color=INK, linewidth=0.7)
            axes.set_title(f"{item.number}. {item.caption}", fontsize=8.5)
            axes.set_ylabel(item.units)
        rows[-1].set_xlabel("time, ms")

    said = "; ".join(f"{item.number}. {item.caption}, {item.outcome}" for item in items)
    return draw("worst", f"Worst windows. {said}.", build, height=0.6 + 1.15 * len(items))


def example(item: Example) -> str:
    """One window, and one channel of a unit before and after soft thresholding."""

    def build(figure: Any) -> None:
        top, bottom = figure.subplots(2, 1)
        time_ms, samples = _thin(np.arange(len(item.window)) / item.sample_rate_hz * 1e3, np.asarray(item.window))
        top.plot(time_ms, samples, color=INK, linewidth=0.7)
        top.set_title("raw window")
        top.set_xlabel("time, ms")
        top.set_ylabel(item.units)
        place = np.arange(len(item.before))
        bottom.axhspan(-item.threshold, item.threshold, color="#E69F00", alpha=0.25, lw=0, label="dead zone")
        bottom.plot(*_thin(place, np.asarray(item.before)), color="#56B4E9", linewidth=0.9, label="before")
        bottom.plot(*_thin(place, np.asarray(item.after)), color="#D55E00", linewidth=1.1, label="after shrinkage")
        bottom.set_title(f"{item.unit}, one channel, threshold {item.threshold:.3g}")
        bottom.set_xlabel("position")
        figure.legend(*bottom.get_legend_handles_labels(), loc="outside lower center", ncols=3)

    zero = float(np.mean(np.asarray(item.after) == 0))
    label = f"{item.caption}. {item.unit} sets {percent(zero)} of the channel shown to zero."
    return draw("example", label, build, height=4.6)


def _thin(place: NDArray[Any], values: NDArray[Any], most: int = 1500) -> tuple[NDArray[Any], NDArray[Any]]:
    """Smallest and largest value of each stretch: peaks stay, and the page stays small."""
    if len(values) <= most:
        return place, values
    stretches = np.array_split(np.arange(len(values)), most // 2)
    kept = np.array([sorted((row[np.argmin(values[row])], row[np.argmax(values[row])])) for row in stretches]).ravel()
    return place[kept], values[kept]
