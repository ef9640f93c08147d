"""The precision plan as `export` prints it: every layer is in it, with the reason for what it computes in."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from drsn_edge.cli.tables import precision_table


def printed(plan: list[dict[str, str]], width: int = 200) -> str:
    out = io.StringIO()
    precision_table(Console(file=out, width=width), plan)
    return out.getvalue()


def row(layer: str, precision: str = "int8", reason: str = "constant weights", warning: str = "") -> dict[str, str]:
    kind = "Conv" if "conv" in layer else "threshold branch"
    return {"layer": layer, "kind": kind, "precision": precision, "reason": reason, "warning": warning, "tensor": ""}


def test_layers_with_the_same_words_share_a_row() -> None:
    plan = [row("conv0", "fp16", "first layer"), row("u0/threshold", "fp16", "moves the dead zone")]
    plan += [row("u0.conv1"), row("u1/threshold", "fp16", "moves the dead zone"), row("u1.conv1"), row("u2.conv1")]
    plan += [row("u3.conv1", warning="4 to 8 channels")]
    head, *lines = printed(plan).splitlines()
    assert re.findall(r"\w+", head) == ["layers", "kind", "precision", "why"]
    cells = [re.split(r"  +", line.strip()) for line in lines if line.strip()]
    assert cells == [
        ["conv0", "Conv", "fp16", "first layer"],
        ["u0/threshold and 1 more", "threshold branch", "fp16", "moves the dead zone"],
        ["u0.conv1 and 2 more", "Conv", "int8", "constant weights"],
        ["u3.conv1", "Conv", "int8", "constant weights (4 to 8 channels)"],
    ]


def test_words_in_brackets_are_printed_as_they_are() -> None:
    assert "eats [/3]" in printed([row("conv0", reason="eats [/3] of it")])


@pytest.mark.parametrize("width", [40, 80])
def test_nothing_is_cut_off_at_a_narrow_terminal(width: int) -> None:
    words = "sensitive: alone it changes 0.31% of decisions and eats 4.0% of their margins"
    text = printed([row("units.11.conv2/Conv", reason=words)], width=width)
    assert set(re.findall(r"\w+", words)) <= set(re.findall(r"\w+", text))


def test_export_prints_the_plan(workshop: Any, tmp_path: Path, cli: Callable[..., Any]) -> None:
    said = cli(
        "export", workshop.run, "--out", tmp_path / "a.drsn", "--calibrate", workshop.data, "--engine", "none",
        "--no-report", "--precision", "int8", "--method", "mse", "--rounding", "nearest",
    )  # fmt: skip
    assert re.search(r"layers +kind +precision +why", said.out)
    assert "threshold branch" in said.out
    assert "first layer: it sees the raw signal" in re.sub(r"\s+", " ", said.out)
