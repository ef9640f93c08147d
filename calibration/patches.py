"""What a convolution multiplies its weights by: the patches of its input, in NumPy."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from drsn_edge.exporters.graph_tools import attribute


def patches(node: ir.Node, x: NDArray[np.float32], kernel: tuple[int, ...]) -> NDArray[np.float32]:
    """Every patch of a batch.

    Args:
        node: The convolution: its strides, pads and dilations.
        x: Its input `[N, C, ...]`.
        kernel: Its size.

    Returns:
        `[C, taps, N * positions]`; zeros where a patch reaches into the padding.
    """
    rank = len(kernel)
    pads = list(attribute(node, "pads", [0] * 2 * rank))
    strides, dilations = (list(attribute(node, name, [1] * rank)) for name in ("strides", "dilations"))
    sides = [(pads[axis], pads[rank + axis]) for axis in range(rank)]
    padded = np.pad(x, [(0, 0), (0, 0), *sides])
    sizes = [
        (padded.shape[2 + axis] - dilations[axis] * (kernel[axis] - 1) - 1) // strides[axis] + 1 for axis in range(rank)
    ]
    taps = []
    for tap in itertools.product(*map(range, kernel)):
        starts = [step * dilation for step, dilation in zip(tap, dilations, strict=True)]
        index = [
            slice(start, start + (size - 1) * stride + 1, stride)
            for start, size, stride in zip(starts, sizes, strides, strict=True)
        ]
        taps.append(np.moveaxis(padded[(slice(None), slice(None), *index)], 1, 0).reshape(x.shape[1], -1))
    return np.stack(taps, axis=1)


def convolve_constant(
    node: ir.Node, weight: NDArray[np.float32], value: float, sizes: tuple[int, ...]
) -> NDArray[np.float32]:
    """The convolution of a constant: `[out, ...]`, smaller where a patch reaches into the padding.

    Args:
        node: The convolution.
        weight: What it multiplies by, `[out, in / groups, ...]`.
        value: The constant.
        sizes: Of the input's positions.
    """
    kernel = weight.shape[2:]
    seen = patches(node, np.ones((1, 1, *sizes), np.float32), kernel)[0].astype(np.float64)
    total = weight.astype(np.float64).sum(axis=1).reshape(len(weight), -1) @ seen * value
    rank = len(kernel)
    pads = list(attribute(node, "pads", [0] * 2 * rank))
    strides, dilations = (list(attribute(node, name, [1] * rank)) for name in ("strides", "dilations"))
    shape = [
        (sizes[axis] + pads[axis] + pads[rank + axis] - dilations[axis] * (kernel[axis] - 1) - 1) // strides[axis] + 1
        for axis in range(rank)
    ]
    result: NDArray[np.float32] = total.reshape(len(weight), *shape).astype(np.float32)
    return result
