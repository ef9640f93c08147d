"""What `bench` found: rows, the state of the device, and the comparison with a saved result."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from drsn_edge.errors import InputError
from drsn_edge.files import read_json
from drsn_edge.parity.precision_verdict import PrecisionVerdict
from drsn_edge.runtime.device_state import DeviceState, unlike

FORMAT_VERSION = 1


@dataclass(frozen=True)
class BenchEnergy:
    """What a decision costs.

    Attributes:
        watts: While the row ran.
        idle_watts: Just before everything, with nothing running.
        joules_per_decision: Of the power above idle; None where the difference drowns in the idle power.
        joules_per_decision_with_idle: Of all power: what the device takes when it does nothing but decide.
        seconds: How long the row ran for it.
        windows: Decided meanwhile.
        samples: Of the power.
        rails: What the power is of.
        sensor: Who told it.
    """

    watts: float
    idle_watts: float
    joules_per_decision: float | None
    joules_per_decision_with_idle: float
    seconds: float
    windows: int
    samples: int
    rails: str
    sensor: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dict(vars(self))


@dataclass(frozen=True)
class BenchRow:
    """One form at one batch size.

    Attributes:
        variant: `pytorch`, `onnx-int8`, `engine-fp16`.
        runner: What executed it.
        precision: `fp32`, `fp16` or `int8`.
        engine: The engine's folder under `engines/`; None for others.
        batch: Windows in a call.
        status: `measured` or `not_run`.
        reason: Why it was not run.
        note: What a reader should know.
        p50_ms: Of a call, host copies included.
        p95_ms: None with fewer than 20 calls.
        p99_ms: None with fewer than 100 calls.
        windows_per_s: One call after the other.
        warmup: Calls that did not count.
        iterations: Calls that did.
        drift: Second half of the measurement over the first: 1 where nothing changed meanwhile.
        rounds_ms: Median of each round; rows are measured in turns.
        energy: With `--energy`.
    """

    variant: str
    runner: str
    precision: str
    engine: str | None
    batch: int
    status: str = "not_run"
    reason: str | None = None
    note: str | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    windows_per_s: float | None = None
    warmup: int | None = None
    iterations: int | None = None
    drift: float | None = None
    rounds_ms: tuple[float, ...] = ()
    energy: BenchEnergy | None = None

    @property
    def key(self) -> tuple[str, str | None, int]:
        """What makes two rows of two results the same."""
        return self.variant, self.engine, self.batch

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; copies between host and GPU are always part of a call."""
        energy = None if self.energy is None else self.energy.to_json()
        return {**vars(self), "rounds_ms": list(self.rounds_ms), "energy": energy, "host_copies": True}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> BenchRow:
        """The row that `to_json` wrote.

        Raises:
            InputError: It is none.
        """
        try:
            known = {item.name: value[item.name] for item in fields(cls)}
            energy = None if known["energy"] is None else BenchEnergy(**known["energy"])
        except (KeyError, TypeError) as error:
            raise InputError("a row of the saved result cannot be read", got=repr(error), expected="a row of `bench`")\
                from None  # fmt: skip
        return cls(**{**known, "rounds_ms": tuple(known["rounds_ms"]), "energy": energy})


@dataclass(frozen=True)
class Comparison:
    """One row against the same row of a saved result.

    Attributes:
        variant, engine, batch: Which row.
        p50_ms: Now.
        before_p50_ms: Then.
        speedup: Then over now: above 1 is faster now.
    """

    variant: str
    engine: str | None
    batch: int
    p50_ms: float
    before_p50_ms: float
    speedup: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dict(vars(self))


@dataclass(frozen=True)
class BenchResult:
    """Everything that `bench` prints.

    Attributes:
        bundle: Its name.
        files: SHA-256 of the files that were measured.
        device: State before the measurement.
        device_after: State after it.
        options: What was asked for.
        rows: In the order of the chain.
        verdicts: Which precision to use, for each runner that ran more than one.
        memory: `peak_rss_bytes` of this process, `device_used_bytes` of the GPU by all.
        notes: What a reader should know.
        against: Rows against a saved result.
    """

    bundle: str
    files: dict[str, str]
    device: DeviceState
    device_after: DeviceState
    options: dict[str, Any]
    rows: tuple[BenchRow, ...]
    verdicts: dict[str, PrecisionVerdict]
    memory: dict[str, int | None]
    notes: tuple[str, ...] = ()
    against: tuple[Comparison, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "format_version": FORMAT_VERSION,
            "bundle": self.bundle,
            "files": dict(self.files),
            "device": self.device.to_json(),
            "device_after": self.device_after.to_json(),
            "options": dict(self.options),
            "rows": [row.to_json() for row in self.rows],
            "verdicts": {runner: verdict.to_json() for runner, verdict in self.verdicts.items()},
            "memory": dict(self.memory),
            "notes": list(self.notes),
            "against": [item.to_json() for item in self.against],
        }

    def compared(self, saved: SavedBench) -> BenchResult:
        """The same with every row that the saved result has too.

        Raises:
            InputError: The states of the device are not alike.
        """
        saved.require_like(self.device)
        before = {row.key: row for row in saved.rows if row.p50_ms is not None}
        found = tuple(
            Comparison(row.variant, row.engine, row.batch, row.p50_ms, then, then / row.p50_ms)
            for row in self.rows
            if row.p50_ms is not None and row.key in before and (then := before[row.key].p50_ms) is not None
        )
        return dataclasses.replace(self, against=found)


@dataclass(frozen=True)
class SavedBench:
    """As much of a saved result as a comparison needs."""

    path: Path
    device: DeviceState
    rows: tuple[BenchRow, ...]

    def require_like(self, here: DeviceState) -> None:
        """Refuse to compare figures of unlike states.

        Raises:
            InputError: They are; says what differs.
        """
        differences: Sequence[str] = unlike(self.device, here)
        if differences:
            raise InputError(
                f"{self.path} was measured in another state of the device",
                got="; ".join(differences),
                expected="the same machine in the same power mode, clocks and warmth",
                hint="bring the device into that state, or measure both again",
            )


def read_bench(path: Path) -> SavedBench:
    """A result that `bench --json` printed.

    Raises:
        InputError: It is none, or one of another format.
    """
    value = read_json(path, what="the saved measurement")
    if value.get("format_version") != FORMAT_VERSION or not isinstance(value.get("rows"), list):
        raise InputError(
            "this is no saved measurement",
            got=f"{path}: format_version {value.get('format_version')}, keys {', '.join(sorted(value)[:8])}",
            expected=f"what `drsn-edge bench --json` prints, format_version {FORMAT_VERSION}",
        )
    return SavedBench(
        path, DeviceState.from_json(value.get("device", {})), tuple(BenchRow.from_json(row) for row in value["rows"])
    )
