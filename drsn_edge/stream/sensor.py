"""One sensor: its source, the samples that wait, where its windows are, what it remembers."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator
from itertools import repeat
from typing import Any, TypeAlias

from drsn_edge.errors import InputError
from drsn_edge.signals.contract import SignalContract
from drsn_edge.stream.counters import Counters, Latencies
from drsn_edge.stream.drift import DriftWatch
from drsn_edge.stream.resample import Resampler
from drsn_edge.stream.ring import Ring
from drsn_edge.stream.smoothing import Smoother
from drsn_edge.stream.source import Samples, Source
from drsn_edge.stream.timeline import Timeline

_RING_S = 10.0  # seconds of samples that may wait

Row: TypeAlias = "tuple[Sensor, int, int, float]"  # of a window: sensor, seq, start, when its last sample came


class Sensor:
    """Cuts a source into windows.

    Args:
        source: Of samples.
        contract: What a window is.
        hop: Samples from window to window.
        smoother: Of its decisions.
        drift: Of its telemetry; None without any.
        real_time: Never wait; say what is missing by the clock.
        resampler: For live samples of another rate.

    Attributes:
        full_scale: Of the source.
        seq: Number of the next window.
        arrived: Steady time when its last samples came.
        records: What happened, for the outputs, since somebody looked.
        said, raised: Decisions by label, and alarms by kind, since it was opened.
        anew: Numbers of windows that come after a gap and are not decided yet: no memory reaches across.
        passed: Gaps before them, since it was opened.
    """

    def __init__(
        self,
        source: Source,
        contract: SignalContract,
        *,
        hop: int,
        smoother: Smoother,
        drift: DriftWatch | None,
        real_time: bool,
        resampler: Resampler | None = None,
    ) -> None:
        self.source, self.name, self.full_scale = source, source.spec.name, source.full_scale
        self.smoother, self.drift = smoother, drift
        self.counters, self.latencies = Counters(), Latencies()
        self.seq = 0
        self.arrived = 0.0
        self.damaged = 0  # windows in a row that could not be inferred
        self.damage_told = False
        self.records: list[dict[str, Any]] = []
        self.said, self.raised = Counter[str](), Counter[str]()
        self.anew: deque[int] = deque()
        self.passed = 0
        self.rate, self._window, self._hop = contract.sample_rate_hz, contract.window, hop
        self.hop_s = hop / self.rate
        self._need = max(contract.window, hop)
        self._clocked = real_time and source.spec.live
        capacity = max(2 * self._need, math.ceil(_RING_S * self.rate)) + self._need
        self.ring = Ring(len(contract.channels), capacity)
        self.timeline = Timeline(self.rate)
        self._resampler = resampler
        self._ratio = 1.0 if resampler is None else resampler.ratio
        self._late: tuple[Samples, bool, int] | None = None  # waits until the windows before its gap are cut
        self._resume_wall: float | None = None

    @property
    def ready(self) -> bool:
        """Whether a whole window waits."""
        return len(self.ring) >= self._need

    @property
    def waiting(self) -> int:
        """Whole windows that wait."""
        return max(0, (len(self.ring) - self._need) // self._hop + 1)

    @property
    def done(self) -> bool:
        """Whether there will be no further window."""
        return self.source.ended and self._late is None and not self.ready

    @property
    def settled(self) -> bool:
        """Whether its position can be written down: no samples wait behind a gap."""
        return self._late is None

    def fill(self, steady: float, wall: float) -> bool:
        """Take what the source has; True where there was something."""
        if self._late is None:
            if self.ready and not self._clocked:
                return False  # a source that can wait does, until its windows are cut
            room = self.ring.capacity if self._clocked else self.ring.room
            samples = self.source.poll(max(1, int(room / self._ratio)))
            self._tell()
            if samples is None:
                return False
            fresh, self.source.fresh = self.source.fresh, False
            if self._resampler is not None:
                if fresh:
                    self._resampler.reset()
                samples = self._resampler.feed(samples)
            lost = self._missing(samples.shape[1], fresh, steady, wall) if self._clocked else 0
            self._late = (samples, fresh, lost)
        samples, fresh, lost = self._late
        if (fresh or lost) and self.ready:
            return False  # windows before the gap are cut first
        self._late = None
        if fresh or lost:
            self.gap("new file" if not self.source.spec.live else "new connection" if fresh else "late", lost)
        self.counters.samples += samples.shape[1]
        pushed = self.ring.append(samples)
        if pushed:
            self.counters.overruns += 1
            self.gap("overrun", pushed, jump=False)
        self.arrived = steady
        return True

    def _missing(self, count: int, fresh: bool, steady: float, wall: float) -> int:
        if self._resume_wall is not None:
            # After a restart: what came between the last window and these samples was never seen.
            lost = max(0, round((wall - self._resume_wall) * self.rate) - count)
            self._resume_wall = None
            self.timeline.missing(self.ring.end + count + lost, steady, fresh=False, drained=True)
            return lost
        return self.timeline.missing(self.ring.end + count, steady, fresh=fresh, drained=self.source.drained)

    def gap(self, reason: str, lost: int, *, jump: bool = True) -> None:
        """Samples are missing here: no window reaches across."""
        if jump:
            self.ring.jump(self.ring.end + lost)
        if not self.anew or self.anew[-1] != self.seq:
            self.anew.append(self.seq)  # those before it may still wait for their batch: they are forgotten after it
        if reason == "new file":
            return  # recordings end: nothing is lost by that
        self.counters.gaps += 1
        self.counters.lost_samples += lost
        self.records.append(
            {
                "type": "gap",
                "sensor": self.name,
                "start": self.ring.position,
                "reason": reason,
                "lost_samples": lost if self._clocked else None,
                "next_seq": self.seq,
            }
        )

    def cut(self, into: Samples, places: list[int]) -> Iterator[Row]:
        """Copy the next windows to places of a batch; what is to be known of each."""
        count, start = len(places), self.ring.position
        into[places] = self.ring.windows(self._window, self._hop, count).reshape(count, *into.shape[1:])
        numbers = range(self.seq, self.seq + count)
        self.ring.advance(count * self._hop)
        self.seq += count
        self.counters.windows += count
        starts = range(start, start + count * self._hop, self._hop)
        return zip(repeat(self, count), numbers, starts, repeat(self.arrived, count), strict=True)

    def _tell(self) -> None:
        for event, details in self.source.events:
            self.records.append({"type": "sensor", "sensor": self.name, "event": event, **details})
        self.source.events.clear()
        self.counters.bytes_cut = self.source.bytes_cut

    def pass_gaps(self, seq: int) -> None:
        """Window `seq` is to be decided next: what was said before a gap no longer votes."""
        while self.anew and self.anew[0] <= seq:
            self.anew.popleft()
            self.passed += 1
            self.smoother.forget()

    def to_json(self, wall_offset: float) -> dict[str, Any]:
        """For the state file; only while `settled`, with every window that was cut decided."""
        self.pass_gaps(self.seq)
        steady = self.timeline.steady(self.ring.position) if self._clocked else None
        return {
            "source": self.source.spec.text,
            "seq": self.seq,
            "position": self.ring.position,
            "wall": None if steady is None else steady + wall_offset,
            "cookie": self.source.cookie(),
            "smoothing": self.smoother.to_json(),
            "counters": self.counters.to_json(),
        }

    def restore(self, value: dict[str, Any]) -> None:
        """Go on from a state file.

        Raises:
            InputError: Not what `to_json` wrote.
        """
        try:
            self.seq, position = int(value["seq"]), int(value["position"])
            self.smoother.restore(value["smoothing"])
            self.counters = Counters.from_json(value["counters"])
            self._resume_wall = None if value["wall"] is None else float(value["wall"])
            self.ring.jump(position)
            if self.source.replayable:
                self.source.restore(position, dict(value["cookie"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError("the state file cannot be used", got=repr(error), expected="one that run wrote") from None
        self.counters.restarts += 1

    def seen(self, seq: int, start: int, wall: float | None) -> None:
        """A live sensor's window that was written after the state file: go on behind it."""
        if seq < self.seq:
            return
        windows = seq + 1 - self.seq
        self.counters.windows += windows
        self.counters.decided += windows
        self.seq = seq + 1
        self.ring.jump(start + self._hop)
        if wall is not None:
            self._resume_wall = wall + self._hop / self.rate
