"""From windows to a state that one can act on: confidence, k of n, hysteresis, "unknown"."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge.errors import UsageError

UNKNOWN = "unknown"
# What a label is called that is no alarm, where the user does not say.
NORMAL_NAMES = ("healthy", "normal", "good", "ok")


@dataclass(frozen=True)
class SmoothingOptions:
    """How decisions become a state.

    Attributes:
        votes: Windows of the last `of` that must agree on a label before it becomes the state.
        of: How many windows are looked at.
        release: The state stays while at least so many of them still say it (hysteresis).
        min_confidence: Below it a window says "unknown".
        normal: Labels that are no alarm.

    Raises:
        UsageError: Numbers that do not fit together.
    """

    votes: int = 3
    of: int = 5
    release: int = 2
    min_confidence: float = 0.5
    normal: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.votes <= self.of or 2 * self.votes <= self.of:
            raise UsageError(
                "the votes cannot decide", got=f"{self.votes} of {self.of}", expected="more than half, at most all"
            )
        if not 1 <= self.release <= self.votes:
            raise UsageError("the hysteresis cannot hold", got=self.release, expected=f"1 to {self.votes}, the votes")
        if not 0 <= self.min_confidence < 1:
            raise UsageError("the smallest confidence cannot be used", got=self.min_confidence, expected="0 to 1")


def confidences(logits: NDArray[Any], temperature: float) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The largest class `[N]` and its probability `[N]` by temperature scaling (Guo et al. 2017).

    A row that is not finite has probability 0.
    """
    scaled = logits.astype(np.float64) / temperature
    good = np.isfinite(scaled).all(axis=1)
    scaled[~good] = 0.0
    scaled -= scaled.max(axis=1, keepdims=True)
    np.exp(scaled, out=scaled)
    best = scaled.argmax(axis=1)
    confidence = scaled[np.arange(len(scaled)), best] / scaled.sum(axis=1)
    return best, np.where(good, confidence, 0.0)


class Smoother:
    """The state of one sensor.

    Attributes:
        state: A label, or `unknown`.
    """

    def __init__(self, options: SmoothingOptions) -> None:
        self.options = options
        self.state = UNKNOWN
        self._last: deque[str] = deque(maxlen=options.of)

    def vote(self, label: str, confidence: float) -> tuple[str, str | None]:
        """Take a window in.

        Returns:
            What the window says, `unknown` if it is not sure, and the state that it ended, None where it ended none.
        """
        said = label if confidence >= self.options.min_confidence else UNKNOWN
        self._last.append(said)
        before = self.state
        if self._last.count(self.state) < self.options.release or self.state == UNKNOWN:
            # More than half is needed, so at most one label can have it.
            self.state = next((one for one in self._last if self._last.count(one) >= self.options.votes), before)
            if self.state == before and self._last.count(before) == 0 and len(self._last) == self.options.of:
                self.state = UNKNOWN
        return said, None if self.state == before else before

    def votes(self, label: str) -> int:
        """How many of the last windows say a label."""
        return self._last.count(label)

    def is_alarm(self, state: str) -> bool:
        """Whether a state is one to act on. Not to know is none."""
        return state != UNKNOWN and state not in self.options.normal

    def forget(self) -> None:
        """A gap: windows before it no longer vote. The state stays until others do."""
        self._last.clear()

    def to_json(self) -> dict[str, Any]:
        """For the state file."""
        return {"state": self.state, "last": list(self._last)}

    def restore(self, value: dict[str, Any]) -> None:
        """From the state file."""
        self.state = str(value["state"])
        self._last.clear()
        self._last.extend(str(item) for item in value["last"])
