"""Decisions of every variant over a sweep of noise, streamed: one batch of windows is in memory at a time."""

from __future__ import annotations

import functools
import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from drsn_edge.parity.decision_point import DecisionPoint
from drsn_edge.parity.decisions import DecisionTally
from drsn_edge.parity.gate import Gate
from drsn_edge.parity.intervals import decidable
from drsn_edge.pipeline.data import ModelData
from drsn_edge.pipeline.variants import Variants
from drsn_edge.progress import SILENT, Progress
from drsn_edge.runtime.cpus import usable_cpus
from drsn_edge.signals.noise import Noise, add_noise, noise_rng
from drsn_edge.signals.window_plan import WindowPlan

# Draws per window that are tried, in turn; beyond them more windows help, not more draws.
_DRAWS = (10, 20, 40)
# Windows that a form computes at a time: fewer cost a call each, more no longer fit the caches and hold more memory.
_PIECE = 64


@dataclass(frozen=True)
class SweepOptions:
    """What is swept.

    Attributes:
        noises: Kinds of noise; None takes those of the training, or Gaussian.
        snrs_db: Levels, beside clean windows.
        draws: Noise draws per window at gated levels; None plans them so that the gate can decide, 10 to 40.
        seed: Of the noise.
        batch: Windows in memory.
    """

    noises: tuple[Noise, ...] | None = None
    snrs_db: tuple[float, ...] = tuple(range(-10, 11, 2))
    draws: int | None = None
    seed: int = 1
    batch: int = 128


def sweep(
    variants: Variants,
    data: ModelData,
    *,
    reference: str,
    gate: Gate,
    options: SweepOptions | None = None,
    progress: Progress = SILENT,
) -> tuple[DecisionPoint, ...]:
    """Run every variant over clean and noisy test windows.

    Clean windows are seen at several shifts, noisy ones with several draws of noise; both are clustered by independent
    window. Noise is drawn anew for every level, the same for all variants.
    """
    options = options or SweepOptions()
    noises = ("gaussian",) if options.noises is None else options.noises
    windows = data.planned("test")
    windows.source.check(noises)
    draws = options.draws or planned_draws(gate, len(windows))
    shifted = data.planned("test", draws=draws)
    levels: list[tuple[str, float | None]] = [("none", None)]
    levels += [(noise, snr) for noise in noises for snr in options.snrs_db]
    passes = [len(shifted)] + [
        len(windows) * (draws if gate.gates(noise, snr) else min(draws, _DRAWS[0])) for noise, snr in levels[1:]
    ]
    points: list[DecisionPoint] = []
    with progress.step("decisions", total=sum(passes)) as step, ThreadPoolExecutor(usable_cpus()) as pool:
        for noise, snr in levels:
            gated = gate.gates(noise, snr)
            tally = DecisionTally(reference, noise=noise, snr_db=snr, gated=gated)
            note = "clean" if snr is None else f"{noise} {snr:g} dB"
            count = 1 if snr is None else (draws if gated else min(draws, _DRAWS[0]))
            source = shifted if snr is None else windows
            run = functools.partial(_run, variants, source, noise, snr, options)
            for rows, logits in pool.map(run, itertools.product(range(count), range(0, len(source), options.batch))):
                tally.add(source.y[rows], source.cluster[rows], logits)
                step.advance(len(source.y[rows]), note=note)
            points.append(tally.point())
    return tuple(points)


def _run(
    variants: Variants,
    source: WindowPlan,
    noise: str,
    snr: float | None,
    options: SweepOptions,
    job: tuple[int, int],
) -> tuple[slice, dict[str, NDArray[Any]]]:
    """One batch through every variant; its noise depends on level, draw and place, not on who runs it."""
    draw, start = job
    rows = slice(start, start + options.batch)
    piece = source.cut(rows)
    x = piece.x
    if snr is not None:
        rng = noise_rng(options.seed, "sweep", noise, snr, draw, start)
        x = add_noise(x, snr, noise, rng, source=piece.source)  # type: ignore[arg-type]  # of the options
    return rows, {item.name: item.logits(x, batch=_PIECE, workers=1) for item in variants.running}


def planned_draws(gate: Gate, windows: int) -> int:
    """Draws per window with which the tightest limit of the gate can be decided; with too few windows none can."""
    limits = [limit for limit in gate.changed_limit.values() if 0 < limit < 1]
    if not limits:
        return _DRAWS[0]
    return next((draws for draws in _DRAWS if decidable(min(limits), windows, draws * windows)), _DRAWS[-1])
