"""`drsn-edge push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drsn_edge.cli import options as common
from drsn_edge.cli.ui import session

EPILOG = """
Examples:

    drsn-edge push cw.drsn jetson:bundles
    drsn-edge push cw.drsn me@10.0.0.7:/srv/drsn --precision fp16,int8 --require engine
    drsn-edge push cw.drsn jetson:bundles --remote-program drsn/bin/drsn-edge --json
"""


def command(
    bundle: Annotated[Path, typer.Argument(help="The bundle, NAME.drsn.")],
    target: Annotated[str, typer.Argument(metavar="USER@HOST:DIR", help="The folder of bundles on the device.")],
    precision: Annotated[
        str | None, typer.Option(help="Engines to build there: fp32, fp16, int8, or several with commas.")
    ] = None,
    build: Annotated[bool, typer.Option("--build/--no-build", help="Build engines there.")] = True,
    require: Annotated[str | None, typer.Option(help="engine: fail when an engine could not run there.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Of its ssh.")] = None,
    identity: Annotated[Path | None, typer.Option(help="Private key.")] = None,
    ssh_config: Annotated[Path | None, typer.Option(help="Another configuration of ssh.")] = None,
    remote_program: Annotated[str, typer.Option(help="How drsn-edge is called there.")] = "drsn-edge",
    json: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Copy a bundle to a device over ssh, build and verify it there. Exit code of what failed there."""
    with session(json=json, quiet=quiet, debug=debug) as ui:
        from drsn_edge.errors import UsageError
        from drsn_edge.pipeline.push import push
        from drsn_edge.pipeline.remote import Remote

        if require not in (None, "engine"):
            raise UsageError("nothing of this kind can be required", got=require, expected="engine")
        remote = Remote.parse(target, port=port, identity=identity, config=ssh_config, program=remote_program)
        known = ("fp32", "fp16", "int8")
        result = push(
            bundle,
            remote,
            precisions=None if precision is None else common.parse_list(precision, what="precision", known=known),
            build=build,
            require_engine=require is not None,
            progress=ui.progress,
        )

        def render(console: object) -> None:
            typer.echo(f"{result.host}:{result.bundle}  sha256 {result.digest}")
            for step in result.steps:
                failed = step.result.get("what") or ("good" if not step.exit_code else f"exit code {step.exit_code}")
                typer.echo(f"  {step.command:<8} {failed}")

        ui.show(result.to_json(), render)
        if result.exit_code:
            raise typer.Exit(result.exit_code)
