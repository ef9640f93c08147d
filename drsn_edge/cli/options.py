"""Options that several commands share, and their parsers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer

from drsn_edge.errors import UsageError
from drsn_edge.files import read_settings

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
Device = Annotated[str, typer.Option("--device", help="auto (a GPU where there is one), cpu or cuda.")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="CPU threads; one is the same on every machine.")]


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


def parse_counts(text: str, *, what: str) -> tuple[int, ...]:
    """`1,16,256` as numbers, each once and in order.

    Raises:
        UsageError: Something else than whole numbers from 1 on.
    """
    items = parse_list(text, what=what)
    if not items or not all(item.isdecimal() and int(item) > 0 for item in items):
        raise UsageError(f"--{what} is not understood", got=text, expected="whole numbers from 1 on, as 1,16,256")
    return tuple(sorted({int(item) for item in items}))


def parse_noises(text: str) -> tuple[Noise, ...]:
    """`gaussian,pink` as a tuple; `none` as an empty one.

    Raises:
        UsageError: A kind that is not known.
    """
    from drsn_edge.signals.noise import NOISES

    named = parse_list(text, what="noise", known=NOISES)
    return tuple(kind for kind in NOISES if kind in named)


NETWORK_KEYS = ("network", "contract", "labels", "names")
_NOT_IN_FILES = ("config", "help", "debug")
# What a command's parameter may be given in a TOML file, and how to say so.
_KINDS: dict[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str, int, float, list), "a text, or a list of texts"),
    list: ((str, list), "a text, or a list of texts"),
    Path: ((str,), "a path"),
}


def read_options(context: typer.Context, path: Path | None) -> Path | None:
    """Eager callback of `--config`: the file's options become defaults, so that a flag beats the file.

    A TOML file holds option names as on the command line, without dashes in front; several values are a list. What
    describes a network (`network`, `contract`, `labels`) is left for `export`, which takes it from JSON too.

    Raises:
        InputError: Absent, or not TOML.
        UsageError: An option that the command does not have, or a value of another kind than it takes.
    """
    if path is None or path.suffix == ".json":
        return path
    hints = get_type_hints(context.command.callback)
    known = {str(item.name) for item in context.command.params if item.name not in _NOT_IN_FILES}
    defaults = {}
    for key, value in _read(path).items():
        name = key.replace("-", "_")
        if key in NETWORK_KEYS:
            continue
        if name not in known:
            names = ", ".join(sorted(item.replace("_", "-") for item in known))
            raise UsageError(f"{path} has an option that {context.info_name} does not have", got=key, expected=names)
        defaults[name] = _typed(f"{path}: {key}", value, hints[name])
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


Config = Annotated[
    Path | None,
    typer.Option("--config", is_eager=True, callback=read_options, help="TOML file of options; flags win."),
]


def network_file(path: Path | None) -> Path | None:
    """The file of `--config` where it describes a network; None where it holds options alone."""
    return path if path is not None and (path.suffix == ".json" or set(_read(path)) & set(NETWORK_KEYS)) else None


def no_json(path: Path | None) -> None:
    """Refuse a JSON file where only options make sense.

    Raises:
        UsageError: It is one.
    """
    if path is not None and path.suffix == ".json":
        raise UsageError("--config takes options from TOML files only", got=path, expected="FILE.toml")


def _read(path: Path) -> dict[str, Any]:
    return read_settings(path, what="the file of --config")


def _typed(where: str, value: Any, hint: Any) -> Any:
    """A value as it would stand on the command line: a list is joined by commas, or is the option given repeatedly."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    kind = next(get_origin(item) or item for item in options if item is not type(None))
    good, words = _KINDS[kind]
    if not isinstance(value, good) or (isinstance(value, bool) and kind is not bool):
        raise UsageError(f"{where} is of the wrong kind", got=repr(value), expected=words)
    if kind is list:
        return value if isinstance(value, list) else [value]
    return ",".join(map(str, value)) if isinstance(value, list) else value
