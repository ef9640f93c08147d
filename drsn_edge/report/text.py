"""Numbers and tables as HTML; every string from outside is escaped here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

NONE = "–"


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits; a dash for nothing."""
    if value is None or math.isnan(value):
        return NONE
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.{digits}g}".replace("-", "−")


def percent(value: float | None) -> str:
    """A share in percent, with as many digits as it takes to tell it from its neighbours."""
    if value is None or math.isnan(value):
        return NONE
    if math.isinf(value):
        return "∞"
    share = 100 * value
    if share in (0, 100):
        return f"{share:.0f} %"
    if 99 < share < 100 or share < 10:
        return f"{share:.2f} %"
    return f"{share:.1f} %"


def level(value: float) -> str:
    """Decibels, with a true minus."""
    return f"{value:.0f} dB".replace("-", "−")


def size(bytes_: float) -> str:
    """Bytes for people."""
    for unit, factor in (("MB", 1e6), ("kB", 1e3)):
        if bytes_ >= factor:
            return f"{bytes_ / factor:.3g} {unit}"
    return f"{bytes_:.0f} B"


def plain(value: Any) -> str:
    """Any JSON value in words."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value, 5)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    return str(value)


def cell(value: Any, tag: str = "td", attributes: str = "", *, right: bool = True) -> str:
    """One table cell; numbers and what looks like one are set right, a dash only where its column's cells are."""
    text = plain(value)
    kind = ""
    if len(text) > 24 and " " not in text:
        kind = "code"  # hashes and paths have no spaces to break at
    elif len(text) > 40:
        kind = "words"
    elif _numeric(text) and (right or text != NONE):
        kind = "n"
    kind = kind and f' class="{kind}"'
    return f"<{tag}{kind}{attributes}>{escape(text)}</{tag}>"


def _numeric(text: str) -> bool:
    return len(text) <= 24 and (text[:1].isdigit() or text[:1] in "−∞–")


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in its own scrolling region, which the keyboard reaches; the first column heads its row."""
    # A heading stands where its column's figures stand.
    right = [bool(rows) and all(_numeric(plain(row[index])) for row in rows) for index in range(len(columns))]
    head = "".join(
        f'<th scope="col"{" class=n" if aligned else ""}>{escape(name)}</th>'
        for name, aligned in zip(columns, right, strict=True)
    )
    body = "".join(
        f"<tr>{cell(row[0], 'th', ' scope=row')}"
        f"{''.join(cell(item, right=aligned) for item, aligned in zip(row[1:], right[1:], strict=True))}</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}"><table>'
        f"<caption><span>{escape(caption)}</span></caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def rows_table(caption: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of uniform mappings; columns in the order of their first appearance."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return table(caption, [name.replace("_", " ") for name in columns], [[row.get(n) for n in columns] for row in rows])


def pairs(values: Mapping[str, Any]) -> str:
    """Names and values as a description list."""
    items = "".join(
        f"<div><dt>{escape(str(name).replace('_', ' '))}</dt><dd>{escape(plain(value))}</dd></div>"
        for name, value in values.items()
    )
    return f"<dl>{items}</dl>"
