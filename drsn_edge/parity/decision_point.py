"""What is known of the decisions at one noise level: how often they are right, how often they change."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Confusion = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Changed:
    """Decisions of a variant that differ from the reference's.

    Attributes:
        count: Draws whose decision changed. A draw without a decision (NaN logits) counts as changed.
        rate: `count` over all draws.
        ci95: 95 % interval of the rate, clustered by window (`intervals.clustered`).
        ties: Of `count`, those where the reference's margin is within FP32 rounding, 2 x 2e-5 of the window's largest
            |logit|: there the reference itself does not know, and another summation order may decide either way.
        windows: Independent windows with at least one changed draw.
        design_effect: Measured; None when nothing or everything changed.
    """

    count: int
    rate: float
    ci95: tuple[float, float]
    ties: int = 0
    windows: int = 0
    design_effect: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**vars(self), "ci95": list(self.ci95)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Changed:
        """What `to_json` wrote; only the first three fields must be there."""
        effect = value.get("design_effect")
        return cls(
            count=int(value["count"]),
            rate=float(value["rate"]),
            ci95=_pair(value["ci95"]),
            ties=int(value.get("ties", 0)),
            windows=int(value.get("windows", 0)),
            design_effect=None if effect is None else float(effect),
        )


@dataclass(frozen=True)
class DecisionPoint:
    """One noise level of the sweep.

    Attributes:
        noise: `gaussian`, `laplacian`, `pink`; `none` for clean windows.
        snr_db: Signal-to-noise ratio in dB; None for clean windows.
        windows: Independent windows.
        draws: Windows times noise draws.
        gated: Whether the gate judges this point; else it is only shown.
        accuracy: Share of right decisions, per variant; empty without labels, like the next five.
        changed: Changed decisions, per variant other than the reference.
        mcnemar_p: Exact McNemar test on independent windows, per variant other than the reference: windows that the
            reference gets right more often than the variant against windows with the opposite. With one draw per window
            that is the usual test; with more, counting draws as if they were independent would give p-values that are
            too small.
        accuracy_ci95: 95 % interval of the accuracy, clustered by window.
        balanced_accuracy: Mean recall over classes.
        macro_f1: Mean F1 over classes.
        confusion: Rows are true classes, columns decisions, and a last column for no decision. Left out beyond
            32 classes.
    """

    noise: str
    snr_db: float | None
    windows: int
    draws: int
    gated: bool
    accuracy: Mapping[str, float] = field(default_factory=dict)
    changed: Mapping[str, Changed] = field(default_factory=dict)
    mcnemar_p: Mapping[str, float] = field(default_factory=dict)
    accuracy_ci95: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    balanced_accuracy: Mapping[str, float] = field(default_factory=dict)
    macro_f1: Mapping[str, float] = field(default_factory=dict)
    confusion: Mapping[str, Confusion] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The point in words: `clean`, or `gaussian -4 dB`."""
        return "clean" if self.snr_db is None else f"{self.noise} {self.snr_db:g} dB"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, in the shape of `verify --json`."""
        return {
            "noise": self.noise,
            "snr_db": self.snr_db,
            "windows": self.windows,
            "draws": self.draws,
            "gated": self.gated,
            "accuracy": dict(self.accuracy),
            "changed": {variant: changed.to_json() for variant, changed in self.changed.items()},
            "mcnemar_p": dict(self.mcnemar_p),
            "accuracy_ci95": {variant: list(ends) for variant, ends in self.accuracy_ci95.items()},
            "balanced_accuracy": dict(self.balanced_accuracy),
            "macro_f1": dict(self.macro_f1),
            "confusion": {variant: [list(row) for row in rows] for variant, rows in self.confusion.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DecisionPoint:
        """What `to_json` wrote; the last four fields may be absent."""
        snr_db = value["snr_db"]
        return cls(
            noise=str(value["noise"]),
            snr_db=None if snr_db is None else float(snr_db),
            windows=int(value["windows"]),
            draws=int(value["draws"]),
            gated=bool(value["gated"]),
            accuracy=_floats(value["accuracy"]),
            changed={str(name): Changed.from_json(item) for name, item in value["changed"].items()},
            mcnemar_p=_floats(value["mcnemar_p"]),
            accuracy_ci95={str(name): _pair(ends) for name, ends in value.get("accuracy_ci95", {}).items()},
            balanced_accuracy=_floats(value.get("balanced_accuracy", {})),
            macro_f1=_floats(value.get("macro_f1", {})),
            confusion={
                str(name): tuple(tuple(int(count) for count in row) for row in rows)
                for name, rows in value.get("confusion", {}).items()
            },
        )


def _pair(ends: Any) -> tuple[float, float]:
    low, high = ends
    return float(low), float(high)


def _floats(values: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): math.nan if value is None else float(value) for name, value in values.items()}
