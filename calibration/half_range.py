"""Whether the values of a network fit FP16, on real windows: what would overflow, and what would go subnormal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from drsn_edge.calibration.collect import tap
from drsn_edge.errors import InputError
from drsn_edge.exporters.canonical import INPUT, CanonicalGraph
from drsn_edge.exporters.graph_tools import constant
from drsn_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner

# Larger magnitudes round to infinity; the largest finite number is 65504.
OVERFLOW = 65520.0
# Below it digits are lost; at half the smallest subnormal a value rounds to zero.
NORMAL, VANISHES = 2.0**-14, 2.0**-25
# Values near zero are subnormal in every tensor with a density there. So many of a tensor's are more than that: a whole
# channel, or the tensor itself, is too small.
WORTH_NAMING = 0.05


@dataclass(frozen=True)
class TensorRange:
    """The magnitudes of one FP16 tensor.

    Attributes:
        tensor: The value, as the FP32 graph calls it.
        node: That makes it, or for weights that reads them.
        kind: `activation` or `weight`.
        largest: Largest magnitude; infinite where FP32 itself was not finite.
        smallest: Smallest one other than zero; 0 where all are.
        subnormal: Share of the values other than zero that are below FP16's normal numbers.
        vanishing: Share of them that FP16 rounds to zero.
    """

    tensor: str
    node: str
    kind: str
    largest: float
    smallest: float
    subnormal: float
    vanishing: float

    @property
    def overflows(self) -> bool:
        """Whether FP16 makes infinity of the largest."""
        return not self.largest < OVERFLOW

    @property
    def text(self) -> str:
        """In words."""
        what = (
            f"max |x| {self.largest:.4g} overflows"
            if self.overflows
            else f"{self.subnormal:.0%} subnormal, {self.vanishing:.0%} rounded to zero"
        )
        return f"{self.node} ({self.tensor}): {what}; max |x| {self.largest:.3g}, smallest {self.smallest:.3g}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True)
class HalfRanges:
    """Every FP16 tensor of a graph.

    Attributes:
        tensors: In graph order, weights behind activations.
        windows: That were run.
    """

    tensors: tuple[TensorRange, ...]
    windows: int

    @property
    def overflows(self) -> tuple[TensorRange, ...]:
        """Those with values that FP16 does not have."""
        return tuple(item for item in self.tensors if item.overflows)

    @property
    def subnormal(self) -> tuple[TensorRange, ...]:
        """Those of which a good part loses digits, that first of which most does."""
        found = [item for item in self.tensors if item.subnormal >= WORTH_NAMING and not item.overflows]
        return tuple(sorted(found, key=lambda item: -item.subnormal))

    @property
    def summary(self) -> str:
        """One sentence."""
        if not self.tensors:
            return "no tensor is in FP16"
        top = max(self.tensors, key=lambda item: item.largest)
        words = f"{len(self.tensors)} FP16 tensors on {self.windows} windows: largest {top.largest:.3g} in {top.node}"
        return f"{words}, {len(self.overflows)} overflow, {len(self.subnormal)} in good part subnormal"

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know: nothing where all is well."""
        small, large = self.subnormal, self.overflows
        found = [f"FP16 overflows: {large[0].text}{_others(large)}"] if large else []
        return (*found, *([f"small values lose digits in FP16: {small[0].text}{_others(small)}"] if small else []))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: the tensors that are named, not all."""
        return {
            "windows": self.windows,
            "tensors": len(self.tensors),
            "summary": self.summary,
            "named": [item.to_json() for item in (*self.overflows, *self.subnormal)],
        }


def _others(items: Sequence[TensorRange]) -> str:
    return f", and {len(items) - 1} more in the manifest" if len(items) > 1 else ""


def refuse_overflow(ranges: HalfRanges) -> None:
    """Refuse FP16 for a network whose values it cannot hold.

    Raises:
        InputError: One overflows; the first in the graph is named first, it is the likely cause.
    """
    if ranges.overflows:
        texts = [item.text for item in ranges.overflows]
        raise InputError(
            "the network overflows FP16",
            got=f"{len(texts)} tensors: {'; '.join(texts[:3])}", expected=f"magnitudes below {OVERFLOW:g}",
            hint="standardise windows in the contract and train again, or export with --precision fp32",
        )  # fmt: skip


def half_ranges(graph: CanonicalGraph, half: CanonicalGraph, windows: NDArray[np.float32]) -> HalfRanges:
    """Run the FP32 graph and look at every value that the FP16 graph has in FP16.

    Memory: one batch of activations and four numbers per tensor.

    Args:
        graph: Canonical, FP32.
        half: The typed graph that was made from it.
        windows: `[N, C, ...]` raw.
    """
    known = {value.name or "": node.name or "" for node in graph.model.graph for value in node.outputs}
    place = {name: index for index, name in enumerate((INPUT, *known))}
    wanted = dict(sorted(_activations(half.model, known).items(), key=lambda item: place[item[0]]))
    tallies = {name: _Tally() for name in wanted}
    with OnnxRuntimeRunner(tap(graph.to_bytes(), [name for name in wanted if name != INPUT])) as runner:
        for start in range(0, len(windows), 16):
            piece = windows[start : start + 16]
            values = {INPUT: piece, **runner.run({INPUT: piece})}
            for name, tally in tallies.items():
                tally.add(values[name])
    found = [tally.result(name, wanted[name], "activation") for name, tally in tallies.items()]
    return HalfRanges((*found, *_weights(graph.model, half.model)), len(windows))


def _activations(half: ir.Model, known: Mapping[str, str]) -> dict[str, str]:
    """Values of the FP32 graph that exist in FP16, and the node that makes each; a Cast has those of its source."""
    found: dict[str, str] = {}
    for node in half.graph:
        for value in node.outputs:
            if value.dtype != ir.DataType.FLOAT16:
                continue
            name = value.name or ""
            source = node.inputs[0]
            if node.op_type == "Cast" and source is not None:
                name = source.name or ""
            # The FP16 pass calls what it has cast at the very end `logits.half`.
            name = name if name in known or name == INPUT else name.removesuffix(".half")
            if name in known or name == INPUT:
                found[name] = known.get(name, INPUT)
    return found


def _weights(graph: ir.Model, half: ir.Model) -> list[TensorRange]:
    rows: list[TensorRange] = []
    for value in graph.graph.initializers.values():
        copy = half.graph.initializers.get(f"{value.name}.half")
        array = constant(value)
        if copy is None or array is None:
            continue
        tally = _Tally()
        tally.add(array)
        node = next((use.node.name or "" for use in value.uses()), value.name or "")
        rows.append(tally.result(value.name or "", node, "weight"))
    return rows


class _Tally:
    """Counts of one tensor."""

    def __init__(self) -> None:
        self.largest, self.smallest = 0.0, math.inf
        self.nonzero = self.subnormal = self.vanishing = 0

    def add(self, values: NDArray[Any]) -> None:
        magnitude = np.abs(values.astype(np.float32, copy=False)).ravel()
        top = float(magnitude.max(initial=0.0))
        self.largest = math.inf if math.isnan(top) else max(self.largest, top)
        present = magnitude[magnitude > 0]
        self.nonzero += present.size
        if present.size:
            self.smallest = min(self.smallest, float(present.min()))
        self.subnormal += int(np.count_nonzero(present < NORMAL))
        self.vanishing += int(np.count_nonzero(present <= VANISHES))

    def result(self, tensor: str, node: str, kind: str) -> TensorRange:
        count = max(self.nonzero, 1)
        smallest = self.smallest if self.nonzero else 0.0
        return TensorRange(tensor, node, kind, self.largest, smallest, self.subnormal / count, self.vanishing / count)
