"""Everything that records go to. Decisions, of which there are most, become lines without a mapping in between."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from drsn_edge.stream.command import CommandSink
from drsn_edge.stream.outbox import LineSink

_quoted = lru_cache(maxsize=1024)(json.dumps)  # names of sensors and labels: few, and written again and again

Record = Mapping[str, Any]
Take = Callable[[Record], None]


class Outputs:
    """Hands records on, in their order. Decisions wait in here until `deliver`, or until something else comes.

    Args:
        sinks, commands: Of the user.
        on_record: Called with every record.
    """

    def __init__(self, sinks: Sequence[LineSink], commands: Sequence[CommandSink], on_record: Take | None) -> None:
        told: list[Take] = [] if on_record is None else [on_record]
        self._all: list[Take] = [*(sink.write for sink in sinks), *(item.write for item in commands), *told]
        decisions = [sink for sink in sinks if not sink.alarms_only]
        self._lines = [sink for sink in decisions if not sink.csv]
        self._mapped: list[Take] = [*(sink.write for sink in decisions if sink.csv), *told]
        self._texts: list[str] = []
        self._sensors: list[str] = []
        self._numbers: list[int] = []

    def emit(self, record: Record) -> None:
        """Any record."""
        self.deliver()
        for take in self._all:
            take(record)

    def decision(
        self, sensor: str, seq: int, start: int, t_s: float, time: str | None, label: str, confidence: str, state: str,
        telemetry: tuple[str, str] | None,
    ) -> None:  # fmt: skip
        """What was decided of a window: what `emit` makes of the mapping below, several times as quickly.

        Confidence comes as JSON has it, telemetry as threshold and zero share of each unit, likewise, without brackets.
        """
        more = "" if telemetry is None else f',"threshold":[{telemetry[0]}],"zero_share":[{telemetry[1]}]'
        if self._lines:
            shown = "null" if time is None else json.dumps(time)  # never twice the same: nothing to remember
            self._sensors.append(sensor)
            self._numbers.append(seq)
            self._texts.append(
                f'{{"type":"decision","sensor":{_quoted(sensor)},"seq":{seq},"start":{start},"t_s":{t_s!r},'
                f'"time":{shown},"label":{_quoted(label)},"confidence":{confidence},"state":{_quoted(state)},'
                f'"reason":null{more}}}\n'
            )
        if self._mapped:
            record = {
                "type": "decision", "sensor": sensor, "seq": seq, "start": start, "t_s": t_s, "time": time,
                "label": label, "confidence": float(confidence), "state": state, "reason": None,
                **({} if telemetry is None else json.loads(f"{{{more[1:]}}}")),
            }  # fmt: skip
            for take in self._mapped:
                take(record)

    def deliver(self) -> None:
        """Hand the waiting lines on."""
        if self._texts:
            for sink in self._lines:
                sink.put_all(self._texts, self._sensors, self._numbers)
            self._texts, self._sensors, self._numbers = [], [], []
