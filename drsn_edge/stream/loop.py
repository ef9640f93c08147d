"""All sensors of a process in one thread: poll, cut, infer, decide, write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge.signals.contract import SignalContract
from drsn_edge.stream.command import CommandSink
from drsn_edge.stream.counters import Latencies
from drsn_edge.stream.outbox import LineSink
from drsn_edge.stream.quality import Quality, examine
from drsn_edge.stream.sensor import Sensor
from drsn_edge.stream.smoothing import UNKNOWN, confidences
from drsn_edge.stream.source import Clock
from drsn_edge.stream.state import StateFile
from drsn_edge.stream.timeline import iso

Infer = Callable[[NDArray[np.float32]], Mapping[str, NDArray[Any]]]

_JUMP_S = 0.5  # the wall clock against the steady one
_WAIT_S = 0.2  # for more samples, at most: signals and files are looked at as often
_IDLE_FLUSH_S = 0.05  # fast: how long a batch that is not full waits for more
_DAMAGED = 3  # windows in a row before anybody is told


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
        on_record: Called with every record.

    Attributes:
        latencies: From a window's last sample to its decision, of all sensors.
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
        on_record: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        self.sensors, self.sinks, self.commands = list(sensors), list(sinks), list(commands)
        self.latencies = Latencies()
        self.batches = self.windows = self.clock_jumps = 0
        self.infer_s = 0.0
        self._infer, self._labels, self._temperature = infer, list(labels), temperature
        self._state, self._clock, self._real_time = state, clock or Clock(), real_time
        self._on_record = on_record
        self._batch = np.zeros((max_batch, *contract.shape), np.float32)
        self._rows: list[tuple[Sensor, int, int, float]] = []  # sensor, seq, start, when its last sample came
        self._lingered = False
        self._offset = self._clock.wall() - self._clock.steady()
        self._quiet_since = self._clock.steady()

    def run(self, stop: Callable[[], bool] = lambda: False, *, idle_exit_s: float | None = None) -> None:
        """Stream.

        Args:
            stop: Asked in every turn.
            idle_exit_s: End when nothing has come for so long.
        """
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

    def turn(self) -> bool:
        """One turn; whether anything came or was decided."""
        steady, wall = self._clock.steady(), self._clock.wall()
        self._watch_clock(steady, wall)
        moved = False
        for sensor in self.sensors:
            moved |= sensor.fill(steady, wall)
        cut = self._cut()
        if self._rows and (self._real_time or len(self._rows) == len(self._batch) or self._dry(moved=moved or cut)):
            self._decide()
            moved = True
        self._tell()
        self._flush()
        if self._state is not None and not self._rows:
            self._state.write(self.sensors, self.sinks, steady, wall)
        return moved or cut

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
        before = len(self._rows)
        moved = True
        while moved and len(self._rows) < len(self._batch):
            moved = False
            for sensor in self.sensors:
                if sensor.ready and len(self._rows) < len(self._batch):
                    seq, start = sensor.cut(self._batch[len(self._rows)])
                    self._rows.append((sensor, seq, start, sensor.arrived))
                    moved = True
        return len(self._rows) > before

    def _decide(self) -> None:
        rows, x = self._rows, self._batch[: len(self._rows)]
        found = examine(x, [sensor.source.full_scale for sensor, *_ in rows])
        good = np.flatnonzero(found.good)
        outputs: Mapping[str, NDArray[Any]] = {}
        began = self._clock.steady()
        if len(good):
            outputs = self._infer(x if len(good) == len(x) else x[good])
            self.batches += 1
            self.windows += len(good)
        now = self._clock.steady()
        self.infer_s += now - began
        place = {int(row): index for index, row in enumerate(good)}
        best, confidence = confidences(outputs["logits"], self._temperature) if len(good) else (good, np.zeros(0))
        telemetry = None
        if "threshold" in outputs:
            telemetry = [np.asarray(outputs[name], np.float64).round(6) for name in ("threshold", "zero_share")]
        for row, (sensor, seq, start, arrived) in enumerate(rows):
            self.latencies.add(now - arrived)
            sensor.latencies.add(now - arrived)
            if self._real_time and now - arrived > sensor.hop_s:
                sensor.counters.late += 1
            self._count(sensor, found, row)
            index = place.get(row)
            if index is None:
                self._damaged(sensor, seq, start, found.reason(row))
                continue
            shown = None if telemetry is None else (telemetry[0][index], telemetry[1][index])
            self._decided(sensor, seq, start, self._labels[int(best[index])], float(confidence[index]), shown)
        self._rows.clear()

    def _count(self, sensor: Sensor, found: Quality, row: int) -> None:
        sensor.counters.clipped += bool(found.clipped[row])
        sensor.counters.flat += bool(found.flat[row])
        sensor.counters.nan += bool(found.nan[row])

    def _damaged(self, sensor: Sensor, seq: int, start: int, reason: str) -> None:
        sensor.damaged += 1
        if sensor.damaged == _DAMAGED:
            sensor.damage_told = True
            self._alarm(sensor, seq, start, "input", "raised", reason=reason)
        self._write(
            sensor, seq, start, "decision", label=UNKNOWN, confidence=0.0, state=sensor.smoother.state, reason=reason
        )

    def _decided(
        self, sensor: Sensor, seq: int, start: int, label: str, confidence: float,
        telemetry: tuple[NDArray[Any], NDArray[Any]] | None,
    ) -> None:  # fmt: skip
        sensor.counters.decided += 1
        more: dict[str, Any] = {}
        if telemetry is not None:
            more = {"threshold": telemetry[0].tolist(), "zero_share": telemetry[1].tolist()}
            if sensor.drift is not None and (told := sensor.drift.add(*telemetry)) is not None:
                self._alarm(sensor, seq, start, "drift", told.pop("event"), **told)
        if sensor.damage_told:
            self._alarm(sensor, seq, start, "input", "cleared")
        sensor.damaged, sensor.damage_told = 0, False
        said, before = sensor.smoother.vote(label, confidence)
        sensor.counters.unknown += said == UNKNOWN
        state = sensor.smoother.state
        if before is not None:
            smoother = sensor.smoother
            event = "raised" if smoother.is_alarm(state) else "cleared" if smoother.is_alarm(before) else "changed"
            self._alarm(
                sensor, seq, start, "state", event, label=state, before=before, votes=smoother.votes(state),
                of=smoother.options.of, confidence=round(confidence, 6),
            )  # fmt: skip
        self._write(
            sensor,
            seq,
            start,
            "decision",
            label=said,
            confidence=round(confidence, 6),
            state=state,
            reason=None,
            **more,
        )

    def _alarm(self, sensor: Sensor, seq: int, start: int, kind: str, event: str, **details: Any) -> None:
        sensor.counters.alarms += event == "raised"
        self._write(sensor, seq, start, "alarm", kind=kind, event=event, **details)

    def _write(self, sensor: Sensor, seq: int, start: int, type_: str, **details: Any) -> None:
        steady = sensor.timeline.steady(start)
        record = {
            "type": type_, "sensor": sensor.name, "seq": seq, "start": start, "t_s": round(start / sensor.rate, 6),
            "time": None if steady is None else iso(steady + self._offset), **details,
        }  # fmt: skip
        self._emit(record)

    def _emit(self, record: Mapping[str, Any]) -> None:
        for sink in self.sinks:
            sink.write(record)
        for command in self.commands:
            command.write(record)
        if self._on_record is not None:
            self._on_record(record)

    def _tell(self) -> None:
        for sensor in self.sensors:
            for record in sensor.records:
                self._emit(record)
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
            self._emit({"type": "clock", "sensor": None, "event": "jump", "seconds": round(jump, 3), "time": iso(wall)})

    def _wait(self, seconds: float) -> None:
        descriptors = [number for sensor in self.sensors if (number := sensor.source.fileno()) is not None]
        polled = any(sensor.source.fileno() is None and not sensor.done for sensor in self.sensors)
        self._clock.wait(descriptors, min(seconds, 0.02) if polled and self._real_time else seconds)

    def _finish(self) -> None:
        """Decide what was cut; write down where everything is."""
        if self._rows:
            self._decide()
        while self._cut():
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
