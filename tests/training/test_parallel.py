"""Two processes against one, on the CPU with gloo."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from drsn_edge.errors import InputError, UsageError
from drsn_edge.training import parallel
from drsn_edge.training.parallel import ALONE, Processes, processes

SCRIPT = Path(__file__).parent / "two_processes.py"
Found = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    """The functions of the script."""
    return runpy.run_path(str(SCRIPT))


def free_ports(count: int) -> list[str]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [str(item.getsockname()[1]) for item in sockets]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left."""
    folder = tmp_path_factory.mktemp("two")
    ports = free_ports(3)
    common = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(folder), *ports]
    running = [
        subprocess.Popen(
            command, env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=300)[1] for process in running]
    assert [process.returncode for process in running] == [0, 9], said  # process 1 kills itself in the end
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> list[Found]:
    return [dict(np.load(folder / f"found-{rank}.npz")) for rank in (0, 1)]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("kind", ["vectors", "signals", "pictures"])
def test_batch_norm_is_that_of_the_whole_batch(kind: str, found: list[Found], script: dict[str, Any]) -> None:
    layer = nn.BatchNorm2d(3) if kind == "pictures" else nn.BatchNorm1d(3)
    expected = script["normalise"](ALONE, kind, layer)  # PyTorch's own
    for name, value in expected.items():
        parts = [item[f"{kind} {name}"] for item in found]
        if name in ("y", "dx"):  # uneven shares
            assert [len(part) for part in parts] == [3, 4]
            parts = [np.concatenate(parts)]
        for part in parts:
            np.testing.assert_allclose(part, value, rtol=1e-9, atol=1e-9, err_msg=name)


def test_a_run_equals_that_of_one_process(found: list[Found], script: dict[str, Any]) -> None:
    assert [item["group"].tolist() for item in found] == [[0, 2], [1, 2]]
    for name, value in script["train"](ALONE).items():
        for item in found:
            np.testing.assert_allclose(item[f"fit {name}"], value, rtol=1e-5, atol=1e-5, err_msg=name)
        np.testing.assert_array_equal(found[0][f"fit {name}"], found[1][f"fit {name}"], err_msg=name)


def test_a_resumed_run_ends_where_one_that_never_stopped_ends(found: list[Found]) -> None:
    names = [name.removeprefix("fit ") for name in found[0] if name.startswith("fit ")]
    assert names
    for name in names:
        np.testing.assert_array_equal(found[0][f"resumed {name}"], found[0][f"fit {name}"], err_msg=name)


def test_a_run_of_two_processes_goes_on_in_one(folder: Path, tmp_path: Path, script: dict[str, Any]) -> None:
    shutil.copytree(folder / "run-0", tmp_path / "run")
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert state["identity"].keys() & {"processes", "device", "amp"} == set()
    curve = script["train"](ALONE, tmp_path / "run", resume=True)["curve"]
    assert len(curve) == state["epoch"] == 3


def test_only_the_leader_writes(folder: Path, script: dict[str, Any]) -> None:
    assert sorted(path.name for path in (folder / "run-0").iterdir()) == ["log.jsonl", "state.pt"]
    assert not (folder / "run-1").exists()
    assert not (folder / "stopped-1").exists()
    saved = torch.load(folder / "run-0" / "state.pt", weights_only=True)
    assert list(saved["network"]) == list(script["make_network"]().state_dict())


def test_when_one_process_fails_all_fail_and_one_says_why(folder: Path) -> None:
    leader, other = (json.loads((folder / f"errors-{rank}.json").read_text()) for rank in (0, 1))
    assert [(error["class"], error["what"]) for error in other] == [("InputError", "the disk of process 1 is full")]
    assert leader[0]["class"] == "PeerFailed"
    # It died without a word: now the leader has to speak.
    assert leader[1]["class"] != "PeerFailed"
    assert "another process of the run has ended" in leader[1]["what"]
    assert "--resume" in leader[1]["hint"]


def test_rows_are_shared_evenly_and_in_order() -> None:
    for total, count in ((128, 2), (15, 2), (128, 3), (7, 7), (5, 8)):
        shares = [Processes(rank, count).rows(total) for rank in range(count)]
        assert [row for share in shares for row in range(total)[share]] == list(range(total))
        sizes = [share.stop - share.start for share in shares]
        assert max(sizes) - min(sizes) <= 1


def test_one_process_waits_for_nobody() -> None:
    with processes(torch.device("cpu")) as group:
        assert group is ALONE
        value = torch.ones(3)
        assert group.summed(value) is value
        assert group.from_leader("x") == "x"
        assert group.leads


def test_processes_that_cannot_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UsageError, match=r"(?s)cannot meet.*RANK expected.*torchrun"), processes(torch.device("cpu")):
        pass


def test_more_processes_than_windows_in_a_batch(script: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"(?s)too few windows.*15 windows, 16 processes.*one window for each"):
        script["train"](Processes(0, 16))


def test_another_process_with_other_windows(script: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        parallel.Processes, "from_leader", lambda self, value: {**value, "training windows": "0123456789abcdef"}
    )
    words = r"(?s)process 1 of the run would train something else.*training windows = .*0123456789abcdef.*recordings"
    with pytest.raises(InputError, match=words):
        script["train"](Processes(1, 2))
