"""The calibration contract: scales, and the hashes of everything that they depend on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from drsn_edge.calibration.plan import PrecisionPlan
from drsn_edge.calibration.rounded import ROUNDINGS, Rounded
from drsn_edge.errors import InputError
from drsn_edge.files import dump_json, sha256_bytes

FORMAT_VERSION = 1


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON."""
    return sha256_bytes(dump_json(value).encode())


@dataclass(frozen=True)
class Bindings:
    """Hashes of what the scales were measured on.

    Attributes:
        weights: Of the weights (safetensors; for a foreign graph, of its canonical file).
        data: Of the calibration windows, noise included.
        contract: Of the signal contract.
        plan: Of the precision plan.
        tools: Versions of drsn-edge, onnx, onnxruntime and numpy.
    """

    weights: str
    data: str
    contract: str
    plan: str
    tools: Mapping[str, str]


@dataclass(frozen=True)
class Calibration:
    """A scale per quantized tensor, with how and on what it was found.

    Attributes:
        method: Range method that won on held-out windows, e.g. `percentile 99.99`.
        scales: Activation scale by layer; real value = scale * integer.
        plan: The precision plan.
        bindings: What the scales belong to.
        windows: Calibration windows seen.
        trials: Cost of each method tried on the held-out windows; infinite (null in JSON) where logits were not finite.
        cost: Of what was taken, with its rounding of weights, on the same windows.
        full_range: Layers whose input is never negative: real value = scale * (integer + 127).
        rounding: `nearest` or `learned`.
        rounded: SHA-256 of the integers and the bias of every int8 layer, where they were learned; else empty.
        weights: The integers and biases themselves; None for a calibration that was read from a file, which has only
            their hashes: a graph has the integers.
    """

    method: str
    scales: Mapping[str, float]
    plan: PrecisionPlan
    bindings: Bindings
    windows: int
    trials: Mapping[str, float]
    cost: float = math.inf
    full_range: tuple[str, ...] = ()
    rounding: str = "nearest"
    rounded: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, Rounded] | None = field(default=None, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, sealed with a hash over all of them."""
        body: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "method": self.method,
            "scales": dict(self.scales),
            "cost": self.cost,
            "full_range": list(self.full_range),
            "rounding": self.rounding,
            "rounded": dict(self.rounded),
            "plan": self.plan.to_json(),
            "bindings": dataclasses.asdict(self.bindings) | {"tools": dict(self.bindings.tools)},
            "windows": self.windows,
            "trials": dict(self.trials),
        }
        return body | {"seal": digest(body)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Calibration:
        """The calibration that `to_json` wrote.

        Raises:
            InputError: Another format, a broken seal, or values that cannot be scales.
        """
        if not isinstance(value, Mapping):
            raise InputError("this is no calibration", got=type(value).__name__, expected="a JSON object")
        body = {key: item for key, item in value.items() if key != "seal"}
        if body.get("format_version") != FORMAT_VERSION:
            raise InputError(
                "the calibration has another format version", got=body.get("format_version"), expected=FORMAT_VERSION
            )
        if value.get("seal") != digest(body):
            raise InputError(
                "the calibration was changed after it was written",
                got=f"seal {value.get('seal')}",
                expected=f"seal {digest(body)}",
                hint="calibrate again; scales are not edited by hand",
            )
        try:
            plan = PrecisionPlan.from_json(body["plan"])
            calibration = cls(
                method=str(body["method"]),
                scales={str(name): float(scale) for name, scale in body["scales"].items()},
                plan=plan,
                bindings=Bindings(**body["bindings"]),
                windows=int(body["windows"]),
                trials={str(name): math.inf if cost is None else float(cost) for name, cost in body["trials"].items()},
                cost=math.inf if body["cost"] is None else float(body["cost"]),
                full_range=tuple(str(name) for name in _list(body["full_range"])),
                rounding=str(body["rounding"]),
                rounded={str(name): str(value) for name, value in body["rounded"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError("the calibration has the wrong fields", got=error, expected="those of to_json") from None
        bad = [f"{name}: {scale}" for name, scale in calibration.scales.items() if not (0 < scale < math.inf)]
        if bad:
            raise InputError("the calibration holds a scale that is none", got=bad[0], expected="a positive number")
        odd = sorted({layer.layer for layer in plan.int8} ^ {*calibration.scales})
        if odd:
            raise InputError(
                "the calibration has other layers than its plan", got=", ".join(odd), expected="a scale per int8 layer"
            )
        calibration._ensure_layers()
        if calibration.bindings.plan != digest(plan.to_json()):
            raise InputError(
                "the calibration belongs to another plan",
                got=calibration.bindings.plan,
                expected=digest(plan.to_json()),
            )
        return calibration

    def _ensure_layers(self) -> None:
        """What names layers must name those that are int8."""
        odd = sorted({*self.full_range} - {*self.scales})
        if odd:
            raise InputError(
                "the calibration gives a full range to a layer that is not int8", got=", ".join(odd),
                expected="int8 layers",
            )  # fmt: skip
        wanted = {*self.scales} if self.rounding == "learned" else set()
        if self.rounding not in ROUNDINGS or {*self.rounded} != wanted:
            raise InputError(
                "the calibration does not say how its weights were rounded",
                got=f"rounding {self.rounding}, hashes of {len(self.rounded)} layers",
                expected=f"one of {', '.join(ROUNDINGS)}, and for learned ones a hash for each int8 layer",
            )

    def check(
        self, *, weights: str, contract: Mapping[str, Any], plan: PrecisionPlan | None = None, data: str | None = None
    ) -> None:
        """Refuse scales that were measured for something else.

        Args:
            weights: SHA-256 of the weights that they are to be used with.
            contract: The signal contract as JSON.
            plan: The precision plan, where another than the calibration's own is to be used.
            data: Fingerprint of the calibration windows, where these are at hand.

        Raises:
            InputError: What differs.
        """
        differences = self.differences(weights=weights, contract=contract, plan=plan, data=data)
        if differences:
            what, got, expected = differences[0]
            raise InputError(
                f"the calibration belongs to {what}", got=got, expected=expected,
                hint="calibrate again: export with --calibrate DATASET",
            )  # fmt: skip

    def differences(
        self, *, weights: str, contract: Mapping[str, Any], plan: PrecisionPlan | None = None, data: str | None = None
    ) -> list[tuple[str, str, str]]:
        """What `check` would refuse: `other weights`, what there is, what the scales were measured on."""
        bound = self.bindings
        pairs = {
            "other weights": (weights, bound.weights),
            "another signal contract": (digest(contract), bound.contract),
            "other data": (bound.data if data is None else data, bound.data),
        }
        found = [(what, f"sha256 {here}", f"sha256 {there}") for what, (here, there) in pairs.items() if here != there]
        if plan is not None and digest(plan.to_json()) != bound.plan:
            rows = plan.differences(self.plan) or ["the reasons of its rows"]
            found.append(("another precision plan", "; ".join(rows), "the plan that the scales were measured with"))
        return found


def _list(value: Any) -> list[Any]:
    """A list as JSON has it; a text would pass for a list of its letters."""
    if not isinstance(value, list):
        raise TypeError(f"{type(value).__name__} where a list was expected")
    return value
