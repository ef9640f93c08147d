"""When samples were measured, and how many are missing, by the steady clock alone."""

from __future__ import annotations

import math
from datetime import datetime, timezone

_LATE_S = 1.0  # so much later than its number says, and samples are missing
_WATCH_S = 60.0  # the smallest lag of so long is the sensor's own clock, not a delay


class Timeline:
    """The times of one live sensor's samples.

    A sensor's crystal is not this machine's: sample 0 is moved along as samples come too early, and by the smallest
    lag of every minute. A jump of the lag by more than a second is a gap.

    Args:
        rate: Samples per second.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._zero: float | None = None  # steady time of sample 0
        self._least = math.inf
        self._since = 0.0

    def missing(self, end: int, now: float, *, fresh: bool, drained: bool) -> int:
        """How many samples are missing before those that have just come.

        Args:
            end: Number of the sample behind them, if none is missing.
            now: Steady time.
            fresh: They come over a new connection.
            drained: Nothing waits behind them: what is late now will not catch up.
        """
        if self._zero is None:
            self._zero, self._since = now - end / self._rate, now
            return 0
        lag = now - (self._zero + end / self._rate)
        if lag < 0:
            self._zero += lag
            lag = 0.0
        if fresh or (drained and lag > _LATE_S):
            self._least, self._since = math.inf, now
            return round(lag * self._rate)
        if drained:
            self._least = min(self._least, lag)
        if now - self._since > _WATCH_S:
            if self._least < math.inf:
                self._zero += self._least
            self._least, self._since = math.inf, now
        return 0

    def steady(self, sample: int) -> float | None:
        """Steady time of a sample; None before the first has come."""
        return None if self._zero is None else self._zero + sample / self._rate


def iso(wall: float) -> str:
    """UTC to the millisecond."""
    return datetime.fromtimestamp(wall, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
