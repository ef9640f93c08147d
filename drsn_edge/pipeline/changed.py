"""How many decisions quantization changes against the network that was there before it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge.progress import SILENT, Progress
from drsn_edge.signals.noise import Noise, add_noise, noise_rng

if TYPE_CHECKING:
    from torch import nn

    from drsn_edge.calibration.contract import Calibration
    from drsn_edge.model.checkpoint import Checkpoint
    from drsn_edge.signals.windows import Windows

SNRS_DB = (-4.0, -8.0, -10.0)
# As scores are drawn: the batch does not change the noise.
_PIECE = 64


@dataclass(frozen=True)
class Changed:
    """Test decisions that differ from those of the original FP32 network, as shares of the draws.

    Attributes:
        noise, snr_db: Condition; `none` and None for clean windows.
        draws: Decisions compared.
        post_training: By quantizing the original with the same plan, weights rounded to nearest.
        int8: Of the network that was trained to be quantized, in INT8.
        fp32: Of the same weights in FP32.
    """

    noise: str
    snr_db: float | None
    draws: int
    post_training: float
    int8: float
    fp32: float

    @property
    def condition(self) -> str:
        """In words: `clean`, or `gaussian -4 dB`."""
        return "clean" if self.snr_db is None else f"{self.noise} {self.snr_db:g} dB"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)


def changed_decisions(
    original: Checkpoint,
    trained: Checkpoint,
    calibration: Calibration,
    post_training: Calibration,
    test: Windows,
    *,
    noises: tuple[Noise, ...],
    draws: int = 10,
    progress: Progress = SILENT,
) -> tuple[Changed, ...]:
    """What quantization does to the original's decisions on windows that nothing was trained on.

    Args:
        original: In FP32.
        trained: Trained to be quantized.
        calibration: Of its INT8 form.
        post_training: What the original is quantized with, for comparison; weights are rounded to nearest.
        test: Windows without overlap.
        noises: Kinds; none compares with Gaussian noise.
        draws: Of noise per window.
        progress: Where steps go.
    """
    from drsn_edge.model.fake_quant import FakeQuantNetwork

    networks: dict[str, nn.Module] = {
        "post_training": FakeQuantNetwork(original.network, post_training.scales, full_range=post_training.full_range),
        "int8": FakeQuantNetwork(trained.network, calibration.scales, full_range=calibration.full_range),
        "fp32": trained.network,
    }
    rows: list[Changed] = []
    levels: list[tuple[Noise | None, float | None]] = [(None, None)]
    levels += [(kind, snr) for kind in noises or ("gaussian",) for snr in SNRS_DB]
    with progress.step("changed decisions", total=len(levels)) as step:
        for kind, snr in levels:
            wrong, count = dict.fromkeys(networks, 0), 0
            for draw in range(1 if kind is None else draws):
                for start in range(0, len(test), _PIECE):
                    piece = test.select(np.arange(start, min(start + _PIECE, len(test))))
                    x = piece.x
                    if kind is not None and snr is not None:
                        x = add_noise(x, snr, kind, noise_rng(0, "score", kind, snr, draw, start), source=piece.source)
                    wanted = _decide(original.network, x)
                    count += len(x)
                    for name, network in networks.items():
                        wrong[name] += int(np.count_nonzero(_decide(network, x) != wanted))
            rows.append(Changed(kind or "none", snr, count, **{name: wrong[name] / count for name in networks}))
            step.advance(note=f"{rows[-1].condition}: {rows[-1].int8:.2%}")
    return tuple(rows)


def _decide(network: nn.Module, x: NDArray[np.float32]) -> NDArray[np.int64]:
    import torch

    network.eval()
    with torch.inference_mode():
        decided: NDArray[np.int64] = network(torch.from_numpy(np.ascontiguousarray(x))).argmax(dim=1).numpy()
    return decided
