"""The object that `verify` returns, prints as JSON, and can be judged again later without running anything."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from drsn_edge.errors import InputError
from drsn_edge.parity.decision_point import DecisionPoint
from drsn_edge.parity.gate import Failure, Gate, judge, undecided
from drsn_edge.parity.ledger import HopError, share_of_total
from drsn_edge.parity.shrinkage import ShrinkageDrift
from drsn_edge.parity.tolerances import Tolerance, just_passes
from drsn_edge.parity.variants import precision_of

Status = Literal["passed", "failed", "not_run"]

FORMAT_VERSION = 1
_FIGURES = tuple(item.name for item in dataclasses.fields(HopError))


@dataclass(frozen=True)
class Hop:
    """One step of the chain from PyTorch to the engine.

    Attributes:
        from_: Variant that is the reference of this hop.
        to: Variant that is judged.
        runner: What executed `to`.
        status: `not_run` hops have no figures and never fail by themselves.
        reason: Why it was not run or failed without figures; None otherwise.
        error: The figures.
        tolerance: What the figures were judged by.
        first_divergence: The first tensor that is out of its limit, for a hop that failed: `units.3.threshold`, or
            `logits` where every unit is within and the error comes after the last.
    """

    from_: str
    to: str
    runner: str
    status: Status
    reason: str | None = None
    error: HopError | None = None
    tolerance: Tolerance | None = None
    first_divergence: str | None = None

    @property
    def name(self) -> str:
        """The hop in words: `onnx-fp32 to onnx-int8`."""
        return f"{self.from_} to {self.to}"

    @property
    def recorded(self) -> bool:
        """Whether the reference is what the same form gave when the bundle was made: no link of the chain."""
        return self.from_.startswith("recorded-")

    @classmethod
    def measured(
        cls,
        from_: str,
        to: str,
        *,
        runner: str,
        error: HopError,
        tolerance: Tolerance | None = None,
        first_divergence: str | None = None,
    ) -> Hop:
        """A hop that was run, with the status that its figures give it."""
        return cls(from_, to, runner, _status(error, tolerance), None, error, tolerance, first_divergence)

    @classmethod
    def not_run(cls, from_: str, to: str, *, runner: str, reason: str) -> Hop:
        """A hop that could not be run here, and why."""
        return cls(from_, to, runner, "not_run", reason)

    @property
    def just_passes(self) -> dict[str, float] | None:
        """Of the figures that are judged, the limits that the hop would just pass; None where no limit could be."""
        if self.error is None or self.tolerance is None or self.error.nonfinite:
            return None
        tight = just_passes(self.error).to_json()
        limits = self.tolerance.to_json()
        return {
            name: tight[name]
            for name, limit in limits.items()
            if isinstance(limit, float) and tight.get(name) is not None
        }

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, flat; without figures they are null."""
        figures = dict.fromkeys(_FIGURES) if self.error is None else self.error.to_json()
        return {
            "from": self.from_,
            "to": self.to,
            "runner": self.runner,
            "status": self.status,
            "reason": self.reason,
            **figures,
            "tolerance": None if self.tolerance is None else self.tolerance.to_json(),
            "just_passes": self.just_passes,
            "first_divergence": self.first_divergence,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Hop:
        """The hop that `to_json` wrote."""
        status = value["status"]
        if status not in get_args(Status):
            raise ValueError(f"status {status!r} is none of {', '.join(get_args(Status))}")
        tolerance = value["tolerance"]
        return cls(
            from_=str(value["from"]),
            to=str(value["to"]),
            runner=str(value["runner"]),
            status=status,
            reason=_text(value["reason"]),
            error=None if value["windows"] is None else HopError.from_json(value),
            tolerance=None if tolerance is None else Tolerance.from_json(tolerance),
            first_divergence=_text(value["first_divergence"]),
        )


@dataclass(frozen=True)
class ParityResult:
    """Hops, decisions and shrinkage drift of every variant, and what the gate says of them.

    Attributes:
        reference: `pytorch`, or what stood in for it: recorded golden logits, or `onnx-fp32`.
        hops: The chain, in order.
        decisions: The sweep over noise levels.
        shrinkage: Drift per unit and variant.
        failures: What the gate did not let pass; empty means passed.
        notes: What a reader should know although nothing failed.
        gate: What the failures were judged by.
    """

    reference: str
    hops: tuple[Hop, ...] = ()
    decisions: tuple[DecisionPoint, ...] = ()
    shrinkage: tuple[ShrinkageDrift, ...] = ()
    failures: tuple[Failure, ...] = ()
    notes: tuple[str, ...] = ()
    gate: Gate = field(default_factory=Gate)

    @property
    def passed(self) -> bool:
        """Whether the gate let everything pass."""
        return not self.failures

    @property
    def shares(self) -> tuple[float | None, ...]:
        """Each hop's share of the summed squared error of its chain, from float64 to the last form of its precision.

        None for a hop without figures, and for one that compares a form with its own past.
        """
        found: list[float | None] = []
        for hop in self.hops:
            if hop.recorded or hop.error is None:
                found.append(None)
                continue
            chain = [item for item in self.hops if not item.recorded and item.error and _in_chain(item, hop)]
            found.append(share_of_total([item.error for item in chain])[chain.index(hop)])
        return tuple(found)

    def judged(self, gate: Gate | None = None) -> ParityResult:
        """The same figures, judged anew: statuses, failures and notes follow from figures, tolerances and gate.

        Args:
            gate: None keeps the gate. Another gate also decides which noise levels are judged.
        """
        new = gate or self.gate
        decisions = self.decisions
        if new.gated_from_db != self.gate.gated_from_db:
            decisions = tuple(
                dataclasses.replace(point, gated=new.gates(point.noise, point.snr_db)) for point in decisions
            )
        hops = tuple(_restated(hop, new.tolerance(hop)) for hop in self.hops)
        result = dataclasses.replace(self, hops=hops, decisions=decisions, gate=new)
        old = undecided(self, self.gate)
        notes = (*(note for note in self.notes if note not in old), *undecided(result, new))
        return dataclasses.replace(result, failures=judge(result, new), notes=notes)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, in the shape of `verify --json`."""
        return {
            "format_version": FORMAT_VERSION,
            "passed": self.passed,
            "reference": self.reference,
            "hops": [{**hop.to_json(), "share": share} for hop, share in zip(self.hops, self.shares, strict=True)],
            "decisions": [point.to_json() for point in self.decisions],
            "shrinkage": [item.to_json() for item in self.shrinkage],
            "failures": [failure.to_json() for failure in self.failures],
            "notes": list(self.notes),
            "gate": self.gate.to_json(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ParityResult:
        """The result that `to_json` wrote. Figures are taken as they are; `judged` judges them again.

        Raises:
            InputError: Another format version, or another shape.
        """
        version = value.get("format_version")
        if version != FORMAT_VERSION:
            raise InputError(
                "the parity result has another format",
                got=f"format_version {version}",
                expected=f"format_version {FORMAT_VERSION}",
                hint="verify the bundle again with this version",
            )
        try:
            return cls(
                reference=str(value["reference"]),
                hops=tuple(Hop.from_json(item) for item in value["hops"]),
                decisions=tuple(DecisionPoint.from_json(item) for item in value["decisions"]),
                shrinkage=tuple(ShrinkageDrift.from_json(item) for item in value["shrinkage"]),
                failures=tuple(Failure.from_json(item) for item in value.get("failures", ())),
                notes=tuple(str(note) for note in value.get("notes", ())),
                gate=Gate.from_json(value.get("gate", {})),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                "the parity result has the wrong shape",
                got=f"{type(error).__name__}: {error}",
                expected="what verify --json prints",
            ) from None


def _in_chain(item: Hop, hop: Hop) -> bool:
    """Whether a hop lies on the chain that another ends, continues or begins: FP32 first, then one precision."""
    own, other = precision_of(hop.to), precision_of(item.to)
    if own != "fp32":
        return other == own or (other == "fp32" and not item.to.startswith("engine-"))
    return other == "fp32"


def _restated(hop: Hop, tolerance: Tolerance | None) -> Hop:
    return hop if hop.error is None else dataclasses.replace(hop, status=_status(hop.error, tolerance))


def _status(error: HopError, tolerance: Tolerance | None) -> Status:
    broken = error.nonfinite > 0 or (tolerance is not None and bool(tolerance.violations(error)))
    return "failed" if broken else "passed"


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
