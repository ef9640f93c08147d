"""The command line: one thin file per command. Nothing else in the package prints."""

from __future__ import annotations

from typing import Annotated

import typer

from drsn_edge._version import __version__
from drsn_edge.cli.commands import Group

app = typer.Typer(
    name="drsn-edge",
    cls=Group,
    help="Deep residual shrinkage networks, from training to a checked TensorRT engine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain help: typer's rich one imports a parser of markdown, for three times what all else of `--help` takes.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"drsn-edge {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of `drsn-edge` and `python -m drsn_edge`."""
    app(prog_name="drsn-edge")
