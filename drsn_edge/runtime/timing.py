"""Latency of several things side by side, in turns, so that whatever else the machine does meets all of them.

Measured one after the other, the last row of a table stands for a warmer chip and a lower clock than the first. Here
every case has its turn in every round, and the order is reversed from round to round; `rounds_ms` keeps what each round
gave, so that two rows can be compared round by round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from drsn_edge.errors import UsageError
from drsn_edge.progress import SILENT, Progress

# A percentile needs that many calls to be more than the largest value: 1 / (1 - p).
_CALLS_FOR = {50: 2, 95: 20, 99: 100}


@dataclass(frozen=True)
class TimingOptions:
    """How long to measure.

    Attributes:
        iterations: Calls of each case, at most.
        warmup: Calls of each case that do not count.
        seconds: Of each case, at most, once it has had one call in every round.
        rounds: Turns of each case.
    """

    iterations: int = 200
    warmup: int = 10
    seconds: float = 2.0
    rounds: int = 10

    def __post_init__(self) -> None:
        for name, least in (("iterations", 2), ("warmup", 1), ("rounds", 1)):
            if getattr(self, name) < least:
                raise UsageError(
                    f"too few {name} to measure anything", got=getattr(self, name), expected=f"at least {least}"
                )
        if not 0 < self.seconds < float("inf"):
            raise UsageError("the time for a row is out of range", got=self.seconds, expected="more than 0 s")


@dataclass(frozen=True)
class Timing:
    """What was measured of one case.

    Attributes:
        iterations: Calls that counted.
        p50_ms: Median of a call.
        p95_ms: None with fewer than 20 calls.
        p99_ms: None with fewer than 100 calls.
        mean_ms: Of a call.
        rounds_ms: Median of every round.
    """

    iterations: int
    p50_ms: float
    p95_ms: float | None
    p99_ms: float | None
    mean_ms: float
    rounds_ms: tuple[float, ...]

    @property
    def drift(self) -> float:
        """Median of the second half of the rounds over that of the first: 1 where nothing has changed meanwhile."""
        half = len(self.rounds_ms) // 2
        if half == 0:
            return 1.0
        return float(np.median(self.rounds_ms[half:]) / np.median(self.rounds_ms[:half]))


def summarise(rounds: Sequence[Sequence[float]]) -> Timing:
    """Percentiles over the calls of all rounds, in seconds; rounds without a call are left out."""
    calls = 1e3 * np.concatenate([np.asarray(values, np.float64) for values in rounds])
    found = {p: float(np.percentile(calls, p)) if len(calls) >= least else None for p, least in _CALLS_FOR.items()}
    return Timing(
        iterations=len(calls),
        p50_ms=float(np.median(calls)),
        p95_ms=found[95],
        p99_ms=found[99],
        mean_ms=float(calls.mean()),
        rounds_ms=tuple(1e3 * float(np.median(values)) for values in rounds if len(values)),
    )


def measure(
    cases: Sequence[Callable[[], object]],
    *,
    options: TimingOptions,
    progress: Progress = SILENT,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Timing, ...]:
    """Time calls that have ended when they return.

    Args:
        cases: What to call; a call on a GPU must wait for it.
        options: How long.
        progress: Where steps go.
        clock: Seconds; tests give another one.
    """
    rounds = min(options.rounds, options.iterations)
    found: list[list[list[float]]] = [[[] for _ in range(rounds)] for _ in cases]
    with progress.step("warming up", len(cases)) as step:
        for call in cases:
            for _ in range(options.warmup):
                call()
            step.advance()
    with progress.step("measuring", rounds) as step:
        for turn in range(rounds):
            order = range(len(cases)) if turn % 2 == 0 else reversed(range(len(cases)))
            for index in order:
                # Shares of the calls differ by one at most: the first rounds get what does not divide.
                calls = options.iterations // rounds + (turn < options.iterations % rounds)
                found[index][turn] = _turn(cases[index], calls, options.seconds / rounds, clock)
            step.advance()
    return tuple(summarise(item) for item in found)


def _turn(call: Callable[[], object], calls: int, seconds: float, clock: Callable[[], float]) -> list[float]:
    """Seconds of each call; the first one of a turn, which finds the caches full of others, does not count."""
    call()
    times: list[float] = []
    began = clock()
    while len(times) < calls:
        before = clock()
        call()
        after = clock()
        times.append(after - before)
        if after - began >= seconds:
            break
    return times
