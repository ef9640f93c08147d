"""Whether windows without classes are like those that trained a network.

Every BatchNorm layer remembers mean and variance of each of its channels over the training windows, noise included.
Windows of the kind that trained it give nearly the same; noise, other machines or another sample rate do not, at the
latest in the deeper layers. The distance is the Kullback-Leibler divergence between the two normal distributions of a
channel, in nats, its mean over all channels:

    KL = (v / v0 + (m - m0)^2 / v0 - 1 - ln(v / v0)) / 2        m, v on the windows; m0, v0 remembered
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

# Measured, docs/results.md: windows that suit are below 0.02, those of a network's own noise included; random ones are
# above 0.5, with a network of two units above 0.13.
LARGEST = 0.05
_BATCH = 64


def refuse_unfamiliar(network: Any, x: NDArray[np.float32], *, what: str = "the calibration data") -> None:
    """Refuse windows without classes that are far from those that trained the network.

    Args:
        network: A PyTorch module in evaluation mode; None where there is only a graph.
        x: `[N, C, ...]`, noise included.
        what: How messages name them.

    Raises:
        InputError: They are far, or nothing says how far they are.
    """
    distance = None if network is None else training_distance(network, x)
    if distance is None:
        raise InputError(
            f"{what} has no classes, and nothing says whether it suits this network",
            got="recordings without labels for a network without BatchNorm layers",
            expected="labels, or a PyTorch network whose BatchNorm layers remember their training",
            hint="label the recordings: random data would damage every scale without an error",
        )
    if not distance <= LARGEST:
        raise InputError(
            f"{what} is far from what trained this network",
            got=f"a distance of {distance:.3g} nats between the features of {len(x)} windows and those of training",
            expected=f"at most {LARGEST:g}",
            hint="calibrate on recordings of the kind that it was trained on, all classes among them; "
            "random data damages every scale",
        )


def training_distance(network: Any, x: NDArray[np.float32]) -> float | None:
    """Mean divergence of the BatchNorm layers' inputs from what they remember, in nats.

    Args:
        network: A PyTorch module in evaluation mode.
        x: `[N, C, ...]`.

    Returns:
        None for a network without such layers.
    """
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    layers: list[Any] = [
        item for item in network.modules() if isinstance(item, _BatchNorm) and item.running_mean is not None
    ]
    if not layers:
        return None
    seen: dict[int, list[NDArray[np.float64]]] = {}

    def note(layer: Any, inputs: tuple[Tensor, ...]) -> None:
        value = inputs[0].double()
        axes = [axis for axis in range(value.ndim) if axis != 1]
        count = torch.full(value.shape[1:2], value.numel() / value.shape[1], dtype=torch.float64)
        sums = torch.stack([count, value.sum(axes), (value * value).sum(axes)])
        seen.setdefault(id(layer), []).append(sums.numpy())

    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        with torch.inference_mode():
            for start in range(0, len(x), _BATCH):
                network(torch.from_numpy(np.ascontiguousarray(x[start : start + _BATCH])))
    finally:
        for hook in hooks:
            hook.remove()
    distances = []
    for layer in layers:
        if id(layer) not in seen:
            continue  # one that the network has and does not use
        count, first, second = np.sum(seen[id(layer)], axis=0)
        mean = first / count
        variance = np.maximum(second / count - mean * mean, 0.0) + layer.eps
        mean0, variance0 = layer.running_mean.double().numpy(), layer.running_var.double().numpy() + layer.eps
        ratio = variance / variance0
        distances.append((ratio + (mean - mean0) ** 2 / variance0 - 1 - np.log(ratio)) / 2)
    return float(np.concatenate(distances).mean()) if distances else None
