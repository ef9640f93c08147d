"""Archives in parallel: the decisions of `run` on each recording, whoever was killed and whatever cannot be read."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import drsn_edge
from drsn_edge import SmoothingOptions
from drsn_edge.bundle import Bundle
from drsn_edge.cli import app
from drsn_edge.errors import InputError, MissingDependency, UsageError
from drsn_edge.extras import available

Archive = Callable[..., Path]


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """Recordings in nested folders, of which some are no recordings; the workshop's tones."""

    def make(count: int = 6, samples: int = 3000) -> Path:
        folder = tmp_path / "archive"
        for index in range(count):
            place = folder / f"{2020 + index % 2}" / "pump"
            place.mkdir(parents=True, exist_ok=True)
            rng = np.random.default_rng(index)
            turn = 2 * np.pi * (3, 9, 17)[index % 3] * np.arange(samples + 100 * index) / 64
            signal = np.sin(turn) + (0.1 + index / count) * rng.standard_normal(len(turn))
            if index == 1:
                signal[500] = np.nan
            if index % 2:
                np.savetxt(place / f"{index}.csv", signal, header="x", comments="")
            else:
                np.save(place / f"{index}.npy", signal.astype(np.float32))
        (folder / "2020" / "broken.npy").write_bytes(b"no array")
        (folder / "2020" / "other.npy").write_bytes(b"nor this")
        np.save(folder / "two-channels.npy", np.zeros((2, 500), np.float32))
        (folder / "notes.txt").write_text("not a recording")
        (folder / ".hidden").mkdir()
        np.save(folder / ".hidden" / "old.npy", np.zeros(500, np.float32))
        return folder

    return make


SURE = SmoothingOptions(min_confidence=0.6, normal=("low",))


def written(out: Path, suffix: str) -> dict[str, str]:
    folder = out / "files" / "archive"
    return {path.relative_to(folder).as_posix(): path.read_text() for path in sorted(folder.rglob(f"*{suffix}"))}


