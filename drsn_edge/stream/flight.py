"""One batch in the network, while another is cut and the decisions of a third are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge.stream.quality import Quality
from drsn_edge.stream.sensor import Row
from drsn_edge.stream.source import Clock

Infer = Callable[[NDArray[np.float32]], Mapping[str, NDArray[Any]]]


@dataclass(frozen=True, eq=False)
class Answer:
    """What the network says of a batch.

    Attributes:
        outputs: Of the windows that it has seen; empty where there were none.
        windows: How many those are.
        began, ended: Steady time.
    """

    outputs: Mapping[str, NDArray[Any]]
    windows: int
    began: float
    ended: float


@dataclass(frozen=True, eq=False)
class Flight:
    """Windows that the network has been asked about.

    Attributes:
        rows: The windows, all of them.
        found: What is wrong with them; only good ones were asked about.
        answer: Of the network, sooner or later.
    """

    rows: list[Row]
    found: Quality
    answer: Future[Answer]


class Pilot:
    """Asks the network, one batch after the other.

    Args:
        infer: From windows to outputs; lets other threads run meanwhile, if `ahead` is to be worth it.
        clock: What time it is.
        ahead: Ask in a thread, so that whoever asks can do something else meanwhile.

    Attributes:
        ahead: As given.
    """

    def __init__(self, infer: Infer, clock: Clock, *, ahead: bool) -> None:
        self._infer, self._clock, self.ahead = infer, clock, ahead
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="infer") if ahead else None

    def start(self, rows: list[Row], x: NDArray[np.float32], found: Quality) -> Flight:
        """Ask about the good ones of windows `[n, channels, ...]`, which stay as they are until the answer is there."""
        good = np.flatnonzero(found.good)
        asked = x if len(good) == len(x) else x[good]
        if self._thread is not None:
            return Flight(rows, found, self._thread.submit(self._ask, asked))
        answer: Future[Answer] = Future()
        answer.set_result(self._ask(asked))
        return Flight(rows, found, answer)

    def close(self) -> None:
        """Let the thread go; what it was asked last, nobody wants to know any more."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def _ask(self, x: NDArray[np.float32]) -> Answer:
        began = self._clock.steady()
        outputs = self._infer(x) if len(x) else {}
        return Answer(outputs, len(x), began, self._clock.steady())
