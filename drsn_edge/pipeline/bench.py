"""`bench`: how fast every form of the network is here, what it costs, and which precision is worth it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from drsn_edge.bundle import BENCH, Bundle, NewFile
from drsn_edge.errors import MissingDependency, UsageError
from drsn_edge.extras import install_hint
from drsn_edge.files import dump_json
from drsn_edge.parity.precision_verdict import PrecisionTiming, PrecisionVerdict, judge_precision
from drsn_edge.parity.variants import PRECISIONS, precision_of
from drsn_edge.pipeline.bench_energy import idle_power, row_energy
from drsn_edge.pipeline.bench_evidence import evidence_for
from drsn_edge.pipeline.bench_forms import Form, open_forms, windows_for
from drsn_edge.pipeline.bench_result import BenchResult, BenchRow, read_bench
from drsn_edge.pipeline.reporting import renew_report
from drsn_edge.progress import SILENT, Progress
from drsn_edge.runtime.device_state import device_memory_used, peak_rss_bytes, read_device_state
from drsn_edge.runtime.power import PowerSensor, find_sensor
from drsn_edge.runtime.runner import RUNNERS
from drsn_edge.runtime.timing import TimingOptions, measure

# Above this the machine was in another state at the end than at the beginning.
_DRIFT = 0.05


@dataclass(frozen=True)
class BenchOptions:
    """What to measure, and how long.

    Attributes:
        batches: Windows in a call.
        runners: Only these; all that the bundle has something for by default.
        precisions: Only these; all by default.
        engines_only: Every engine of the bundle, side by side, and nothing else.
        timing: Calls, warm-up and time of each row.
        energy_seconds: How long each row runs while power is sampled; 0 measures no energy.
        idle_seconds: How long the idle power is sampled before.
    """

    batches: tuple[int, ...] = (1, 16, 256)
    runners: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    engines_only: bool = False
    timing: TimingOptions = field(default_factory=TimingOptions)
    energy_seconds: float = 0.0
    idle_seconds: float = 3.0

    def __post_init__(self) -> None:
        if not self.batches or min(self.batches) < 1:
            raise UsageError("there is no batch size to measure", got=self.batches, expected="whole numbers from 1 on")
        for what, values, known in (("runner", self.runners, RUNNERS), ("precision", self.precisions, PRECISIONS)):
            for value in values:
                if value not in known:
                    raise UsageError(f"there is no such {what}", got=value, expected=", ".join(known))
        if self.energy_seconds < 0 or self.idle_seconds <= 0:
            raise UsageError(
                "the time to sample power is out of range",
                got=f"{self.energy_seconds:g} s a row, {self.idle_seconds:g} s idle",
                expected="0 or more, and more than 0",
            )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**vars(self), "timing": dict(vars(self.timing))}


@dataclass(frozen=True, eq=False)
class _Case:
    """One row that can be measured."""

    form: Form
    batch: int
    call: Callable[[], object]


def bench(
    bundle: Path | str | Bundle,
    *,
    options: BenchOptions | None = None,
    against: Path | None = None,
    keep: bool = False,
    sensor: PowerSensor | None = None,
    progress: Progress = SILENT,
) -> BenchResult:
    """Measure every form that can run here, in turns, and say which precision is worth it.

    Args:
        bundle: The folder.
        options: What to measure, and how long.
        against: A saved result to compare with; refused where the device is in another state than it was.
        keep: Put the result into the bundle, and into its report.
        sensor: Of the power; this machine's own by default.
        progress: Where steps go.

    Raises:
        UsageError: Options out of range, or nothing that fits them.
        InputError, HashMismatch: The bundle or the saved result cannot be used.
        MissingDependency: Nothing that was asked for can run here.
        MissingDevice: Energy was asked for and nothing here tells power.
    """
    chosen = options or BenchOptions()
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    saved = None if against is None else read_bench(against)
    before = read_device_state()
    if saved is not None:
        saved.require_like(before)  # before minutes of measuring
    own = sensor
    with contextlib.ExitStack() as stack:
        if chosen.energy_seconds:
            own = own or find_sensor()
            stack.callback(own.close)
        forms = open_forms(
            opened,
            stack,
            runners=chosen.runners,
            precisions=chosen.precisions,
            engines_only=chosen.engines_only,
        )
        _require_something(opened, forms, chosen)
        cases, idle_rows = _cases(opened, forms, chosen.batches)
        idle = idle_power(own, chosen.idle_seconds) if chosen.energy_seconds and own is not None else None
        timings = measure([case.call for case in cases], options=chosen.timing, progress=progress)
        rows: dict[int, BenchRow] = {}
        for case, timing in zip(cases, timings, strict=True):
            rows[id(case)] = dataclasses.replace(
                _row(case.form, case.batch),
                status="measured",
                reason=None,
                p50_ms=timing.p50_ms,
                p95_ms=timing.p95_ms,
                p99_ms=timing.p99_ms,
                windows_per_s=1e3 * case.batch / timing.mean_ms,
                warmup=chosen.timing.warmup,
                iterations=timing.iterations,
                drift=timing.drift,
                rounds_ms=timing.rounds_ms,
            )
        notes = list(dict.fromkeys(f"{form.name}: {form.note}" for form in forms if form.note))
        if idle is not None and own is not None:
            for case in cases:
                energy = row_energy(
                    case.call,
                    case.batch,
                    sensor=own,
                    idle=idle,
                    seconds=chosen.energy_seconds,
                )
                rows[id(case)] = dataclasses.replace(rows[id(case)], energy=energy)
                if energy is None:
                    notes.append(f"{case.form.name} at batch {case.batch}: too few samples of the power")
        memory = {"peak_rss_bytes": peak_rss_bytes(), "device_used_bytes": device_memory_used()}
    after = read_device_state()
    measured = tuple(rows[id(case)] for case in cases)
    notes += _drift(measured)
    result = BenchResult(
        bundle=opened.path.name,
        files={name: opened.files[name].sha256 for name in sorted({form.file for form in forms if form.file})},
        device=before,
        device_after=after,
        options=chosen.to_json(),
        rows=_ordered((*measured, *idle_rows), forms),
        verdicts=verdicts(measured, opened),
        memory=memory,
        notes=tuple(notes),
    )
    if saved is not None:
        result = result.compared(saved)
    if keep:
        renew_report(opened.update({BENCH: NewFile(dump_json(result.to_json()).encode(), "bench")}))
    return result


def verdicts(rows: Sequence[BenchRow], bundle: Bundle) -> dict[str, PrecisionVerdict]:
    """One for each runner that ran more than one precision: figures of different runners are not of one kind."""
    found: dict[str, PrecisionVerdict] = {}
    for runner in dict.fromkeys(row.runner for row in rows):
        timings: dict[tuple[str, int], PrecisionTiming] = {}
        for row in rows:
            if row.runner != runner or row.p50_ms is None:
                continue
            # Of several engines of one precision that run here, the fastest is the one to use.
            known = timings.get((row.precision, row.batch))
            if known is None or row.p50_ms < known.p50_ms:
                timing = PrecisionTiming(precision_of(f"x-{row.precision}"), row.batch, row.p50_ms, row.rounds_ms)
                timings[row.precision, row.batch] = timing
        if len({precision for precision, _ in timings}) > 1:
            found[runner] = judge_precision(tuple(timings.values()), evidence_for(bundle, runner, rows))
    return found


def _require_something(bundle: Bundle, forms: Sequence[Form], options: BenchOptions) -> None:
    if not forms:
        raise UsageError(
            "the bundle has nothing of what was asked for",
            got=f"runners {', '.join(options.runners) or 'any'}, precisions {', '.join(options.precisions) or 'any'}"
            + (", engines only" if options.engines_only else ""),
            expected=f"graphs in {', '.join(bundle.precisions)}; engines: {', '.join(bundle.engines()) or 'none'}",
        )
    if all(form.runner is None for form in forms):
        raise MissingDependency(
            "nothing of what was asked for can run here",
            got="; ".join(dict.fromkeys(f"{form.name}: {form.reason}" for form in forms)),
            expected="ONNX Runtime for graphs, or the GPU that an engine is for",
            hint=install_hint("onnxruntime"),
        )


def _row(form: Form, batch: int, reason: str | None = None) -> BenchRow:
    key = form.file.split("/")[1] if form.file is not None and form.file.startswith("engines/") else None
    return BenchRow(form.name, form.runner_name, form.precision, key, batch, reason=reason, note=form.note)


def _cases(bundle: Bundle, forms: Sequence[Form], batches: Sequence[int]) -> tuple[list[_Case], list[BenchRow]]:
    cases, idle = [], []
    for form in forms:
        for batch in sorted(set(batches)):
            largest = None if form.runner is None else form.runner.max_batch
            if form.runner is None:
                idle.append(_row(form, batch, form.reason or "not available"))
            elif largest is not None and batch > largest:
                idle.append(_row(form, batch, f"the engine takes at most {largest} windows: build with --max-batch"))
            else:
                (name,) = form.runner.inputs
                cases.append(_Case(form, batch, partial(form.runner.run, {name: windows_for(bundle, batch)})))
    return cases, idle


def _drift(rows: Sequence[BenchRow]) -> list[str]:
    moved = [row for row in rows if row.drift is not None and abs(row.drift - 1) > _DRIFT]
    if not moved:
        return []
    worst = max(moved, key=lambda row: abs((row.drift or 1) - 1))
    where, by = f"{worst.variant} at batch {worst.batch}", abs((worst.drift or 1) - 1)
    said = f"{len(moved)} of {len(rows)} rows changed by more than {_DRIFT:.0%} while they were measured"
    return [f"{said}, {where} by {by:.0%}: other work on the machine, or a moving clock"]


def _ordered(rows: Sequence[BenchRow], forms: Sequence[Form]) -> tuple[BenchRow, ...]:
    place: Mapping[tuple[str, str | None], int] = {
        (form.name, _row(form, 1).engine): index for index, form in reversed(list(enumerate(forms)))
    }
    return tuple(sorted(rows, key=lambda row: (place[row.variant, row.engine], row.batch)))
