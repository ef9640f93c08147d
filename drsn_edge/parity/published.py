"""Accuracy against noise as the paper's figures show it: a curve to look at beside one's own, on another machine.

Zhao, Zhong, Fu, Tang, Pecht: Deep Residual Shrinkage Networks for Fault Diagnosis, IEEE Transactions on Industrial
Informatics 16(7), 2020, doi 10.1109/TII.2019.2943898, figures 6 (Gaussian), 7 (Laplacian) and 8 (pink). The paper has
no table of them: the values were measured off the bars, to about 0.3 points; their means over all 33 conditions agree
with its Table III to 0.1.

They are no target. The data (a drivetrain simulator, 8 states, 28,800 windows) were never published; windows were
assigned to ten folds at random, so that neighbours are on both sides; noise was added once, with one ratio in training
and test.
"""

from __future__ import annotations

SOURCE = "Zhao et al. 2020, figures 6 to 8, read off to about ±0.3 points"
UNCERTAINTY = 0.003

SNRS_DB = tuple(float(snr) for snr in range(-5, 6))

# Test accuracy in per cent, at SNRS_DB.
_PER_CENT: dict[str, dict[str, tuple[float, ...]]] = {
    "gaussian": {
        "resnet": (70.3, 75.4, 78.8, 82.6, 85.8, 89.1, 90.8, 92.4, 93.3, 95.0, 95.5),
        "drsn-cs": (74.7, 78.5, 81.6, 85.6, 88.4, 91.3, 93.3, 94.2, 95.4, 96.1, 97.0),
        "drsn-cw": (76.1, 80.3, 84.3, 87.1, 88.6, 92.0, 94.0, 94.9, 95.6, 96.7, 97.4),
    },
    "laplacian": {
        "resnet": (61.1, 69.0, 74.5, 80.2, 84.9, 88.9, 92.0, 94.4, 96.3, 97.5, 97.6),
        "drsn-cs": (64.4, 72.0, 79.1, 83.4, 88.3, 91.5, 94.1, 95.8, 97.6, 98.3, 98.9),
        "drsn-cw": (66.2, 74.2, 80.1, 85.6, 89.4, 92.0, 94.1, 96.6, 97.5, 98.5, 99.0),
    },
    "pink": {
        "resnet": (60.6, 70.5, 77.4, 83.5, 89.3, 92.7, 94.7, 96.7, 97.4, 98.2, 98.7),
        "drsn-cs": (60.2, 74.5, 81.6, 87.5, 92.0, 94.5, 96.5, 97.7, 98.5, 99.0, 99.1),
        "drsn-cw": (65.9, 76.1, 83.0, 88.8, 92.9, 95.2, 96.8, 97.9, 98.5, 99.2, 99.2),
    },
}


def published(noise: str, model: str) -> tuple[float, ...] | None:
    """Accuracy as a share at `SNRS_DB`; None where the paper's figures have no such curve."""
    values = _PER_CENT.get(noise, {}).get(model)
    return None if values is None else tuple(value / 100 for value in values)
