"""What is counted while streaming, in memory of a fixed size."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

_PER_DECADE = 50
_LOWEST = 1e-5  # seconds


@dataclass
class Counters:
    """Of one sensor, since the state file began.

    Attributes:
        samples: That came in.
        windows: Numbered, damaged ones included.
        decided: Inferred and decided.
        late: Decided later than a hop after their last sample (real time only).
        gaps: Places where samples are missing.
        lost_samples: Missing there, as far as the clock says.
        overruns: Of those gaps, how often the ring was full.
        clipped: Windows that touch full scale.
        flat: Windows without any variation in a channel.
        nan: Windows with samples that are not finite.
        unknown: Decided without enough confidence.
        alarms: Raised.
        bytes_cut: Bytes of samples that a lost connection cut in two.
        restarts: How often a state file was gone on from.
    """

    samples: int = 0
    windows: int = 0
    decided: int = 0
    late: int = 0
    gaps: int = 0
    lost_samples: int = 0
    overruns: int = 0
    clipped: int = 0
    flat: int = 0
    nan: int = 0
    unknown: int = 0
    alarms: int = 0
    bytes_cut: int = 0
    restarts: int = 0

    def to_json(self) -> dict[str, int]:
        """Plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Counters:
        """From a state file; what an older one lacks is 0."""
        names = {item.name for item in dataclasses.fields(cls)}
        return cls(**{key: int(number) for key, number in value.items() if key in names})


@dataclass
class Latencies:
    """A histogram over time on a logarithmic scale: percentiles to 5 %, whatever the count."""

    counts: list[int] = field(default_factory=lambda: [0] * (8 * _PER_DECADE))
    largest: float = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        """Count one, or several of one length."""
        place = int(_PER_DECADE * math.log10(max(seconds, _LOWEST) / _LOWEST))
        self.counts[min(place, len(self.counts) - 1)] += count
        self.largest = max(self.largest, seconds)

    def percentile(self, share: float) -> float | None:
        """Upper edge of the bin that holds it, in seconds; None before anything was counted."""
        total, seen = sum(self.counts), 0
        for place, count in enumerate(self.counts):
            seen += count
            if count and seen >= share * total:
                return min(self.largest, float(_LOWEST * 10 ** ((place + 1) / _PER_DECADE)))
        return None

    def to_json(self) -> dict[str, float | None]:
        """In milliseconds."""
        return {
            name: None if (value := self.percentile(share)) is None else round(1e3 * value, 4)
            for name, share in (("p50_ms", 0.5), ("p95_ms", 0.95), ("p99_ms", 0.99), ("max_ms", 1.0))
        }
