"""All sensors of a process in one thread: poll, cut, decide, write. Without haste the network has another one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from drsn_edge.signals.contract import SignalContract
from drsn_edge.stream.command import CommandSink
from drsn_edge.stream.counters import Latencies
from drsn_edge.stream.decide import Decider
from drsn_edge.stream.flight import Flight, Infer, Pilot
from drsn_edge.stream.outbox import LineSink
from drsn_edge.stream.outputs import Outputs
from drsn_edge.stream.quality import examine
from drsn_edge.stream.sensor import Row, Sensor
from drsn_edge.stream.source import Clock
from drsn_edge.stream.state import StateFile
from drsn_edge.stream.timeline import iso

_JUMP_S = 0.5  # the wall clock against the steady one
_WAIT_S = 0.2  # for more samples, at most: signals and files are looked at as often
_IDLE_FLUSH_S = 0.05  # fast: how long a batch that is not full waits for more


class Stream:
    """Runs until every source has ended, or until `stop`.

    Args:
        sensors: With their sources.
        infer: From windows `[n, channels, ...]` to `logits`, and to `threshold` and `zero_share` where the graph has
            them.
        contract: What a window is.
        labels: In the order of the logits.
        temperature: For honest confidences.
        max_batch: Windows at a time, of all sensors together.
        sinks, commands: Outputs.
        state: State file; None without.
        clock: What time it is.
        real_time: Never wait for decisions or consumers.
        ahead: Infer a batch in a thread, while the decisions of the one before it are written and the next is cut. Not
            in real time: there no decision may wait.
        on_record: Called with every record.

    Attributes:
        batches, windows: That were inferred.
        infer_s: Seconds in `infer`.
        clock_jumps: Of the wall clock.
    """

    def __init__(
        self,
        sensors: Sequence[Sensor],
        infer: Infer,
        *,
        contract: SignalContract,
        labels: Sequence[str],
        temperature: float,
        max_batch: int,
        sinks: Sequence[LineSink] = (),
        commands: Sequence[CommandSink] = (),
        state: StateFile | None = None,
        clock: Clock | None = None,
        real_time: bool = False,
        ahead: bool = False,
        on_record: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        self.sensors, self.sinks, self.commands = list(sensors), list(sinks), list(commands)
        self.batches = self.windows = self.clock_jumps = 0
        self.infer_s = 0.0
        self._outputs = Outputs(sinks, commands, on_record)
        self._decider = Decider(labels, temperature=temperature, outputs=self._outputs, real_time=real_time)
        self._state, self._clock, self._real_time = state, clock or Clock(), real_time
        self._pilot = Pilot(infer, self._clock, ahead=ahead and not real_time)
        self._flight: Flight | None = None
        self._batch = np.zeros((max_batch, *contract.shape), np.float32)
        # One is in the network while the other is filled.
        self._other = np.zeros_like(self._batch) if self._pilot.ahead else self._batch
        self._rows: list[Row] = []
        self._lingered = False
        self._offset = self._clock.wall() - self._clock.steady()
        self._quiet_since = self._clock.steady()

    @property
    def latencies(self) -> Latencies:
        """From a window's last sample to its decision, of all sensors."""
        return self._decider.latencies

    def run(self, stop: Callable[[], bool] = lambda: False, *, idle_exit_s: float | None = None) -> None:
        """Stream.

        Args:
            stop: Asked in every turn.
            idle_exit_s: End when nothing has come for so long.
        """
        try:
            while not stop() and not self._abandoned:
                moved = self.turn()
                now = self._clock.steady()
                if moved:
                    self._quiet_since = now
                    continue
                if all(sensor.done for sensor in self.sensors):
                    break
                if idle_exit_s is not None and now - self._quiet_since > idle_exit_s:
                    break
                self._wait(_IDLE_FLUSH_S if self._rows else _WAIT_S)
            self._finish()
        finally:
            self._pilot.close()

    def turn(self) -> bool:
        """One turn; whether anything came or was decided."""
        steady, wall = self._clock.steady(), self._clock.wall()
        self._watch_clock(steady, wall)
        moved = False
        for sensor in self.sensors:
            moved |= sensor.fill(steady, wall)
        moved |= self._cut()
        if self._rows and (self._real_time or len(self._rows) == len(self._batch)):
            self._ask()
            moved = True
        elif self._flight is not None and (self._flight.answer.done() or not moved):
            self._decide()
            self._lingered, moved = False, True
        elif self._rows and self._dry(moved=moved):
            self._ask()
            moved = True
        if self._state is not None and not self._rows and self._state.due(steady):
            self._decide()  # of what was cut, all has to be known
        self._tell()
        self._flush()
        if self._state is not None and not self._rows:
            self._state.write(self.sensors, self.sinks, steady, wall)
        return moved

    def _dry(self, *, moved: bool) -> bool:
        """Whether a batch that is not full need not wait any longer."""
        if moved:
            self._lingered = False
            return False
        waited, self._lingered = self._lingered, True
        return waited or all(sensor.source.ended for sensor in self.sensors)

    @property
    def _abandoned(self) -> bool:
        """Whether whoever reads stdout has gone."""
        return any(sink.target == "-" and sink.closed_by_reader for sink in self.sinks)

    def _cut(self) -> bool:
        """Windows of all sensors in turn into the batch."""
        first, room = len(self._rows), len(self._batch) - len(self._rows)
        left = [(index, sensor.waiting) for index, sensor in enumerate(self.sensors)]
        turns: list[int] = []
        while (left := [(index, count) for index, count in left if count]) and len(turns) < room:
            turns += [index for index, _ in left]
            left = [(index, count - 1) for index, count in left]
        turns = turns[:room]
        windows: dict[int, Iterator[Row]] = {}
        for index in dict.fromkeys(turns):
            mine = [first + place for place, turn in enumerate(turns) if turn == index]
            windows[index] = self.sensors[index].cut(self._batch, mine)
        self._rows += [next(windows[index]) for index in turns]
        return bool(turns)

    def _ask(self) -> None:
        """The network about the batch; what it said of the one before is decided meanwhile."""
        x = self._batch[: len(self._rows)]
        found = examine(x, [sensor.full_scale for sensor, *_ in self._rows])
        flight = self._pilot.start(self._rows, x, found)
        self._rows = []
        self._decide()
        self._batch, self._other = self._other, self._batch
        self._flight = flight
        if not self._pilot.ahead:
            self._decide()

    def _decide(self) -> None:
        """What the network was asked last; waits for its answer."""
        flight, self._flight = self._flight, None
        if flight is None:
            return
        answer = flight.answer.result()
        self.batches += answer.windows > 0
        self.windows += answer.windows
        self.infer_s += answer.ended - answer.began
        self._decider.offset = self._offset
        self._decider.decide(flight.rows, flight.found, answer.outputs, answer.ended)

    def _tell(self) -> None:
        for sensor in self.sensors:
            for record in sensor.records:
                self._outputs.emit(record)
            sensor.records.clear()

    def _flush(self, *, wait: bool = False) -> None:
        now = self._clock.steady()
        for sink in self.sinks:
            sink.flush(now, wait=wait or sink.crowded)
        for command in self.commands:
            command.flush(now)

    def _watch_clock(self, steady: float, wall: float) -> None:
        """Times follow the wall clock; that it was set is said, and moves no sample and no window."""
        jump = wall - steady - self._offset
        self._offset += jump
        if abs(jump) > _JUMP_S:
            self.clock_jumps += 1
            self._outputs.emit(
                {"type": "clock", "sensor": None, "event": "jump", "seconds": round(jump, 3), "time": iso(wall)}
            )

    def _wait(self, seconds: float) -> None:
        descriptors = [number for sensor in self.sensors if (number := sensor.source.fileno()) is not None]
        polled = any(sensor.source.fileno() is None and not sensor.done for sensor in self.sensors)
        self._clock.wait(descriptors, min(seconds, 0.02) if polled and self._real_time else seconds)

    def _finish(self) -> None:
        """Decide what was cut; write down where everything is."""
        while self._rows or self._cut():
            self._ask()
        self._decide()
        self._tell()
        for sink in self.sinks:
            sink.flush(self._clock.steady(), wait=True)
        steady, wall = self._clock.steady(), self._clock.wall()
        if self._state is not None:
            self._state.write(self.sensors, self.sinks, steady, wall, now=True)
        for command in self.commands:
            command.close(steady)
        for sink in self.sinks:
            sink.close(steady)
        for sensor in self.sensors:
            sensor.source.close()
