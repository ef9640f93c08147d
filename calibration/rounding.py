"""Learned rounding of weights, and the bias that keeps the mean.

Rounding to nearest is best for single weights, not for sums: the inputs of a convolution are correlated, neighbouring
samples above all, so that errors of one sign add up where errors of both cancel. Chosen is, for every output channel,
up or down for each weight, so that the error of the channel on calibration windows is least:

    minimise  E (w x - q x)^2  over  q in {floor, ceil}        (M. Nagel et al., "Up or Down? Adaptive Rounding for
                                                               Post-Training Quantization", ICML 2020, section 3.2)

with x the input as int8 will have it, less its mean: what is left of the mean goes into the float bias. The second
moments of x are all that this needs, they are streamed, and a descent over single weights finds the minimum that the
paper relaxes and follows by gradients. No weight moves by a whole step, and there is no draw of chance in it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from drsn_edge.calibration.collect import tap
from drsn_edge.calibration.observers import LEVELS, weight_scales
from drsn_edge.calibration.offsets import offset_of
from drsn_edge.calibration.patches import patches
from drsn_edge.calibration.plan import PrecisionPlan
from drsn_edge.calibration.rounded import Rounded
from drsn_edge.exporters.canonical import INPUT, CanonicalGraph
from drsn_edge.exporters.graph_tools import attribute, constant
from drsn_edge.progress import SILENT, Progress
from drsn_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner

# Windows whose moments are taken: a window has hundreds of patches, and an output channel tens of weights.
_MOST = 1024
# Every sweep lowers the error; networks seen were done after 3 to 8.
_SWEEPS = 50
# Steps: closer to an integer than this a weight is that integer.
_WHOLE = 1e-4


@dataclass
class Moments:
    """First and second moments of the patches that each group of a convolution multiplies.

    Attributes:
        count: Patches seen.
        first: `[groups, weights of an output channel]`, sums.
        second: `[groups, weights, weights]`, sums of products.
    """

    count: int
    first: NDArray[np.float64]
    second: NDArray[np.float64]

    @classmethod
    def empty(cls, groups: int, size: int) -> Moments:
        """Of nothing yet."""
        return cls(0, np.zeros((groups, size)), np.zeros((groups, size, size)))

    def add(self, seen: NDArray[np.float32]) -> None:
        """Patches `[groups, weights, N]`."""
        self.count += seen.shape[-1]
        self.first += seen.sum(axis=-1, dtype=np.float64)
        self.second += seen @ np.swapaxes(seen, 1, 2)

    @property
    def mean(self) -> NDArray[np.float64]:
        """`[groups, weights]`."""
        return self.first / max(self.count, 1)

    @property
    def covariance(self) -> NDArray[np.float64]:
        """`[groups, weights, weights]`."""
        return self.second / max(self.count, 1) - self.mean[:, :, None] * self.mean[:, None, :]


def learn_rounding(
    graph: CanonicalGraph,
    *,
    plan: PrecisionPlan,
    scales: Mapping[str, float],
    full_range: Collection[str],
    windows: NDArray[np.float32],
    batch: int = 32,
    progress: Progress = SILENT,
) -> dict[str, Rounded]:
    """Integers and bias of every int8 layer.

    Memory: one batch of activations, and two matrices per layer of as many rows as an output channel has weights.

    Args:
        graph: Canonical, FP32.
        plan: Which layers are int8.
        scales: Of their inputs.
        full_range: Layers whose scale is for 255 levels.
        windows: Calibration windows `[N, C, ...]`, noise included; of more than 1,024 a draw of so many is used.
        batch: Windows per run.
        progress: Where steps go.
    """
    nodes = {node.name: node for node in graph.model.graph if node.op_type == "Conv"}
    layers = {layer.layer: (nodes[layer.layer], layer.tensor) for layer in plan.int8}
    found: dict[str, Moments] = {}
    inner = list(dict.fromkeys(tensor for _, tensor in layers.values() if tensor != INPUT))
    with (
        OnnxRuntimeRunner(tap(graph.to_bytes(), inner)) as runner,
        progress.step("learned rounding", total=min(len(windows), _MOST)) as step,
    ):
        # A draw, not every n-th: windows come in turns over the classes.
        rows = np.sort(np.random.default_rng(0).permutation(len(windows))[:_MOST])
        for start in range(0, len(rows), batch):
            piece = windows[rows[start : start + batch]]
            values = {INPUT: piece, **runner.run({INPUT: piece})}
            for name, (node, tensor) in layers.items():
                x = restored(values[tensor], scales[name], shifted=name in full_range)
                seen = _patches(node, x)
                found.setdefault(name, Moments.empty(*seen.shape[:2])).add(seen)
            step.advance(len(piece))
    return {name: _round(node, found[name]) for name, (node, _) in layers.items()}


def restored(x: NDArray[np.float32], scale: float, *, shifted: bool) -> NDArray[np.float32]:
    """Activations as a Q/DQ pair leaves them."""
    offset, step = np.float32(offset_of(scale) if shifted else 0.0), np.float32(scale)
    result: NDArray[np.float32] = np.clip(np.rint((x - offset) / step), -LEVELS - 1, LEVELS) * step + offset
    return result


def descend(
    target: NDArray[np.float64], second: NDArray[np.float64], start: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Integers next to `target` with a small `(q - target) second (q - target)`, each row for itself.

    Args:
        target: `[rows, n]`, weights in steps.
        second: `[n, n]`, symmetric and positive semidefinite.
        start: `[rows, n]` integers, floor or ceil of the target; what is returned is never worse.
    """
    # The largest weight of a channel is level 127 but for float rounding: it must not fall by a whole step.
    low, high = np.floor(target + _WHOLE), np.ceil(target - _WHOLE)
    low, high = np.clip(low, -LEVELS, LEVELS), np.clip(high, -LEVELS, LEVELS)
    q = np.clip(start, low, high)
    slope, bend = (q - target) @ second, np.diag(second)
    # A gain within rounding would go back and forth for ever.
    least = 1e-12 * max(float(bend.max(initial=0.0)), np.finfo(np.float64).tiny)
    for _ in range(_SWEEPS):
        moved = False
        for column in range(q.shape[1]):
            move = np.where(q[:, column] == low[:, column], high[:, column], low[:, column]) - q[:, column]
            better = 2 * move * slope[:, column] + move * move * bend[column] < -least
            if better.any():
                move = np.where(better, move, 0.0)
                q[:, column] += move
                slope += move[:, None] * second[column]
                moved = True
        if not moved:
            break
    return q


