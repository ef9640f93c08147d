"""`drsn-edge demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drsn_edge.cli import options as common
from drsn_edge.cli.ui import session
from drsn_edge.errors import OutOfTolerance

EPILOG = """
Examples:

    drsn-edge demo --out demo
"""


def command(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the run and the bundle.")] = Path("demo"),
    epochs: Annotated[int | None, typer.Option(min=1, help="Of the training.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything.")] = 0,
    force: common.Force = False,
    json: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Go the whole way once on made-up vibration: train, export, build, verify, report."""
    with session(json=json, quiet=quiet, debug=debug) as ui:
        from drsn_edge.pipeline.demo import EPOCHS, demo

        result = demo(out=out, epochs=epochs or EPOCHS, seed=seed, force=force, progress=ui.progress)
        ui.notices(result.exported.notes)
        from drsn_edge.cli.tables import export_table, training_table

        def render(console: object) -> None:
            training_table(console, result.trained)  # type: ignore[arg-type]
            export_table(console, result.exported)  # type: ignore[arg-type]
            typer.echo(f"report: {result.exported.bundle.path / 'report.html'}")

        ui.show(result.to_json(), render)
        if not result.exported.parity.passed:
            raise OutOfTolerance(
                "the demo's bundle is out of tolerance",
                got=result.exported.parity.failures[0].where,
                expected="every variant within its tolerance",
            )
