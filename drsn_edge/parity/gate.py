"""The gate: which differences are failures. Applies to a result that was just measured or to a saved one alike."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drsn_edge.errors import InputError
from drsn_edge.files import read_json
from drsn_edge.parity.decision_point import Changed, DecisionPoint
from drsn_edge.parity.intervals import decidable
from drsn_edge.parity.tolerances import Tolerance
from drsn_edge.parity.variants import PRECISIONS, Precision, precision_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from drsn_edge.parity.result import Hop, ParityResult


@dataclass(frozen=True)
class Failure:
    """One reason why a result does not pass.

    Attributes:
        where: Hop or noise level, and variant.
        what: The figure, in words.
        value: What it is; None where there is no number.
        limit: What it may be; None where there is no number.
    """

    where: str
    what: str
    value: float | None
    limit: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; an infinite value is null."""
        finite = self.value is not None and math.isfinite(self.value)
        return {**vars(self), "value": self.value if finite else None}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Failure:
        """What `to_json` wrote; an infinite value comes back as None."""
        numbers = (None if value[name] is None else float(value[name]) for name in ("value", "limit"))
        return cls(str(value["where"]), str(value["what"]), *numbers)


@dataclass(frozen=True)
class Gate:
    """Limits on decisions. The defaults are the product's promise; `docs/formats.md` has the file format.

    Attributes:
        changed_limit: Per precision, the largest admissible upper end of the 95 % interval of changed decisions, at
            every gated noise level. A precision that is not named is not judged.
        gated_from_db: Lowest SNR that is judged; clean windows always are.
        fp16_top1_clean: Smallest admissible share of equal decisions of fp16 on clean windows; None: not judged.
        fp32_identical: Whether every decision of an fp32 variant must be the reference's, where the reference's margin
            is more than FP32 rounding (on gated noise levels; on a hop every decision counts).
        hops: Limits for single hops in place of those that were derived, by `FROM to TO`: figures of `Tolerance`.
    """

    changed_limit: Mapping[Precision, float] = field(default_factory=lambda: {"fp16": 0.005, "int8": 0.03})
    gated_from_db: float = -4.0
    fp16_top1_clean: float | None = 0.999
    fp32_identical: bool = True
    hops: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for precision, limit in self.changed_limit.items():
            if precision not in PRECISIONS:
                raise InputError(
                    "the gate limits an unknown precision",
                    got=precision,
                    expected="fp32, fp16 or int8 in changed_limit",
                )
            if not 0 <= limit <= 1:
                raise InputError(f"the gate's limit for {precision} is no share", got=limit, expected="0 to 1")
        if self.fp16_top1_clean is not None and not 0 <= self.fp16_top1_clean <= 1:
            raise InputError("the gate's fp16_top1_clean is no share", got=self.fp16_top1_clean, expected="0 to 1")
        for name, limits in self.hops.items():
            if name.count(" to ") != 1:
                raise InputError("the gate names no hop", got=name, expected="FROM to TO, as onnx-fp32 to onnx-int8")
            Tolerance().overridden(limits)

    def tolerance(self, hop: Hop) -> Tolerance | None:
        """What a hop is judged by: its derived tolerance, with the limits that this gate has for it."""
        own = self.hops.get(hop.name, {})
        return (hop.tolerance or Tolerance()).overridden(own) if own else hop.tolerance

    def gates(self, noise: str, snr_db: float | None) -> bool:
        """Whether a noise level is judged."""
        return noise == "none" or snr_db is None or snr_db >= self.gated_from_db

    def for_trained(self, lowest_snr_db: float | None) -> Gate:
        """The gate for a network that was trained down to `lowest_snr_db`: nothing below that is judged."""
        if lowest_snr_db is None or lowest_snr_db <= self.gated_from_db:
            return self
        return dataclasses.replace(self, gated_from_db=lowest_snr_db)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        hops = {name: dict(limits) for name, limits in self.hops.items()}
        return {**vars(self), "changed_limit": dict(self.changed_limit), "hops": hops}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Gate:
        """The gate that `to_json` wrote; fields that are absent keep their defaults.

        Raises:
            InputError: An unknown field, or a value of the wrong kind.
        """
        names = [item.name for item in dataclasses.fields(cls)]
        unknown = sorted(set(value) - set(names))
        if unknown:
            raise InputError("the gate has an unknown field", got=", ".join(unknown), expected=", ".join(names))
        given = {name: _CHECKS[name](name, item) for name, item in value.items()}
        return cls(**given)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"the gate's {name} is no number", got=repr(value), expected="a number, as 0.005")
    return float(value)


def _limits(name: str, value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping):
        raise InputError(f"the gate's {name} is no table", got=repr(value), expected="{fp16 = 0.005, int8 = 0.03}")
    return {str(key): _number(f"{name}.{key}", limit) for key, limit in value.items()}