def _patches(node: ir.Node, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """`[groups, weights of an output channel, N * positions]`."""
    weight = _weight(node)
    seen = patches(node, x, weight.shape[2:])
    groups = attribute(node, "group", 1)
    return seen.reshape(groups, -1, seen.shape[-1])


def _round(node: ir.Node, moments: Moments) -> Rounded:
    weight = _weight(node)
    steps = weight_scales(weight).astype(np.float64)
    target = weight.reshape(len(weight), -1) / steps[:, None]
    nearest = np.clip(np.rint(target), -LEVELS, LEVELS)
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    groups = len(moments.first)
    rows = len(weight) // groups
    q = np.empty_like(target)
    shift = np.empty(len(weight))
    for group in range(groups):
        part = slice(group * rows, (group + 1) * rows)
        q[part] = descend(target[part], moments.covariance[group], nearest[part])
        shift[part] = (target[part] - q[part]) @ moments.mean[group] * steps[part]
    own = np.zeros(len(weight)) if bias is None else bias.astype(np.float64)
    return Rounded(q.reshape(weight.shape).astype(np.int8), (own + shift).astype(np.float32))


def _weight(node: ir.Node) -> NDArray[np.float32]:
    weight = constant(node.inputs[1])
    if weight is None:
        raise TypeError(f"the weights of {node.name} are not constant")
    return weight
