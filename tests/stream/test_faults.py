"""Faults while running: what is lost is counted and reported, and nothing else is."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import drsn_edge
from drsn_edge import SmoothingOptions, StreamOptions
from drsn_edge.errors import InputError, UsageError
from drsn_edge.signals.contract import SignalContract
from drsn_edge.stream.command import CommandSink
from drsn_edge.stream.loop import Stream
from drsn_edge.stream.open import open_sensor
from drsn_edge.stream.outbox import LineSink
from drsn_edge.stream.sensor import Sensor
from drsn_edge.stream.smoothing import SmoothingOptions as Smoothing
from drsn_edge.stream.spec import SourceSpec

Lines = Callable[..., list[dict[str, Any]]]
Tone = Callable[..., Any]


@pytest.fixture
def play(hands: Any, contract: SignalContract, by_sign: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run a real-time stream over a pipe source whose bytes are scripted; the sensor, the stream and its records."""

    def run(steps: list[Any], **options: Any) -> tuple[Sensor, Stream, list[dict[str, Any]]]:
        left: Iterator[Any] = iter(steps)
        spec = SourceSpec("s=pipe,format=float32", "s", "tcp", "x:1", format="float32")
        sensor = open_sensor(
            spec, contract, hop=32, smoothing=Smoothing(), known=None, drift_windows=4, clock=hands, real_time=True,
            resampling=False, once=False,
        )  # fmt: skip
        told: list[dict[str, Any]] = []
        over = False

        def read(size: int) -> bytes | None:
            nonlocal over
            step = next(left, "end")
            if isinstance(step, str) and step == "end":
                over = True
                return None
            if isinstance(step, float):
                hands.now += step
                return None
            if callable(step):
                step()
                return None
            return b"" if step is None else np.asarray(step, "<f4").tobytes()

        monkeypatch.setattr(sensor.source, "_read", read)
        stream = Stream(
            [sensor], by_sign, contract=contract, labels=("low", "high"), temperature=1.0, max_batch=16, clock=hands,
            real_time=True, on_record=lambda record: told.append(dict(record)), **options,
        )  # fmt: skip
        stream.run(lambda: over)
        return sensor, stream, told

    return run


def second(value: float = 0.5, samples: int = 1000) -> list[float]:
    """A second of a signal that is mostly positive or negative."""
    return list(value + 0.1 * np.sin(np.arange(samples)))


def numbers(told: list[dict[str, Any]]) -> list[int]:
    return [item["seq"] for item in told if item["type"] == "decision"]


def test_a_sensor_that_goes_and_comes_back(play: Any) -> None:
    """Seven seconds away: so many samples are lost, no window reaches across, numbers go on."""
    steps = [second(), 1.0, second(), 0.5, None, 7.0, second()]
    sensor, _, told = play(steps)
    assert sensor.counters.gaps == 1
    # The clock knows the time away to the wait of a turn.
    assert sensor.counters.lost_samples == pytest.approx(6500, abs=500)
    assert numbers(told) == list(range(sensor.counters.windows))
    starts = [item["start"] for item in told if item["type"] == "decision"]
    (gap,) = (item for item in told if item["type"] == "gap")
    assert gap["reason"] == "new connection"
    assert all(start + 64 <= 2000 or start >= gap["start"] for start in starts)
    assert gap["start"] == 2000 + sensor.counters.lost_samples
    assert [item["event"] for item in told if item["type"] == "sensor"] == ["gone", "back"]
    whole = (2000 - 64) // 32 + 1 + (1000 - 64) // 32 + 1
    assert sensor.counters.windows == whole


