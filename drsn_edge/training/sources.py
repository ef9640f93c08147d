"""Where a run's batches come from: made by NumPy on the CPU, or by the device that trains."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from drsn_edge.signals.noise import COLOURS, noise_gain, noise_rng, pink_filter
from drsn_edge.signals.windows import Windows
from drsn_edge.training.batches import epoch_batches, epoch_rows, validation_batches, with_noise
from drsn_edge.training.options import FitOptions
from drsn_edge.training.parallel import ALONE, Processes

# This process's rows of a batch, their classes, and how many rows the batch has in all.
Rows = tuple[Tensor, Tensor, int]


# A GPU takes as long for a few hundred windows; their number changes no figure.
_VALIDATION_BATCH = 2048


class Source(Protocol):
    """Batches of one run."""

    def epoch(self, epoch: int) -> Iterator[Rows]:
        """The training windows in a new order, with new noise unless it was drawn once."""

    def validation(self) -> Iterator[Rows]:
        """This process's share of the validation windows, clean and with noise: the same in every epoch."""


def source(
    train: Windows,
    validation: Windows,
    options: FitOptions,
    device: torch.device,
    processes: Processes = ALONE,
) -> Source:
    """Draws on a GPU where chance alone makes the noise, on the CPU otherwise."""
    if options.noise.once:
        train = with_noise(train, options.noise, seed=options.seed)
    if device.type == "cuda" and all(kind in COLOURS for kind in options.noise.kinds):
        return DeviceSource(train, validation, options, device, processes)
    return HostSource(train, validation, options, device, processes)


class HostSource:
    """NumPy's draws, made in a thread while the batch before trains."""

    def __init__(
        self, train: Windows, validation: Windows, options: FitOptions, device: torch.device, processes: Processes
    ) -> None:
        self.windows, self.validation_windows, self.options = train, validation, options
        self.device, self.processes = device, processes

    def epoch(self, epoch: int) -> Iterator[Rows]:
        """See `Source`."""
        options = self.options
        batches = epoch_batches(self.windows, options.noise, batch=options.batch, seed=options.seed, epoch=epoch)
        for x, y in batches:
            rows = self.processes.rows(len(y))
            yield torch.from_numpy(x[rows]).to(self.device), torch.from_numpy(y[rows]).to(self.device), len(y)

    def validation(self) -> Iterator[Rows]:
        """See `Source`."""
        options = self.options
        batches = validation_batches(
            self.validation_windows,
            options.noise,
            draws=options.validation_draws,
            batch=2 * options.batch,
            seed=options.seed,
            share=(self.processes.rank, self.processes.count),
        )
        for x, y in batches:
            yield torch.from_numpy(x).to(self.device), torch.from_numpy(y).to(self.device), len(y)


class DeviceSource:
    """Everything on the device: the windows lie there, and it draws order and noise; no window is touched one by one.

    Draws are functions of seed, epoch and step here too, but others than NumPy's: a run on a GPU is not one on a CPU.
    """

    def __init__(
        self, train: Windows, validation: Windows, options: FitOptions, device: torch.device, processes: Processes
    ) -> None:
        self.options, self.device, self.processes = options, device, processes
        self._train = _Placed(train, device)
        self._validation = _Placed(validation, device)
        self._order = len(train)

    def epoch(self, epoch: int) -> Iterator[Rows]:
        """See `Source`."""
        options = self.options
        order = epoch_rows(self._order, batch=options.batch, seed=options.seed, epoch=epoch)
        steps, total = order.shape
        seeds = _seeds(steps, options.seed, "train", epoch)
        every = torch.from_numpy(order).to(self.device)
        mine = self.processes.rows(total)
        for step in range(steps):
            # The noise of the whole batch, as on every other process; then the rows of this one.
            x, y = self._train.batch(every[step], options, None if options.noise.once else seeds[step])
            yield x[mine], y[mine], total

    def validation(self) -> Iterator[Rows]:
        """See `Source`."""
        options = self.options
        count, size = len(self._validation.y), _VALIDATION_BATCH
        passes = 1 + (options.validation_draws if options.noise.kinds else 0)
        starts = range(0, count, size)
        seeds = _seeds(passes * len(starts), options.seed, "validation")
        rows = torch.arange(count, device=self.device)
        for index in range(self.processes.rank, passes * len(starts), self.processes.count):
            chosen = rows[starts[index % len(starts)] :][:size]
            noisy = index >= len(starts)
            x, y = self._validation.batch(chosen, options, seeds[index] if noisy else None)
            yield x, y, len(y)


def _seeds(count: int, seed: int, *keys: int | str) -> list[int]:
    """One for each draw of the device's own generator."""
    return [int(value) for value in noise_rng(seed, "device", *keys).integers(2**63, size=count)]


class _Placed:
    """Windows on a device, with what noise has to be multiplied by for 0 dB."""

    def __init__(self, windows: Windows, device: torch.device) -> None:
        self.device = device
        self.x = torch.from_numpy(windows.x).to(device)
        self.y = torch.from_numpy(windows.y).to(device)
        self.gain = torch.from_numpy(noise_gain(windows.x, np.zeros(()))).to(device)
        self._pink: Tensor | None = None

    def batch(self, rows: Tensor, options: FitOptions, seed: int | None) -> tuple[Tensor, Tensor]:
        """Windows and classes of some rows; with noise where there is a seed and a range."""
        x, y, noise = self.x[rows], self.y[rows], options.noise
        if seed is None or noise.snr_db is None:
            return x, y
        generator = torch.Generator(self.device).manual_seed(seed)
        shape = (len(x), *[1] * (x.dim() - 1))
        low, high = noise.snr_db
        snr = torch.rand(shape, generator=generator, device=self.device) * (high - low) + low
        kind = torch.randint(len(noise.kinds), shape, generator=generator, device=self.device)
        drawn = self._draw(noise.kinds[0], x, generator)
        # Every kind for every window: to choose windows first, the CPU would have to wait for the device.
        for index, name in enumerate(noise.kinds[1:], start=1):
            drawn = torch.where(kind == index, self._draw(name, x, generator), drawn)
        return x + drawn * (self.gain[rows] * 10 ** (-snr / 20)), y

    def _draw(self, kind: str, x: Tensor, generator: torch.Generator) -> Tensor:
        """Noise of variance one: see `drsn_edge.signals.noise`."""
        if kind == "laplacian":
            first, second = (torch.empty_like(x).exponential_(generator=generator) for _ in range(2))
            first -= second
            return first.mul_(0.5**0.5)
        white = torch.empty_like(x).normal_(generator=generator)
        if kind == "gaussian":
            return white
        if self._pink is None:
            self._pink = torch.from_numpy(pink_filter(tuple(x.shape[2:]))).to(self.device)
        axes = tuple(range(2, x.dim()))
        shaped: Tensor = torch.fft.irfftn(torch.fft.rfftn(white, dim=axes) * self._pink, s=x.shape[2:], dim=axes)
        return shaped
