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
    drsn-edge build cw.drsn --precision fp16 --repeat 5
    drsn-edge build cw.drsn --rebuild
"""


def command(
    bundle: Annotated[Path, typer.Argument(help="The bundle, NAME.drsn.")],
    precision: Annotated[
        str | None, typer.Option(help="fp32, fp16, int8, or several with commas; fp16 by default.")
    ] = None,
    backend: Annotated[str, typer.Option(help="auto, tensorrt or rtx.")] = "auto",
    target: Annotated[
        list[str] | None, typer.Option(help="GPU to build for, as sm86; may be given more than once (RTX only).")
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="Largest batch of the engine.")] = 256,
    opt_batch: Annotated[int, typer.Option(min=1, help="The batch that kernels are chosen for.")] = 16,
    workspace: Annotated[int, typer.Option(min=1, help="Scratch memory in MiB.")] = 1024,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="For later TensorRT too; without native code (not RTX).")
    ] = False,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="For every GPU from Ampere on (not RTX, not on a Jetson).")
    ] = False,
    refit: Annotated[bool, typer.Option("--refit", help="Weights can be exchanged later.")] = False,
    stripped: Annotated[
        bool, typer.Option("--stripped", help="Plan without weights; they come from the bundle when it is loaded.")
    ] = False,
    external_tactics: Annotated[
        bool, typer.Option(help="Kernels of cuBLAS and cuDNN may be chosen, where the builder knows such.")
    ] = True,
    timing_cache: Annotated[
        bool, typer.Option(help="Keep the builder's measurements in the bundle, and build with them.")
    ] = True,
    repeat: Annotated[
        int | None, typer.Option(min=2, help="Build so many times, report how builds differ, keep none.")
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Replace what another TensorRT or driver of this device built.")
    ] = False,
    dry_run: common.DryRun = False,
    json: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Build engines from a bundle, add them to it, and verify those that run here. Exit 5 when one does not pass."""
    with session(json=json, quiet=quiet, debug=debug) as ui:
        from drsn_edge.bundle import Bundle
        from drsn_edge.pipeline.build import build
        from drsn_edge.pipeline.engine_check import refuse_failed

        known = ("fp32", "fp16", "int8")
        result = build(
            bundle,
            precisions=None if precision is None else common.parse_list(precision, what="precision", known=known),
            backend=backend,
            targets=tuple(target or ()),
            max_batch=max_batch,
            opt_batch=opt_batch,
            workspace_mb=workspace,
            version_compatible=version_compatible,
            hardware_compatible=hardware_compatible,
            refit=refit,
            stripped=stripped,
            external_tactics=external_tactics,
            timing_cache=timing_cache,
            repeat=repeat or 0,
            rebuild=rebuild,
            dry_run=dry_run,
            progress=ui.progress,
        )

        ui.notices(result.notes)

        def render(console: object) -> None:
            passed = {
                item.key for item in result.verdicts if item.verification is not None and item.verification.passed
            }
            for record in result.engines:
                mark = "verified here" if record.key in passed else "not verified"
                typer.echo(f"{result.bundle}/{record.file}\n  {record.summary}\n  {mark}")
            for key in result.removed:
                typer.echo(f"{'would replace' if dry_run else 'replaced'} {key}")
            for noise in result.noise:
                typer.echo(noise.summary)
            for line in result.planned:
                typer.echo(f"would build {line}")

        ui.show(result.to_json(), render)
        refuse_failed(Bundle.open(bundle), result.verdicts)
