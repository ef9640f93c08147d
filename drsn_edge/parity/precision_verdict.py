"""Which precision is worth its trouble on this device, and why: words from measurements, no rule of thumb.

Fewer bits cost accuracy and calibration. They are worth it only when they are faster by more than what a measurement
repeats to, and when decisions stay. Networks as small as these are often bound by launches, where bits do not matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from drsn_edge.parity.variants import PRECISIONS, Precision

# Below this gain nothing is gained: clocks and other processes move a median by as much.
WORTH_IT = 1.02
# Launch-bound: at least so many times the work costs less than so many times the time.
_MORE_WORK, _SAME_TIME = 4, 1.5


@dataclass(frozen=True)
class PrecisionTiming:
    """One precision at one batch size.

    Attributes:
        precision: `fp32`, `fp16` or `int8`.
        batch: Windows in a call.
        p50_ms: Of a call.
        rounds_ms: Median of each round; rounds of other rows were measured side by side with them.
    """

    precision: Precision
    batch: int
    p50_ms: float
    rounds_ms: tuple[float, ...] = ()


@dataclass(frozen=True)
class PrecisionEvidence:
    """What else is known of one precision; None for what is not.

    Attributes:
        passed: Whether it keeps the gate of `verify`.
        changed: Highest upper end of the share of changed decisions, over the levels that are judged.
        kernels: Layers of the engine that launch work.
        reformats: Of those, layers that only bring data into another layout or type.
        int8_share: Share of convolutions and matrix products that really are int8.
    """

    passed: bool | None = None
    changed: float | None = None
    kernels: int | None = None
    reformats: int | None = None
    int8_share: float | None = None


@dataclass(frozen=True)
class PrecisionVerdict:
    """What to use.

    Attributes:
        precision: The recommended one; None where nothing was measured.
        int8_worth_it: None where int8 or fp16 was not measured.
        launch_bound: Whether latency hardly grows with the batch; None with one batch size only.
        batch: What was judged at.
        speedups: `int8 over fp16` and so on, by batch size.
        reasons: In words, the recommendation first.
    """

    precision: Precision | None
    int8_worth_it: bool | None
    launch_bound: bool | None
    batch: int | None
    speedups: dict[str, dict[int, float]]
    reasons: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "precision": self.precision,
            "int8_worth_it": self.int8_worth_it,
            "launch_bound": self.launch_bound,
            "batch": self.batch,
            "speedups": {
                pair: {str(batch): round(value, 4) for batch, value in found.items()}
                for pair, found in self.speedups.items()
            },
            "reasons": list(self.reasons),
        }


def judge_precision(
    timings: Sequence[PrecisionTiming],
    evidence: Mapping[Precision, PrecisionEvidence] | None = None,
    *,
    batch: int | None = None,
) -> PrecisionVerdict:
    """Recommend a precision.

    Args:
        timings: One for each precision and batch size, of one runner on one device.
        evidence: What else is known.
        batch: What is judged at; the smallest that was measured by default, as a sensor gives it.
    """
    known = evidence or {}
    found: dict[Precision, dict[int, PrecisionTiming]] = {}
    for item in timings:
        found.setdefault(item.precision, {})[item.batch] = item
    sizes = sorted({item.batch for item in timings})
    if not sizes:
        return PrecisionVerdict(None, None, None, None, {}, ("nothing was measured, so nothing is recommended",))
    at = sizes[0] if batch is None or batch not in sizes else batch
    pairs: tuple[tuple[Precision, Precision], ...] = (("fp32", "fp16"), ("fp16", "int8"), ("fp32", "int8"))
    speedups = {
        f"{fast} over {slow}": {size: _ratio(found[slow][size], found[fast][size]) for size in both}
        for slow, fast in pairs
        if (both := sorted(set(found.get(slow, {})) & set(found.get(fast, {}))))
    }
    bound = _launch_bound(found, sizes)
    kept: list[Precision] = [name for name in PRECISIONS if at in found.get(name, {}) and _usable(known.get(name))]
    choice: Precision | None = kept[0] if kept else None
    for name in kept[1:]:
        assert choice is not None
        if speedups[f"{name} over {choice}"][at] >= WORTH_IT:
            choice = name
    gain, over_fp32 = (speedups.get(f"int8 over {slow}", {}).get(at) for slow in ("fp16", "fp32"))
    faster = gain is not None and gain >= WORTH_IT and (over_fp32 is None or over_fp32 >= WORTH_IT)
    worth = None if gain is None else faster and _usable(known.get("int8"))
    reasons = [
        *_recommendation(choice, at),
        *_speed(speedups, at),
        *_int8(worth, gain, over_fp32, known),
        *_decisions(known),
        *_bound(bound, sizes),
        *_other_sizes(speedups, at, known),
    ]
    return PrecisionVerdict(choice, worth, None if bound is None else bound[0], at, speedups, tuple(reasons))


def _usable(item: PrecisionEvidence | None) -> bool:
    """Not known to be out of tolerance."""
    return item is None or item.passed is not False


def _ratio(slow: PrecisionTiming, fast: PrecisionTiming) -> float:
    """How many times faster: round by round where both have the same rounds, since drift meets both alike."""
    if slow.rounds_ms and len(slow.rounds_ms) == len(fast.rounds_ms):
        return median(one / other for one, other in zip(slow.rounds_ms, fast.rounds_ms, strict=True))
    return slow.p50_ms / fast.p50_ms


def _launch_bound(
    found: Mapping[Precision, Mapping[int, PrecisionTiming]], sizes: Sequence[int]
) -> tuple[bool, Precision, int, float] | None:
    """From the smallest batch to the first that is at least four times as large, in the least precise form."""
    larger = next((size for size in sizes if size >= _MORE_WORK * sizes[0]), None)
    for name in reversed(PRECISIONS):
        rows = found.get(name, {})
        if larger is not None and sizes[0] in rows and larger in rows:
            growth = rows[larger].p50_ms / rows[sizes[0]].p50_ms
            return growth < _SAME_TIME, name, larger, growth
    return None


def _recommendation(choice: Precision | None, at: int) -> list[str]:
    if choice is None:
        return [f"no precision that keeps its decisions was measured at batch {at}"]
    why = "no form with fewer bits is 1.02 times faster" if choice == "fp32" else "no form with more bits is as fast"
    return [f"use {choice} on this device: at batch {at} {why}"]


def _speed(speedups: Mapping[str, Mapping[int, float]], at: int) -> list[str]:
    shown = [f"{pair} {found[at]:.2f} times" for pair, found in speedups.items() if at in found]
    return [f"speed at batch {at}: {', '.join(shown)}"] if shown else []


def _int8(
    worth: bool | None, gain: float | None, over_fp32: float | None, known: Mapping[Precision, PrecisionEvidence]
) -> list[str]:
    int8, fp16 = known.get("int8", PrecisionEvidence()), known.get("fp16", PrecisionEvidence())
    if worth is None or gain is None:
        return ["whether int8 is worth it is unknown: int8 and fp16 were not both measured"]
    if worth:
        return [f"int8 is worth it: {gain:.2f} times as fast as fp16, at least {WORTH_IT:g} is asked for"]
    if not _usable(int8):
        return [f"int8 is not worth it: {gain:.2f} times as fast as fp16, but out of tolerance"]
    if gain >= WORTH_IT:
        return [f"int8 is not worth it: {gain:.2f} times as fast as fp16, but only {over_fp32:.2f} times as fp32"]
    reasons = [f"int8 is not worth it: {gain:.2f} times as fast as fp16, at least {WORTH_IT:g} is asked for"]
    if int8.reformats:
        reasons.append(f"the int8 engine spends {int8.reformats} of {int8.kernels} kernels on reformatting data")
    if int8.kernels is not None and fp16.kernels is not None and int8.kernels > fp16.kernels:
        reasons.append(f"the int8 engine has {int8.kernels} kernels, the fp16 one {fp16.kernels}")
    if int8.int8_share is not None and int8.int8_share < 1:
        reasons.append(f"{int8.int8_share:.0%} of the products of the int8 engine really are int8")
    return reasons


def _decisions(known: Mapping[Precision, PrecisionEvidence]) -> list[str]:
    said = []
    for name in PRECISIONS:
        item = known.get(name)
        if item is None:
            continue
        if item.passed is False:
            said.append(f"{name} is out of tolerance and was not considered")
        elif item.changed is not None:
            said.append(f"{name} changes at most {item.changed:.2%} of decisions at the judged levels")
    return said


def _bound(bound: tuple[bool, Precision, int, float] | None, sizes: Sequence[int]) -> list[str]:
    if bound is None:
        return []
    yes, name, larger, growth = bound
    grew = f"from batch {sizes[0]} to {larger} the latency of {name} grows {growth:.1f} times"
    if yes:
        why = "launches and not arithmetic take the time, so fewer bits cannot help much; fewer kernels or batches can"
        return [f"{grew}: {why}"]
    return [f"{grew}: arithmetic and memory take the time"]


def _other_sizes(
    speedups: Mapping[str, Mapping[int, float]], at: int, known: Mapping[Precision, PrecisionEvidence]
) -> list[str]:
    """Where another batch size would be judged otherwise."""
    found = speedups.get("int8 over fp16", {})
    if at not in found or not _usable(known.get("int8")):
        return []
    here = found[at] >= WORTH_IT
    others = [f"{size} ({gain:.2f} times)" for size, gain in found.items() if (gain >= WORTH_IT) != here]
    if not others:
        return []
    return [f"at batch {', '.join(others)} int8 is {'not ' if here else ''}worth it"]
