"""`drsn-edge bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drsn_edge.cli import options as common
from drsn_edge.cli.ui import session

EPILOG = """
Examples:

    drsn-edge bench cw.drsn
    drsn-edge bench cw.drsn --runner tensorrt --batch 1,16,256 --json > before.json
    drsn-edge bench cw.drsn --against before.json
    drsn-edge bench cw.drsn --energy --keep
"""


def command(
    bundle: Annotated[Path, typer.Argument(help="The bundle, NAME.drsn.")],
    runner: Annotated[
        str, typer.Option(help="torch, onnxruntime, tensorrt, tensorrt-rtx, or several with commas; all by default.")
    ] = "",
    precision: Annotated[str, typer.Option(help="fp32, fp16, int8, or several with commas; all by default.")] = "",
    engines: Annotated[bool, typer.Option("--engines", help="Every engine of the bundle, and nothing else.")] = False,
    batch: Annotated[str, typer.Option(help="Windows in a call; several with commas.")] = "1,16,256",
    iterations: Annotated[int, typer.Option(min=2, help="Calls of each row, at most.")] = 200,
    warmup: Annotated[int, typer.Option(min=1, help="Calls of each row that do not count.")] = 10,
    seconds: Annotated[float, typer.Option(help="Time of each row, at most.")] = 2.0,
    rounds: Annotated[int, typer.Option(min=1, help="Turns that the rows take.")] = 10,
    energy: Annotated[bool, typer.Option("--energy", help="Joules per decision, from the board's sensors.")] = False,
    energy_seconds: Annotated[float, typer.Option(help="Time of each row while power is sampled.")] = 5.0,
    against: Annotated[
        Path | None, typer.Option(metavar="BENCH.json", help="Compare with a saved result of the same device state.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Put the result into the bundle and its report.")] = False,
    json: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Measure latency and throughput of every form that runs here, and say which precision is worth it."""
    with session(json=json, quiet=quiet, debug=debug) as ui:
        from drsn_edge.pipeline.bench import BenchOptions, bench
        from drsn_edge.runtime.runner import RUNNERS
        from drsn_edge.runtime.timing import TimingOptions

        result = bench(
            bundle,
            options=BenchOptions(
                batches=common.parse_counts(batch, what="batch"),
                runners=common.parse_list(runner, what="runner", known=RUNNERS),
                precisions=common.parse_list(precision, what="precision", known=("fp32", "fp16", "int8")),
                engines_only=engines,
                timing=TimingOptions(iterations=iterations, warmup=warmup, seconds=seconds, rounds=rounds),
                energy_seconds=energy_seconds if energy else 0.0,
            ),
            against=against,
            keep=keep,
            progress=ui.progress,
        )
        ui.notices(result.notes)
        from drsn_edge.cli.bench_table import bench_table

        ui.show(result.to_json(), lambda console: bench_table(console, result))
