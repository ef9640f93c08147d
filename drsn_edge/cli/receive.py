"""`drsn-edge receive`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drsn_edge.cli import options as common
from drsn_edge.cli.ui import session

EPILOG = """
Examples:

    drsn-edge receive incoming/cw.drsn cw.drsn
"""


def command(
    incoming: Annotated[Path, typer.Argument(help="The copy of a bundle; it moves.")],
    path: Annotated[Path, typer.Argument(help="Its place, NAME.drsn; a bundle that is there is replaced.")],
    expect_digest: Annotated[str | None, typer.Option(help="SHA-256 that the manifest must have.")] = None,
    json: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Check a bundle that was copied here and put it into its place in one step; `push` calls this there."""
    with session(json=json, quiet=quiet, debug=debug) as ui:
        from drsn_edge.pipeline.receive import receive

        result = receive(incoming, path, expect_digest=expect_digest)
        ui.show(result.to_json(), lambda _: typer.echo(f"{result.bundle}  sha256 {result.digest}"))
