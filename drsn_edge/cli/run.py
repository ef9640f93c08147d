"""`drsn-edge run`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from drsn_edge.cli import options as common
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
    config: Annotated[
        Path | None,
        typer.Option("--config", is_eager=True, callback=common.read_options, help="TOML file of options; flags win."),
    ] = None,
    events: Annotated[
        str | None, typer.Option(metavar="FILE", help="Everything as JSON lines, or CSV by suffix; - for stdout.")
    ] = None,
    alarms: Annotated[str | None, typer.Option(metavar="FILE", help="Alarms alone, likewise.")] = None,
    command: Annotated[
        str | None, typer.Option(metavar="PROGRAM", help="Executed for every alarm, which it gets on stdin.")
    ] = None,
    state: Annotated[Path | None, typer.Option(help="Go on from this file after a stop or a kill.")] = None,
    state_every: Annotated[float, typer.Option(min=0.0, help="Seconds from state to state.")] = 5.0,
    runner: Annotated[str, typer.Option(help="auto, engine or onnxruntime.")] = "auto",
    precision: Annotated[str | None, typer.Option(help="fp32, fp16 or int8.")] = None,
    allow_unverified: Annotated[
        bool, typer.Option("--allow-unverified", help="Take an engine that never passed a parity check.")
    ] = False,
    hop: Annotated[int | None, typer.Option(min=1, help="Samples from window to window; the contract's.")] = None,
    overlap: Annotated[
        float | None, typer.Option(min=0.0, max=0.999, help="Instead of --hop: share that windows have in common.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Windows at a time, of all sensors.")] = 64,
    resample: Annotated[bool, typer.Option("--resample", help="Take samples of another rate.")] = False,
    real_time: Annotated[
        bool | None, typer.Option("--realtime/--fast", help="Keep the sensors' pace, or wait and lose nothing.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="End when the other side closes, or a folder is read.")] = False,
    idle_exit: Annotated[
        float | None, typer.Option(min=0.0, metavar="SECONDS", help="End when nothing has come for so long.")
    ] = None,
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
    """Decide on every window of one or several sensors, with alarms, counters and a state file."""
    with session(json=json, quiet=quiet, debug=debug) as ui:
        common.no_json(config)
        from drsn_edge.bundle import Bundle
        from drsn_edge.cli.run_table import hop_of, run_table, told, votes_of
        from drsn_edge.cli.stopping import stopping
        from drsn_edge.errors import UsageError
        from drsn_edge.pipeline.run import StreamOptions, run
        from drsn_edge.runtime.notify import watched
        from drsn_edge.stream.smoothing import SmoothingOptions

        if json and "-" in (events, alarms):
            raise UsageError(
                "stdout cannot hold both", got="--json, and lines to -", expected="one of them",
                hint="write the lines to a file",
            )  # fmt: skip
        opened = Bundle.open(bundle)
        needed, of = votes_of(votes)

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
                    hop=hop_of(hop, overlap, opened.contract.window),
                    batch=batch,
                    real_time=real_time,
                    resample=resample,
                    once=once,
                    idle_exit_s=idle_exit,
                    state_every_s=state_every,
                    drift_windows=drift_windows,
                ),
                smoothing=SmoothingOptions(
                    votes=needed,
                    of=of,
                    release=max(1, needed - 1) if release is None else release,
                    min_confidence=min_confidence,
                    normal=tuple(normal or ()),
                ),
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
