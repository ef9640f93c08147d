"""Where two executions part: the first unit whose error is larger than it should be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge.parity.shrinkage import SHRUNK, THRESHOLD, pair

SKETCH = ".sketch"

# The error of an undamaged variant, measured when the bundle was made, comes back to within rebuild noise; twice as
# much is damage. Errors of sound units grow by far less than that from one unit to the next.
CLEAN_FACTOR = 2.0


@dataclass(frozen=True)
class Divergence:
    """The first place where candidate and reference part.

    Attributes:
        unit: Module path, as `units.3`.
        tensor: The output in which it shows, as `units.3.threshold`.
        relative_error: Norm of the difference over norm of the reference; infinite for NaN or infinity.
        limit: What it was allowed to be.
    """

    unit: str
    tensor: str
    relative_error: float
    limit: float


def signs(count: int) -> NDArray[np.float64]:
    """Plus and minus one for every position, fixed for ever: the lowest bit of MurmurHash3's finaliser."""
    x = np.arange(1, count + 1, dtype=np.uint64)
    mask = np.uint64(0xFFFFFFFF)
    x = ((x ^ (x >> np.uint64(16))) * np.uint64(0x85EBCA6B)) & mask
    x = ((x ^ (x >> np.uint64(13))) * np.uint64(0xC2B2AE35)) & mask
    return np.where((x ^ (x >> np.uint64(16))) & np.uint64(1), 1.0, -1.0)


def summarise(probe: Mapping[str, NDArray[Any]], units: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """What of the probe outputs is small enough to be recorded in a bundle.

    Thresholds as they are, and of the shrunk features `[N, C, ...]` a sketch `[N, C]`: the sum over positions, each
    with a fixed random sign, over the root of their number. The norm of a difference of sketches is, on average, the
    root mean square of the difference itself (Johnson and Lindenstrauss), so that a relative error of sketches stands
    for that of the features.
    """
    found: dict[str, NDArray[np.float32]] = {}
    for unit in units:
        if unit + THRESHOLD in probe:
            found[unit + THRESHOLD] = np.asarray(probe[unit + THRESHOLD], np.float32)
        if unit + SHRUNK in probe:
            shrunk = np.asarray(probe[unit + SHRUNK])
            flat = shrunk.reshape(*shrunk.shape[:2], -1)
            with np.errstate(invalid="ignore"):  # infinite features: NaN is the answer
                # Other signs in every channel: what is alike in all of them must not hide from one row of signs.
                rows = signs(flat.shape[1] * flat.shape[2]).reshape(flat.shape[1:])
                found[unit + SKETCH] = np.asarray((flat * rows).sum(2) / math.sqrt(flat.shape[2]), np.float32)
    return found


def tensor_errors(
    reference: Mapping[str, NDArray[Any]], candidate: Mapping[str, NDArray[Any]], units: Sequence[str]
) -> dict[str, float]:
    """Relative error of every threshold and every shrunk output (or its sketch), in the order of execution.

    Record it at export time per variant; it is the `clean` of `first_divergence` later. Outputs that one of the two
    does not have are left out.

    Raises:
        InputError: Different shapes, or a reference that is not finite.
    """
    errors = {}
    for unit in units:
        for name in (unit + THRESHOLD, unit + SKETCH, unit + SHRUNK):
            if name in reference and name in candidate:
                want, have = pair(reference, candidate, name)
                errors[name] = _relative(want, have)
    return errors


def first_divergence(
    reference_probe: Mapping[str, NDArray[Any]],
    candidate_probe: Mapping[str, NDArray[Any]],
    units_in_order: Sequence[str],
    tolerance: float | Mapping[str, float] = 1e-3,
    *,
    clean: Mapping[str, float] | None = None,
) -> Divergence | None:
    """The first unit, in the order of execution, that is further from the reference than it may be.

    An error made in one unit lives on in all later ones, so the first is the one to look at. Within a unit the
    threshold is looked at before the shrunk features: a damaged threshold damages those, not the other way round.

    Args:
        reference_probe: Probe outputs of the reference, on the same windows.
        candidate_probe: Probe outputs of the candidate.
        units_in_order: Module paths in the order of execution.
        tolerance: Admissible relative error, for all tensors, or per tensor name or unit (what is not named: 1e-3).
        clean: Relative error per tensor of the undamaged variant (`tensor_errors` at export time): admissible is then
            twice that, or `tolerance` where that is more.

    Returns:
        None when no unit is out of its limit.

    Raises:
        InputError: Different shapes, or a reference that is not finite.
    """
    for tensor, error in tensor_errors(reference_probe, candidate_probe, units_in_order).items():
        unit = tensor.removesuffix(THRESHOLD).removesuffix(SHRUNK).removesuffix(SKETCH)
        limit = tolerance if isinstance(tolerance, float) else tolerance.get(tensor, tolerance.get(unit, 1e-3))
        if clean is not None:
            limit = max(limit, CLEAN_FACTOR * clean.get(tensor, 0.0))
        if not error <= limit:
            return Divergence(unit, tensor.replace(SKETCH, SHRUNK), error, limit)
    return None


def _relative(want: NDArray[np.float64], have: NDArray[np.float64]) -> float:
    if not np.isfinite(have).all():
        return math.inf
    error, size = float(np.linalg.norm(have - want)), float(np.linalg.norm(want))
    if error == 0:
        return 0.0
    return error / size if size > 0 else math.inf
