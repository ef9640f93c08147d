"""A precision plan as a file that people edit and give back."""

from __future__ import annotations

from pathlib import Path

from drsn_edge.calibration.plan import PrecisionPlan
from drsn_edge.errors import InputError
from drsn_edge.files import read_json


def read_plan(path: Path) -> PrecisionPlan:
    """The plan of a JSON document that has its rows under `plan`: `calibration.json`, what `inspect --json` prints.

    Of an edited row layer, precision and reason count; the rest is what the graph says.

    Raises:
        InputError: No such file, no plan in it, or a damaged row.
    """
    rows = read_json(path, what="the precision plan").get("plan")
    if not isinstance(rows, list) or not rows:
        raise InputError(
            f"{path} holds no precision plan", got=f"plan: {rows!r}", expected="a list of rows as `plan`",
            hint="drsn-edge inspect BUNDLE --json has the plan of a bundle",
        )  # fmt: skip
    return PrecisionPlan.from_json(rows)
