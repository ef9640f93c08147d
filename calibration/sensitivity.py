"""What each layer in int8 costs by itself, and the cheapest plan within a budget of changed decisions."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge.calibration.collect import tap
from drsn_edge.calibration.contract import Calibration, digest
from drsn_edge.calibration.judge import eaten
from drsn_edge.calibration.plan import LayerPlan, PrecisionPlan
from drsn_edge.calibration.quantize import quantize_as
from drsn_edge.errors import UsageError
from drsn_edge.exporters.canonical import CanonicalGraph
from drsn_edge.exporters.graph_tools import constant
from drsn_edge.progress import SILENT, Progress
from drsn_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner
from drsn_edge.runtime.runner import run_batched


@dataclass(frozen=True)
class Sensitivity:
    """One layer alone in int8, all others FP32.

    Attributes:
        layer: Node name.
        changed: Share of decisions that change.
        margin: Mean share of the decision margins that it eats: ranks layers where no decision changes yet.
        thresholds: Mean relative error of the thresholds of all units; 0 without units.
        logits: Root mean square error of the logits over that of the logits themselves.
        work: Its share of the multiplications of all layers that can be int8.
    """

    layer: str
    changed: float
    margin: float
    thresholds: float
    logits: float
    work: float


@dataclass(frozen=True, eq=False)
class Reduced:
    """A plan within a budget.

    Attributes:
        calibration: For the plan that was found.
        sensitivity: Of every layer that was int8 before, in graph order.
        changed: Share of held-out decisions that the whole plan changes.
    """

    calibration: Calibration
    sensitivity: tuple[Sensitivity, ...]
    changed: float


class _Bench:
    """FP32 logits and thresholds of held-out windows, and those of quantized forms."""

    def __init__(self, graph: CanonicalGraph, windows: NDArray[np.float32]) -> None:
        self.graph, self.windows = graph, windows
        self.taps = [unit.threshold.name or "" for unit in graph.units]
        self.reference = self._run(graph.to_bytes())
        self.decisions = self.reference["logits"].argmax(axis=1)

    def _run(self, data: bytes) -> dict[str, NDArray[Any]]:
        with OnnxRuntimeRunner(tap(data, self.taps)) as runner:
            return run_batched(runner, self.windows)

    def run(self, found: Calibration) -> dict[str, NDArray[Any]]:
        return self._run(quantize_as(self.graph, found, glue="fp32").to_bytes())

    def changed(self, values: dict[str, NDArray[Any]]) -> float:
        return float(np.mean(values["logits"].argmax(axis=1) != self.decisions))

    def thresholds(self, values: dict[str, NDArray[Any]]) -> float:
        errors = [
            np.abs(values[name] - self.reference[name]).sum() / max(np.abs(self.reference[name]).sum(), 1e-12)
            for name in self.taps
        ]
        return float(np.mean(errors)) if errors else 0.0


def reduce_plan(
    graph: CanonicalGraph,
    found: Calibration,
    windows: NDArray[np.float32],
    *,
    max_changed: float,
    progress: Progress = SILENT,
) -> Reduced:
    """Take layers out of int8, the most sensitive for their work first, until the whole is within the budget.

    Each plan is run as a whole, because errors of layers neither add up nor cancel in a way that could be foretold.
    Integers and scales of a layer do not depend on what the others are, so nothing is calibrated again.

    Args:
        graph: Canonical, FP32.
        found: Calibration, just made, of the plan with everything in int8 that may be.
        windows: Held out, `[N, C, ...]`; what the budget is held on.
        max_changed: Largest share of decisions that may change.
        progress: Where steps go.

    Raises:
        UsageError: The budget is no share.
    """
    if not 0 < max_changed < 1:
        raise UsageError("the budget of changed decisions cannot be used", got=max_changed, expected="between 0 and 1")
    bench = _Bench(graph, windows)
    layers = [layer.layer for layer in found.plan.int8]
    with progress.step("sensitivity", total=len(layers)) as step:
        table = []
        for layer in layers:
            table.append(_alone(bench, found, layer))
            step.advance(note=layer)
    by_name = {row.layer: row for row in table}
    order = sorted(table, key=lambda row: (-row.margin / max(row.work, 1e-12), row.layer))
    kept = set(layers)
    with progress.step("plan within the budget", total=len(order) + 1) as step:
        while True:
            smaller = restrict(found, kept, by_name, max_changed)
            values = bench.run(smaller)
            changed = bench.changed(values)
            step.advance(note=f"{len(kept)} layers: {changed:.2%}")
            if changed <= max_changed or not kept:
                cost = eaten(bench.reference["logits"].astype(np.float64), values["logits"].astype(np.float64))
                return Reduced(dataclasses.replace(smaller, cost=cost), tuple(table), changed)
            kept.discard(next(row.layer for row in order if row.layer in kept))


def restrict(
    found: Calibration, kept: Collection[str], rows: dict[str, Sensitivity], max_changed: float
) -> Calibration:
    """A calibration with fewer layers in int8, and the reasons in its plan."""
    plan = PrecisionPlan(tuple(_reason(layer, layer.layer in kept, rows, max_changed) for layer in found.plan.layers))
    return dataclasses.replace(
        found,
        plan=plan,
        scales={name: scale for name, scale in found.scales.items() if name in kept},
        full_range=tuple(name for name in found.full_range if name in kept),
        rounded={name: value for name, value in found.rounded.items() if name in kept},
        weights=None if found.weights is None else {name: v for name, v in found.weights.items() if name in kept},
        bindings=dataclasses.replace(found.bindings, plan=digest(plan.to_json())),
    )


def _reason(layer: LayerPlan, kept: bool, rows: dict[str, Sensitivity], max_changed: float) -> LayerPlan:
    row = rows.get(layer.layer)
    if row is None:
        return layer
    cost = f"alone it changes {row.changed:.2%} of decisions and eats {row.margin:.1%} of their margins"
    if kept:
        return dataclasses.replace(layer, reason=f"convolution with constant weights; {cost}")
    return dataclasses.replace(
        layer, precision="fp16", tensor="", warning="",
        reason=f"sensitive: {cost}; with it the whole would change more than {max_changed:.2%}",
    )  # fmt: skip


def _alone(bench: _Bench, found: Calibration, layer: str) -> Sensitivity:
    plan = PrecisionPlan(
        tuple(
            row if row.layer == layer or row.precision != "int8" else dataclasses.replace(row, precision="fp16")
            for row in found.plan.layers
        )
    )
    one = {layer}
    values = bench.run(
        dataclasses.replace(
            found,
            plan=plan,
            scales={layer: found.scales[layer]},
            full_range=tuple(name for name in found.full_range if name in one),
            weights=None if found.weights is None else {layer: found.weights[layer]},
        )
    )
    wanted, have = bench.reference["logits"].astype(np.float64), values["logits"].astype(np.float64)
    works = _work(bench.graph, [row.layer for row in found.plan.int8])
    return Sensitivity(
        layer=layer,
        changed=bench.changed(values),
        margin=eaten(wanted, have),
        thresholds=bench.thresholds(values),
        logits=float(np.sqrt(np.mean((have - wanted) ** 2) / max(float(np.mean(wanted**2)), 1e-24))),
        work=works[layer],
    )


def _work(graph: CanonicalGraph, layers: Collection[str]) -> dict[str, float]:
    """Shares of the multiplications; equal ones where sizes are not known."""
    found: dict[str, float] = {}
    for node in graph.model.graph:
        if node.name and node.name in layers:
            weight, shape = constant(node.inputs[1]), node.outputs[0].shape
            sizes = [] if shape is None else [size for size in list(shape)[2:] if isinstance(size, int)]
            found[node.name] = float((1 if weight is None else weight.size) * int(np.prod(sizes)))
    total = sum(found.values())
    return {name: value / total for name, value in found.items()}
