"""`drsn-edge score`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drsn_edge.cli import options as common
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
    config: Annotated[
        Path | None,
        typer.Option("--config", is_eager=True, callback=common.read_options, help="TOML file of options; flags win."),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; by default one for each CPU.")] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A Dask scheduler, whose workers are taken instead.")
    ] = None,
    lines: Annotated[bool, typer.Option("--lines/--no-lines", help="Write every decision down.")] = True,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try again what failed before.")] = False,
    runner: Annotated[str, typer.Option(help="auto, engine or onnxruntime.")] = "auto",
    precision: Annotated[str | None, typer.Option(help="fp32, fp16 or int8.")] = None,
    allow_unverified: Annotated[
        bool, typer.Option("--allow-unverified", help="Take an engine that never passed a parity check.")
    ] = False,
    hop: Annotated[int | None, typer.Option(min=1, help="Samples from window to window; the contract's.")] = None,
    overlap: Annotated[
        float | None, typer.Option(min=0.0, max=0.999, help="Instead of --hop: share that windows have in common.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Windows at a time.")] = 64,
    resample: Annotated[bool, typer.Option("--resample", help="Take recordings of another rate.")] = False,
    votes: Annotated[str, typer.Option(metavar="K/N", help="Windows that must agree.")] = "3/5",
    release: Annotated[int | None, typer.Option(min=1, help="Of them, those that keep a state; K - 1.")] = None,
    min_confidence: Annotated[float, typer.Option(help="Below it a window says unknown.")] = 0.5,
    normal: Annotated[list[str] | None, typer.Option(metavar="LABEL", help="A label that is no alarm.")] = None,
    drift_windows: Annotated[int, typer.Option(min=1, help="Windows that telemetry is averaged over.")] = 16,
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
        from drsn_edge.cli.run_table import hop_of, score_table, votes_of
        from drsn_edge.pipeline.run import StreamOptions
        from drsn_edge.pipeline.score import score
        from drsn_edge.stream.smoothing import SmoothingOptions

        opened = Bundle.open(bundle)
        needed, of = votes_of(votes)
        result = score(
            opened, archives, out=out, workers=workers, scheduler=scheduler, lines=lines, retry_failed=retry_failed,
            runner=runner, precision=precision, allow_unverified=allow_unverified,
            options=StreamOptions(
                hop=hop_of(hop, overlap, opened.contract.window), batch=batch, resample=resample,
                drift_windows=drift_windows,
            ),
            smoothing=SmoothingOptions(
                votes=needed, of=of, release=max(1, needed - 1) if release is None else release,
                min_confidence=min_confidence, normal=tuple(normal or ()),
            ),
            force=force, dry_run=dry_run, progress=ui.progress,
        )  # fmt: skip
        ui.notices(result.notes)
        ui.show(result.to_json(), lambda _: typer.echo(score_table(result)))
