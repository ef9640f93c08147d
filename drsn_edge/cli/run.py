"""`drsn-edge run`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from drsn_edge.cli import options as common
from drsn_edge.cli import stream_options as stream
from drsn_edge.cli.ui import session

EPILOG = """
Examples:

    drsn-edge run cw.drsn pump.wav
    drsn-edge run cw.drsn de=tcp://10.0.0.7:5000,format=int16 --alarms alarms.jsonl
    drsn-edge run cw.drsn recordings/ --events all.csv --state run.json
    drsn-edge run cw.drsn stdin,format=float32 --events - < samples.raw
"""


def command(
    bundle: Annotated[Path, typer.Argument(help="The bundle, NAME.drsn.")],
    sources: Annotated[
        list[str] | None,
        typer.Argument(help="[NAME=]PLACE[,key=value...]: a file, a folder, stdin, a named pipe or tcp://HOST:PORT."),
    ] = None,
    config: common.Config = None,
    events: Annotated[
        str | None, typer.Option(metavar="FILE", help="Everything as JSON lines, or CSV by suffix; - for stdout.")
    ] = None,
    alarms: Annotated[str | None, typer.Option(metavar="FILE", help="Alarms alone, likewise.")] = None,
    command: Annotated[
        str | None, typer.Option(metavar="PROGRAM", help="Executed for every alarm, which it gets on stdin.")
    ] = None,
    state: Annotated[Path | None, typer.Option(help="Go on from this file after a stop or a kill.")] = None,
    state_every: Annotated[float, typer.Option(min=0.0, help="Seconds from state to state.")] = 5.0,
    runner: stream.Runner = "auto",
    precision: stream.Precision = None,
    allow_unverified: stream.AllowUnverified = False,
    hop: stream.Hop = None,
    overlap: stream.Overlap = None,
    batch: Annotated[int, typer.Option(min=1, help="Windows at a time, of all sensors.")] = 64,
    resample: Annotated[bool, typer.Option("--resample", help="Take samples of another rate.")] = False,
    real_time: Annotated[
        bool | None, typer.Option("--realtime/--fast", help="Keep the sensors' pace, or wait and lose nothing.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="End when the other side closes, or a folder is read.")] = False,
    idle_exit: Annotated[
        float | None, typer.Option(min=0.0, metavar="SECONDS", help="End when nothing has come for so long.")
    ] = None,
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
    """Decide on every window of one or several sensors, with alarms, counters and a state file."""
    with session(json=json, quiet=quiet, debug=debug) as ui:
        common.no_json(config)
        from drsn_edge.bundle import Bundle
        from drsn_edge.cli.run_table import run_table, told
        from drsn_edge.cli.stopping import stopping
        from drsn_edge.errors import UsageError
        from drsn_edge.pipeline.run import StreamOptions, run
        from drsn_edge.runtime.notify import watched

        if json and "-" in (events, alarms):
            raise UsageError(
                "stdout cannot hold both", got="--json, and lines to -", expected="one of them",
                hint="write the lines to a file",
            )  # fmt: skip
        opened = Bundle.open(bundle)
        smoothing = stream.smoothing_of(votes, release, min_confidence, normal)

        def show(record: Mapping[str, Any]) -> None:
            if text := told(record):
                ui.progress.notice(text)

        with stopping() as stop:
            result = run(
                opened,
                sources or [],
                events=events,
                alarms=alarms,
                command=command,
                state=state,
                runner=runner,
                precision=precision,
                allow_unverified=allow_unverified,
                options=StreamOptions(
                    hop=stream.hop_of(hop, overlap, opened.contract.window),
                    batch=batch,
                    real_time=real_time,
                    resample=resample,
                    once=once,
                    idle_exit_s=idle_exit,
                    state_every_s=state_every,
                    drift_windows=drift_windows,
                ),
                smoothing=smoothing,
                force=force,
                dry_run=dry_run,
                stop=watched(stop),  # as a service it says so to systemd, every turn that is due
                on_record=None if quiet else show,
                notice=ui.progress.notice,
            )
        if "-" in (events, alarms):
            ui.notices(() if quiet else run_table(result).splitlines())
        else:
            ui.show(result.to_json(), lambda _: typer.echo(run_table(result)))
        if result.lost_lines:
            typer.echo(f"error: {result.lost_lines} lines could not be written", err=True)
            raise typer.Exit(1)
