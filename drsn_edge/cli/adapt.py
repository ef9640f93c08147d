"""`drsn-edge adapt`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drsn_edge.cli import options as common
from drsn_edge.cli.ui import session

EPILOG = """
Examples:

    drsn-edge adapt runs/pumps table:site-b.csv --out runs/site-b
    drsn-edge adapt runs/pumps table:site-b.csv --old table:copy/site-a.csv --epochs 30 --out runs/site-b
"""


def command(
    run: Annotated[Path, typer.Argument(help="A run of `drsn-edge train`.")],
    dataset: Annotated[str, typer.Argument(help="Recordings of the new site.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The new run.")],
    old: Annotated[
        str | None,
        typer.Option(metavar="DATASET", help="The old site; what RUN was trained on, or none to do without."),
    ] = None,
    where: common.Where = None,
    protocol: Annotated[str, typer.Option(help="How the new recordings are split, as for train.")] = "time",
    fold: Annotated[int, typer.Option(min=0, help="Which group tests.")] = 0,
    epochs: Annotated[int | None, typer.Option(min=1, help="By the number of windows, by default.")] = None,
    batch: Annotated[int, typer.Option(min=2, help="Windows per step.")] = 128,
    lr: Annotated[float, typer.Option(min=0.0, help="First learning rate.")] = 0.01,
    seed: Annotated[int, typer.Option(help="Of order and noise.")] = 0,
    draws: Annotated[int, typer.Option(min=1, help="Noise draws for each window that is scored.")] = 10,
    threads: common.Threads = 1,
    force: common.Force = False,
    dry_run: common.DryRun = False,
    json: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Go on training a run on a few recordings of another machine; scores before and after, on both."""
    with session(json=json, quiet=quiet, debug=debug) as ui:
        from drsn_edge.pipeline.adapt import adapt

        result = adapt(
            run, dataset, out=out, old=old, where=common.parse_where(where), protocol=protocol, fold=fold,
            epochs=epochs, batch=batch, lr=lr, seed=seed, draws=draws, force=force, dry_run=dry_run, threads=threads,
            progress=ui.progress,
        )  # fmt: skip
        ui.notices(result.notes)

        def render(_: object) -> None:
            typer.echo(f"{'site':<6}{'test windows':<22}{'before %':>10}{'after %':>10}")
            pairs: dict[tuple[str, str], dict[str, float]] = {}
            for item in result.scores:
                pair = pairs.setdefault((item.site, item.score.condition), {})
                pair[item.network] = 100 * item.score.balanced_accuracy
            for (site, condition), found in pairs.items():
                typer.echo(f"{site:<6}{condition:<22}{found['before']:>10.1f}{found['after']:>10.1f}")
            for site in result.datasets if result.scores else ():
                typer.echo(f"{site} site, clean: {100 * result.change(site):+.1f} points")
            typer.echo(f"{result.run}, from {result.source}")

        ui.show(result.to_json(), render)
