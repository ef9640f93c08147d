"""Calibration: observe, try the range methods on held-out windows, keep the one that moves the thresholds least."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drsn_edge._version import __version__
from drsn_edge.calibration.collect import observe
from drsn_edge.calibration.contract import Bindings, Calibration, digest
from drsn_edge.calibration.observers import METHODS, RangeObserver, scale_of
from drsn_edge.calibration.plan import PrecisionPlan, fit, make_plan
from drsn_edge.calibration.quantize import quantize
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
        plan: Instead of the default plan; one that was edited is brought in line with the graph (`plan.fit`).
    """

    method: str = "auto"
    percentile: float = 99.99
    quantize_first: bool = False
    plan: PrecisionPlan | None = None

    def __post_init__(self) -> None:
        if self.method not in ("auto", *METHODS):
            raise UsageError("unknown range method", got=self.method, expected=", ".join(("auto", *METHODS)))
        if not 50 < self.percentile <= 100:
            raise UsageError("the percentile clips too much", got=self.percentile, expected="above 50, at most 100")


def calibrate(
    graph: CanonicalGraph,
    data: NoisyWindows,
    held_out: NoisyWindows,
    *,
    contract: SignalContract,
    weights_sha256: str,
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
        options: How.
        progress: Where steps go.

    Raises:
        InputError: The data cannot calibrate this network, or the plan is none for it.
    """
    options = options or CalibrationOptions()
    plan = make_plan(graph, quantize_first=options.quantize_first) if options.plan is None else fit(options.plan, graph)
    refuse(data.windows)
    refuse(held_out.windows, what="the held-out data", minimum=MINIMUM_HELD_OUT)
    reference_bytes = graph.to_bytes()
    with OnnxRuntimeRunner(reference_bytes) as runner:
        logits = run_batched(runner, data.windows.x)["logits"]
    refuse_unrelated(logits, data.windows.y)
    tensors = {layer.layer: layer.tensor for layer in plan.int8}
    observers = observe(
        reference_bytes,
        data.windows.x,
        tensors=list(tensors.values()),
        progress=progress,
    )
    judge = _Judge(graph, held_out.windows.x, plan)
    trials: dict[str, float] = {}
    best: tuple[float, str, dict[str, float]] | None = None
    chosen = _TRIALS if options.method == "auto" else ((options.method, options.percentile),)
    with progress.step("range methods", total=len(chosen)) as step:
        for method, percentile in chosen:
            name = f"{method} {percentile:g}" if method == "percentile" else method
            scales = _scales(tensors, observers, method, percentile)
            trials[name] = judge.cost(scales)
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
    )


def tool_versions() -> dict[str, str]:
    """Versions of everything that can change a scale."""
    return {"drsn-edge": __version__} | {
        name: importlib.metadata.version(name) for name in ("numpy", "onnx", "onnx-ir", "onnxruntime")
    }


def _scales(
    tensors: Mapping[str, str], observers: Mapping[str, RangeObserver], method: str, percentile: float
) -> dict[str, float]:
    return {layer: scale_of(observers[tensor].amax(method, percentile=percentile)) for layer, tensor in tensors.items()}


class _Judge:
    """What a set of scales does to the decisions of held-out windows."""

    def __init__(self, graph: CanonicalGraph, windows: NDArray[np.float32], plan: PrecisionPlan) -> None:
        self.graph, self.windows, self.plan = graph, windows, plan
        self.reference = self._run(graph.to_bytes())

    def _run(self, data: bytes) -> NDArray[np.float64]:
        with OnnxRuntimeRunner(data) as runner:
            return run_batched(runner, self.windows)["logits"].astype(np.float64)

    def cost(self, scales: Mapping[str, float]) -> float:
        """Mean share of the margin, between FP32's first and second choice, that INT8 eats; infinite for NaN.

        Errors of thresholds, dead zones and logits were tried and do not rank the methods as changed decisions do: they
        count clipping on clean windows, whose decisions are safe, as much as rounding where decisions are close.
        """
        found = self._run(quantize(self.graph, plan=self.plan, scales=scales, glue="fp32").to_bytes())
        if not np.isfinite(found).all():
            return math.inf
        rows = np.arange(len(found))
        second, first = np.argsort(self.reference, axis=1)[:, -2:].T
        margin = self.reference[rows, first] - self.reference[rows, second]
        moved = np.abs(found[rows, first] - found[rows, second] - margin)
        return float(np.mean(np.minimum(moved / np.maximum(margin, 1e-9), 1.0)))