def test_half_a_sample_at_a_broken_connection_is_counted(play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from drsn_edge.stream.live import decode

    assert decode(b"\x00\x40\xff\xbf", "int16", 1).tolist() == [[0.5, -16385 / 32768]]
    sensor, _, _ = play([second(), None])
    assert sensor.counters.bytes_cut == 0


def test_a_burst_of_nan_is_no_decision(play: Any) -> None:
    bad = second()
    bad[400:500] = [float("nan")] * 100
    sensor, _, told = play([second(), 1.0, bad, 1.0, second()])
    damaged = [item["seq"] for item in told if item["type"] == "decision" and item["reason"] == "nan"]
    touched = [seq for seq in range(sensor.counters.windows) if seq * 32 < 1500 and seq * 32 + 64 > 1400]
    assert damaged == touched
    assert sensor.counters.nan == len(touched)
    assert sensor.counters.decided == sensor.counters.windows - len(touched)
    assert numbers(told) == list(range(sensor.counters.windows))
    assert [item["event"] for item in told if item.get("kind") == "input"] == ["raised", "cleared"]
    assert sensor.smoother.state == "high"


def test_a_clock_that_is_set_moves_times_and_no_window(play: Any, hands: Any) -> None:
    def forward() -> None:
        hands.set_by += 3600.0

    sensor, stream, told = play([second(), 1.0, forward, second(), 1.0, second()])
    assert stream.clock_jumps == 1
    (jump,) = (item for item in told if item["type"] == "clock")
    assert jump["seconds"] == 3600.0
    assert (sensor.counters.gaps, sensor.counters.lost_samples) == (0, 0)
    assert numbers(told) == list(range((3000 - 64) // 32 + 1))
    times = [item["time"] for item in told if item["type"] == "decision"]
    hours = {time[11:13] for time in times}
    assert len(hours) == 2
    assert times == sorted(times)


def test_more_than_the_ring_holds_is_an_overrun(contract: SignalContract, hands: Any, tmp_path: Path) -> None:
    """Never decided in time: the oldest go, and are counted to the sample."""
    fifo = tmp_path / "p"
    os.mkfifo(fifo)
    spec = SourceSpec.parse(f"{fifo},format=float32")
    sensor = open_sensor(
        spec, contract, hop=32, smoothing=Smoothing(), known=None, drift_windows=4, clock=hands, real_time=True,
        resampling=False, once=False,
    )  # fmt: skip
    writer = os.open(fifo, os.O_WRONLY)
    for _ in range(12):
        os.write(writer, np.zeros(1000, "<f4").tobytes())
        hands.now += 1
        sensor.fill(hands.steady(), hands.wall())
    os.close(writer)
    sensor.source.close()
    assert sensor.counters.overruns >= 1
    assert sensor.counters.lost_samples == 12_000 - sensor.ring.capacity
    assert sensor.ring.position == sensor.counters.lost_samples


def test_a_connection_that_breaks_is_made_again(watched: Path, make_tone: Tone, tmp_path: Path, lines: Lines) -> None:
    """A real socket: served twice; both halves are decided, the gap is one."""
    server = socket.create_server(("127.0.0.1", 0))
    halves = [make_tone("low", 300), make_tone("high", 300)]  # shorter than the time away
    over = threading.Event()

    def serve() -> None:
        for index, half in enumerate(halves):
            connection, _ = server.accept()
            with connection:
                # The first connection ends in the middle of a sample.
                connection.sendall(half.astype("<f4").tobytes() + (b"\x00\x01" if index == 0 else b""))
                time.sleep(0.4)
        over.set()

    thread = threading.Thread(target=serve)
    thread.start()
    place = f"de=tcp://127.0.0.1:{server.getsockname()[1]},format=float32"
    result = drsn_edge.run(
        watched,
        [place],
        events=str(tmp_path / "all.jsonl"),
        stop=over.is_set,
        smoothing=SmoothingOptions(min_confidence=0),
    )
    thread.join()
    server.close()
    counters = result.sensors["de"]["counters"]
    assert (counters["gaps"], counters["bytes_cut"], counters["samples"]) == (1, 2, 600)
    assert counters["lost_samples"] > 200
    events = [item["event"] for item in lines(tmp_path / "all.jsonl", "sensor")]
    assert events[:2] == ["gone", "back"]
    found = [item["label"] for item in lines(tmp_path / "all.jsonl", "decision")]
    half = (300 - 64) // 32 + 1
    assert found == ["low"] * half + ["high"] * half


def test_a_pipe_is_opened_again(watched: Path, make_tone: Tone, tmp_path: Path, lines: Lines) -> None:
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)

    def write() -> None:
        for label in ("low", "high"):
            with fifo.open("wb") as file:
                file.write(make_tone(label, 1000).astype("<f4").tobytes())
            time.sleep(0.3)

    thread = threading.Thread(target=write)
    thread.start()
    result = drsn_edge.run(
        watched,
        [f"de={fifo},format=float32"],
        events=str(tmp_path / "all.jsonl"),
        options=StreamOptions(idle_exit_s=1.5),
    )
    thread.join()
    assert result.sensors["de"]["counters"]["gaps"] == 1
    assert [item["event"] for item in lines(tmp_path / "all.jsonl", "sensor")] == ["gone", "back", "gone"]
    assert len(lines(tmp_path / "all.jsonl", "decision")) == 2 * ((1000 - 64) // 32 + 1)


def test_a_full_disk_stops_nothing(watched: Path, make_tone: Tone, tmp_path: Path, lines: Lines) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    np.save(tmp_path / "a.npy", make_tone("low", 2000))
    result = drsn_edge.run(
        watched, [str(tmp_path / "a.npy")], events="/dev/full", alarms=str(tmp_path / "alarms.jsonl")
    )
    full, good = result.outputs
    assert full["error"] == "No space left on device"
    assert (full["lines"], full["lost"] > result.windows) == (0, True)
    assert (good["lost"], good["lines"]) == (0, len(lines(tmp_path / "alarms.jsonl")))
    assert result.sensors["a"]["counters"]["decided"] == (2000 - 64) // 32 + 1
    from typer.testing import CliRunner

    from drsn_edge.cli import app

    said = CliRunner().invoke(app, ["run", str(watched), str(tmp_path / "a.npy"), "--events", "/dev/full"])
    assert said.exit_code == 1
    assert "could not be written" in said.stderr


def test_a_disk_that_has_room_again_gets_whole_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: Lines
) -> None:
    """Half a line fits, then nothing, then all: the file has every line once."""
    sink = LineSink(str(tmp_path / "x.jsonl"))
    sink.open(resume_at=None)
    room = [10, 0, 0, 10**9]
    write = os.write

    def small(handle: int, data: bytes) -> int:
        left = room.pop(0) if len(room) > 1 else room[0]
        if left == 0:
            raise OSError(28, "No space left on device")
        return write(handle, bytes(data[:left]))

    monkeypatch.setattr(os, "write", small)
    for step in range(5):
        sink.write({"type": "decision", "sensor": "s", "seq": step})
        sink.flush(10.0 * step)
    monkeypatch.undo()
    sink.close(100.0)
    assert [item["seq"] for item in lines(tmp_path / "x.jsonl")] == [0, 1, 2, 3, 4]
    assert (sink.lines, sink.lost) == (5, 0)


def test_a_slow_consumer_costs_lines_and_not_samples(tmp_path: Path) -> None:
    """In real time a pipe that nobody empties fills up: whole lines are dropped and counted."""
    fifo = tmp_path / "out"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    sink = LineSink(str(fifo), waits=False)
    sink.open(resume_at=None)
    for seq in range(20_000):
        sink.write({"type": "decision", "sensor": "s", "seq": seq, "more": "x" * 100})
        if seq % 100 == 0:
            sink.flush(float(seq))
    assert sink.lost > 0
    accepted = sink.lines
    assert accepted + sink.lost == 20_000
    got = bytearray()
    while not sink.settled or not got:
        sink.flush(1e9)
        try:
            got += os.read(reader, 1 << 16)
        except BlockingIOError:
            break
    while True:
        try:
            piece = os.read(reader, 1 << 16)
        except BlockingIOError:
            break
        got += piece
    found = [json.loads(line)["seq"] for line in got.splitlines()]
    assert found == sorted(set(found))
    assert len(found) == accepted
    os.close(reader)
    sink.write({"type": "decision", "sensor": "s", "seq": 1})
    sink.flush(2e9)
    assert sink.closed_by_reader


def test_a_slow_command_is_not_waited_for() -> None:
    command = CommandSink("sleep 0.2")
    began = time.monotonic()
    for _ in range(40):
        command.write({"type": "alarm"})
        command.flush(time.monotonic())
    assert time.monotonic() - began < 0.2 + 1.0
    assert command.started >= 1
    assert command.skipped == 40 - 16 - command.started
    command._queue.clear()
    command.close(time.monotonic())
    assert command.failed == 0


# Kills itself from within: a process that watches from outside may not be given the CPU before all is over.
KILLED = """
import os, runpy, signal, sys, threading, time
path, size = sys.argv[1], int(sys.argv[2])
def watch():
    while not os.path.exists(path) or os.stat(path).st_size <= size:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)
threading.Thread(target=watch, daemon=True).start()
sys.argv[1:] = sys.argv[3:]
runpy.run_module("drsn_edge", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("output", ["all.jsonl", "all.csv"])
def test_kill_and_restart_gives_every_window_once(
    watched: Path, make_tone: Tone, tmp_path: Path, lines: Lines, output: str
) -> None:
    """Killed at moments of its own choosing: file and folder, decisions and alarms as without a kill."""
    folder = tmp_path / "in"
    folder.mkdir()
    signal_ = np.concatenate([make_tone(label, 20_000, seed=seed) for seed, label in enumerate(("low", "high", "low"))])
    np.save(tmp_path / "a.npy", signal_)
    for index in range(8):
        np.save(folder / f"{index}.npy", make_tone("high" if index % 3 else "low", 6000 + index))
    for file in folder.iterdir():
        os.utime(file, (1, 1))
    sources = [f"a={tmp_path / 'a.npy'}", f"f={folder}"]
    command = [
        "run", str(watched), *sources, "--once", "--batch", "8", "--state", str(tmp_path / "s.json"),
        "--state-every", "0.02", "--events", str(tmp_path / output), "--json",
    ]  # fmt: skip
    size, kills = 0, 0
    for growth in (30_000, 60_000, 90_000, 1 << 40):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(tmp_path / output), str(size + growth), *command],
            stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=120, check=False,
        )  # fmt: skip
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
        kills += 1
        size = (tmp_path / output).stat().st_size
    result = json.loads(done.stdout)
    assert kills >= 1
    drsn_edge.run(watched, sources, events=str(tmp_path / f"whole-{output}"), options=StreamOptions(once=True, batch=8))
    kept = _reported(tmp_path / output)
    assert kept == _reported(tmp_path / f"whole-{output}")
    assert len(kept["a"]) >= (60_000 - 64) // 32 + 1
    counters = result["sensors"]["a"]["counters"]
    assert counters["windows"] == counters["decided"] == (60_000 - 64) // 32 + 1
    assert counters["restarts"] == kills
    assert (counters["gaps"], counters["lost_samples"]) == (0, 0)


def test_killed_before_the_first_state_file_a_csv_has_only_its_header(
    watched: Path, make_tone: Tone, tmp_path: Path, lines: Lines
) -> None:
    """Nothing would be lost: it starts anew, instead of refusing to until somebody comes. A line is never replaced."""
    np.save(tmp_path / "a.npy", make_tone("low", 500))
    source = f"s={tmp_path / 'a.npy'}"
    first, again = tmp_path / "first.csv", tmp_path / "again.csv"
    drsn_edge.run(watched, [source], events=str(first))
    again.write_bytes(first.read_bytes().splitlines(keepends=True)[0])
    drsn_edge.run(watched, [source], events=str(again), state=tmp_path / "s.json")
    assert again.read_bytes() == first.read_bytes()
    for kept in (b"type\n", first.read_bytes(), first.read_bytes()[:-1]):
        again.write_bytes(kept)
        with pytest.raises(UsageError, match="exists already"):
            drsn_edge.run(watched, [source], events=str(again))
        assert again.read_bytes() == kept


def _reported(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Windows and alarms of each sensor, in the order of the file."""
    import csv

    if path.suffix == ".csv":
        with path.open() as file:
            records: list[dict[str, Any]] = list(csv.DictReader(file))
    else:
        records = [json.loads(line) for line in path.read_text().splitlines()]
    found: dict[str, list[tuple[Any, ...]]] = {}
    for item in records:
        if item["type"] in ("decision", "alarm"):
            key = (
                item["type"],
                int(item["seq"]),
                item["label"],
                item.get("kind") or None,
                item.get("state"),
            )
            found.setdefault(item["sensor"], []).append(key)
    return found


def test_a_live_sensor_counts_what_a_restart_cost(
    contract: SignalContract, hands: Any, by_sign: Any, tmp_path: Path, lines: Lines
) -> None:
    """State is of three seconds before the kill; the lines after it are found, the time away is the gap."""
    from drsn_edge.stream.state import StateFile, resume

    fifo = tmp_path / "p"
    os.mkfifo(fifo)

    def make() -> tuple[Sensor, LineSink, StateFile, Any]:
        sensor = open_sensor(
            SourceSpec.parse(f"s={fifo},format=float32"), contract, hop=32, smoothing=Smoothing(), known=None,
            drift_windows=4, clock=hands, real_time=True, resampling=False, once=False,
        )  # fmt: skip
        sink = LineSink(str(tmp_path / "x.jsonl"), waits=False)
        state = StateFile(tmp_path / "s.json", digest="d", hop=32, every_s=3.5)
        return sensor, sink, state, lambda: Stream(
            [sensor], by_sign, contract=contract, labels=("low", "high"), temperature=1.0, max_batch=16, sinks=[sink],
            state=state, clock=hands, real_time=True,
        )  # fmt: skip

    sensor, sink, state, stream = make()
    sink.open(resume_at=None)
    first = stream()
    writer = os.open(fifo, os.O_RDWR)
    for _ in range(6):
        hands.now += 1.0
        os.write(writer, np.asarray(second(), "<f4").tobytes())
        while first.turn():
            pass
    before = len(lines(tmp_path / "x.jsonl", "decision"))
    assert before == (6000 - 64) // 32 + 1
    kept = json.loads((tmp_path / "s.json").read_text())
    assert kept["sensors"]["s"]["seq"] < before
    with (tmp_path / "x.jsonl").open("a") as file:
        file.write('{"type":"decision","sensor":"s","se')  # the kill came here
    sensor.source.close()
    hands.now += 20.0
    sensor, sink, state, stream = make()
    value = state.read()
    assert value is not None
    resume(value, [sensor], sink.open(resume_at=value["outputs"][sink.target]))
    second_run = stream()
    hands.now += 1.0
    os.write(writer, np.asarray(second(), "<f4").tobytes())
    while second_run.turn():
        pass
    second_run._finish()
    os.close(writer)
    decisions = lines(tmp_path / "x.jsonl", "decision")
    assert [item["seq"] for item in decisions] == list(range(len(decisions)))
    assert len(decisions) == before + (1000 - 64) // 32 + 1
    assert sensor.counters.windows == len(decisions)
    assert (sensor.counters.gaps, sensor.counters.restarts) == (1, 1)
    # Twenty seconds, and what of the last second no window had used up.
    assert sensor.counters.lost_samples == pytest.approx(20_000 + 6000 - before * 32, abs=60)


def test_a_state_file_that_does_not_belong(watched: Path, make_tone: Tone, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", make_tone("low", 500))
    state = tmp_path / "s.json"
    drsn_edge.run(watched, [str(tmp_path / "a.npy")], state=state)
    good = json.loads(state.read_text())
    for key, value, error, words in (
        ("bundle", "0" * 64, UsageError, "another bundle"),
        ("hop", 7, UsageError, "another hop"),
        ("format_version", 9, InputError, "format 9"),
        ("sensors", {"a": {"seq": 1}}, InputError, "cannot be used"),
    ):
        state.write_text(json.dumps({**good, key: value}))
        with pytest.raises(error, match=words):
            drsn_edge.run(watched, [str(tmp_path / "a.npy")], state=state)
    state.write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        drsn_edge.run(watched, [str(tmp_path / "a.npy")], state=state)


def test_a_stop_ends_well(watched: Path, make_tone: Tone, tmp_path: Path) -> None:
    """SIGTERM, as systemd sends it: exit 0, counters, everything that was cut is decided and written."""
    np.save(tmp_path / "a.npy", make_tone("low", 100_000))
    process = subprocess.Popen(
        [
            sys.executable, "-m", "drsn_edge", "run", str(watched), str(tmp_path / "a.npy"), "--realtime",
            "--events", str(tmp_path / "x.jsonl"), "--json",
        ],
        stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    while not (tmp_path / "x.jsonl").exists() or (tmp_path / "x.jsonl").stat().st_size < 2000:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    value = json.loads(out)
    decided = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert value["real_time"] is True
    assert value["sensors"]["a"]["counters"]["windows"] == sum(item["type"] == "decision" for item in decided)
