"""Sources as a user writes them: `[NAME=]PLACE[,key=value...]`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from drsn_edge.errors import InputError, UsageError
from drsn_edge.signals.readers import READERS

Kind = Literal["file", "folder", "pipe", "stdin", "tcp"]
FORMATS = ("int16", "int24", "float32")
# key -> kinds of source that take it
_OPTIONS: Mapping[str, tuple[Kind, ...]] = {
    "format": ("pipe", "stdin", "tcp"),
    "channels": ("pipe", "stdin", "tcp"),
    "channel": ("file", "folder", "pipe", "stdin", "tcp"),
    "rate": ("file", "folder", "pipe", "stdin", "tcp"),
    "scale": ("file", "folder", "pipe", "stdin", "tcp"),
    "full_scale": ("file", "folder", "pipe", "stdin", "tcp"),
}
_NAME = re.compile(r"([A-Za-z0-9][\w.-]*)=(.+)", re.ASCII)
_OPTION = re.compile(r"([a-z_]+)=(.*)", re.ASCII)
EXPECTED = (
    "[NAME=]PLACE[,key=value...]; PLACE is a file, a folder, a named pipe, stdin, or tcp://HOST:PORT; keys are "
    + ", ".join(_OPTIONS)
)


@dataclass(frozen=True)
class SourceSpec:
    """One source, parsed.

    Attributes:
        text: As the user wrote it, for messages.
        name: Of the sensor, in every output.
        kind: What is at the place.
        place: A path, `-` for stdin, or `HOST:PORT`.
        format: Of raw samples, little-endian; None for files, which know it.
        channels: Interleaved channels of raw samples; None: those of the contract.
        channel: Names or numbers of the wanted ones, joined by `+`; None: all.
        rate: Samples per second; None: what the file says, else the contract's.
        scale: What samples are multiplied by. Integers become -1 to 1 first.
        full_scale: Largest magnitude that the sensor gives, after `scale`; None: 1 for integers, else not known.
    """

    text: str
    name: str
    kind: Kind
    place: str
    format: str | None = None
    channels: int | None = None
    channel: str | None = None
    rate: float | None = None
    scale: float = 1.0
    full_scale: float | None = None

    @property
    def live(self) -> bool:
        """Whether samples come when they come, and only once."""
        return self.kind in ("pipe", "stdin", "tcp")

    @classmethod
    def parse(cls, text: str) -> SourceSpec:
        """Take a source apart. What exists under the very text is a path, commas and equals signs included.

        Raises:
            UsageError: Not understood, or an option that this kind of source does not take.
            InputError: No such file or folder.
        """
        name, place, options = None, text, dict[str, str]()
        if not Path(text).exists():
            items = text.split(",")
            while len(items) > 1 and (match := _OPTION.fullmatch(items[-1])):
                if match[1] in options:
                    raise UsageError("a source has an option twice", got=text, expected=f"{match[1]} once")
                options[match[1]] = match[2]
                items.pop()
            place = ",".join(items)
            if not Path(place).exists() and (match := _NAME.fullmatch(place)):
                name, place = match.groups()
        kind, place, short = _place(place, text)
        for key in options:
            if key not in _OPTIONS or kind not in _OPTIONS[key]:
                known = ", ".join(item for item, kinds in _OPTIONS.items() if kind in kinds)
                raise UsageError(f"a {kind} source does not take {key}", got=text, expected=known)
        form = options.get("format")
        if kind in ("pipe", "stdin", "tcp") and form not in FORMATS:
            raise UsageError("raw samples need their format", got=text, expected=f"SOURCE,format={'|'.join(FORMATS)}")
        return cls(
            text=text, name=name or short, kind=kind, place=place, format=form,
            channels=None if "channels" not in options else int(_number(options, "channels", text, whole=True)),
            channel=options.get("channel"),
            rate=None if "rate" not in options else _number(options, "rate", text),
            scale=_number(options, "scale", text) if "scale" in options else 1.0,
            full_scale=None if "full_scale" not in options else _number(options, "full_scale", text),
        )  # fmt: skip


def parse_sources(texts: Sequence[str]) -> tuple[SourceSpec, ...]:
    """All sources of a run; names are made unique by the user, not by us.

    Raises:
        UsageError: None, stdin twice, or two sensors of one name.
    """
    if not texts:
        raise UsageError("there is no source", got="nothing", expected=EXPECTED)
    specs = tuple(map(SourceSpec.parse, texts))
    for index, spec in enumerate(specs):
        if spec.name in {other.name for other in specs[:index]}:
            raise UsageError(
                "two sensors have one name", got=spec.name, expected=f"NAME={spec.place} with another NAME"
            )
    if sum(spec.kind == "stdin" for spec in specs) > 1:
        raise UsageError(
            "stdin can feed one sensor only", got="stdin twice", expected="stdin once, and pipes for the others"
        )
    return specs


def _place(place: str, text: str) -> tuple[Kind, str, str]:
    """Kind, place and the name that a sensor has if it is given none."""
    if place in ("-", "stdin"):
        return "stdin", "-", "stdin"
    if place.startswith("tcp://"):
        address = place.removeprefix("tcp://")
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise UsageError("a TCP source is not understood", got=text, expected="tcp://HOST:PORT")
        return "tcp", address, address
    path = Path(place).expanduser()
    if path.is_fifo():
        return "pipe", str(path), path.name
    if path.is_dir():
        return "folder", str(path), path.resolve().name
    if not path.exists():
        raise InputError("the source is not there", got=text, expected=EXPECTED)
    if path.suffix.lower() not in READERS:
        raise InputError(
            "no reader knows this file", got=text, expected=f"one of {', '.join(READERS)}",
            hint="raw samples come through stdin: drsn-edge run BUNDLE stdin,format=int16 < FILE",
        )  # fmt: skip
    return "file", str(path), path.stem


def _number(options: Mapping[str, str], key: str, text: str, *, whole: bool = False) -> float:
    try:
        value = float(int(options[key])) if whole else float(options[key])
    except ValueError:
        value = 0.0
    if not 0 < value < 1e12:
        kind = "a positive whole number" if whole else "a positive number"
        raise UsageError(f"the option {key} of a source cannot be used", got=text, expected=f"{key}={kind}")
    return value
