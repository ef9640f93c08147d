"""The error ledger: how far one hop moves the logits, in figures that can be added up and compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge.errors import InputError
from drsn_edge.parity.logits import as_logits, margins, top1


@dataclass(frozen=True)
class HopError:
    """The distance between reference and candidate logits over a set of windows. Computed in float64.

    A candidate with NaN or infinite logits has infinite `max_abs`, `max_rel`, `rmse` and margins, `sqnr_db` of minus
    infinity and `cosine` 0: it passes no tolerance. In JSON those are null, and `nonfinite` says why.

    Attributes:
        windows: Windows compared.
        max_abs: Largest |difference| of a logit.
        max_rel: `max_abs` over the largest |logit| of the reference, over all windows: single logits may be near zero.
        rmse: Root of the mean squared difference.
        sqnr_db: 10 log10 of reference power over error power; plus infinity when nothing differs (null in JSON, beside
            a `max_abs` of 0).
        cosine: Of all logits taken as one vector.
        top1_agreement: Share of windows with the same class.
        margin_eaten: Largest over windows of 2 |difference| / margin, where margin is the reference's largest logit
            less its second largest, and |difference| the window's largest. Below 1 no decision can have changed; the
            distance to 1 is the reserve. Infinite for a tie that was moved.
        margin_eaten_p99: The same at the 99th percentile of windows (the smallest value that 99 % do not exceed).
        nonfinite: Candidate logits that are NaN or infinite.
    """

    windows: int
    max_abs: float
    max_rel: float
    rmse: float
    sqnr_db: float
    cosine: float
    top1_agreement: float
    margin_eaten: float
    margin_eaten_p99: float
    nonfinite: int = 0

    @property
    def identical(self) -> bool:
        """Whether no logit differs."""
        return self.max_abs == 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; what is not finite is null."""
        return {
            name: value if isinstance(value, int) or math.isfinite(value) else None
            for name, value in vars(self).items()
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> HopError:
        """The error that `to_json` wrote; nulls become the infinities that they stood for."""
        rmse = _number(value["rmse"], math.inf)
        return cls(
            windows=int(value["windows"]),
            max_abs=_number(value["max_abs"], math.inf),
            max_rel=_number(value["max_rel"], math.inf),
            rmse=rmse,
            sqnr_db=_number(value["sqnr_db"], math.inf if rmse == 0.0 else -math.inf),
            cosine=_number(value["cosine"], 0.0),
            top1_agreement=float(value["top1_agreement"]),
            margin_eaten=_number(value["margin_eaten"], math.inf),
            margin_eaten_p99=_number(value["margin_eaten_p99"], math.inf),
            nonfinite=int(value["nonfinite"]),
        )


def _number(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else float(value)


def compare(reference: NDArray[Any], candidate: NDArray[Any]) -> HopError:
    """How far `candidate` is from `reference`.

    Args:
        reference: Logits `[windows, classes]`, finite.
        candidate: Logits of the same windows, same shape; NaN and infinity are an infinite error.

    Raises:
        InputError: Shapes differ or are not `[windows, classes]`, or the reference is not finite.
    """
    want = as_logits(reference, name="the reference")
    have = as_logits(candidate, name="the candidate")
    if want.shape != have.shape:
        raise InputError("reference and candidate have different shapes", got=have.shape, expected=want.shape)
    if not np.isfinite(want).all():
        window, label = np.argwhere(~np.isfinite(want))[0]
        raise InputError(
            "the reference logits are not finite",
            got=f"{want[window, label]} in window {window}, class {label}",
            expected="finite logits: nothing can be measured against NaN",
        )
    agreement = float(np.mean(top1(want) == top1(have)))
    nonfinite = int(np.size(have) - np.count_nonzero(np.isfinite(have)))
    if nonfinite:
        inf = math.inf
        return HopError(len(want), inf, inf, inf, -inf, 0.0, agreement, inf, inf, nonfinite)

    difference = np.abs(have - want)
    max_abs = float(difference.max())
    scale = float(np.abs(want).max())
    error_power = float(np.mean(difference**2))
    eaten = _margin_eaten(difference.max(axis=1), margins(want))
    return HopError(
        windows=len(want),
        max_abs=max_abs,
        max_rel=_ratio(max_abs, scale),
        rmse=math.sqrt(error_power),
        sqnr_db=_decibel(float(np.mean(want**2)), error_power),
        cosine=_cosine(want, have),
        top1_agreement=agreement,
        margin_eaten=float(eaten.max()),
        margin_eaten_p99=float(np.percentile(eaten, 99, method="inverted_cdf")),
    )


def _margin_eaten(moved: NDArray[np.float64], margin: NDArray[np.float64]) -> NDArray[np.float64]:
    eaten = np.where(moved > 0, np.inf, 0.0)
    with np.errstate(over="ignore"):  # a margin next to nothing is a tie: infinity is the answer
        np.divide(2 * moved, margin, out=eaten, where=margin > 0)
    return eaten


def _ratio(part: float, whole: float) -> float:
    if part == 0:
        return 0.0
    return part / whole if whole > 0 else math.inf


def _decibel(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * (math.log10(signal) - math.log10(noise)) if signal > 0 else -math.inf


def _cosine(want: NDArray[np.float64], have: NDArray[np.float64]) -> float:
    norms = float(np.linalg.norm(want)) * float(np.linalg.norm(have))
    if norms == 0:
        return 1.0 if np.array_equal(want, have) else 0.0
    # Rounding may carry the quotient past 1 by a few units in the last place.
    return float(np.clip(np.vdot(want, have) / norms, -1.0, 1.0))


def share_of_total(hops: Sequence[HopError | None]) -> tuple[float | None, ...]:
    """Each hop's share of the summed squared error; None for a hop that was not measured.

    Hops that gave NaN or infinity share everything among themselves; when no hop moved anything all shares are 0.
    """
    infinite = [hop is not None and not math.isfinite(hop.rmse) for hop in hops]
    if any(infinite):
        each = 1 / sum(infinite)
        return tuple(None if hop is None else each * bad for hop, bad in zip(hops, infinite, strict=True))
    total = sum(hop.rmse**2 for hop in hops if hop is not None)
    return tuple(None if hop is None else _ratio(hop.rmse**2, total) for hop in hops)
