"""`drsn-edge inspect`."""

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

    drsn-edge inspect cw.drsn
    drsn-edge inspect model.fp16.engine --json
"""


def command(
    path: Annotated[
        Path, typer.Argument(help="A bundle, run folder, engine (a plan or its folder), .onnx or .safetensors file.")
    ],
    json: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Say what a file or folder is: precisions, plan, engines, contract, hashes."""
    with session(json=json, quiet=quiet, debug=debug) as ui:
        from drsn_edge.pipeline.inspect import inspect

        facts = inspect(path)

        def render(console: Console) -> None:
            from drsn_edge.cli.facts import facts_table

            facts_table(console, facts)

        ui.show(facts, render)
        if facts.get("damaged"):
            raise typer.Exit(4)
