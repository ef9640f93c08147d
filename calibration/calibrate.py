"""Calibration: observe, try the range methods on held-out windows, keep the one that moves the thresholds least."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from drsn_edge._version import __version__
from drsn_edge.calibration.collect import observe
from drsn_edge.calibration.contract import Bindings, Calibration, digest
from drsn_edge.calibration.familiar import refuse_unfamiliar
from drsn_edge.calibration.judge import Judge
from drsn_edge.calibration.observers import METHODS, RangeObserver, scale_of
from drsn_edge.calibration.offsets import full_range_layers
from drsn_edge.calibration.plan import PrecisionPlan, fit, make_plan
from drsn_edge.calibration.rounded import ROUNDINGS, Rounded
from drsn_edge.calibration.rounding import learn_rounding
from drsn_edge.calibration.windows import MINIMUM_HELD_OUT, NoisyWindows, refuse, refuse_unrelated
from drsn_edge.errors import InputError, UsageError
from drsn_edge.exporters.canonical import CanonicalGraph
from drsn_edge.progress import SILENT, Progress
from drsn_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner
from drsn_edge.runtime.runner import run_batched
from drsn_edge.signals.contract import SignalContract

# What `auto` tries: (method, percentile).
_TRIALS: tuple[tuple[str, float], ...] = (
    ("min-max", 100.0),
    ("percentile", 99.9),
    ("percentile", 99.95),
    ("percentile", 99.99),
    ("percentile", 99.999),
    ("mse", 100.0),
    ("entropy", 100.0),
)


@dataclass(frozen=True)
class CalibrationOptions:
    """How scales are found.

    Attributes:
        method: `auto` tries every method on held-out windows; or one of `min-max`, `percentile`, `mse`, `entropy`.
        percentile: For `percentile` alone.
        quantize_first: The first convolution too.
        full_range: All 255 levels for inputs that are never negative (`offsets`); without, symmetric pairs only.
        rounding: Of weights: `nearest`, or `learned` from the calibration windows (`rounding`).
        plan: Instead of the default plan; one that was edited is brought in line with the graph (`plan.fit`).
    """

    method: str = "auto"
    percentile: float = 99.99
    quantize_first: bool = False
    full_range: bool = True
    rounding: str = "learned"
    plan: PrecisionPlan | None = None

    def __post_init__(self) -> None:
        if self.method not in ("auto", *METHODS):
            raise UsageError("unknown range method", got=self.method, expected=", ".join(("auto", *METHODS)))
        if self.rounding not in ROUNDINGS:
            raise UsageError("unknown rounding of weights", got=self.rounding, expected=", ".join(ROUNDINGS))
        if not 50 < self.percentile <= 100:
            raise UsageError("the percentile clips too much", got=self.percentile, expected="above 50, at most 100")


def calibrate(
    graph: CanonicalGraph,
    data: NoisyWindows,
    held_out: NoisyWindows,
    *,
    contract: SignalContract,
    weights_sha256: str,
    network: Any = None,
    options: CalibrationOptions | None = None,
    progress: Progress = SILENT,
) -> Calibration:
    """Find the scale of every quantized tensor.

    The method is chosen per network on held-out windows, by how much of the margins of their decisions it eats: with
    min-max one network in three came out three times worse than with a percentile, and nothing but held-out windows
    tells which.

    Args:
        graph: Canonical, FP32.
        data: Calibration windows, noise included.
        held_out: Other windows, for the choice of the method.
        contract: Of the windows.
        weights_sha256: Of the weights that the graph was made from.
        network: The PyTorch module that the graph was made from: what its BatchNorm layers remember of training stands
            in for classes, where the data have none.
        options: How.
        progress: Where steps go.

    Raises:
        InputError: The data cannot calibrate this network, or the plan is none for it.
    """
    options = options or CalibrationOptions()
    plan = make_plan(graph, quantize_first=options.quantize_first) if options.plan is None else fit(options.plan, graph)
    refuse(data.windows)
    refuse(held_out.windows, what="the held-out data", minimum=MINIMUM_HELD_OUT)
    if data.windows.labelled:
        with OnnxRuntimeRunner(graph.to_bytes()) as runner:
            logits = run_batched(runner, data.windows.x)["logits"]
        refuse_unrelated(logits, data.windows.y)
    else:
        refuse_unfamiliar(network, data.windows.x)
    return measure(
        graph, data, held_out, plan=plan, contract=contract, weights_sha256=weights_sha256, options=options,
        progress=progress,
    )  # fmt: skip


def measure(
    graph: CanonicalGraph,
    data: NoisyWindows,
    held_out: NoisyWindows,
    *,
    plan: PrecisionPlan,
    contract: SignalContract,
    weights_sha256: str,
    options: CalibrationOptions,
    progress: Progress = SILENT,
) -> Calibration:
    """What `calibrate` does with data that it does not refuse: by itself for measuring what others would do.

    Arguments as there; `plan` is that of the graph.

    Raises:
        InputError: No range method gives finite logits.
    """
    reference_bytes = graph.to_bytes()
    tensors = {layer.layer: layer.tensor for layer in plan.int8}
    observers = observe(
        reference_bytes,
        data.windows.x,
        tensors=list(tensors.values()),
        progress=progress,
    )
    full = full_range_layers(graph, list(tensors)) if options.full_range else ()
    judge = Judge(graph, held_out.windows.x)
    trials: dict[str, float] = {}
    best: tuple[float, str, dict[str, float]] | None = None
    chosen = _TRIALS if options.method == "auto" else ((options.method, options.percentile),)
    with progress.step("range methods", total=len(chosen)) as step:
        for method, percentile in chosen:
            name = f"{method} {percentile:g}" if method == "percentile" else method
            scales = _scales(tensors, observers, method, percentile, full)
            trials[name] = judge.cost(plan, scales, full_range=full)
            if best is None or trials[name] < best[0]:
                best = (trials[name], name, scales)
            step.advance(note=name)
    if best is None or not math.isfinite(best[0]):
        raise InputError(
            "no range method gives a quantized network that works",
            got=", ".join(f"{name}: {cost}" for name, cost in trials.items()),
            expected="finite logits on the held-out windows",
            hint="look for windows that are out of all proportion, or keep layers in fp16 by a plan",
        )
    weights: dict[str, Rounded] | None = None
    cost = best[0]
    if options.rounding == "learned":
        weights = learn_rounding(
            graph, plan=plan, scales=best[2], full_range=full, windows=data.windows.x, progress=progress
        )
        cost = judge.cost(plan, best[2], full_range=full, rounded=weights)
    return Calibration(
        method=best[1],
        scales=best[2],
        plan=plan,
        bindings=Bindings(
            weights=weights_sha256,
            data=data.windows.fingerprint(),
            contract=digest(contract.to_json()),
            plan=digest(plan.to_json()),
            tools=tool_versions(),
        ),
        windows=len(data.windows),
        trials=trials,
        cost=cost,
        full_range=full,
        rounding=options.rounding,
        rounded={name: value.digest for name, value in (weights or {}).items()},
        weights=weights,
    )


def tool_versions() -> dict[str, str]:
    """Versions of everything that can change a scale."""
    return {"drsn-edge": __version__} | {
        name: importlib.metadata.version(name) for name in ("numpy", "onnx", "onnx-ir", "onnxruntime")
    }


def _scales(
    tensors: Mapping[str, str],
    observers: Mapping[str, RangeObserver],
    method: str,
    percentile: float,
    full_range: Collection[str],
) -> dict[str, float]:
    """A scale by layer; half as large where twice as many levels share the range."""
    return {
        layer: scale_of(observers[tensor].amax(method, percentile=percentile) / (2 if layer in full_range else 1))
        for layer, tensor in tensors.items()
    }
