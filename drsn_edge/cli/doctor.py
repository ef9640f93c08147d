"""`drsn-edge doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drsn_edge.cli import options as common
from drsn_edge.cli.ui import session

if TYPE_CHECKING:
    from rich.console import Console

EPILOG = """
Examples:

    drsn-edge doctor
    drsn-edge doctor cw.drsn --json
"""


def command(
    bundle: Annotated[Path | None, typer.Argument(help="Also say whether this bundle's needs are met.")] = None,
    json: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Say what this machine has, what is missing, and how to get it. Exit 3 when no engine of BUNDLE can run here."""
    with session(json=json, quiet=quiet, debug=debug) as ui:
        from drsn_edge.pipeline.doctor import doctor, to_json

        findings = doctor(bundle)

        def render(console: Console) -> None:
            from drsn_edge.cli.facts import findings_table

            findings_table(console, findings)

        value = to_json(findings)
        ui.show(value, render)
        if not value["ok"]:
            raise typer.Exit(3)
