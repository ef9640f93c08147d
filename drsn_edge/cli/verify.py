"""`drsn-edge verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drsn_edge.cli import options as common
from drsn_edge.cli.ui import session

EPILOG = """
Examples:

    drsn-edge verify cw.drsn
    drsn-edge verify cw.drsn --data cwru:DIR --json > parity.json
    drsn-edge verify cw.drsn --require engine
    drsn-edge verify cw.drsn --mark
    drsn-edge verify --from parity.json --tolerance strict.toml
"""


def command(
    bundle: Annotated[Path | None, typer.Argument(help="The bundle, NAME.drsn.")] = None,
    data: Annotated[
        str | None, typer.Option(metavar="DATASET", help="Sweep its test windows over noise as well.")
    ] = None,
    where: common.Where = None,
    load: common.Load = None,
    noise: Annotated[str | None, typer.Option(help="Kinds of noise; those of the training by default.")] = None,
    snr: Annotated[str, typer.Option(metavar="LOW:HIGH:STEP", help="Levels in dB; write --snr=-10:10:2.")] = "-10:10:2",
    draws: Annotated[
        int | None, typer.Option(min=1, help="Noise draws per window; planned so that the gate can decide.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 1,
    require: Annotated[str | None, typer.Option(help="engine: fail when an engine could not run.")] = None,
    mark: Annotated[
        bool, typer.Option("--mark", help="Write into engine.json whether each engine that runs here passed.")
    ] = False,
    tolerance: Annotated[Path | None, typer.Option(help="TOML or JSON file with another gate.")] = None,
    saved: Annotated[
        Path | None, typer.Option("--from", metavar="REPORT.json", help="Judge a saved result again; runs nothing.")
    ] = None,
    expect_digest: Annotated[str | None, typer.Option(help="SHA-256 that the manifest must have.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report here.")] = None,
    force: common.Force = False,
    json: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Say in numbers whether each form of the network still decides as PyTorch does. Exit 5 when one does not."""
    with session(json=json, quiet=quiet, debug=debug) as ui:
        from drsn_edge.errors import UsageError
        from drsn_edge.extras import require as require_package
        from drsn_edge.files import check_output
        from drsn_edge.pipeline.sweep import SweepOptions
        from drsn_edge.pipeline.verify import judge_again, verify
        from drsn_edge.signals.noise import parse_snr_sweep

        if (bundle is None) == (saved is None):
            raise UsageError(
                "verify needs a bundle or a saved result",
                got="both" if bundle is not None else "neither",
                expected="drsn-edge verify NAME.drsn, or drsn-edge verify --from REPORT.json",
            )
        if mark and bundle is None:
            raise UsageError(
                "a saved result marks no engine", got="--mark", expected="drsn-edge verify NAME.drsn --mark"
            )
        if report is not None:
            check_output(report, force=force)
            require_package("matplotlib", purpose="the report")
        if saved is not None:
            result = judge_again(saved, gate=tolerance)
        else:
            assert bundle is not None
            noises = common.parse_noises(noise) if noise is not None else None
            options = SweepOptions(noises=noises, snrs_db=parse_snr_sweep(snr), draws=draws, seed=seed)
            result = verify(
                bundle,
                data=data,
                where=common.parse_where(where, load),
                options=options,
                gate=tolerance,
                require=require,
                expect_digest=expect_digest,
                progress=ui.progress,
            )
            if mark:
                from drsn_edge.bundle import Bundle
                from drsn_edge.pipeline.engine_check import mark_engines

                verdicts, _ = mark_engines(Bundle.open(bundle), progress=ui.progress)
                ui.notices(f"{item.key} was not marked: {item.reason}" for item in verdicts if item.reason)
        ui.notices(result.notes)
        from drsn_edge.cli.tables import parity_table

        if report is not None:
            from drsn_edge.pipeline.reporting import write_parity_report

            write_parity_report(report, result, bundle=bundle)
        ui.show(result.to_json(), lambda console: parity_table(console, result))
        if not result.passed:
            raise typer.Exit(5)
