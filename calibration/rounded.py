"""Integer weights of a convolution that are not the nearest ones, and the bias that goes with them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drsn_edge.files import sha256_bytes

ROUNDINGS = ("nearest", "learned")


@dataclass(frozen=True, eq=False)
class Rounded:
    """What a convolution computes with.

    Attributes:
        integers: int8, the shape of the weights; times the scale of their channel they are the weights.
        bias: float32, one for each output channel.
    """

    integers: NDArray[np.int8]
    bias: NDArray[np.float32]

    @property
    def digest(self) -> str:
        """SHA-256 of both, which binds a graph to the calibration."""
        return sha256_bytes(self.integers.tobytes() + self.bias.astype("<f4").tobytes())
