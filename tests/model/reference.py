"""The networks once more, in NumPy, slowly and in float64: every sum that the paper writes is a loop here."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
State = Mapping[str, Array]


def front(window: Array, *, detrend: bool, standardise: bool, epsilon: float) -> Array:
    """Each channel of each window by itself."""
    result = np.array(window, np.float64)
    for n, c in product(range(window.shape[0]), range(window.shape[1])):
        values = np.array(window[n, c], np.float64)
        deviation = values - values.mean()
        if detrend:
            values = deviation
        if standardise:
            values = values / np.sqrt((deviation**2).mean() + epsilon)
        result[n, c] = values
    return result


def convolve(x: Array, weight: Array, bias: Array, *, stride: int) -> Array:
    """Cross-correlation, as deep learning means it; zeros around, half a kernel on each side."""
    kernel = weight.shape[2:]
    half = [size // 2 for size in kernel]
    padded = np.pad(x, [(0, 0), (0, 0), *[(size, size) for size in half]])
    sizes = [(length - 1) // stride + 1 for length in x.shape[2:]]
    out = np.zeros((x.shape[0], weight.shape[0], *sizes))
    for position in product(*map(range, sizes)):
        at = tuple(slice(i * stride, i * stride + size) for i, size in zip(position, kernel, strict=True))
        patch = padded[(slice(None), slice(None), *at)]
        for channel in range(weight.shape[0]):
            products = patch * weight[channel]
            index: tuple[Any, ...] = (slice(None), channel, *position)
            out[index] = products.reshape(len(x), -1).sum(axis=1) + bias[channel]
    return out


def batch_norm(x: Array, state: State, name: str) -> Array:
    out = np.empty_like(x)
    for c in range(x.shape[1]):
        centred = x[:, c] - state[f"{name}.running_mean"][c]
        scaled = centred / np.sqrt(state[f"{name}.running_var"][c] + 1e-5)
        out[:, c] = state[f"{name}.weight"][c] * scaled + state[f"{name}.bias"][c]
    return out


def relu(x: Array) -> Array:
    return np.where(x > 0, x, 0.0)


def linear(x: Array, state: State, name: str) -> Array:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def gate(pooled: Array, state: State, name: str) -> Array:
    """Figure 4: FC, BN, ReLU, FC, sigmoid."""
    hidden = relu(batch_norm(linear(pooled, state, f"{name}.fc1"), state, f"{name}.bn"))
    return 1.0 / (1.0 + np.exp(-linear(hidden, state, f"{name}.fc2")))


def mean_magnitude(x: Array) -> Array:
    mean: Array = np.abs(x).reshape(*x.shape[:2], -1).mean(axis=2)
    return mean


def thresholds(x: Array, state: State, name: str, *, shared: bool) -> Array:
    """`[N, C]`: equation 12 when shared, equation 14 otherwise."""
    magnitude = mean_magnitude(x)
    alpha = gate(magnitude, state, f"{name}.gate")
    tau = np.empty_like(magnitude)
    for n, c in product(range(x.shape[0]), range(x.shape[1])):
        tau[n, c] = alpha[n, 0] * np.abs(x[n]).mean() if shared else alpha[n, c] * np.abs(x[n, c]).mean()
    return tau


def soft_threshold(x: Array, tau: Array) -> Array:
    """Equation 5, number by number."""
    out = np.empty_like(x)
    for index in np.ndindex(x.shape):
        value, limit = x[index], tau[index[:2]]
        out[index] = value - limit if value > limit else value + limit if value < -limit else 0.0
    return out


def shortcut(x: Array, *, channels: int, stride: int) -> Array:
    spatial = tuple(slice(None, None, stride) for _ in x.shape[2:])
    sampled = x[(slice(None), slice(None), *spatial)]
    out = np.zeros((x.shape[0], channels, *sampled.shape[2:]))
    first = (channels - x.shape[1]) // 2
    out[:, first : first + x.shape[1]] = sampled
    return out


def unit(x: Array, state: State, name: str, *, model: str, stride: int) -> Array:
    y = convolve(
        relu(batch_norm(x, state, f"{name}.bn1")), state[f"{name}.conv1.weight"], state[f"{name}.conv1.bias"],
        stride=stride,
    )  # fmt: skip
    y = convolve(
        relu(batch_norm(y, state, f"{name}.bn2")), state[f"{name}.conv2.weight"], state[f"{name}.conv2.bias"], stride=1
    )
    if model.startswith("drsn"):
        y = soft_threshold(y, thresholds(y, state, f"{name}.shrinkage", shared=model == "drsn-cs"))
    elif model == "senet":
        pooled = y.reshape(*y.shape[:2], -1).mean(axis=2)
        scale = gate(pooled, state, f"{name}.shrinkage.gate")
        y = y * scale.reshape(*scale.shape, *[1] * (y.ndim - 2))
    return y if model == "convnet" else y + shortcut(x, channels=y.shape[1], stride=stride)


def network(window: Array, state: State, config: Any, contract: Any) -> Array:
    """Logits `[N, classes]`."""
    x = front(
        window,
        detrend=contract.detrend == "mean",
        standardise=contract.standardise == "window",
        epsilon=contract.epsilon,
    )
    x = convolve(x, state["stem.weight"], state["stem.bias"], stride=2)
    index = 0
    for count in config.units:
        for place in range(count):
            x = unit(x, state, f"units.{index}", model=config.model, stride=2 if place == 0 else 1)
            index += 1
    pooled = relu(batch_norm(x, state, "bn")).reshape(*x.shape[:2], -1).mean(axis=2)
    return linear(pooled, state, "fc")
