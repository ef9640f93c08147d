"""What a way to quantize does to the decisions of held-out windows."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from drsn_edge.calibration.plan import PrecisionPlan
from drsn_edge.calibration.quantize import quantize
from drsn_edge.calibration.rounded import Rounded
from drsn_edge.exporters.canonical import CanonicalGraph
from drsn_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner
from drsn_edge.runtime.runner import run_batched


class Judge:
    """Holds quantized forms against the FP32 graph, on the same windows each time.

    Args:
        graph: Canonical, FP32.
        windows: Held out, `[N, C, ...]`.
    """

    def __init__(self, graph: CanonicalGraph, windows: NDArray[np.float32]) -> None:
        self.graph, self.windows = graph, windows
        self.reference = self._run(graph.to_bytes())

    def _run(self, data: bytes) -> NDArray[np.float64]:
        with OnnxRuntimeRunner(data) as runner:
            return run_batched(runner, self.windows)["logits"].astype(np.float64)

    def logits(
        self,
        plan: PrecisionPlan,
        scales: Mapping[str, float],
        *,
        full_range: Collection[str] = (),
        rounded: Mapping[str, Rounded] | None = None,
    ) -> NDArray[np.float64]:
        """Of the quantized form, FP32 between its integers. Layers that are not int8 in the plan need no scale."""
        wanted = {layer.layer: scales[layer.layer] for layer in plan.int8}
        graph = quantize(
            self.graph, plan=plan, scales=wanted, glue="fp32", full_range=full_range, rounded=rounded
        )  # fmt: skip
        return self._run(graph.to_bytes())

    def cost(
        self,
        plan: PrecisionPlan,
        scales: Mapping[str, float],
        *,
        full_range: Collection[str] = (),
        rounded: Mapping[str, Rounded] | None = None,
    ) -> float:
        """Mean share of the margin, between FP32's first and second choice, that INT8 eats; infinite for NaN.

        Errors of thresholds, dead zones and logits were tried and do not rank the methods as changed decisions do: they
        count clipping on clean windows, whose decisions are safe, as much as rounding where decisions are close.
        """
        found = self.logits(plan, scales, full_range=full_range, rounded=rounded)
        return eaten(self.reference, found)


def eaten(reference: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    """Mean share of the margin between the reference's first and second choice that an error eats."""
    if not np.isfinite(found).all():
        return math.inf
    rows = np.arange(len(found))
    second, first = np.argsort(reference, axis=1)[:, -2:].T
    margin = reference[rows, first] - reference[rows, second]
    moved = np.abs(found[rows, first] - found[rows, second] - margin)
    return float(np.mean(np.minimum(moved / np.maximum(margin, 1e-9), 1.0)))
