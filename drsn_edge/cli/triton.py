"""`drsn-edge triton`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drsn_edge.cli import options as common
from drsn_edge.cli.ui import session

EPILOG = """
Examples:

    drsn-edge triton cw.drsn --out models
    drsn-edge triton cw.drsn --out models --source engine --precision fp16
    drsn-edge triton cw.drsn --out models --device cpu --max-batch 64 --preferred 8,32
"""


def command(
    bundle: Annotated[Path, typer.Argument(help="The bundle, NAME.drsn.")],
    out: Annotated[Path, typer.Option(help="The model repository to write.")],
    source: Annotated[
        str, typer.Option(help="onnx, engine (the only one of the precision), or an engine's folder under engines/.")
    ] = "onnx",
    precision: Annotated[str, typer.Option(help="fp32, fp16 or int8.")] = "fp32",
    name: Annotated[str | None, typer.Option(help="Of the model; the bundle's own by default.")] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="Windows that Triton joins at most.")] = 256,
    preferred: Annotated[str, typer.Option(help="Batch sizes that are not kept waiting; none, or with commas.")] = "16",
    queue_delay: Annotated[int, typer.Option(min=0, help="Microseconds that a window may wait for others.")] = 500,
    instances: Annotated[int, typer.Option(min=1, help="Copies that run at a time.")] = 1,
    device: Annotated[str, typer.Option(help="gpu or cpu.")] = "gpu",
    force: common.Force = False,
    dry_run: common.DryRun = False,
    json: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Write a model repository for Triton Inference Server: the file unmodified, configuration, labels."""
    with session(json=json, quiet=quiet, debug=debug) as ui:
        from drsn_edge.exporters.triton_repository import TritonOptions
        from drsn_edge.pipeline.triton import triton

        sizes = common.parse_counts(preferred, what="preferred") if preferred not in ("", "none") else ()
        result = triton(
            bundle,
            out=out,
            source=source,
            precision=precision,
            options=TritonOptions(
                name=name if name is not None else bundle.resolve().name.removesuffix(".drsn"),
                max_batch=max_batch,
                preferred=sizes,
                queue_delay_us=queue_delay,
                instances=instances,
                device=device,  # type: ignore[arg-type]  # checked by TritonOptions
            ),
            force=force,
            dry_run=dry_run,
        )
        ui.notices(result.notes)

        def render(console: object) -> None:
            for file in result.files:
                typer.echo(f"{'would write ' if dry_run else ''}{result.repository}/{file}")
            typer.echo(f"{result.name}: {result.source}, batches up to {result.max_batch}")

        ui.show(result.to_json(), render)
