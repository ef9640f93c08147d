"""Shrinkage drift: how far thresholds and dead zones of a variant are from the reference's, unit by unit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge.errors import InputError

THRESHOLD, ZERO_SHARE, SHRUNK = ".threshold", ".zero_share", ".shrunk"


@dataclass(frozen=True)
class ShrinkageDrift:
    """One unit of one variant against the reference.

    Attributes:
        unit: Module path, as `units.0`.
        variant: What was compared.
        tau_relative_error: Mean |difference of thresholds| over mean |threshold|; infinite (null in JSON) where the
            variant's thresholds are NaN or infinite, or the reference's are all zero and the variant's are not.
        dead_zone_flips: Share of features that are zero after shrinkage in one and not in the other (NaN is not zero);
            None where the outputs do not hold the features.
        zero_share_reference: Mean share of features that the reference sets to zero; None where it is not among the
            outputs.
        zero_share: The same of the variant.
    """

    unit: str
    variant: str
    tau_relative_error: float
    dead_zone_flips: float | None
    zero_share_reference: float | None
    zero_share: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; infinity is null."""
        error = self.tau_relative_error
        return {**vars(self), "tau_relative_error": error if math.isfinite(error) else None}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ShrinkageDrift:
        """What `to_json` wrote; the zero shares may be absent."""
        error = value["tau_relative_error"]
        return cls(
            unit=str(value["unit"]),
            variant=str(value["variant"]),
            tau_relative_error=math.inf if error is None else float(error),
            dead_zone_flips=_optional(value["dead_zone_flips"]),
            zero_share_reference=_optional(value.get("zero_share_reference")),
            zero_share=_optional(value.get("zero_share")),
        )


def _optional(value: Any) -> float | None:
    return None if value is None else float(value)


def units_of(probe: Mapping[str, Any]) -> list[str]:
    """Units that a probe has thresholds of, in its order, which is the graph's."""
    return [name[: -len(THRESHOLD)] for name in probe if name.endswith(THRESHOLD) and len(name) > len(THRESHOLD)]


def drift(
    reference: Mapping[str, NDArray[Any]], candidate: Mapping[str, NDArray[Any]], variant: str
) -> list[ShrinkageDrift]:
    """Every unit of `candidate` against `reference`.

    Args:
        reference: Probe outputs: for every unit U `U.threshold` `[N, C]` (`[N, 1]` when shared), and where they are at
            hand `U.zero_share` `[N, C]` and `U.shrunk` `[N, C, ...]`.
        candidate: The same, of the same windows.
        variant: Name of the candidate.

    Raises:
        InputError: No units, a unit missing in the candidate, different shapes, a reference that is not finite.
    """
    units = units_of(reference)
    if not units:
        raise InputError(
            "the probe outputs have no units",
            got=", ".join(reference) or "no outputs",
            expected="units.0.threshold and so on",
            hint="shrinkage drift needs a probe graph of a network with shrinkage",
        )
    return [_drift_of(unit, reference, candidate, variant) for unit in units]


def _drift_of(
    unit: str, reference: Mapping[str, NDArray[Any]], candidate: Mapping[str, NDArray[Any]], variant: str
) -> ShrinkageDrift:
    tau, tau_candidate = pair(reference, candidate, unit + THRESHOLD)
    shares: list[float | None] = [None, None]
    if unit + ZERO_SHARE in reference and unit + ZERO_SHARE in candidate:
        shares = [_finite_mean(values) for values in pair(reference, candidate, unit + ZERO_SHARE)]
    flips = None
    if unit + SHRUNK in reference and unit + SHRUNK in candidate:
        one, other = pair(reference, candidate, unit + SHRUNK)
        flips = float(np.mean((one == 0) != (other == 0)))
    return ShrinkageDrift(unit, variant, _relative(tau, tau_candidate), flips, shares[0], shares[1])


def pair(
    reference: Mapping[str, NDArray[Any]], candidate: Mapping[str, NDArray[Any]], name: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One output of both as float64.

    Raises:
        InputError: Missing in the candidate, another shape, or a reference that is not finite.
    """
    if name not in candidate:
        raise InputError("the candidate lacks a probe output", got=", ".join(candidate) or "no outputs", expected=name)
    want: NDArray[np.float64] = np.asarray(reference[name], dtype=np.float64)
    have: NDArray[np.float64] = np.asarray(candidate[name], dtype=np.float64)
    if want.shape != have.shape:
        raise InputError(f"the probe output {name} has another shape", got=have.shape, expected=want.shape)
    if not np.isfinite(want).all():
        raise InputError(
            f"the reference's probe output {name} is not finite", got="NaN or infinity", expected="numbers"
        )
    return want, have


def _relative(want: NDArray[np.float64], have: NDArray[np.float64]) -> float:
    if not np.isfinite(have).all():
        return math.inf
    error, size = float(np.mean(np.abs(have - want))), float(np.mean(np.abs(want)))
    if error == 0:
        return 0.0
    return error / size if size > 0 else math.inf


def _finite_mean(values: NDArray[np.float64]) -> float | None:
    return float(np.mean(values)) if np.isfinite(values).all() else None
