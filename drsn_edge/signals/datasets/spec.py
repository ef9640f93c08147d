"""Data set names as a user writes them: `NAME`, `NAME:PATH`, and options behind either, `NAME:PATH,key=value`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from drsn_edge.errors import UsageError

_OPTION = re.compile(r"([a-z_]+)=(.*)", re.ASCII)


@dataclass(frozen=True)
class DatasetSpec:
    """A parsed data set name.

    Attributes:
        text: As the user wrote it, for messages.
        name: In front of the colon.
        path: The file or folder behind it; None when there is none.
        options: `key=value` pairs, in the order given.
    """

    text: str
    name: str
    path: Path | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> DatasetSpec:
        """Take a name apart.

        A path may hold commas and equals signs as long as it exists under that very name.

        Raises:
            UsageError: No name, an option twice, or more than one path.
        """
        name, _, rest = text.partition(":")
        if not name:
            raise UsageError("the data set has no name", got=repr(text), expected="NAME, NAME:PATH or NAME:key=value")
        if not rest:
            return cls(text, name)
        if Path(rest).exists():
            return cls(text, name, Path(rest))
        options: dict[str, str] = {}
        items = rest.split(",")
        while items and (match := _OPTION.fullmatch(items[-1])):
            key, value = match.groups()
            if key in options:
                raise UsageError(f"the data set has the option {key} twice", got=text, expected=f"{key} once")
            options = {key: value, **options}
            items.pop()
        # What is left is one path, commas and all: whether it exists is for the loader to say.
        path = Path(",".join(items)).expanduser() if items else None
        return cls(text, name, path, options)

    def check(self, *, path: str | None, options: tuple[str, ...]) -> None:
        """Refuse what this data set does not take.

        Args:
            path: What the path must be, in words; None when the data set takes none.
            options: Names of the options that the data set knows.

        Raises:
            UsageError: A path too many or too few, or an unknown option.
        """
        usage = self.name + ("" if path is None else f":{path}")
        if path is None and self.path is not None:
            raise UsageError(
                f"the data set {self.name} takes no path",
                got=self.text,
                expected=f"{self.name}, or {self.name}:{'=...,'.join(options)}=...",
            )
        if path is not None and self.path is None:
            raise UsageError(f"the data set {self.name} needs a path", got=self.text, expected=usage)
        for key in self.options:
            if key not in options:
                raise UsageError(
                    f"the data set {self.name} has no option {key}",
                    got=self.text,
                    expected=", ".join(f"{name}=..." for name in options) or "no options",
                )

    def number(self, key: str, default: float, *, low: float, high: float, whole: bool = False) -> float:
        """An option as a number within bounds.

        Raises:
            UsageError: Not a number, out of bounds, or a fraction where `whole` is asked.
        """
        text = self.options.get(key)
        if text is None:
            return default
        try:
            value = float(int(text)) if whole else float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            kind = "a whole number" if whole else "a number"
            raise UsageError(
                f"the option {key} of the data set {self.name} cannot be used",
                got=f"{key}={text}",
                expected=f"{kind} from {low:g} to {high:g}",
            )
        return value
