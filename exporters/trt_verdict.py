"""Is INT8 worth it? What the layers of the engines say before anything is measured.

Structure is no latency: it tells what integers can gain at most and what they certainly cost. Where there is something
against INT8 the reasons say what; where there is nothing, the answer is to measure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_TENSOR_CORE = 32
_IDLE = {"shape_call", "constant", "noop", "signal", "wait"}


@dataclass(frozen=True, kw_only=True)
class Int8Verdict:
    """What a builder made of an INT8 graph.

    Attributes:
        worth: `no` where structure speaks against it, `measure` where it does not.
        planned: Convolutions that the plan has in int8.
        integer: Those of them that the engine computes in int8.
        not_integer: The others, by name.
        restored: Integer convolutions that write FP32: their result makes a round trip through memory.
        converting: Kernels without a convolution in them that quantize, or finish what an integer convolution left.
        kernels: Of the INT8 engine.
        kernels_fp16: Of the FP16 engine of the same builder and target; None without one.
        narrow: Integer convolutions with channels that are no multiple of 32.
        reasons: In words.
    """

    worth: str
    planned: int
    integer: int
    not_integer: tuple[str, ...]
    restored: int
    converting: int
    kernels: int
    kernels_fp16: int | None
    narrow: int
    reasons: tuple[str, ...]

    @property
    def text(self) -> str:
        """One sentence for people; says that nothing was measured."""
        head = "INT8 is not worth it here" if self.worth == "no" else "nothing speaks against INT8 here"
        tail = "; ".join(self.reasons)
        return f"{head}, by structure: {tail}. Latency is not measured: `drsn-edge bench` on the device decides."

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        value = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return value | {"not_integer": list(self.not_integer), "reasons": list(self.reasons), "text": self.text}


def int8_verdict(
    int8: Mapping[str, Any], fp16: Mapping[str, Any] | None, plan: Sequence[Mapping[str, str]]
) -> Int8Verdict:
    """Read the layers of an INT8 engine.

    Args:
        int8: `engine.json` of it.
        fp16: `engine.json` of the FP16 engine for the same target; None where there is none to compare with.
        plan: Rows of the precision plan.
    """
    rows = [row for row in plan if row["precision"] == "int8"]
    names = {row["layer"] for row in rows}
    layers = [layer for layer in int8["layers"] if str(layer["type"]).lower() not in _IDLE]
    integer = {name for layer in layers if layer["precision"] == "int8" for name in layer["onnx_nodes"]} & names
    missing = tuple(row["layer"] for row in rows if row["layer"] not in integer)
    restored = sum(layer["precision"] == "int8" and "float32" in layer["outputs"] for layer in layers)
    converting = sum(layer["precision"] is None and _converts(layer["onnx_nodes"], names) for layer in layers)
    narrow = sum("multiples of" in row["warning"] for row in rows)
    kernels, other = int(int8["kernels"]), None if fp16 is None else int(fp16["kernels"])
    against: list[str] = []
    neutral = [f"{len(rows) - len(missing)} of {len(rows)} planned convolutions run in int8"]
    if missing:
        against.append(f"{len(missing)} planned convolutions do not run in int8: {', '.join(missing[:3])}")
    if other is not None and kernels > other:
        against.append(f"{kernels} kernels instead of FP16's {other}: {kernels - other} more for Q/DQ")
    elif other is not None:
        neutral.append(f"{kernels} kernels, FP16 has {other}")
    if restored:
        against.append(
            f"{restored} of {len(integer)} integer convolutions write FP32, which {converting} other kernels scale"
        )
    if narrow:
        against.append(f"{narrow} convolutions have channels that are no multiple of {_TENSOR_CORE}")
    return Int8Verdict(
        worth="no" if against else "measure", planned=len(rows), integer=len(integer), not_integer=missing,
        restored=restored, converting=converting, kernels=kernels, kernels_fp16=other, narrow=narrow,
        reasons=(*neutral, *against),
    )  # fmt: skip


def bundle_verdicts(
    engines: Mapping[str, Mapping[str, Any] | None], plan: Sequence[Mapping[str, str]]
) -> dict[str, Int8Verdict]:
    """A verdict for every INT8 engine of a bundle, held against the FP16 engine of the same builder and targets.

    Args:
        engines: `engine.json` by key; None where it cannot be read.
        plan: Rows of the precision plan.
    """
    known = {key: info for key, info in engines.items() if info is not None}
    found: dict[str, Int8Verdict] = {}
    for key, info in known.items():
        if info["precision"] != "int8":
            continue
        same = [
            other
            for other in known.values()
            if other["precision"] == "fp16"
            and all(other[name] == info[name] for name in ("backend", "version", "targets"))
        ]
        found[key] = int8_verdict(info, same[0] if same else None, plan)
    return found


def _converts(nodes: Sequence[str], planned: set[str]) -> bool:
    """A kernel that rounds to integers, or that adds bias and scale to what an integer convolution left."""
    return any(node.endswith("/QuantizeLinear") or node in planned for node in nodes)
