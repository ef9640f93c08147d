"""Options that several commands share, and their parsers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drsn_edge.errors import InputError, UsageError

if TYPE_CHECKING:
    from drsn_edge.signals.noise import Noise

Json = Annotated[bool, typer.Option("--json", help="Only JSON on stdout; everything else goes to stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notices.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would be done, write nothing.")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace an output that exists.")]
Where = Annotated[
    list[str] | None,
    typer.Option("--where", metavar="GROUP=VALUE", help="Only recordings of this group; may be given more than once."),
]
Load = Annotated[str | None, typer.Option("--load", help="Short for --where load=VALUE.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; all by default.")]


def parse_where(where: Iterable[str] | None, load: str | None = None) -> dict[str, str]:
    """`["rig=2", "load=0"]` as a mapping.

    Raises:
        UsageError: No `=`, or one group twice.
    """
    pairs = [*(where or ()), *([f"load={load}"] if load is not None else [])]
    found: dict[str, str] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not (sign and key and value):
            raise UsageError("--where is not understood", got=pair, expected="GROUP=VALUE, for example load=0")
        if found.setdefault(key, value) != value:
            raise UsageError("one group has two values", got=pair, expected=f"{key}={found[key]} only")
    return found


def parse_list(text: str, *, what: str, known: Iterable[str] | None = None) -> tuple[str, ...]:
    """`fp32,fp16` as a tuple; `none` and an empty text as an empty one.

    Raises:
        UsageError: An item that is not known.
    """
    items = tuple(item.strip() for item in text.split(",") if item.strip())
    if items in ((), ("none",)):
        return ()
    for item in items:
        if known is not None and item not in known:
            raise UsageError(f"unknown {what}", got=item, expected=", ".join(known))
    return items


def parse_noises(text: str) -> tuple[Noise, ...]:
    """`gaussian,pink` as a tuple; `none` as an empty one.

    Raises:
        UsageError: A kind that is not known.
    """
    from drsn_edge.signals.noise import NOISES

    named = parse_list(text, what="noise", known=NOISES)
    return tuple(kind for kind in NOISES if kind in named)


def read_options(context: typer.Context, path: Path | None) -> Path | None:
    """Eager callback of `--config`: the file's options become defaults, so that a flag beats the file.

    A TOML file holds option names as on the command line, without dashes in front. What describes a network (`network`,
    `contract`, `labels`) is left for `export`.
    """
    if path is None or path.suffix != ".toml":
        return path
    values = {key.replace("-", "_"): value for key, value in read_toml(path).items() if key not in NETWORK_KEYS}
    names = {str(parameter.name) for parameter in context.command.params}
    unknown = sorted(set(values) - names)
    if unknown:
        raise typer.BadParameter(
            f"{path} has an unknown option {unknown[0]!r}; known are {', '.join(sorted(names - {'config', 'help'}))}"
        )
    context.default_map = {**(context.default_map or {}), **values}
    return path


NETWORK_KEYS = ("network", "contract", "labels")


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file.

    Raises:
        InputError: Absent, or not TOML.
    """
    import sys

    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("the options file is not there", got=path, expected="a TOML file") from None
    except (ValueError, OSError) as error:
        raise InputError("the options file is not TOML", got=f"{path}: {error}", expected="a TOML file") from None
