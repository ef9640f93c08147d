"""How long steps tell where they are. Library code takes a `Progress`; only `cli/` draws one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Protocol


class Step(Protocol):
    """One running step."""

    def advance(self, amount: int = 1, note: str | None = None) -> None:
        """`amount` more of the step's total is done; `note` replaces the text behind the bar."""


class Progress(Protocol):
    """Where steps and notices go."""

    def step(self, title: str, total: int | None = None) -> contextlib.AbstractContextManager[Step]:
        """A step with a title; `total` counts in the step's own unit, None where it cannot be known."""

    def notice(self, text: str) -> None:
        """Something that the user should know although nothing failed."""


class _SilentStep:
    def advance(self, amount: int = 1, note: str | None = None) -> None:
        pass


class SilentProgress:
    """Says nothing: the default of every library function."""

    @contextlib.contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Step]:
        """A step that nobody sees."""
        del title, total
        yield _SilentStep()

    def notice(self, text: str) -> None:
        """A notice that nobody sees."""


SILENT = SilentProgress()


def speaks() -> bool:
    """Whether this process prints: of those that `torchrun` starts for one command the first one alone."""
    return os.environ.get("RANK", "0") == "0" or os.environ.get("WORLD_SIZE", "1") == "1"
