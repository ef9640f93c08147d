"""Tolerances that say where they come from: the noise floor of FP32, the quantization error itself, the margins.

| hop | judged by |
|---|---|
| pytorch to onnx-fp32 | top-1 the same, largest difference at most 2e-5 of the largest logit; more for long windows |
| onnx-fp32 to onnx-fp16 | largest difference twice what the FP32 noise floor predicts, at most half a typical margin |
| onnx-fp32 to onnx-int8 | error at most as loud as the typical margin allows; the gate judges the decisions |
| recorded to now, same graph | four times the rebuild noise that was measured when the bundle was made |
| graph to engine, same precision | error not louder than the precision's own: every rounding may fall differently |
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from drsn_edge.errors import InputError
from drsn_edge.parity.ledger import HopError, compare
from drsn_edge.parity.logits import as_logits, margins
from drsn_edge.parity.variants import Precision

# Largest |difference| over largest |logit| between two FP32 executions of one network: torch itself is that far from
# float64 on a trained network, whose logits reach 25.
FP32_MAX_REL = 2e-5
# That holds for windows up to this length. A runtime that adds up a mean one sample after the other is off by a share
# that grows with their number where they are alike, as in silence: ONNX Runtime by 7.6e-6 over 2,048 and 3.0e-5 over
# 8,192 equal samples, torch, which adds in pairs, by neither.
_USUAL_SAMPLES = 2048
# Kernels of an engine sum in other orders (Winograd, split sums) than ONNX Runtime does.
ENGINE_FP32_MAX_REL = 1e-4
# Unit roundoff of FP16 over that of FP32: 2^-11 / 2^-24.
FP16_OVER_FP32 = 2.0**13
# The largest of a hundred errors is a matter of luck, and so is the floor that it is held against: two FP32 executions
# of one network had floors of 1.9e-6 and 2.2e-6, and its FP16 graph 1.1 times what the smaller one predicts.
_LUCK = 2.0
# The same graph on the same windows differs by roundings that fall on the other side here and there; their power is
# about 25 dB below that of all roundings together. One tensor of 48 with three times its scale brings 10 times its own
# power, 7 dB below all together.
REBUILD_DB = 15.0
# Where rebuild noise was measured: windows that were shaken by a few units in the last place, as another order of
# summation shakes what follows. Another build may shake more than that, and the largest of few is a matter of luck.
REBUILD_FACTOR = 4.0

Kind = Literal["export", "precision", "recorded", "engine"]


@dataclass(frozen=True)
class Tolerance:
    """Limits for a `HopError`; None is not judged. Ends belong to the admissible range.

    Attributes:
        max_abs: Largest admissible |difference|.
        max_rel: Largest admissible |difference| over the largest |logit|.
        rmse: Largest admissible root mean squared difference.
        sqnr_db: Smallest admissible ratio of signal to error.
        cosine: Smallest admissible cosine.
        top1_agreement: Smallest admissible share of equal decisions.
        margin_eaten: Largest admissible share of a margin eaten, over all windows.
        reason: Where the limits come from, for people.
    """

    max_abs: float | None = None
    max_rel: float | None = None
    rmse: float | None = None
    sqnr_db: float | None = None
    cosine: float | None = None
    top1_agreement: float | None = None
    margin_eaten: float | None = None
    reason: str = ""

    def violations(self, error: HopError) -> tuple[Violation, ...]:
        """The limits that an error breaks. A candidate with NaN or infinity breaks every tolerance."""
        found = [Violation("nonfinite", float(error.nonfinite), 0.0)] if error.nonfinite else []
        for name, low in _LIMITS.items():
            limit, value = getattr(self, name), getattr(error, name)
            # Not "value > limit": a NaN must fail.
            if limit is not None and not (value >= limit if low else value <= limit):
                found.append(Violation(name, value, limit))
        return tuple(found)

    def tightest(self, error: HopError) -> Violation | None:
        """The figure that is nearest to its limit, or furthest beyond it; None where nothing is judged."""
        found = [
            (_used(getattr(error, name), limit, low=low), Violation(name, getattr(error, name), limit))
            for name, low in _LIMITS.items()
            if (limit := getattr(self, name)) is not None
        ]
        return max(found, key=lambda item: item[0])[1] if found else None

    def overridden(self, limits: Mapping[str, float]) -> Tolerance:
        """The same with other limits for the figures named.

        Raises:
            InputError: No such figure.
        """
        unknown = sorted(set(limits) - set(_LIMITS))
        if unknown:
            raise InputError("a tolerance has an unknown figure", got=", ".join(unknown), expected=", ".join(_LIMITS))
        return dataclasses.replace(self, **limits, reason="the gate file") if limits else self

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; null is not judged."""
        return dict(vars(self))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Tolerance:
        """The tolerance that `to_json` wrote."""
        limits = {name: None if value.get(name) is None else float(value[name]) for name in _LIMITS}
        return cls(**limits, reason=str(value.get("reason", "")))


@dataclass(frozen=True)
class Violation:
    """A limit that is broken: the figure's name, its value, the limit."""

    figure: str
    value: float
    limit: float


# figure -> whether the limit is the smallest admissible value
_LIMITS = {
    "max_abs": False,
    "max_rel": False,
    "rmse": False,
    "sqnr_db": True,
    "cosine": True,
    "top1_agreement": True,
    "margin_eaten": False,
}


