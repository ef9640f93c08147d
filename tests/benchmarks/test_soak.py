"""benchmarks/soak.py in miniature: what it counts, what it finds when windows are lost, that it ends when told to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="decides")
if sys.platform != "linux":
    pytest.skip("reads /proc", allow_module_level=True)

from benchmarks.soak import compare


def soak(bundle: Path, work: Path, hours: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.soak", "--bundle", str(bundle), "--hours", str(hours), "--round", "1"]
    return subprocess.Popen(
        [*command, "--work", str(work), "--batch", "16", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip


@pytest.mark.slow
def test_every_window_is_accounted_for(workshop: Any, tmp_path: Path) -> None:
    process = soak(workshop.bundle, tmp_path, 0.01)
    out, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "min to go" in said
    found = json.loads(out)["summary"]
    assert found["passed"]
    assert found["windows"] == found["expected_windows"] == 3 * (int(0.01 * 3600 * 12_000) // 64)
    assert (found["lost"], found["doubled"], found["other_decisions"], found["gaps_and_nan"]) == (0, 0, 0, 0)
    assert found["bare_slots"][0] >= 1
    for name in ("throughput_share", "cpu_share", "p50_ms", "p99_ms", "windows_per_s"):
        assert found[name] > 0
    assert len(found["memory_by_tenth_mb"]) == 10
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_ends_and_so_does_the_run(workshop: Any, tmp_path: Path, number: int) -> None:
    process = soak(workshop.bundle, tmp_path, 1.0)
    until = time.monotonic() + 120
    while time.monotonic() < until and not any(path.stat().st_size for path in tmp_path.glob("soak-*/events.jsonl")):
        time.sleep(0.1)
    process.send_signal(number)
    process.communicate(timeout=60)
    if number == signal.SIGTERM:
        assert not list(tmp_path.iterdir())

    def left() -> list[str]:
        commands = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                text = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(tmp_path) in text and int(entry.parent.name) != os.getpid():
                commands.append(text)
        return commands

    while left() and time.monotonic() < until:
        time.sleep(0.1)
    assert left() == []


def test_it_would_see_what_is_lost_doubled_or_wrong(tmp_path: Path) -> None:
    """Of three sensors of five windows: one is lost, one doubled, one out of its order, one decided otherwise."""
    orders = [np.arange(5), np.arange(5)[::-1], np.zeros(5, np.int64)]
    best, labels = np.array([0, 1, 0, 1, 0]), ("a", "b")
    lines = [
        {"type": "decision", "sensor": f"s{sensor}", "seq": seq, "label": labels[best[order[seq]]]}
        for sensor, order in enumerate(orders)
        for seq in range(5)
    ]
    path = tmp_path / "events.jsonl"

    def check(items: list[dict[str, Any]]) -> dict[str, int]:
        path.write_text("".join(json.dumps(item) + "\n" for item in items))
        return compare(path, orders, best, labels, np.zeros(5, np.bool_))

    good = {"windows": 15, "lost": 0, "doubled": 0, "out_of_order": 0, "other_decisions": 0}
    assert check([*lines, {"type": "alarm"}]) == good
    assert check([*lines[:7], *lines[8:]]) == good | {"windows": 14, "lost": 1, "out_of_order": 1}
    doubled = check([*lines[:7], lines[6], *lines[7:]])
    assert (doubled["windows"], doubled["doubled"], doubled["lost"]) == (16, 1, 0)
    wrong = {**lines[7], "label": "b" if lines[7]["label"] == "a" else "a"}
    assert check([*lines[:7], wrong, *lines[8:]]) == good | {"other_decisions": 1}
    swapped = check([*lines[:6], lines[7], lines[6], *lines[8:]])
    assert (swapped["lost"], swapped["doubled"]) == (0, 0)
    assert swapped["out_of_order"] > 0
