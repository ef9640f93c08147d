"""`drsn-edge study`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drsn_edge.cli import options as common
from drsn_edge.cli.ui import session

EPILOG = """
Examples:

    drsn-edge study synthetic --models resnet,drsn-cw --seeds 3 --out first
    drsn-edge study cwru:DIR --load 0 --models resnet,drsn-cs,drsn-cw --out cwru
    drsn-edge study cwru:DIR --protocol bearing --fold all --out bearing
    drsn-edge study --summarise cwru
"""


def command(
    dataset: Annotated[
        str | None,
        typer.Argument(help="synthetic, cwru:DIR, spoken-digits:DIR, images:FILE.npz, or table:FILE.csv for your own."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder; the same command goes on there.")] = None,
    config: common.Config = None,
    models: Annotated[str, typer.Option(help="Of convnet, resnet, senet, drsn-cs, drsn-cw.")] = "resnet,drsn-cw",
    preset: Annotated[str, typer.Option(help="paper (4-16 channels) or edge (multiples of 32).")] = "paper",
    protocol: Annotated[str, typer.Option(help="time, load, bearing, speaker, given or random.")] = "time",
    fold: Annotated[str, typer.Option(metavar="N,...|all", help="Which groups test, in turn.")] = "0",
    where: common.Where = None,
    load: common.Load = None,
    noise: Annotated[str, typer.Option(help="Kinds of noise; each is trained and tested by itself.")] = "gaussian",
    snr: Annotated[str, typer.Option(metavar="LOW:HIGH:STEP", help="Tested SNR in dB.")] = "-10:10:2",
    train_snr: Annotated[
        str, typer.Option(metavar="LOW:HIGH", help="Trained SNR in dB, or none; write --train-snr=-6:10.")
    ] = "-6:10",
    noise_once: Annotated[
        bool, typer.Option("--noise-once", help="Keep the noise of one draw through all epochs, as the paper does.")
    ] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each network, with seeds from 0.")] = 5,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs; the default suits the data set.")] = None,
    batch: Annotated[int, typer.Option(min=2, help="Windows per step.")] = 128,
    lr: Annotated[float, typer.Option(min=0.0, help="First learning rate.")] = 0.1,
    draws: Annotated[int, typer.Option(min=10, help="Noise draws per test window.")] = 10,
    window: Annotated[int | None, typer.Option(min=2, help="Samples per window.")] = None,
    hop: Annotated[int | None, typer.Option(min=1, help="Samples from window to window.")] = None,
    confusion: Annotated[
        str | None, typer.Option(metavar="SNR,...", help="Where confusion is shown, e.g. -6,0,clean.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; by default one for each core or GPU.")] = None,
    device: common.Device = "auto",
    summarise: Annotated[
        Path | None, typer.Option("--summarise", metavar="DIR", help="Rebuild the results of a study, and stop.")
    ] = None,
    dry_run: common.DryRun = False,
    json: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Train networks over noises, folds and seeds, and say how surely one is better than another."""
    with session(json=json, quiet=quiet, debug=debug) as ui:
        common.no_json(config)
        from drsn_edge.cli import study_options
        from drsn_edge.pipeline.study import study
        from drsn_edge.pipeline.study_result import StudyResult, summarise_study

        shown = study_options.parse_confusion(confusion)
        result: StudyResult
        if summarise is not None:
            study_options.check_summarise(dataset, out)
            result = summarise_study(summarise, confusion=shown)
        else:
            spec, folder = study_options.check_given(dataset, out)
            result = study(
                spec,
                out=folder,
                options=study_options.parse(
                    models=models,
                    preset=preset,
                    protocol=protocol,
                    fold=fold,
                    noise=noise,
                    snr=snr,
                    train_snr=train_snr,
                    noise_once=noise_once,
                    seeds=seeds,
                    epochs=epochs,
                    batch=batch,
                    lr=lr,
                    draws=draws,
                    window=window,
                    hop=hop,
                ),
                where=common.parse_where(where, load),
                confusion=shown,
                workers=workers,
                device=device,
                dry_run=dry_run,
                progress=ui.progress,
            )
        ui.notices(result.notes)
        from drsn_edge.cli.study_table import study_table

        ui.show(result.to_json(), lambda console: study_table(console, result))
