"""`drsn-edge build`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drsn_edge.cli import options as common
from drsn_edge.cli.ui import session

EPILOG = """
Examples:

    drsn-edge build cw.drsn
    drsn-edge build cw.drsn --precision fp16,int8 --target sm86 --target sm89
"""


def command(
    bundle: Annotated[Path, typer.Argument(help="The bundle, NAME.drsn.")],
    precision: Annotated[str, typer.Option(help="fp32, fp16, int8, or several with commas.")] = "fp16",
    backend: Annotated[str, typer.Option(help="auto, tensorrt or rtx.")] = "auto",
    target: Annotated[
        list[str] | None, typer.Option(help="GPU to build for, as sm86; may be given more than once (RTX only).")
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="Largest batch of the engine.")] = 256,
    opt_batch: Annotated[int, typer.Option(min=1, help="The batch that kernels are chosen for.")] = 16,
    workspace: Annotated[int, typer.Option(min=1, help="Scratch memory in MiB.")] = 1024,
    dry_run: common.DryRun = False,
    json: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Build engines from a bundle and add them to it."""
    with session(json=json, quiet=quiet, debug=debug) as ui:
        from drsn_edge.pipeline.build import build

        result = build(
            bundle,
            precisions=common.parse_list(precision, what="precision", known=("fp32", "fp16", "int8")),
            backend=backend,
            targets=tuple(target or ()),
            max_batch=max_batch,
            opt_batch=opt_batch,
            workspace_mb=workspace,
            dry_run=dry_run,
            progress=ui.progress,
        )

        def render(console: object) -> None:
            for record in result.engines:
                typer.echo(f"{result.bundle}/{record.file}\n  {record.summary}")
            for line in result.planned:
                typer.echo(f"would build {line}")

        ui.show(result.to_json(), render)
