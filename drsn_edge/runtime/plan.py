"""What a plan says of itself in its first bytes, read without TensorRT.

The layouts were read in NVIDIA's sampleEngines.cpp (TensorRT 10 and 11) and observed (TensorRT for RTX 1.7); neither is
documented. So they explain and never decide alone: what is not recognised stays unknown.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from drsn_edge.errors import InputError

_HEADER_BYTES = 64
# Bit in the mask of a TensorRT for RTX plan -> target.
_RTX_TARGETS = {0x01: "sm75", 0x02: "sm80", 0x04: "sm86", 0x08: "sm89", 0x10: "sm120", 0x20: "sm121"}


@dataclass(frozen=True)
class PlanHeader:
    """The first bytes of a plan.

    Attributes:
        kind: Which library reads it.
        version: Of the library that wrote it, `major.minor.patch.build`; None where it is not known.
        targets: The GPUs that it was built for; None where the header does not say.
        notes: What is odd about it.
        size: Of the whole plan in bytes, as it says itself; None where the header does not.
    """

    kind: Literal["tensorrt", "tensorrt-rtx", "unknown"]
    version: str | None = None
    targets: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    size: int | None = None

    def __str__(self) -> str:
        text = {"tensorrt": "a plan of TensorRT", "tensorrt-rtx": "a plan of TensorRT for RTX"}.get(
            self.kind, "not a plan that is recognised"
        )
        if self.version:
            text += f" {self.version}"
        if self.targets:
            text += f" for {', '.join(self.targets)}"
        return text + "".join(f" ({note})" for note in self.notes)


def read_plan_header(plan: bytes | Path) -> PlanHeader:
    """Read the header of a plan.

    Args:
        plan: The plan, or its first 64 bytes, or its path.

    Raises:
        InputError: There is no such file.
    """
    if isinstance(plan, Path):
        if not plan.is_file():
            raise InputError("the engine is not there", got=plan, expected="a TensorRT plan")
        with plan.open("rb") as handle:
            plan = handle.read(_HEADER_BYTES)
    tag = plan[:4]
    if tag not in (b"ftrt", b"vtrt"):
        return PlanHeader("unknown", notes=(f"it begins with {plan[:4].hex() or 'nothing'}, not with ftrt or vtrt",))
    kind: Literal["tensorrt", "tensorrt-rtx"] = "tensorrt" if tag == b"ftrt" else "tensorrt-rtx"
    if len(plan) < _HEADER_BYTES:
        return PlanHeader(kind, notes=(f"cut off after {len(plan)} bytes",))
    major, minor, patch, build = plan[24:28]
    if kind == "tensorrt-rtx":
        (size,), (mask,) = struct.unpack_from("<Q", plan, 16), struct.unpack_from("<Q", plan, 32)
        targets = tuple(name for bit, name in _RTX_TARGETS.items() if mask & bit)
        return PlanHeader(kind, f"{major}.{minor}.{patch}.{build}", targets or None, size=size or None)
    (layout,) = struct.unpack_from("<I", plan, 4)
    if layout != 0 or major < 10:
        # TensorRT 8 writes the same tag; where it keeps its version was not verified.
        return PlanHeader(kind, notes=(f"header of layout {layout}, version not readable",))
    return PlanHeader(kind, f"{major}.{minor}.{patch}.{build}")
