"""One fault and what the gates said of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Row:
    """One fault and what the gates said of it.

    Attributes:
        when: `after` export, judged against what was recorded, or `before` it.
        network, kind, form, place: What was damaged where.
        change: Largest change of a logit (after) or share of decisions that changed (before).
        noise: What that is held against.
        caught: Whether the gate failed.
        right_hop: Whether the first hop that failed leads to the damaged form.
        right_unit: Whether the unit named is the damaged one; None where nothing names a unit.
        gates: What each of the three gates said.
        said: What the gate said first.
    """

    when: str
    network: str
    kind: str
    form: str
    place: str
    change: float
    noise: float
    caught: bool
    right_hop: bool
    right_unit: bool | None
    gates: dict[str, bool] = field(default_factory=dict)
    said: str = ""

    @property
    def counts(self) -> bool:
        """Whether the fault is one: it changes more than noise does."""
        return not self.change <= self.noise

    def to_json(self) -> dict[str, Any]:
        change = self.change if np.isfinite(self.change) else None
        return {**vars(self), "change": change, "counts": self.counts}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Row:
        change = float("inf") if value["change"] is None else value["change"]
        return cls(**{key: item for key, item in value.items() if key != "counts"} | {"change": change})
