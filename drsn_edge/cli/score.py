"""`drsn-edge score`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drsn_edge.cli import options as common
from drsn_edge.cli import stream_options as stream
from drsn_edge.cli.ui import session

EPILOG = """
Examples:

    drsn-edge score cw.drsn archive/ --out scores
    drsn-edge score cw.drsn a=/mnt/a,channel=1 b=/mnt/b,channel=0 --workers 8 --out scores
    drsn-edge score cw.drsn /mnt/archive --scheduler tcp://10.0.0.7:8786 --out /mnt/s
"""


def command(
    bundle: Annotated[Path, typer.Argument(help="The bundle, NAME.drsn.")],
    archives: Annotated[
        list[str], typer.Argument(help="[NAME=]PLACE[,key=value...]: folders, nested as they may be, and files.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of results; gone on with where it exists.")],
    config: common.Config = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; by default one for each CPU.")] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A Dask scheduler, whose workers are taken instead.")
    ] = None,
    lines: Annotated[bool, typer.Option("--lines/--no-lines", help="Write every decision down.")] = True,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try again what failed before.")] = False,
    runner: stream.Runner = "auto",
    precision: stream.Precision = None,
    allow_unverified: stream.AllowUnverified = False,
    hop: stream.Hop = None,
    overlap: stream.Overlap = None,
    batch: Annotated[int, typer.Option(min=1, help="Windows at a time.")] = 64,
    resample: Annotated[bool, typer.Option("--resample", help="Take recordings of another rate.")] = False,
    votes: stream.Votes = "3/5",
    release: stream.Release = None,
    min_confidence: stream.MinConfidence = 0.5,
    normal: stream.Normal = None,
    drift_windows: stream.DriftWindows = 16,
    force: common.Force = False,
    dry_run: common.DryRun = False,
    json: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Decide on years of archived recordings in parallel; after a kill the same command goes on."""
    with session(json=json, quiet=quiet, debug=debug) as ui:
        common.no_json(config)
        from drsn_edge.bundle import Bundle
        from drsn_edge.cli.run_table import score_table
        from drsn_edge.pipeline.run import StreamOptions
        from drsn_edge.pipeline.score import score

        opened = Bundle.open(bundle)
        smoothing = stream.smoothing_of(votes, release, min_confidence, normal)
        result = score(
            opened, archives, out=out, workers=workers, scheduler=scheduler, lines=lines, retry_failed=retry_failed,
            runner=runner, precision=precision, allow_unverified=allow_unverified,
            options=StreamOptions(
                hop=stream.hop_of(hop, overlap, opened.contract.window), batch=batch, resample=resample,
                drift_windows=drift_windows,
            ),
            smoothing=smoothing,
            force=force, dry_run=dry_run, progress=ui.progress,
        )  # fmt: skip
        ui.notices(result.notes)
        ui.show(result.to_json(), lambda _: typer.echo(score_table(result)))
