"""While the network looks at a batch, the one before is written and the next one is cut: nothing else changes."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import drsn_edge.pipeline.run as pipeline
from drsn_edge.signals.contract import SignalContract
from drsn_edge.stream.loop import Stream
from drsn_edge.stream.open import open_sensor
from drsn_edge.stream.outbox import LineSink
from drsn_edge.stream.smoothing import SmoothingOptions
from drsn_edge.stream.source import Clock
from drsn_edge.stream.spec import parse_sources
from drsn_edge.stream.state import StateFile

Infer = Callable[[NDArray[np.float32]], dict[str, NDArray[Any]]]
WINDOWS = 40


@pytest.fixture
def stream(contract: SignalContract, tmp_path: Path) -> Callable[..., Stream]:
    """Of a file of 40 windows, four at a time."""
    samples = np.random.default_rng(0).standard_normal(64 + (WINDOWS - 1) * 32).astype(np.float32)
    np.save(tmp_path / "a.npy", samples)

    def make(infer: Infer, *, state_every_s: float | None = None, real_time: bool = False, **options: Any) -> Stream:
        clock = Clock()
        sensor = open_sensor(
            parse_sources([f"a={tmp_path}/a.npy,rate=1000"])[0], contract, hop=32, smoothing=SmoothingOptions(),
            known=None, drift_windows=4, clock=clock, real_time=False, resampling=False, once=True,
        )  # fmt: skip
        sink = LineSink(str(tmp_path / "events.jsonl"))
        sink.open(resume_at=None, force=True)
        state = None
        if state_every_s is not None:
            state = StateFile(tmp_path / "state.json", digest="d", hop=32, every_s=state_every_s)
        return Stream(
            [sensor], infer, contract=contract, labels=("a", "b"), temperature=1.0, max_batch=4, sinks=[sink],
            state=state, clock=clock, real_time=real_time, ahead=True, **options,
        )  # fmt: skip

    return make


def test_the_next_batch_is_cut_while_the_network_is_busy(
    stream: Callable[..., Stream], by_sign: Infer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers the first batch only when the second has been cut: in turns, that would never be."""
    cut = threading.Event()
    inside, most = 0, 0

    def infer(x: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        before = x.copy()
        assert cut.wait(30)
        time.sleep(0.001)
        assert np.array_equal(x, before), "the batch in the network was written to"
        inside -= 1
        return by_sign(x)

    made = stream(infer)
    sensor = made.sensors[0]
    plain = sensor.cut

    def watched(*args: Any) -> Any:
        if sensor.seq >= 4:
            cut.set()
        return plain(*args)

    monkeypatch.setattr(sensor, "cut", watched)
    made.run()
    assert (made.windows, made.batches, most) == (WINDOWS, WINDOWS // 4, 1)


def test_a_state_file_knows_decided_windows_only(stream: Callable[..., Stream], by_sign: Infer, tmp_path: Path) -> None:
    """Written in every turn: what it says was decided stands in the output already, and no more than that."""
    seen: list[tuple[int, int]] = []

    def infer(x: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        if (tmp_path / "state.json").exists():
            state = json.loads((tmp_path / "state.json").read_text())["sensors"]["a"]
            lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
            seen.append((state["seq"], max((item["seq"] for item in lines if "seq" in item), default=-1) + 1))
        return by_sign(x)

    stream(infer, state_every_s=0.0).run()
    assert len(seen) >= 2
    assert all(written == decided for written, decided in seen)
    assert json.loads((tmp_path / "state.json").read_text())["sensors"]["a"]["seq"] == WINDOWS


def test_a_network_that_fails_ends_it(stream: Callable[..., Stream]) -> None:
    calls = 0

    def infer(x: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        nonlocal calls
        calls += 1
        raise ValueError("no memory for it")

    with pytest.raises(ValueError, match="no memory"):
        stream(infer).run()
    assert calls <= 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("infer")]


def test_in_real_time_no_decision_waits_for_a_batch(stream: Callable[..., Stream], by_sign: Infer) -> None:
    names = set()

    def infer(x: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        names.add(threading.current_thread().name)
        return by_sign(x)

    stream(infer, real_time=True).run()
    assert names == {threading.main_thread().name}


@pytest.mark.parametrize(("cpus", "threads"), [(1, {"MainThread"}), (2, {"infer_0"})])
def test_run_takes_a_thread_where_there_is_a_cpu_for_it(
    watched: Path, make_tone: Callable[..., NDArray[np.float32]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    cpus: int, threads: set[str],
) -> None:  # fmt: skip
    np.save(tmp_path / "a.npy", make_tone("low", 4000))
    names = set()
    plain = Stream.__init__

    def spied(self: Stream, sensors: Any, infer: Any, **options: Any) -> None:
        def asked(x: NDArray[np.float32]) -> Any:
            names.add(threading.current_thread().name)
            return infer(x)

        plain(self, sensors, asked, **options)

    monkeypatch.setattr(pipeline, "usable_cpus", lambda: cpus)
    monkeypatch.setattr(Stream, "__init__", spied)
    options = pipeline.StreamOptions(real_time=False, batch=8)
    result = pipeline.run(watched, [f"{tmp_path}/a.npy,rate=1000"], options=options)
    assert result.windows > 8
    assert names == threads
