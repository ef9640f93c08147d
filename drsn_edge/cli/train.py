"""`drsn-edge train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drsn_edge.cli import options as common
from drsn_edge.cli.ui import session

EPILOG = """
Examples:

    drsn-edge train synthetic --out runs/first
    drsn-edge train cwru:DIR --load 0 --snr=-6:10 --out runs/cw
    drsn-edge train table:recordings.csv --protocol bearing --out runs/mine
    torchrun --nproc-per-node 2 -m drsn_edge train cwru:DIR --out runs/cw
    drsn-edge train cwru:DIR --init runs/cw --qat --out runs/cw-int8
"""


def command(
    dataset: Annotated[
        str,
        typer.Argument(help="synthetic, cwru:DIR, spoken-digits:DIR, images:FILE.npz, or table:FILE.csv for your own."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")],
    config: common.Config = None,
    model: Annotated[str, typer.Option(help="convnet, resnet, senet, drsn-cs or drsn-cw.")] = "drsn-cw",
    preset: Annotated[str, typer.Option(help="paper (4-16 channels), edge (multiples of 32) or init.")] = "paper",
    protocol: Annotated[str, typer.Option(help="time, load, bearing, speaker, given or random.")] = "time",
    fold: Annotated[int, typer.Option(min=0, help="Which group tests, for protocols that leave one out.")] = 0,
    where: common.Where = None,
    load: common.Load = None,
    noise: Annotated[str, typer.Option(help="Kinds of noise to train with, or none.")] = "gaussian",
    snr: Annotated[str, typer.Option(metavar="LOW:HIGH", help="SNR range in dB; write --snr=-6:10.")] = "-6:10",
    noise_once: Annotated[
        bool, typer.Option("--noise-once", help="Keep the noise of one draw through all epochs, as the paper does.")
    ] = False,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs; the default suits the data set.")] = None,
    batch: Annotated[int, typer.Option(min=2, help="Windows per step.")] = 128,
    lr: Annotated[
        float | None, typer.Option(min=0.0, help="First learning rate; 0.1, with --qat a smaller one.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of weights, order and noise.")] = 0,
    window: Annotated[int | None, typer.Option(min=2, help="Samples per window.")] = None,
    hop: Annotated[int | None, typer.Option(min=1, help="Samples from window to window.")] = None,
    init: Annotated[Path | None, typer.Option(help="Start from the weights of this run.")] = None,
    qat: Annotated[
        bool, typer.Option("--qat", help="Train the run of --init to decide in INT8 as it does in FP32.")
    ] = False,
    quantize_first: Annotated[
        bool, typer.Option("--quantize-first", help="With --qat: the first convolution in int8 too.")
    ] = False,
    objective: Annotated[
        str, typer.Option(help="With --qat: distil (towards the decisions of --init) or labels.")
    ] = "distil",
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a killed run stopped.")] = False,
    force: common.Force = False,
    dry_run: common.DryRun = False,
    threads: common.Threads = 1,
    device: common.Device = "auto",
    amp: Annotated[str, typer.Option(help="Mixed precision: none, bf16 or fp16 (GPU only).")] = "none",
    compile: Annotated[bool, typer.Option("--compile", help="torch.compile; CUDA graphs on a GPU.")] = False,
    json: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Train a network on recordings and score it on the part that it has not seen."""
    with session(json=json, quiet=quiet, debug=debug) as ui:
        common.no_json(config)
        from drsn_edge.pipeline.train import train
        from drsn_edge.signals.noise import parse_snr_range

        noises = common.parse_noises(noise)
        result = train(
            dataset,
            out=out,
            model=model,
            preset=preset,
            protocol=protocol,
            fold=fold,
            where=common.parse_where(where, load),
            noise=noises,
            snr=parse_snr_range(snr) if noises else None,
            noise_once=noise_once,
            epochs=epochs,
            batch=batch,
            lr=lr,
            seed=seed,
            window=window,
            hop=hop,
            init=init,
            qat=qat,
            quantize_first=quantize_first,
            objective=objective,
            resume=resume,
            force=force,
            dry_run=dry_run,
            threads=threads,
            device=device,
            amp=amp,  # type: ignore[arg-type]  # checked there
            compile=compile,
            progress=ui.progress,
        )
        ui.notices(result.notes)
        from drsn_edge.cli.tables import training_table

        ui.show(result.to_json(), lambda console: training_table(console, result))
