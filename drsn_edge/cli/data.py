"""`drsn-edge data`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from drsn_edge.cli import options as common
from drsn_edge.cli.ui import session

if TYPE_CHECKING:
    from rich.console import Console

EPILOG = """
Examples:

    drsn-edge data synthetic
    drsn-edge data table:recordings.csv --protocol bearing --fold 1
"""


def command(
    dataset: Annotated[
        str,
        typer.Argument(help="synthetic, cwru:DIR, spoken-digits:DIR, images:FILE.npz, or table:FILE.csv for your own."),
    ],
    protocol: Annotated[str, typer.Option(help="time, load, bearing, speaker, given or random.")] = "time",
    fold: Annotated[int, typer.Option(min=0, help="Which group tests.")] = 0,
    where: common.Where = None,
    load: common.Load = None,
    window: Annotated[int | None, typer.Option(min=2, help="Samples per window.")] = None,
    hop: Annotated[int | None, typer.Option(min=1, help="Samples from window to window.")] = None,
    seed: Annotated[int, typer.Option(help="Of the protocol random.")] = 0,
    json: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Say what a data set holds and how it would be split, before anything is trained on it."""
    with session(json=json, quiet=quiet, debug=debug) as ui:
        from drsn_edge.pipeline.survey import data

        facts = data(
            dataset,
            where=common.parse_where(where, load),
            protocol=protocol,
            fold=fold,
            seed=seed,
            window=window,
            hop=hop,
        )
        ui.notices(facts["notes"])

        def render(console: Console) -> None:
            from drsn_edge.cli.tables import survey_table

            survey_table(console, facts)

        ui.show(facts, render)
