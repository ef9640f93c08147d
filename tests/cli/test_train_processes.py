"""`train` under torchrun, and where and how it computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from drsn_edge.cli import app

torch = pytest.importorskip("torch", reason="training needs PyTorch")

OPTIONS = ["--window", "64", "--hop", "64", "--epochs", "2", "--batch", "32", "--lr", "0.05", "--model", "resnet"]


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    return subprocess.run(
        [*start, "drsn_edge", "train", *map(str, arguments)],
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow  # tests/training/test_parallel.py has the equality in seconds
def test_two_processes_leave_the_run_of_one(write_table: Callable[..., str], tmp_path: Path) -> None:
    from drsn_edge.model.checkpoint import load_checkpoint

    data = write_table(tmp_path / "data", samples=1600)
    two, one = tmp_path / "two", tmp_path / "one"
    done = torchrun(data, "--out", two, "--json", *OPTIONS)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)  # one document: the other process says nothing
    assert result["training"]["processes"] == 2
    assert (result["training"]["device"], result["training"]["amp"]) == ("cpu", "none")
    alone = CliRunner().invoke(app, ["train", data, "--out", str(one), "--json", "--device", "cpu", *OPTIONS])
    assert alone.exit_code == 0, alone.output
    checkpoints = load_checkpoint(two), load_checkpoint(one)
    states = [checkpoint.network.state_dict() for checkpoint in checkpoints]
    assert list(states[0]) == list(states[1])
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-5, atol=1e-5, msg=name)
    logs = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (two, one)]
    curves = [np.array([[line["train_loss"], line["validation_loss"]] for line in log]) for log in logs]
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-5)
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    again = torchrun(data, "--out", two, *OPTIONS)
    assert again.returncode != 0
    assert again.stderr.count("error: the output exists already") == 1
    assert "drsn_edge/" not in again.stderr  # no traceback but torchrun's own
    assert again.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--device", "tpu"], 2, ["tpu", "auto, cpu, cuda"]),
        (["--amp", "int8"], 2, ["int8", "none, bf16, fp16"]),
        (["--amp", "fp16", "--device", "cpu"], 2, ["needs a GPU", "--amp fp16", "--amp bf16"]),
    ],
)
def test_what_cannot_be_computed(
    arguments: list[str], code: int, words: list[str], write_table: Callable[..., str], tmp_path: Path
) -> None:
    data = write_table(tmp_path / "data", samples=1600)
    done = CliRunner().invoke(app, ["train", data, "--out", str(tmp_path / "run"), *OPTIONS, *arguments])
    assert done.exit_code == code
    assert all(word in done.output for word in words), done.output
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_cuda_without_a_gpu(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["train", "synthetic", "--out", str(tmp_path / "run"), "--device", "cuda", "--json"])
    assert done.exit_code == 3
    error = json.loads(done.stdout)
    assert error["error"] == "MissingDevice"
    assert "PyTorch finds no GPU" in error["what"]
    assert "--device cpu" in error["hint"]


def test_processes_but_the_first_are_silent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    command = ["train", "synthetic", "--out", str(tmp_path / "run"), "--epochs", "none", "--json"]
    wrong = CliRunner().invoke(app, command)
    assert (wrong.exit_code, wrong.output) == (2, "")
    monkeypatch.setenv("RANK", "0")
    loud = CliRunner().invoke(app, command)
    assert loud.exit_code == 2
    assert "--epochs" in loud.output
