"""What a report is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge.errors import InputError

FORMAT_VERSION = 1
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Example:
    """One window, and what one shrinkage unit does with it.

    Attributes:
        window: Raw samples of one channel, `[samples]`.
        sample_rate_hz: Samples per second.
        units: Of the samples, for the axis.
        caption: What the window is: class, noise, SNR, decision.
        unit: Module path of the shrinkage unit.
        before: Features of one channel before soft thresholding, `[length]`.
        after: The same after it.
        threshold: The channel's threshold for this window.
    """

    window: NDArray[Any]
    sample_rate_hz: float
    units: str
    caption: str
    unit: str
    before: NDArray[Any]
    after: NDArray[Any]
    threshold: float

    def __post_init__(self) -> None:
        for name in ("window", "before", "after"):
            values = np.asarray(getattr(self, name))
            if values.ndim != 1 or values.size < 2:
                raise InputError(
                    f"the example's {name} cannot be drawn",
                    got=f"array of shape {values.shape}",
                    expected="one channel, at least two values",
                )


@dataclass(frozen=True)
class WorstWindow:
    """A window on which a variant came near another decision, or took it.

    Attributes:
        number: Its place among the worst, from 1.
        window: Raw samples of its first channel, `[samples]`.
        sample_rate_hz, units: For the axes.
        caption: What it is: class, SNR.
        variant: Whose error is meant.
        reference, decided: What the reference and the variant decide.
        margin_eaten: Share of the reference's margin that the variant's error takes.
    """

    number: int
    window: NDArray[Any]
    sample_rate_hz: float
    units: str
    caption: str
    variant: str
    reference: str
    decided: str
    margin_eaten: float

    @property
    def outcome(self) -> str:
        """What became of the decision, in words."""
        if self.decided != self.reference:
            return f"{self.variant} decides {self.decided} in place of {self.reference}"
        return f"{self.variant} decides {self.decided} too"


@dataclass(frozen=True)
class ReportData:
    """Everything that the page shows; `report.json` holds the same without samples.

    Attributes:
        title: Of the page, as the name of the bundle.
        verdict: The outcome in one sentence.
        parity: `ParityResult.to_json()`.
        model: Name and value of what describes the network.
        provenance: Name and value of where everything comes from.
        plan: Precision plan, one row per layer; columns in the order of their first appearance.
        engines: One row per engine.
        files: One row per file of the bundle: name, size in bytes, SHA-256.
        latency: One row per form and batch size, as `bench` measured them.
        precision: What `bench` recommends and why, one sentence each.
        labels: Class names in the order of the logits; empty: numbers.
        example: One window to look at.
        worst: Windows that came nearest to another decision, the worst first.
    """

    title: str
    verdict: str
    parity: Mapping[str, Any]
    model: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    plan: Sequence[Row] = ()
    engines: Sequence[Row] = ()
    files: Sequence[Row] = ()
    latency: Sequence[Row] = ()
    precision: Sequence[str] = ()
    labels: Sequence[str] = ()
    example: Example | None = None
    worst: Sequence[WorstWindow] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "format_version": FORMAT_VERSION,
            "title": self.title,
            "verdict": self.verdict,
            "parity": dict(self.parity),
            "model": dict(self.model),
            "provenance": dict(self.provenance),
            "plan": [dict(row) for row in self.plan],
            "engines": [dict(row) for row in self.engines],
            "files": [dict(row) for row in self.files],
            "latency": [dict(row) for row in self.latency],
            "precision": list(self.precision),
            "labels": list(self.labels),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ReportData:
        """The report that `to_json` wrote, without its example. From a file with sorted keys, columns come sorted.

        Raises:
            InputError: Another format version, or a field is missing.
        """
        if value.get("format_version") != FORMAT_VERSION:
            raise InputError(
                "the report has another format",
                got=f"format_version {value.get('format_version')}",
                expected=f"format_version {FORMAT_VERSION}",
            )
        names = set(cls.__dataclass_fields__) - {"example", "worst"}
        # Reports that were written before anything was measured do not have these.
        missing = sorted(names - set(value) - {"latency", "precision"})
        if missing:
            raise InputError(
                "the report lacks fields", got=f"no {', '.join(missing)}", expected=", ".join(sorted(names))
            )
        return cls(**{name: value[name] for name in names & set(value)})
