from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from drsn_edge.errors import InputError, UsageError
from drsn_edge.model.network import Network
from drsn_edge.signals.windows import Windows
from drsn_edge.training.loop import LOG, fit, make_optimizer, validate
from drsn_edge.training.options import FitOptions, NoiseRange
from drsn_edge.training.records import EpochRecord, choose
from drsn_edge.training.sources import source
from drsn_edge.training.state import STATE

MakeWindows = Callable[..., Windows]
MakeNetwork = Callable[..., Network]
OPTIONS = FitOptions(epochs=6, batch=16, lr=0.05, noise=NoiseRange(("gaussian",), (0.0, 10.0)), seed=1)


def weights(network: nn.Module) -> dict[str, NDArray[Any]]:
    return {name: value.numpy().copy() for name, value in network.state_dict().items()}


def assert_equal(one: nn.Module, other: nn.Module) -> None:
    first, second = weights(one), weights(other)
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


def without_times(records: tuple[EpochRecord, ...]) -> list[EpochRecord]:
    return [dataclasses.replace(record, seconds=0.0, windows_per_s=0.0) for record in records]


@pytest.mark.parametrize("model", ["convnet", "resnet", "senet", "drsn-cs", "drsn-cw"])
def test_learns_tones(model: str, make_windows: MakeWindows, make_network: MakeNetwork) -> None:
    network = make_network(model=model)
    options = dataclasses.replace(OPTIONS, epochs=15)
    result = fit(network, make_windows(96), make_windows(30, seed=1), options=options)
    assert result.records[-1].train_loss < 0.5 * result.records[0].train_loss
    assert result.best.validation_balanced_accuracy > 0.9
    assert not network.training
    assert result.to_json()["best"]["epoch"] == result.best.epoch


def test_the_best_epoch_is_kept(make_windows: MakeWindows, make_network: MakeNetwork) -> None:
    network, validation = make_network(), make_windows(30, seed=1)
    seen: list[EpochRecord] = []
    options = dataclasses.replace(OPTIONS, lr=0.3, epochs=8)  # a rate at which validation goes up and down
    train = make_windows()
    result = fit(network, train, validation, options=options, on_best=seen.append)
    assert seen == [
        record
        for index, record in enumerate(result.records)
        if choose(result.records[: index + 1], len(validation)) == record
    ]
    assert result.best == seen[-1]
    batches = source(train, validation, options, torch.device("cpu")).validation()
    accuracy, loss = validate(network, batches)
    assert (accuracy, loss) == (result.best.validation_balanced_accuracy, result.best.validation_loss)


def test_the_seed_decides(make_windows: MakeWindows, make_network: MakeNetwork) -> None:
    train, validation = make_windows(), make_windows(30, seed=1)
    networks = [make_network() for _ in range(3)]
    options = [OPTIONS, OPTIONS, dataclasses.replace(OPTIONS, seed=2)]
    results = [fit(n, train, validation, options=o) for n, o in zip(networks, options, strict=True)]
    assert without_times(results[0].records) == without_times(results[1].records)
    assert_equal(networks[0], networks[1])
    assert without_times(results[0].records) != without_times(results[2].records)


def test_the_log_has_one_object_per_epoch(make_windows: MakeWindows, make_network: MakeNetwork, tmp_path: Path) -> None:
    result = fit(make_network(), make_windows(), make_windows(30, seed=1), options=OPTIONS, out=tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / LOG).read_text().splitlines()]
    assert lines == [dataclasses.asdict(record) for record in result.records]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["lr"] for line in lines] == pytest.approx([0.05] * 3 + [0.005] * 2 + [0.0005])
    assert all(line["windows_per_s"] > 0 and line["seconds"] > 0 for line in lines)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [1, 4])