def _used(value: float, limit: float, *, low: bool) -> float:
    """How much of a limit is used; above 1 it is broken. NaN breaks everything."""
    if math.isnan(value):
        return math.inf
    part, whole = (1 - value, 1 - limit) if low and limit <= 1 else (limit, value) if low else (value, limit)
    return 0.0 if part <= 0 and not whole < 0 else part / whole if whole > 0 else math.inf


def derive(
    kind: Kind,
    precision: Precision,
    *,
    reference: NDArray[Any] | None = None,
    fp64: NDArray[Any] | None = None,
    recorded: NDArray[Any] | None = None,
    rebuild: HopError | None = None,
    samples: int = _USUAL_SAMPLES,
) -> Tolerance:
    """The tolerance of a hop, from golden logits.

    Args:
        kind: `export` (pytorch to onnx-fp32), `precision` (onnx-fp32 to another precision), `recorded` (logits of the
            golden file to the same graph now), `engine` (graph to engine of the same precision).
        precision: Of the candidate.
        reference: FP32 logits of the golden windows `[windows, classes]`.
        fp64: The same from float64: the noise floor.
        recorded: The same as the precision gave them when the bundle was made.
        rebuild: For `recorded`: how far a rebuild was off then; without it, 15 dB below the precision's own error.
        samples: Of a window and channel; sums of more than 2,048 are granted more, in proportion.

    Raises:
        InputError: Logits that the kind needs are missing.
    """
    if kind == "export" or (kind == "recorded" and precision == "fp32"):
        limit = FP32_MAX_REL * max(1.0, samples / _USUAL_SAMPLES)
        return Tolerance(max_rel=limit, top1_agreement=1.0, reason="two FP32 executions of one network")
    if kind == "engine" and precision == "fp32":
        return Tolerance(max_rel=ENGINE_FP32_MAX_REL, top1_agreement=1.0, reason="FP32 summed in another order")
    want = as_logits(_needed(reference, "reference", kind), name="the reference")
    if kind == "precision":
        return _for_precision(precision, want, fp64)
    return _within_own_error(kind, precision, want, _needed(recorded, "recorded", kind), rebuild)


def _needed(value: NDArray[Any] | None, name: str, kind: str) -> NDArray[Any]:
    if value is None:
        raise InputError(
            f"a tolerance of kind {kind} cannot be derived", got=f"no {name} logits", expected=f"{name} golden logits"
        )
    return value


def _for_precision(precision: Precision, reference: NDArray[np.float64], fp64: NDArray[Any] | None) -> Tolerance:
    """Of fp16 and int8 against fp32.

    FP16 makes the same roundings as FP32 with a unit 8,192 times larger, so the FP32 noise floor times 8,192 is what to
    expect (parts that stay in FP32 make it less), and twice that, since both are the largest of few, the limit. Half
    the median margin caps it, because beyond that most decisions are open. INT8 has no such law; its error must leave
    the typical decision alone, which is an rmse of at most a quarter of the median margin (two logits that both move by
    two standard deviations close it).
    """
    typical = float(np.median(margins(reference)))
    if precision == "fp16":
        floor = compare(_needed(fp64, "fp64", "precision"), reference).max_abs
        expected = max(_LUCK * FP16_OVER_FP32 * floor, 2.0**-9 * float(np.abs(reference).max()))
        return Tolerance(
            max_abs=min(expected, typical / 2), reason="twice the FP32 noise floor times 2^13, half a typical margin"
        )
    if precision == "int8":
        return Tolerance(rmse=typical / 4, reason="a quarter of a typical margin; decisions are judged by the gate")
    raise InputError("a hop to another precision ends in FP32", got=precision, expected="fp16 or int8")


def _within_own_error(
    kind: Kind,
    precision: Precision,
    reference: NDArray[np.float64],
    recorded: NDArray[Any],
    rebuild: HopError | None,
) -> Tolerance:
    own = compare(reference, recorded)
    if own.nonfinite:
        raise InputError(
            f"the recorded {precision} logits are not finite", got=own.nonfinite, expected="finite golden logits"
        )
    floor = FP32_MAX_REL * float(np.abs(reference).max())
    if kind == "recorded" and rebuild is not None and not rebuild.nonfinite:
        return Tolerance(
            rmse=max(REBUILD_FACTOR * rebuild.rmse, floor / 4),
            max_abs=max(REBUILD_FACTOR * rebuild.max_abs, floor),
            reason=f"{REBUILD_FACTOR:g} times the rebuild noise measured at export",
        )
    below = 10 ** (-REBUILD_DB / 20) if kind == "recorded" else 1.0
    return Tolerance(
        rmse=max(below * own.rmse, floor),
        max_abs=max(own.max_abs, floor),
        reason=f"{REBUILD_DB:g} dB below the precision's own error"
        if kind == "recorded"
        else "the precision's own error",
    )


def just_passes(error: HopError) -> Tolerance:
    """The tightest tolerance that an error passes: any figure that is worse fails it.

    Raises:
        InputError: The error is infinite; no tolerance can pass it.
    """
    if error.nonfinite:
        raise InputError(
            "no tolerance passes logits that are not finite", got=error.nonfinite, expected="a finite candidate"
        )
    limits = {name: value for name in _LIMITS if math.isfinite(value := float(getattr(error, name)))}
    return Tolerance(**limits, reason="just passes")
