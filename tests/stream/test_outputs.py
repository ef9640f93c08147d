"""A decision's line is that of its mapping; a batch with everything in it is what single windows would have said."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from drsn_edge.signals.contract import SignalContract
from drsn_edge.stream.drift import TelemetryRange
from drsn_edge.stream.loop import Stream
from drsn_edge.stream.open import open_sensor
from drsn_edge.stream.outbox import LineSink
from drsn_edge.stream.outputs import Outputs
from drsn_edge.stream.smoothing import SmoothingOptions
from drsn_edge.stream.spec import parse_sources

Played = tuple[list[str], list[str], Any]  # events, alarms, counters


@given(
    st.text(), st.integers(0, 2**60), st.floats(0, 1e9), st.none() | st.text(), st.text(), st.integers(0, 10**6),
    st.booleans(),
)  # fmt: skip
def test_a_line_is_json_of_its_mapping(
    sensor: str, seq: int, t_s: float, time: str | None, label: str, millionths: int, telemetry: bool
) -> None:
    sink, told = LineSink("nowhere"), list[Any]()
    outputs = Outputs([sink], [], told.append)
    figures = ("0.5,0.25", "1.0,5e-06") if telemetry else None
    outputs.decision(sensor, seq, 3, t_s, time, label, repr(millionths / 1e6), "on", figures)
    outputs.emit({"type": "gap", "sensor": sensor})  # what comes next does not overtake it
    lines = sink._pending.decode().splitlines()
    assert [json.loads(line) for line in lines] == told
    assert lines[0] == json.dumps(told[0], separators=(",", ":"))
    assert ("threshold" in told[0]) == telemetry


@pytest.fixture
def play(tmp_path: Path, hands: Any, contract: SignalContract) -> Callable[..., Played]:
    """Three damaged recordings of unlike lengths through a network with telemetry; events, alarms and counters."""
    rng = np.random.default_rng(0)
    for index, samples in enumerate((6000, 2500, 9001)):
        x = np.sign(np.sin(np.arange(samples) / (150 + 50 * index))) * rng.uniform(0, 1, samples)
        x += 0.3 * rng.standard_normal(samples)
        x[1000:1200], x[1500] = 0.5, np.nan
        x[1700:1800] = x[1700:1800].clip(-0.1, 0.1)
        np.save(tmp_path / f"s{index}.npy", x.astype(np.float32))
        (tmp_path / f"s{index}").mkdir()
        for part, piece in enumerate(np.array_split(x.astype(np.float32), 9 + index)):
            np.save(tmp_path / f"s{index}" / f"{part:02}.npy", piece)
            os.utime(tmp_path / f"s{index}" / f"{part:02}.npy", (1, 1))
    units = ("u0", "u1")
    known = TelemetryRange(
        units, {name: np.zeros(2) for name in ("threshold", "zero_share")},
        {"threshold": np.array([0.15, 40.0]), "zero_share": np.ones(2)}, windows=10,
    )  # fmt: skip

    def infer(x: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        flat = x.reshape(len(x), -1)
        mean, spread = flat.mean(axis=1), flat.std(axis=1)
        shares = np.outer(np.abs(mean), [1, 1e-4]).clip(0, 1)
        return {
            "logits": np.stack([-3 * mean, 3 * mean, 0 * mean], axis=1),
            "threshold": np.outer(spread, [0.3, 90]),
            "zero_share": shares,
        }

    def run(batch: int, suffix: str = ".npy", *, ahead: bool = False) -> Played:
        specs = parse_sources([f"s{index}={tmp_path}/s{index}{suffix},rate=1000" for index in range(3)])
        smoothing = SmoothingOptions(normal=("low",), min_confidence=0.6)
        sensors = [
            open_sensor(
                spec, contract, hop=32, smoothing=smoothing, known=known, drift_windows=16, clock=hands,
                real_time=False, resampling=False, once=True,
            )
            for spec in specs
        ]  # fmt: skip
        events, alarms = LineSink(str(tmp_path / "e.jsonl")), LineSink(str(tmp_path / "a.csv"), alarms_only=True)
        for sink in (events, alarms):
            sink.open(resume_at=None, force=True)
        told: list[Any] = []
        stream = Stream(
            sensors, infer, contract=contract, labels=("low", "hé\"", "c"), temperature=1.3, max_batch=batch,
            sinks=(events, alarms), clock=hands, ahead=ahead, on_record=told.append,
        )  # fmt: skip
        stream.run()
        lines = (tmp_path / "e.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == told
        if not suffix:  # when a file is opened hangs on the batch; what is said of its windows does not
            lines = [line for line in lines if json.loads(line)["type"] in ("decision", "alarm")]
        lines.sort(key=lambda line: str(json.loads(line)["sensor"]))  # whose turn it is hangs on the batch
        assert sum(stream.latencies.counts) == sum(sensor.counters.windows for sensor in sensors)
        counters = [sensor.counters.to_json() for sensor in sensors]
        return lines, sorted((tmp_path / "a.csv").read_text().splitlines()), counters

    return run


def test_batches_say_what_single_windows_say(play: Callable[..., Played]) -> None:
    """Alarms of every kind, damage and drift: the very same lines, whatever the batch."""
    lines, alarms, counters = play(1)
    assert play(17) == (lines, alarms, counters)
    assert play(64) == (lines, alarms, counters)
    assert play(17, ahead=True) == (lines, alarms, counters)
    items = [json.loads(line) for line in lines]
    kinds = {(item["kind"], item["event"]) for item in items if item["type"] == "alarm"}
    assert kinds >= {("drift", "raised"), ("input", "raised"), ("input", "cleared"), ("state", "raised")}
    assert [item["flat"] for item in counters] == [4, 4, 4]
    assert [item["nan"] for item in counters] == [2, 2, 2]
    assert all(item["clipped"] for item in counters)
    for index in range(3):
        mine = [item["seq"] for item in items if item["type"] == "decision" and item["sensor"] == f"s{index}"]
        assert mine == list(range(counters[index]["windows"]))


@pytest.mark.parametrize("batch", [2, 7, 8, 17, 64])
def test_a_batch_that_reaches_across_a_gap_remembers_nothing_across_it(play: Callable[..., Played], batch: int) -> None:
    """Recordings in a folder: windows before the end of one may be decided long after the next has been opened."""
    alone = play(1, "")
    assert play(batch, "") == alone
    assert play(batch, "", ahead=True) == alone