def test_a_resumed_run_ends_where_one_that_never_stopped_ends(
    after: int, make_windows: MakeWindows, make_network: MakeNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, validation = make_windows(), make_windows(30, seed=1)
    whole = make_network()
    expected = fit(whole, train, validation, options=OPTIONS, out=tmp_path / "whole")

    def kill(*args: object, calls: list[int] = []) -> tuple[float, float]:  # noqa: B006 - a counter
        calls.append(1)
        if len(calls) > after:
            raise Killed
        return validate(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr("drsn_edge.training.loop.validate", kill)
        with pytest.raises(Killed):
            fit(make_network(), train, validation, options=OPTIONS, out=tmp_path / "run")
    assert len((tmp_path / "run" / LOG).read_text().splitlines()) == after
    torch.manual_seed(99)  # no global generator takes part
    np.random.seed(99)  # noqa: NPY002
    network = make_network()
    result = fit(network, train, validation, options=OPTIONS, out=tmp_path / "run", resume=True)
    assert without_times(result.records) == without_times(expected.records)
    assert_equal(network, whole)
    # The momenta, too: everything that a further epoch would depend on.
    states = [torch.load(tmp_path / name / STATE, weights_only=True) for name in ("whole", "run")]
    for key in ("network", "best"):
        for name, value in states[0][key].items():
            assert torch.equal(value, states[1][key][name]), name
    for index, value in states[0]["optimizer"]["state"].items():
        assert torch.equal(value["momentum_buffer"], states[1]["optimizer"]["state"][index]["momentum_buffer"])


def test_resuming_a_finished_run_changes_nothing(
    make_windows: MakeWindows, make_network: MakeNetwork, tmp_path: Path
) -> None:
    train, validation, first, second = make_windows(), make_windows(30, seed=1), make_network(), make_network()
    expected = fit(first, train, validation, options=OPTIONS, out=tmp_path / "run")
    assert fit(second, train, validation, options=OPTIONS, out=tmp_path / "run", resume=True) == expected
    assert_equal(first, second)


SCRIPT = """
import sys
from pathlib import Path
import numpy as np
import torch
from drsn_edge.model.config import NetworkConfig
from drsn_edge.model.network import Network
from drsn_edge.signals.contract import SignalContract
from drsn_edge.signals.windows import Windows
from drsn_edge.training.loop import fit
from drsn_edge.training.options import FitOptions
torch.set_num_threads(1)
torch.manual_seed(0)
x = np.random.default_rng(0).standard_normal((32, 1, 64)).astype(np.float32)
windows = Windows(x=x, y=np.arange(32) % 2, cluster=np.arange(32), labels=("a", "b"))
config = NetworkConfig(model="drsn-cw", classes=2, widths=(4, 8), units=(1, 1))
network = Network(config, SignalContract(sample_rate_hz=1000.0, window=64, hop=64))
options = FitOptions(epochs=80, batch=16, lr=0.01)
fit(network, windows, windows, options=options, out=Path(sys.argv[1]), resume=len(sys.argv) > 2)
"""


@pytest.mark.slow
def test_kill_9_leaves_a_run_that_can_go_on(tmp_path: Path) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    command = [sys.executable, "-c", SCRIPT, str(run)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"}) as process:
        deadline = time.monotonic() + 60
        while not (run / LOG).is_file() or len((run / LOG).read_text().splitlines()) < 3:
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    killed = torch.load(run / STATE, weights_only=True)
    assert 3 <= killed["epoch"] < 80
    assert len(killed["log"]) == killed["epoch"]
    for arguments in ([str(run), "resume"], [str(whole)]):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["-c", *arguments])
            exec(compile(SCRIPT, "script", "exec"), {})
    states = [torch.load(folder / STATE, weights_only=True) for folder in (run, whole)]
    assert states[0]["epoch"] == states[1]["epoch"] == 80
    for name, value in states[1]["network"].items():
        assert torch.equal(value, states[0]["network"][name]), name


def test_an_output_that_exists_is_kept(make_windows: MakeWindows, make_network: MakeNetwork, tmp_path: Path) -> None:
    train = make_windows()
    options = dataclasses.replace(OPTIONS, epochs=1)
    fit(make_network(), train, train, options=options, out=tmp_path / "run")
    before = (tmp_path / "run" / STATE).read_bytes()
    with pytest.raises(UsageError, match=r"(?s)exists already.*run.*--force"):
        fit(make_network(), train, train, options=options, out=tmp_path / "run")
    assert (tmp_path / "run" / STATE).read_bytes() == before
    fit(make_network(), train, train, options=dataclasses.replace(options, seed=5), out=tmp_path / "run", force=True)
    assert (tmp_path / "run" / STATE).read_bytes() != before


def test_a_run_of_something_else_is_not_resumed(
    make_windows: MakeWindows, make_network: MakeNetwork, tmp_path: Path
) -> None:
    train, other = make_windows(), make_windows(seed=9)
    run = tmp_path / "run"
    once = dataclasses.replace(OPTIONS, epochs=1)
    fit(make_network(), train, train, options=once, out=run)
    with pytest.raises(UsageError, match=r"(?s)got: +epochs = 6; lr = 0.02\n.*expected: epochs = 1; lr = 0.05"):
        fit(make_network(), train, train, options=dataclasses.replace(OPTIONS, lr=0.02), out=run, resume=True)
    for network, windows, word in (
        (make_network(), other, "training windows"),
        (make_network(seed=3), train, "first weights"),
        (make_network(model="resnet"), train, "resnet"),
    ):
        with pytest.raises(UsageError, match=f"(?s)begun with something else.*{word}"):
            fit(network, windows, windows, options=once, out=run, resume=True)


def test_nothing_to_resume(make_windows: MakeWindows, make_network: MakeNetwork, tmp_path: Path) -> None:
    train = make_windows()
    with pytest.raises(UsageError, match=r"(?s)no run to go on with.*absent"):
        fit(make_network(), train, train, options=OPTIONS, out=tmp_path / "absent", resume=True)
    with pytest.raises(UsageError, match="resume without out"):
        fit(make_network(), train, train, options=OPTIONS, resume=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / STATE).write_bytes(b"cut off")
    with pytest.raises(InputError, match=r"(?s)cannot be read.*state\.pt.*--force"):
        fit(make_network(), train, train, options=OPTIONS, out=tmp_path / "run", resume=True)
    torch.save({"format_version": 7}, tmp_path / "run" / STATE)
    with pytest.raises(InputError, match=r"(?s)another format.*version 7.*expected: 1"):
        fit(make_network(), train, train, options=OPTIONS, out=tmp_path / "run", resume=True)


def test_decay_is_on_weights_of_convolutions_and_fully_connected_layers_only(make_network: MakeNetwork) -> None:
    network = make_network()
    optimizer = make_optimizer(network, FitOptions(decay=0.25))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in network.named_parameters():
        layer = network.get_submodule(name.rpartition(".")[0])
        expected = 0.25 if name.endswith("weight") and not isinstance(layer, nn.BatchNorm1d) else 0.0
        assert decay.pop(id(parameter)) == expected, name
    assert not decay
    # One step without a gradient from data: only decayed weights move, by lr * decay of themselves.
    before = {name: value.clone() for name, value in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in network.named_parameters():
        factor = 1 - 0.1 * 0.25 if parameter.dim() > 1 else 1.0
        torch.testing.assert_close(parameter, before[name] * factor)


def test_divergence_is_an_error_and_not_a_checkpoint(
    make_windows: MakeWindows, make_network: MakeNetwork, tmp_path: Path
) -> None:
    seen: list[EpochRecord] = []
    options = dataclasses.replace(OPTIONS, lr=1e30)
    with pytest.raises(UsageError, match=r"(?s)diverged in epoch 1.*loss (nan|inf).*finite.*--lr than 1e\+30"):
        fit(make_network(), make_windows(), make_windows(), options=options, out=tmp_path / "run", on_best=seen.append)
    assert seen == []
    assert not (tmp_path / "run" / STATE).exists()


def test_windows_that_do_not_fit(make_windows: MakeWindows, make_network: MakeNetwork, tmp_path: Path) -> None:
    good = make_windows()
    one_class = good.select(good.y == 1)
    two_channels = Windows(x=np.tile(good.x, (1, 2, 1)), y=good.y, cluster=good.cluster, labels=good.labels)
    for train, validation, words in (
        (one_class, good, "training windows are of too few classes.*16 windows of tone-1.*at least 2"),
        (good, one_class, "validation windows are of too few classes.*tone-1"),
        (good.select([]), good, "too few classes.*0 windows of no class"),
        (two_channels, good, r"training windows do not fit.*\[48, 2, 64\].*1 channels"),
        (make_windows(classes=4), good, "other classes.*4 .*tone-3.*expected: 3"),
    ):
        with pytest.raises(InputError, match=f"(?s){words}"):
            fit(make_network(), train, validation, options=OPTIONS, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