def _hops(name: str, value: Any) -> dict[str, dict[str, float]]:
    if not isinstance(value, Mapping):
        raise InputError(f"the gate's {name} is no table", got=repr(value), expected='{"pytorch to onnx-fp32" = {...}}')
    return {str(key): _limits(f'{name}."{key}"', limits) for key, limits in value.items()}


def _optional(name: str, value: Any) -> float | None:
    return None if value is None else _number(name, value)


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"the gate's {name} is no switch", got=repr(value), expected="true or false")
    return value


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "changed_limit": _limits,
    "gated_from_db": _number,
    "fp16_top1_clean": _optional,
    "fp32_identical": _switch,
    "hops": _hops,
}


def load_gate(path: Path) -> Gate:
    """A gate from a TOML or JSON file: the fields of `Gate`, on top or in a table `gate`.

    Raises:
        InputError: The file is absent, cannot be parsed, or is no gate.
    """
    if path.suffix == ".json":
        value = read_json(path, what="the gate file")
    else:
        try:
            value = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError("the gate file is not there", got=path, expected="a TOML or JSON file") from None
        except ValueError as error:
            raise InputError("the gate file is not TOML", got=f"{path}: {error}", expected="a TOML file") from None
    return Gate.from_json(value["gate"] if isinstance(value.get("gate"), dict) else value)


def judge(result: ParityResult, gate: Gate) -> tuple[Failure, ...]:
    """Everything in a result that the gate does not let pass, from its figures alone.

    A hop is judged by its own tolerance, a gated noise level by the gate. A hop that was not run does not fail.
    """
    failures = [failure for hop in result.hops for failure in _of_hop(hop, gate)]
    for point in result.decisions:
        if point.gated:
            for variant, changed in point.changed.items():
                failures += _of_point(point, variant, changed, gate)
    return tuple(failures)


def undecided(result: ParityResult, gate: Gate) -> tuple[str, ...]:
    """Gated noise levels that have too few windows or draws for the gate to decide by intervals, in words."""
    short: dict[tuple[float, int, int], list[str]] = {}
    for point in result.decisions:
        limits = {_limit(variant, gate) for variant in point.changed} - {None}
        for limit in sorted(float(item) for item in limits if item is not None and point.gated):
            if _too_few(point, limit):
                short.setdefault((limit, point.windows, point.draws), []).append(point.name)
    return tuple(
        f"{windows} windows and {draws} draws cannot show {100 * limit:g} % with certainty; judged by the rate itself: "
        f"{', '.join(names)}. {_remedy(limit, windows)}"
        for (limit, windows, draws), names in short.items()
    )


def _remedy(limit: float, windows: int) -> str:
    enough = next((draws for draws in (10, 20, 40, 80, 160) if decidable(limit, windows, draws * windows)), None)
    return "More windows are needed." if enough is None else f"{enough} draws of each window could."


def _of_hop(hop: Hop, gate: Gate) -> Iterator[Failure]:
    where, tolerance = hop.name, gate.tolerance(hop)
    if hop.status == "not_run":
        return
    if hop.error is None:
        if hop.status == "failed":
            yield Failure(where, hop.reason or "failed without figures", None, None)
        return
    broken = tolerance.violations(hop.error) if tolerance is not None else ()
    for item in broken:
        yield Failure(where, item.figure, item.value, item.limit)
    if hop.error.nonfinite and not broken:
        yield Failure(where, "nonfinite", float(hop.error.nonfinite), 0.0)
    judged = {item.figure for item in broken}
    identical = gate.fp32_identical and precision_of(hop.to) == "fp32"
    if identical and "top1_agreement" not in judged and hop.error.top1_agreement < 1:
        yield Failure(where, "top1_agreement", hop.error.top1_agreement, 1.0)


def _of_point(point: DecisionPoint, variant: str, changed: Changed, gate: Gate) -> Iterator[Failure]:
    where = f"{variant} at {point.name}"
    precision = precision_of(variant)
    if precision == "fp32" and gate.fp32_identical and changed.count > changed.ties:
        yield Failure(where, "changed decisions other than ties", float(changed.count - changed.ties), 0.0)
    clean = gate.fp16_top1_clean if precision == "fp16" and point.snr_db is None else None
    if clean is not None and not 1 - changed.rate >= clean:
        yield Failure(where, "top-1 agreement", 1 - changed.rate, clean)
    limit = _limit(variant, gate)
    if limit is None:
        return
    if _too_few(point, limit):
        if not changed.rate <= limit:
            yield Failure(where, "rate of changed decisions", changed.rate, limit)
    elif not changed.ci95[1] <= limit:
        yield Failure(where, "upper end of changed decisions", changed.ci95[1], limit)


def _limit(variant: str, gate: Gate) -> float | None:
    return gate.changed_limit.get(precision_of(variant))


def _too_few(point: DecisionPoint, limit: float) -> bool:
    """Whether a good variant might fail at this level for want of windows; `undecided` says so then.

    240 clean windows without a change leave 1 %; a limit of 0.5 % would then fail every variant, good or bad. There the
    rate itself is judged.
    """
    return not decidable(limit, point.windows, point.draws)
