"""`run`: from sensors to decisions, on the device."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge.bundle import Bundle
from drsn_edge.errors import UsageError
from drsn_edge.pipeline.run_runner import choose_runner
from drsn_edge.runtime.cpus import usable_cpus
from drsn_edge.runtime.runner import Runner
from drsn_edge.stream.command import CommandSink
from drsn_edge.stream.drift import TelemetryRange
from drsn_edge.stream.loop import Stream
from drsn_edge.stream.open import open_sensor
from drsn_edge.stream.outbox import LineSink
from drsn_edge.stream.sensor import Sensor
from drsn_edge.stream.smoothing import NORMAL_NAMES, SmoothingOptions
from drsn_edge.stream.source import Clock
from drsn_edge.stream.spec import SourceSpec, parse_sources
from drsn_edge.stream.state import StateFile, resume


@dataclass(frozen=True)
class StreamOptions:
    """How samples become decisions.

    Attributes:
        hop: Samples from window to window; None: the contract's.
        batch: Windows at a time, of all sensors together.
        real_time: Play files at their rate, never wait for consumers; None: where a source is live.
        resample: Take other sample rates.
        once: End when a pipe or connection is closed, or a folder has been read.
        idle_exit_s: End when nothing has come for so long.
        state_every_s: How often the state file is written.
        drift_windows: Over how many windows telemetry is averaged before it is compared with that of training.
    """

    hop: int | None = None
    batch: int = 64
    real_time: bool | None = None
    resample: bool = False
    once: bool = False
    idle_exit_s: float | None = None
    state_every_s: float = 5.0
    drift_windows: int = 16

    def __post_init__(self) -> None:
        for name, value in (("hop", self.hop), ("batch", self.batch), ("drift_windows", self.drift_windows)):
            if value is not None and value < 1:
                raise UsageError(f"{name} is too small", got=value, expected="at least 1")


@dataclass(frozen=True, eq=False)
class RunResult:
    """What happened.

    Attributes:
        bundle, runner: Of the decisions.
        real_time: Whether it kept the pace.
        sensors: Counters, latencies and last state of each, by name.
        latency: Of all decisions, in milliseconds.
        windows, batches: Inferred.
        seconds, infer_s: Wall time, and that in the runner.
        outputs, commands: Counts of each.
        clock_jumps, state_errors: How often.
        notes: What the user should know.
        planned: Whether nothing was run.
    """

    bundle: str
    runner: str
    real_time: bool
    sensors: dict[str, dict[str, Any]]
    latency: dict[str, float | None] = field(default_factory=dict)
    windows: int = 0
    batches: int = 0
    seconds: float = 0.0
    infer_s: float = 0.0
    outputs: tuple[dict[str, Any], ...] = ()
    commands: tuple[dict[str, Any], ...] = ()
    clock_jumps: int = 0
    state_errors: int = 0
    notes: tuple[str, ...] = ()
    planned: bool = False

    @property
    def lost_lines(self) -> int:
        """Lines that no output took."""
        return sum(int(item["lost"]) for item in self.outputs)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "format_version": 1,
            "bundle": self.bundle,
            "runner": self.runner,
            "real_time": self.real_time,
            "planned": self.planned,
            "sensors": self.sensors,
            "latency": self.latency,
            "windows": self.windows,
            "batches": self.batches,
            "seconds": round(self.seconds, 3),
            "infer_s": round(self.infer_s, 3),
            "windows_per_s": round(self.windows / self.seconds, 1) if self.seconds else None,
            "outputs": list(self.outputs),
            "commands": list(self.commands),
            "clock_jumps": self.clock_jumps,
            "state_errors": self.state_errors,
            "notes": list(self.notes),
        }


def run(
    bundle: Path | str | Bundle,
    sources: Sequence[str],
    *,
    events: str | None = None,
    alarms: str | None = None,
    command: str | None = None,
    state: Path | None = None,
    runner: str = "auto",
    precision: str | None = None,
    allow_unverified: bool = False,
    options: StreamOptions | None = None,
    smoothing: SmoothingOptions | None = None,
    force: bool = False,
    dry_run: bool = False,
    stop: Callable[[], bool] = lambda: False,
    clock: Clock | None = None,
    notice: Callable[[str], None] = lambda _: None,
    on_record: Callable[[Mapping[str, Any]], None] | None = None,
) -> RunResult:
    """Decide on the windows of every sensor until the sources end.

    Args:
        bundle: Of the network.
        sources: `[NAME=]PLACE[,key=value...]`: files, a folder, `stdin`, a named pipe, `tcp://HOST:PORT`.
        events: File of decisions, alarms and everything else as JSON lines (CSV by suffix); `-` for stdout.
        alarms: The same for alarms alone.
        command: Executed for every alarm, with the alarm as JSON on its standard input.
        state: State file: after a stop or a kill the next run goes on from it.
        runner: `auto`, `engine` or `onnxruntime`.
        precision: Of the engine or the graph.
        allow_unverified: Take an engine that never passed a parity check.
        options: How samples become windows.
        smoothing: How decisions become a state; `normal` is guessed from the labels where it is empty.
        force: Replace outputs that exist.
        dry_run: Check everything; run nothing, write nothing.
        stop: Asked in every turn.
        clock: What time it is.
        notice: Told what the user should know before it starts.
        on_record: Called with everything that goes to `events`, as a mapping, while it happens.

    Raises:
        UsageError: Options that do not fit together, or an output that exists.
        InputError: A bundle, source or state file that cannot be used.
        MissingError: No runner.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    options, clock = options or StreamOptions(), clock or Clock()
    specs = parse_sources(sources)
    smoothing, notes = normal_labels(opened, smoothing or SmoothingOptions())
    real_time = any(spec.live for spec in specs) if options.real_time is None else options.real_time
    _check_outputs(events, alarms, state)
    chosen = choose_runner(opened, runner=runner, precision=precision, allow_unverified=allow_unverified)
    known, more = telemetry_of(opened)
    notes += [*chosen.notes, *more]
    sinks = [
        LineSink(target, alarms_only=only, waits=not real_time)
        for target, only in ((events, False), (alarms, True))
        if target is not None
    ]
    commands = [CommandSink(command)] if command is not None else []
    hop = options.hop or opened.contract.hop
    kept = None if state is None else StateFile(state, digest=opened.digest, hop=hop, every_s=options.state_every_s)
    before = None if kept is None else kept.read()
    sensors = _sensors(opened, specs, smoothing, known, options, clock, hop=hop, real_time=real_time)
    result = RunResult(str(opened.path), chosen.name, real_time, {}, notes=tuple(notes), planned=True)
    if dry_run:
        for sensor in sensors:
            sensor.source.close()
        found = {sensor.name: {"source": sensor.source.spec.text} for sensor in sensors}
        return RunResult(**{**result.__dict__, "sensors": found})
    for note in notes:
        notice(note)
    written: dict[str, dict[str, Any]] = {}
    for sink in sinks:
        at = None if before is None else before.get("outputs", {}).get(sink.target, 0)
        for name, record in sink.open(resume_at=at, force=force).items():
            if name not in written or int(record["seq"]) >= int(written[name]["seq"]):
                written[name] = record
    if before is not None:
        resume(before, sensors, written)
    if kept is not None:
        # Before the first line: killed at any moment, what is in the outputs belongs to a state file.
        for sink in sinks:
            sink.flush(clock.steady())
        kept.write(sensors, sinks, clock.steady(), clock.wall(), now=True)
    with contextlib.ExitStack() as stack:
        active = stack.enter_context(chosen.runner)
        batch = min(options.batch, active.max_batch or options.batch)

        def infer(x: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
            return active.run({"window": x})

        stream = Stream(
            sensors, infer, contract=opened.contract, labels=opened.labels,
            temperature=float(opened.manifest["model"].get("temperature") or 1.0), max_batch=batch, sinks=sinks,
            commands=commands, state=kept, clock=clock, real_time=real_time, ahead=_ahead(active), on_record=on_record,
        )  # fmt: skip
        began = time.monotonic()
        stream.run(stop, idle_exit_s=options.idle_exit_s)
        seconds = time.monotonic() - began
    return RunResult(
        bundle=str(opened.path), runner=chosen.name, real_time=real_time,
        sensors={sensor.name: _shown(sensor) for sensor in sensors},
        latency=stream.latencies.to_json(), windows=stream.windows, batches=stream.batches, seconds=seconds,
        infer_s=stream.infer_s, outputs=tuple(sink.to_json() for sink in sinks),
        commands=tuple(item.to_json() for item in commands), clock_jumps=stream.clock_jumps,
        state_errors=0 if kept is None else kept.errors, notes=tuple(notes),
    )  # fmt: skip


def _ahead(runner: Runner) -> bool:
    """Whether a thread of its own helps: not where the runner minds other threads, or one CPU does it all."""
    return runner.concurrent and usable_cpus() > 1


def _shown(sensor: Sensor) -> dict[str, Any]:
    return {
        "source": sensor.source.spec.text,
        "state": sensor.smoother.state,
        "drift": None if sensor.drift is None else sensor.drift.outside,
        "counters": sensor.counters.to_json(),
        "latency": sensor.latencies.to_json(),
    }


def _sensors(
    bundle: Bundle, specs: Sequence[SourceSpec], smoothing: SmoothingOptions, known: TelemetryRange | None,
    options: StreamOptions, clock: Clock, *, hop: int, real_time: bool,
) -> list[Sensor]:  # fmt: skip
    sensors: list[Sensor] = []

    def opened() -> Iterator[Sensor]:
        for spec in specs:
            yield open_sensor(
                spec,
                bundle.contract,
                hop=hop,
                smoothing=smoothing,
                known=known,
                drift_windows=options.drift_windows,
                clock=clock,
                real_time=real_time,
                resampling=options.resample,
                once=options.once,
            )

    try:
        sensors.extend(opened())
    except BaseException:
        for sensor in sensors:
            sensor.source.close()
        raise
    return sensors


def normal_labels(bundle: Bundle, smoothing: SmoothingOptions) -> tuple[SmoothingOptions, list[str]]:
    """Options that say which labels are no alarm, guessed where nobody did; and what the user should know.

    Raises:
        UsageError: A label that the network does not have.
    """
    for label in smoothing.normal:
        if label not in bundle.labels:
            raise UsageError("the network has no such label", got=label, expected=", ".join(bundle.labels))
    if smoothing.normal:
        return smoothing, []
    guessed = tuple(label for label in bundle.labels if label.lower() in NORMAL_NAMES)
    if guessed:
        return SmoothingOptions(**{**smoothing.__dict__, "normal": guessed}), []
    return smoothing, ["no label is called normal: every state is an alarm; say which is none with --normal LABEL"]


def telemetry_of(bundle: Bundle) -> tuple[TelemetryRange | None, list[str]]:
    """The range of training, none where the bundle or its graph has no telemetry; and what the user should know."""
    value = bundle.manifest["model"].get("telemetry")
    if value is not None:
        return TelemetryRange.from_json(value, bundle.units), []
    if not bundle.units:
        return None, []
    return None, ["no watch over thresholds: the bundle was exported without --telemetry or without --calibrate"]


def _check_outputs(events: str | None, alarms: str | None, state: Path | None) -> None:
    named = [item for item in (events, alarms, None if state is None else str(state)) if item is not None]
    for item in named:
        if named.count(item) > 1:
            raise UsageError("two outputs go to one place", got=item, expected="a place for each")
