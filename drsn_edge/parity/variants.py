"""Names of what is compared, and the precision that each name means."""

from __future__ import annotations

from typing import Literal

from drsn_edge.errors import InputError

Precision = Literal["fp32", "fp16", "int8"]

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
VARIANTS = (
    "pytorch",
    "onnx-fp32",
    "onnx-fp16",
    "onnx-int8",
    "engine-fp32",
    "engine-fp16",
    "engine-int8",
)


def precision_of(variant: str) -> Precision:
    """The precision of a variant: `fp32` for `pytorch`, else what stands behind the first hyphen.

    `onnx-int8-fp32` is the int8 graph with fp32 between its integer convolutions: its precision is int8.

    Raises:
        InputError: The name says no precision.
    """
    if variant == "pytorch":
        return "fp32"
    stated = variant.partition("-")[2].split("-")[0]
    for precision in PRECISIONS:
        if stated == precision:
            return precision
    raise InputError("a variant has no known precision", got=variant, expected=", ".join(VARIANTS))
