"""Matplotlib figures as SVG that lives inside a page: no network names, unique ids, the page's own text colour."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from html import escape
from typing import Any

from drsn_edge.extras import require

# Stands for "the colour of the text around"; replaced after drawing, so that one figure serves light and dark pages.
INK = "#010203"
GRID_ALPHA = 0.18
FONT_PT = 9.5

_STYLE = {
    "svg.fonttype": "none",
    "font.size": FONT_PT,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": FONT_PT,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.6,
    "grid.color": INK,
    "grid.alpha": GRID_ALPHA,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def draw(name: str, label: str, build: Callable[[Any], None], *, height: float, width: float = 4.4) -> str:
    """An `<svg>` element.

    Args:
        name: Unique in the page; prefixes every id in the figure.
        label: What the figure shows, for those who do not see it.
        build: Draws on the figure that it is given.
        height: In inches.
        width: In inches; 4.4 keeps the text readable on a phone.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    matplotlib = require("matplotlib", purpose="the report")
    figures = require("matplotlib.figure", purpose="the report")
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = figures.Figure(figsize=(width, height), layout="constrained")
        build(figure)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    return inline(drawn.getvalue(), name=name, label=label)


def inline(document: str, *, name: str, label: str) -> str:
    """The `<svg>` element of a stand-alone SVG document, fit to stand in a page."""
    body = document[document.index("<svg") : document.rindex("</svg>")]
    opening, _, content = body.partition(">")
    content = re.sub(r"<metadata>.*?</metadata>", "", content, flags=re.DOTALL)
    content = content.replace("xlink:href=", "href=")
    content = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', content)
    content = re.sub(r'(href="#|url\(#)', rf"\1{name}-", content)
    content = re.sub(r"(font: [^;\"]*?[\d.]+px) [^;\"]*", r"\1 system-ui, sans-serif", content)
    content = re.sub(re.escape(INK), "currentColor", content, flags=re.IGNORECASE)
    box = re.search(r'viewBox="[^"]+"', opening)
    if box is None:
        raise ValueError("the SVG has no viewBox")
    words = escape(label)
    return f'<svg {box.group()} role="img" aria-label="{words}"><title>{words}</title>{content}</svg>'