def test_two_workers_decide_what_run_decides(workshop: Any, archive: Archive, tmp_path: Path) -> None:
    folder, out = archive(), tmp_path / "scores"
    result = drsn_edge.score(workshop.bundle, [str(folder)], out=out, workers=2, runner="onnxruntime", smoothing=SURE)
    assert (result.files, result.scored, result.failed, result.resumed) == (9, 6, 3, 0)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("[0-9].*"))
    lines = written(out, ".jsonl")
    assert sorted(lines) == [f"{name}.jsonl" for name in names]
    decided, raised, windows = Counter[str](), Counter[str](), 0
    for name in names:
        events = tmp_path / "events.jsonl"
        one = drsn_edge.run(
            workshop.bundle, [str(folder / name)], events=str(events), runner="onnxruntime", smoothing=SURE, force=True
        )
        assert lines[f"{name}.jsonl"] == events.read_text()
        (counters,) = (item["counters"] for item in one.sensors.values())
        windows += counters["windows"]
        items = [json.loads(line) for line in events.read_text().splitlines()]
        decided.update(item["label"] for item in items if item["type"] == "decision" and item["reason"] is None)
        raised.update(item["kind"] for item in items if item["type"] == "alarm" and item["event"] == "raised")
    assert result.windows == windows
    assert {**result.counts, "unknown": result.unknown} == {
        label: decided[label] for label in (*Bundle.open(workshop.bundle).labels, "unknown")
    }
    assert result.unknown > 0
    assert dict(result.alarms) == {kind: raised[kind] for kind in ("state", "drift", "input")}
    assert result.nan == 2
    assert sum(result.failures.values()) == 3
    assert any("another number of channels" in reason for reason in result.failures)
    assert max(result.failures.values()) == 2, "what is wrong in the same way is counted together"
    assert json.loads((out / "summary.json").read_text()) == result.to_json()
    with (out / "files.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows].count("failed") == 3
    assert sum(int(row["windows"] or 0) for row in rows) == windows
    assert sum(int(row["count low"] or 0) for row in rows) == result.counts["low"]


def test_kill_and_the_same_command_goes_on(workshop: Any, archive: Archive, tmp_path: Path) -> None:
    folder, out = archive(14, samples=4000), tmp_path / "scores"
    command = [
        sys.executable, "-m", "drsn_edge", "score", str(workshop.bundle), str(folder), "--out", str(out), "--workers",
        "2", "--runner", "onnxruntime", "--batch", "1", "--json",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    until = time.monotonic() + 120
    while not written(out, ".json") and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    time.sleep(0.5)  # the workers follow
    files = sorted((out / "files").rglob("*.json"))
    before = {path: path.stat().st_mtime_ns for path in files}
    assert files
    assert not (out / "summary.json").exists(), "it was killed too late to show anything"
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    value = json.loads(done.stdout)
    assert value["resumed"] == len(before)
    assert (value["files"], value["scored"], value["failed"]) == (17, 14, 3)
    assert {path: path.stat().st_mtime_ns for path in files} == before, "what was finished is left alone"
    other = tmp_path / "never-killed"
    whole = drsn_edge.score(
        workshop.bundle, [str(folder)], out=other, workers=1, runner="onnxruntime",
        options=drsn_edge.StreamOptions(batch=1),
    )  # fmt: skip
    assert whole.counts == value["counts"]
    assert written(out, ".jsonl") == written(other, ".jsonl")
    assert not list(out.rglob(".*")), "nothing half-written is left"


def test_what_has_changed_is_scored_anew(workshop: Any, archive: Archive, tmp_path: Path) -> None:
    folder, out = archive(2), tmp_path / "scores"

    def score(**options: Any) -> Any:
        return drsn_edge.score(workshop.bundle, [str(folder)], out=out, workers=1, runner="onnxruntime", **options)

    assert score(dry_run=True).planned
    assert not out.exists()
    assert score().resumed == 0
    np.save(folder / "2020" / "broken.npy", np.sin(np.arange(700, dtype=np.float32)))
    again = score()
    assert (again.resumed, again.scored, again.failed) == (4, 3, 2)
    assert score(retry_failed=True).resumed == 3
    with pytest.raises(UsageError, match=r"(?s)other settings.*other smoothing.*--force"):
        score(smoothing=SURE)
    assert score(smoothing=SURE, force=True).resumed == 0


def test_what_is_refused(workshop: Any, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, bundle = archive(1), str(workshop.bundle)
    with pytest.raises(UsageError, match="in the archive itself"):
        drsn_edge.score(bundle, [str(folder)], out=folder / "scores")
    with pytest.raises(UsageError, match="no live source"):
        drsn_edge.score(bundle, ["tcp://127.0.0.1:1,format=int16"], out=tmp_path / "s")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"(?s)no recordings.*empty.*wav"):
        drsn_edge.score(bundle, [str(tmp_path / "empty")], out=tmp_path / "s")
    with pytest.raises(UsageError, match="holds no results"):
        drsn_edge.score(bundle, [str(folder)], out=tmp_path)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingDependency, match=r"(?s)distributed.*drsn-edge\[fleet\]"):
        drsn_edge.score(bundle, [str(folder)], out=tmp_path / "s", scheduler="tcp://127.0.0.1:1")
    said = CliRunner().invoke(app, ["score", bundle, str(folder), "--out", str(tmp_path / "s"), "--votes", "x"])
    assert (said.exit_code, "--votes is not understood" in said.stderr) == (2, True)


@pytest.mark.slow
@pytest.mark.skipif(not available("distributed"), reason="the extra fleet is not installed")
def test_two_workers_of_a_dask_scheduler(workshop: Any, archive: Archive, tmp_path: Path) -> None:
    """The same results, through a scheduler as it is started by hand; and one that is not there."""
    folder, out, other = archive(), tmp_path / "scores", tmp_path / "here"
    with pytest.raises(InputError, match=r"(?s)cannot be reached.*tcp://127\.0\.0\.1:9.*dask scheduler"):
        drsn_edge.score(workshop.bundle, [str(folder)], out=tmp_path / "no", scheduler="tcp://127.0.0.1:9")
    processes = []
    try:
        address = tmp_path / "scheduler.json"
        dask = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
        processes.append(subprocess.Popen([*dask, "--scheduler-file", str(address), "--port", "0", "--no-dashboard"]))
        until = time.monotonic() + 60
        while not address.exists() and time.monotonic() < until:
            time.sleep(0.1)
        time.sleep(0.2)
        place = json.loads(address.read_text())["address"]
        worker = [sys.executable, "-m", "distributed.cli.dask_worker", place, "--nthreads", "1", "--no-dashboard"]
        processes += [subprocess.Popen([*worker, "--nworkers", "1"], cwd=tmp_path) for _ in range(2)]
        result = drsn_edge.score(
            workshop.bundle, [str(folder)], out=out, scheduler=place, runner="onnxruntime", smoothing=SURE
        )
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()
    here = drsn_edge.score(workshop.bundle, [str(folder)], out=other, workers=1, runner="onnxruntime", smoothing=SURE)
    assert (result.scored, result.failed) == (6, 3)
    assert result.counts == here.counts
    assert written(out, ".jsonl") == written(other, ".jsonl")
