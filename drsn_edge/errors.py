"""Every error that drsn-edge raises on purpose. Exit codes hang on this tree and on nothing else.

    DrsnError                 1   something unexpected
    ├── UsageError            2   arguments that do not fit together; an output that exists already
    ├── MissingError          3
    │   ├── MissingDependency 3   a package is not installed
    │   └── MissingDevice     3   no GPU, no driver, a device that cannot do what was asked
    ├── InputError            4   a file or data that cannot be used
    │   ├── HashMismatch      4   a file is not the one its manifest lists
    │   └── ContractError     4   data that does not keep the signal contract of the model
    ├── OutOfTolerance        5   a variant does not decide as its reference does
    ├── BuildError            6   an engine builder failed, or built something else than was asked
    └── PeerFailed            1   another process of the same run failed, and has said why: commands print nothing

Every message has four parts: what, what was got, what was expected, what to do. `str(error)` is the whole message.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BuildError",
    "ContractError",
    "DrsnError",
    "HashMismatch",
    "InputError",
    "MissingDependency",
    "MissingDevice",
    "MissingError",
    "OutOfTolerance",
    "PeerFailed",
    "UsageError",
]


class DrsnError(Exception):
    """Base of all errors of drsn-edge.

    Args:
        what: The subject and what is wrong with it, one clause without a full stop.
        got: The offending value, as the user wrote it or as it was read.
        expected: What would have been right.
        hint: What to do now, as an imperative or a command to paste.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self, what: str, *, got: object | None = None, expected: object | None = None, hint: str | None = None
    ) -> None:
        self.what = what
        self.got = None if got is None else str(got)
        self.expected = None if expected is None else str(expected)
        self.hint = hint
        super().__init__(what)

    def __str__(self) -> str:
        lines = [self.what]
        if self.got is not None:
            lines.append(f"  got:      {self.got}")
        if self.expected is not None:
            lines.append(f"  expected: {self.expected}")
        if self.hint is not None:
            lines.append(f"  to do:    {self.hint}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        """The same message for `--json`: type, exit code and the four parts."""
        return {
            "error": type(self).__name__,
            "exit_code": self.exit_code,
            "what": self.what,
            "got": self.got,
            "expected": self.expected,
            "hint": self.hint,
        }


class UsageError(DrsnError):
    """Arguments that do not fit together, or an output that exists already."""

    exit_code = 2


class MissingError(DrsnError):
    """Something that this machine lacks."""

    exit_code = 3


class MissingDependency(MissingError):
    """A package is not installed; the hint is the one command that installs it."""


class MissingDevice(MissingError):
    """No GPU, no driver, or a device that cannot do what was asked."""


class InputError(DrsnError):
    """A file or data that cannot be used."""

    exit_code = 4


class HashMismatch(InputError):
    """A file is not the one its manifest lists."""


class ContractError(InputError):
    """Data that does not keep the signal contract of the model."""


class OutOfTolerance(DrsnError):
    """A variant does not decide as its reference does."""

    exit_code = 5


class BuildError(DrsnError):
    """An engine builder failed, or built something else than was asked."""

    exit_code = 6


class PeerFailed(DrsnError):
    """Another process of the same run failed, and has said why."""
