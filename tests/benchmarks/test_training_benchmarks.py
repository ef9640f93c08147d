"""The benchmarks of training in miniature: that they run, and that their figures are what they say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the benchmarks train networks")
Benchmark = Callable[..., tuple[Any, str]]


def test_the_schedule_of_the_paper_in_miniature(benchmark: Benchmark) -> None:
    small = ["--epochs", "2", "--windows", "160", "--validation", "16", "--length", "64"]
    value, said = benchmark("training_gpu", "--device", "cpu", "--no-compile", "--json", *small)
    assert [row["epoch"] for row in value["rows"]] == [1, 2]
    summary = value["summary"]
    assert summary["seconds"] >= sum(row["seconds"] for row in value["rows"]) > 0
    assert (summary["whole_schedule"], summary["goal_met"], summary["paper_seconds"]) == (False, None, 1511.0)
    assert "2 epochs of 160 windows" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_nothing_is_claimed(benchmark: Benchmark) -> None:
    value, said = benchmark("training_gpu", "--json", code=3)
    assert value is None
    assert "PyTorch finds no GPU" in said


@pytest.mark.slow
def test_the_loops_in_miniature(benchmark: Benchmark) -> None:
    value, said = benchmark("training", "--turns", "2", "--windows", "256", "--length", "64", "--json")
    rows = {row["loop"]: row for row in value["rows"]}
    assert set(rows) == {"plain", "plain, workers", "plain, one thread", "drsn-edge, one", "drsn-edge"}
    assert all(len(row["windows_per_s"]) == 2 and min(row["windows_per_s"]) > 0 for row in rows.values())
    summary = value["summary"]
    assert summary["speedup"] == pytest.approx(rows["drsn-edge"]["median"] / rows["plain"]["median"])
    assert summary["largest_relative_difference"] < 1e-9
    assert len(summary["memory_mb"]) == 2
    assert abs(summary["memory_growth_mb"]) < 20
    assert "times plain" in said
    value, said = benchmark("training", "--windows", "12", code=2)
    assert "--windows is at least 128" in said
