"""`drsn-edge demo`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drsn_edge.cli import options as common
from drsn_edge.cli.ui import session
from drsn_edge.errors import OutOfTolerance

if TYPE_CHECKING:
    from rich.console import Console

EPILOG = """
Examples:

    drsn-edge demo --out demo
"""


def command(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the run and the bundle.")] = Path("demo"),
    epochs: Annotated[int | None, typer.Option(min=1, help="Of the training.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything.")] = 0,
    force: common.Force = False,
    dry_run: common.DryRun = False,
    json: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Go the whole way once on made-up vibration: train, export, build, verify, report."""
    with session(json=json, quiet=quiet, debug=debug) as ui:
        from drsn_edge.bundle import REPORT
        from drsn_edge.cli.tables import export_table, training_table
        from drsn_edge.pipeline.demo import EPOCHS, check_demo, demo

        if dry_run:
            planned = check_demo(out=out, epochs=epochs or EPOCHS, seed=seed, force=force)
            ui.show(planned.to_json(), lambda console: training_table(console, planned))
            return
        result = demo(out=out, epochs=epochs or EPOCHS, seed=seed, force=force, progress=ui.progress)
        ui.notices(result.exported.notes)

        def render(console: Console) -> None:
            training_table(console, result.trained)
            export_table(console, result.exported)
            console.print(f"report: {result.exported.bundle.path / REPORT}", highlight=False)

        ui.show(result.to_json(), render)
        if not result.exported.parity.passed:
            raise OutOfTolerance(
                "the demo's bundle is out of tolerance",
                got=result.exported.parity.failures[0].where,
                expected="every variant within its tolerance",
                hint=f"see {result.exported.bundle.path / REPORT}",
            )
