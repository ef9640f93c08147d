"""Golden vectors: the windows on which a damaged graph shows first."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge.calibration.windows import ranks
from drsn_edge.errors import UsageError
from drsn_edge.exporters.canonical import CanonicalGraph
from drsn_edge.exporters.precision import emulated, with_probes
from drsn_edge.golden import Golden
from drsn_edge.parity.ledger import compare
from drsn_edge.parity.localise import summarise, tensor_errors
from drsn_edge.parity.tolerances import FP32_MAX_REL
from drsn_edge.pipeline.data import ModelData
from drsn_edge.pipeline.sources import Source
from drsn_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner
from drsn_edge.runtime.runner import run_batched
from drsn_edge.signals.contract import SignalContract
from drsn_edge.signals.noise import Noise, add_noise, noise_rng
from drsn_edge.signals.windows import Windows

Array = NDArray[Any]

# Of these SNRs every class gets windows, beside clean ones.
_SNRS = (10.0, 6.0, 2.0, 0.0, -2.0, -4.0, -6.0)
_MADE_UP = 6
_POOL = 8  # candidates per golden window, of which the smallest margins are kept


def choose_golden(
    windows: Windows,
    logits: Callable[[NDArray[np.float32]], NDArray[np.floating]],
    *,
    count: int = 96,
    noises: Sequence[Noise] = ("gaussian",),
    seed: int = 0,
    contract: SignalContract | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    """Choose hard windows.

    Half of them are spread evenly over classes and SNRs, clean ones among them; the other half are those with the
    smallest margin between the two largest logits out of seven times as many others, because a small error changes
    those decisions first. The last six are made up: silence, the loudest and the faintest window, one clipped at half
    its amplitude, one with a large offset, one a thousand times as loud. A network that does not take the mean off gets
    an inverted window instead of the offset, and one that does not standardise half the amplitude instead of a thousand
    times: other amplitudes than those of its data it was never made for, and no range of integers holds both.

    Args:
        windows: Not trained on.
        logits: Of the reference, for `[N, C, ...]`.
        count: How many in all, at least 16.
        noises: Kinds of noise, in turn.
        seed: Of the draw.
        contract: Of the network; None stands for one that takes the mean off and standardises.

    Returns:
        Windows `[count, C, ...]`, classes `[count]` (-1 where a made-up window has none), SNR `[count]` (NaN: clean).

    Raises:
        UsageError: `count` is too small.
    """
    if count < 16:
        raise UsageError("there are too few golden windows", got=count, expected="at least 16")
    rng = noise_rng(seed, "golden")
    spread = (count - _MADE_UP) // 2
    size = spread * _POOL
    order = np.concatenate([rng.permutation(len(windows)) for _ in range(-(-size // len(windows)))])[:size]
    again = np.arange(size) >= len(windows)
    rank = ranks(windows.y[order])
    by_class = np.argsort(rank, kind="stable")
    order, rank, again = order[by_class], rank[by_class], again[by_class]
    x, y = windows.x[order], windows.y[order]
    # One level on from class to class as well: the first few windows of each class hold all levels between them.
    level = (rank + np.arange(size)) % (len(_SNRS) + 1)
    # A window that comes again needs noise, or it would be the very same.
    level[again & (level == 0)] = len(_SNRS)
    snr = np.array([np.nan, *_SNRS], np.float32)[level]
    noisy = np.flatnonzero(level)
    for index, kind in enumerate(noises):
        rows = noisy[index :: len(noises)]
        x[rows] = add_noise(x[rows], snr[rows], kind, rng, source=windows.source.select(order[rows]))
    found = np.sort(logits(x).astype(np.float64), axis=1)
    margin = found[:, -1] - found[:, -2]
    # A tie within FP32 rounding is no decision: any sound build may break it the other way.
    margin[margin <= 4 * FP32_MAX_REL * np.abs(found).max()] = np.inf
    hardest = np.argsort(margin[spread:], kind="stable")[: count - _MADE_UP - spread] + spread
    chosen = np.concatenate([np.arange(spread), hardest])
    edges, edge_labels = _edges(windows, contract)
    return (
        np.ascontiguousarray(np.concatenate([x[chosen], edges])),
        np.concatenate([y[chosen], edge_labels]),
        np.concatenate([snr[chosen], np.full(len(edges), np.nan, np.float32)]),
    )


def _edges(windows: Windows, contract: SignalContract | None) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Windows at the edge of what a sensor gives."""
    size = np.abs(windows.x.reshape(len(windows), -1)).max(axis=1)
    loudest, faintest = int(size.argmax()), int(size.argmin())
    middle = int(np.argsort(size)[len(size) // 2])
    window = windows.x[middle]
    top = np.float32(np.abs(window).max() / 2)
    centres = contract is None or contract.detrend == "mean"
    standardises = contract is None or contract.standardise == "window"
    made = [
        np.zeros_like(window),
        windows.x[loudest],
        windows.x[faintest],
        np.clip(window, -top, top),
        window + np.float32(10 * size[middle]) if centres else -window,
        window * np.float32(1000 if standardises else 0.5),
    ]
    labels = [-1, windows.y[loudest], windows.y[faintest], windows.y[middle], windows.y[middle], windows.y[middle]]
    return np.stack(made).astype(np.float32), np.asarray(labels, np.int64)


def record_golden(
    source: Source,
    graph: CanonicalGraph,
    plain: Mapping[str, bytes],
    reference: Mapping[str, Callable[[NDArray[np.float32]], Array]],
    windows: NDArray[np.float32],
    y: NDArray[np.int64],
    snr_db: NDArray[np.float32],
) -> tuple[Golden, dict[str, Any]]:
    """Recorded results of every form, and what tolerances are derived from.

    Returns:
        The golden vectors; and `tensor_errors`, how far the probes of each precision are from those of FP32, and
        `rebuild`, how far those and the logits of each graph move when another build sums in another order.
    """
    logits: dict[str, Array] = {
        "pytorch": reference["fp32"](windows).astype(np.float32),
        "pytorch-fp64": reference["fp64"](windows).astype(np.float64),
    }
    errors: dict[str, dict[str, float]] = {}
    rebuild: dict[str, dict[str, Any]] = {}
    inner: dict[str, NDArray[np.float32]] = {}
    wanted: dict[str, Array] = {}
    shaken = _shaken(windows)
    names = [unit.name for unit in graph.units]
    for name, content in plain.items():
        with OnnxRuntimeRunner(emulated(with_probes(content) if names else content)) as runner:
            found = run_batched(runner, windows, batch=32)
            again = run_batched(runner, shaken, batch=16)
        logits[f"onnx-{name}"] = found["logits"]
        form, small = f"onnx-{name}", summarise(found, names)
        inner |= {f"{form}/{key}": value for key, value in small.items()}
        rebuild[form] = tensor_errors(small, summarise(again, names), names)
        rebuild[form]["logits"] = compare(found["logits"], again["logits"]).to_json()
        if name == "fp32":
            wanted = found
        errors[f"onnx-{name}"] = tensor_errors(wanted, found, names)
    thresholds = {name: wanted[f"{name}.threshold"] for name in names}
    with contextlib.suppress(ImportError):
        from drsn_edge.model.network import Network

        if isinstance(source.module, Network) and names:
            from drsn_edge.model.runner import TorchRunner

            with TorchRunner(source.module, probe=True) as torch_runner:
                probes = torch_runner.run({"window": windows})
            columns = {name: thresholds[name].shape[1] for name in names}
            thresholds = {name: probes[f"{name}.threshold"][:, : columns[name]] for name in names}
    return Golden(windows, y, snr_db, logits, thresholds, inner), {"tensor_errors": errors, "rebuild": rebuild}


def _shaken(windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Every sample up to four units in the last place off: what another order of summation does to the sums behind."""
    rng = noise_rng(0, "rebuild")
    step = rng.integers(-4, 5, windows.shape).astype(np.float32) * np.float32(2.0**-23)
    return windows * (1 + step)


def reference_windows(data: ModelData | None, source: Source, *, seed: int) -> tuple[Windows, bool]:
    """Windows for golden vectors, not trained on where that is known; and whether their classes are real."""
    if data is not None:
        return data.windows("validation" if source.split is not None else "test", overlap=False), True
    # Seeded noise compares forms of one network; it calibrates nothing, and its classes are made up.
    x = np.random.default_rng(seed).standard_normal((256, *source.contract.shape), dtype=np.float32)
    y = np.arange(256, dtype=np.int64) % len(source.labels)
    return Windows(x=x, y=y, cluster=np.arange(256, dtype=np.int64), labels=source.labels), False
