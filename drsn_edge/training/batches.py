"""Batches with fresh noise. Every draw is a function of seed, epoch and step: there is no generator to keep."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from drsn_edge.signals.noise import noise_rng
from drsn_edge.signals.windows import Windows
from drsn_edge.training.options import NoiseRange

Batch = tuple[NDArray[np.float32], NDArray[np.int64]]
T = TypeVar("T")

_PIECE = 128  # windows that noise is drawn for at a time


def epoch_batches(windows: Windows, noise: NoiseRange, *, batch: int, seed: int, epoch: int) -> Iterator[Batch]:
    """One epoch in a new order; the next batch is made in a thread while this one trains.

    With new noise, but for noise that is drawn once: the windows then have it already, see `with_noise`.

    All batches are full: the last one is filled up from the start of the order. (A batch of one window would have no
    batch statistics.) Fewer windows than `batch` are one batch.
    """
    rows = epoch_rows(len(windows), batch=batch, seed=seed, epoch=epoch)

    def make(step: int) -> Batch:
        chosen = windows.select(rows[step])
        if noise.once:
            return chosen.x, chosen.y
        return noise.draw(chosen.x, noise_rng(seed, "train", epoch, step), chosen.source), chosen.y

    return ahead(make, range(len(rows)))


def with_noise(windows: Windows, noise: NoiseRange, *, seed: int) -> Windows:
    """The windows with noise on them, drawn once."""
    pieces = []
    for start in range(0, len(windows), _PIECE):
        rows = slice(start, start + _PIECE)
        pieces.append(noise.draw(windows.x[rows], noise_rng(seed, "once", start), windows.source.select(rows)))
    return dataclasses.replace(windows, x=np.concatenate(pieces))


def epoch_rows(windows: int, *, batch: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Which windows make up each batch of an epoch, `[steps, min(batch, windows)]`."""
    steps = -(-windows // batch)
    order = noise_rng(seed, "order", epoch).permutation(windows)
    return np.resize(order, steps * min(batch, windows)).reshape(steps, -1)


def validation_batches(
    windows: Windows, noise: NoiseRange, *, draws: int, batch: int, seed: int, share: tuple[int, int] = (0, 1)
) -> Iterator[Batch]:
    """The windows as they are, then `draws` times with noise over the trained range: the same on every call.

    `share` is `(first, step)` for processes that share the work: every `step`-th batch from the `first` on.
    """
    starts = range(0, len(windows), batch)
    passes = [None, *range(draws if noise.kinds else 0)]

    def make(index: int) -> Batch:
        draw, start = passes[index // len(starts)], starts[index % len(starts)]
        rows = slice(start, start + batch)
        x, y = windows.x[rows], windows.y[rows]
        if draw is not None:
            x = noise.draw(x, noise_rng(seed, "validation", draw, start), windows.source.select(rows))
        return x, y

    return ahead(make, range(share[0], len(passes) * len(starts), share[1]))


def ahead(make: Callable[[int], T], indices: Sequence[int]) -> Iterator[T]:
    """`make(index)` for every index, each made in a thread while the one before is used."""
    if not indices:
        return
    with ThreadPoolExecutor(max_workers=1) as pool:
        future = pool.submit(make, indices[0])
        for following in [*indices[1:], None]:
            item = future.result()
            if following is not None:
                future = pool.submit(make, following)
            yield item
