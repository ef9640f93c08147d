"""One line of the doctor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "missing", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor.

    Attributes:
        subject: What was looked at.
        level: `ok`, `missing` (something optional is not there) or `problem` (something asked for cannot work).
        found: What was found.
        fix: What to do; empty for `ok`.
    """

    subject: str
    level: Level
    found: str
    fix: str = ""
