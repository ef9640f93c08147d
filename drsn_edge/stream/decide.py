"""From what the network says of a batch to states, alarms and lines, in the order of the windows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge.stream.counters import Latencies
from drsn_edge.stream.decimals import decimal_rows
from drsn_edge.stream.drift import FIGURES
from drsn_edge.stream.outputs import Outputs
from drsn_edge.stream.quality import Quality
from drsn_edge.stream.sensor import Row, Sensor
from drsn_edge.stream.smoothing import UNKNOWN, confidences
from drsn_edge.stream.timeline import iso

_DAMAGED = 3  # windows in a row before anybody is told

Said = tuple[str, float, str, "tuple[str, str] | None"]  # label, confidence, the same as text, telemetry as text


class Decider:
    """Decides.

    Args:
        labels: In the order of the logits.
        temperature: For honest confidences.
        outputs: For alarms and decisions.
        real_time: Whether a decision can be late.

    Attributes:
        latencies: From a window's last sample to its decision, of all sensors.
        offset: Of the wall clock, from the steady one.
    """

    def __init__(self, labels: Sequence[str], *, temperature: float, outputs: Outputs, real_time: bool) -> None:
        self.latencies = Latencies()
        self.offset = 0.0
        self._labels, self._temperature = list(labels), temperature
        self._outputs, self._real_time = outputs, real_time

    def decide(self, rows: Sequence[Row], found: Quality, outputs: Mapping[str, NDArray[Any]], now: float) -> None:
        """Of a batch.

        Args:
            rows: The windows.
            found: What is wrong with them.
            outputs: Of the network, for those that it has seen; empty where there are none.
            now: Steady time.
        """
        telemetry = None
        if FIGURES[0] in outputs:
            telemetry = np.stack([outputs[name] for name in FIGURES], axis=1).astype(np.float64).round(6)
        self._waited(rows, now)
        for row in np.flatnonzero(found.clipped).tolist():
            rows[row][0].counters.clipped += 1
        drifts = self._drifts(rows, found, telemetry)
        said = self._said(outputs, telemetry)
        for row, ((sensor, seq, start, _), good) in enumerate(zip(rows, found.good.tolist(), strict=True)):
            sensor.pass_gaps(seq)
            if not good:
                sensor.counters.flat += bool(found.flat[row])
                sensor.counters.nan += bool(found.nan[row])
                self._damaged(sensor, seq, start, found.reason(row))
                continue
            if row in drifts:
                told = drifts[row]
                self._alarm(sensor, seq, start, "drift", told.pop("event"), **told)
            self._decided(sensor, seq, start, *next(said))
        self._outputs.deliver()

    def _said(self, outputs: Mapping[str, NDArray[Any]], telemetry: NDArray[np.float64] | None) -> Iterator[Said]:
        """What the network says of the windows that it has seen."""
        if not outputs:
            return iter(())
        best, confidence = confidences(outputs["logits"], self._temperature)
        figures: Iterable[tuple[str, str] | None] = repeat(None, len(best))
        if telemetry is not None:
            texts = decimal_rows(telemetry.reshape(2 * len(best), -1))
            figures = zip(texts[::2], texts[1::2], strict=True)
        shown = decimal_rows(confidence.round(6)[:, None])
        return zip([self._labels[index] for index in best.tolist()], confidence.tolist(), shown, figures, strict=True)

    def _drifts(
        self, rows: Sequence[Row], found: Quality, telemetry: NDArray[np.float64] | None
    ) -> dict[int, dict[str, Any]]:
        """Which windows have let a sensor's telemetry leave its range, or come back; windows of other damage aside."""
        if telemetry is None or all(sensor.drift is None for sensor, *_ in rows):
            return {}
        place = np.cumsum(found.good) - 1  # of a window among those that the network has seen
        fine = found.good.copy()
        fine[fine] = np.isfinite(telemetry).all(axis=(1, 2))
        of: dict[tuple[str, int], list[int]] = {}  # by sensor, and by how many gaps come before
        for row in np.flatnonzero(fine).tolist():
            sensor, seq, *_ = rows[row]
            of.setdefault((sensor.name, sensor.passed + sum(at <= seq for at in sensor.anew)), []).append(row)
        told: dict[int, dict[str, Any]] = {}
        for (_, gaps), mine in of.items():
            drift = rows[mine[0]][0].drift
            if drift is not None:
                told |= {mine[at]: item for at, item in drift.add(telemetry[place[mine]], gaps).items()}
        return told

    def _waited(self, rows: Sequence[Row], now: float) -> None:
        """Latencies; many windows came in one piece and have the same."""
        for (sensor, arrived), count in Counter([(sensor, arrived) for sensor, _, _, arrived in rows]).items():
            self.latencies.add(now - arrived, count)
            sensor.latencies.add(now - arrived, count)
            if self._real_time and now - arrived > sensor.hop_s:
                sensor.counters.late += count

    def _damaged(self, sensor: Sensor, seq: int, start: int, reason: str) -> None:
        sensor.damaged += 1
        if sensor.damaged == _DAMAGED:
            sensor.damage_told = True
            self._alarm(sensor, seq, start, "input", "raised", reason=reason)
        self._emit(
            sensor, seq, start, "decision", label=UNKNOWN, confidence=0.0, state=sensor.smoother.state, reason=reason
        )

    def _decided(
        self, sensor: Sensor, seq: int, start: int, label: str, confidence: float, shown: str,
        figures: tuple[str, str] | None,
    ) -> None:  # fmt: skip
        if sensor.damaged:
            if sensor.damage_told:
                self._alarm(sensor, seq, start, "input", "cleared")
            sensor.damaged, sensor.damage_told = 0, False
        smoother = sensor.smoother
        said, before = smoother.vote(label, confidence)
        sensor.counters.decided += 1
        sensor.counters.unknown += said == UNKNOWN
        sensor.said[said] += 1
        state = smoother.state
        if before is not None:
            event = "raised" if smoother.is_alarm(state) else "cleared" if smoother.is_alarm(before) else "changed"
            self._alarm(
                sensor, seq, start, "state", event, label=state, before=before, votes=smoother.votes(state),
                of=smoother.options.of, confidence=float(shown),
            )  # fmt: skip
        t_s, time = self._when(sensor, start)
        self._outputs.decision(sensor.name, seq, start, t_s, time, said, shown, state, figures)

    def _alarm(self, sensor: Sensor, seq: int, start: int, kind: str, event: str, **details: Any) -> None:
        sensor.counters.alarms += event == "raised"
        sensor.raised[kind] += event == "raised"
        self._emit(sensor, seq, start, "alarm", kind=kind, event=event, **details)

    def _emit(self, sensor: Sensor, seq: int, start: int, type_: str, **details: Any) -> None:
        t_s, time = self._when(sensor, start)
        self._outputs.emit(
            {"type": type_, "sensor": sensor.name, "seq": seq, "start": start, "t_s": t_s, "time": time, **details}
        )

    def _when(self, sensor: Sensor, start: int) -> tuple[float, str | None]:
        steady = sensor.timeline.steady(start)
        return round(start / sensor.rate, 6), None if steady is None else iso(steady + self.offset)
