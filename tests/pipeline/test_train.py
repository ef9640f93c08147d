from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from drsn_edge.errors import InputError, MissingDependency, UsageError
from drsn_edge.model.checkpoint import load_checkpoint
from drsn_edge.pipeline.train import TrainResult, default_epochs, train
from drsn_edge.progress import Step
from drsn_edge.signals.datasets import load_dataset
from drsn_edge.signals.noise import add_noise, noise_rng
from drsn_edge.signals.windows import cut
from drsn_edge.training.records import EpochRecord, choose

FILES = {"config.json", "log.jsonl", "model.safetensors", "scores.json", "split.json", "state.pt"}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    """Three tones on two machines, 1,600 samples each."""
    rng = np.random.default_rng(0)
    lines = ["path,label,sample_rate_hz,machine"]
    for label, order in (("low", 3), ("middle", 9), ("high", 17)):
        for machine in ("one", "two"):
            signal = np.sin(2 * np.pi * order * np.arange(1600) / 64) + 0.1 * rng.standard_normal(1600)
            np.save(tmp_path / f"{label}-{machine}.npy", signal.astype(np.float32))
            lines.append(f"{label}-{machine}.npy,{label},1000,{machine}")
    (tmp_path / "recordings.csv").write_text("\n".join(lines) + "\n")
    return f"table:{tmp_path / 'recordings.csv'}"


def run(dataset: str, out: Path, **changes: object) -> TrainResult:
    options: dict[str, object] = {"epochs": 3, "batch": 16, "window": 64, "hop": 32, "lr": 0.05}
    return train(dataset, out=out, **(options | changes))  # type: ignore[arg-type]


def test_a_run_is_a_checkpoint_with_scores(dataset: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = run(dataset, out, seed=2, where={"machine": "one"}, noise=("gaussian", "pink"), snr=(0.0, 10.0), epochs=12)
    assert {path.name for path in out.iterdir()} == FILES
    checkpoint = load_checkpoint(out)
    assert checkpoint.training == result.training
    assert checkpoint.split is not None
    assert checkpoint.split.protocol == "time"
    assert checkpoint.contract.window == 64
    assert checkpoint.contract.hop == 32
    record = result.training
    assert (record.dataset, dict(record.where), record.protocol, record.fold) == (
        dataset,
        {"machine": "one"},
        "time",
        0,
    )
    assert (record.seed, record.noises, record.snr_db, record.epochs) == (2, ("gaussian", "pink"), (0.0, 10.0), 12)
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    kept = choose([EpochRecord(**line) for line in log], result.windows["validation"])
    assert record.best_epoch == kept.epoch
    sweep = range(-10, 11, 2)
    expected = ["test clean"] + [f"test {noise} {snr} dB" for noise in ("gaussian", "pink") for snr in sweep]
    assert list(record.scores) == expected
    assert record.scores["test clean"] > 0.9
    assert {score.draws / score.windows for score in result.scores[1:]} == {10.0}


def test_scores_are_of_the_test_part_and_of_the_weights_on_disk(dataset: str, tmp_path: Path) -> None:
    result = run(dataset, tmp_path / "run")
    checkpoint = load_checkpoint(tmp_path / "run")
    data = load_dataset(dataset, window=64, hop=32)
    assert checkpoint.split is not None
    segments = checkpoint.split.segments("test", data)
    windows = cut(data, segments, data.contract, hop=64, labels=checkpoint.labels)
    assert len(windows) == windows.independent == result.windows["test"]
    decided = []
    for draw in range(10):
        x = add_noise(windows.x, -4.0, "gaussian", noise_rng(0, "score", "gaussian", -4.0, draw, 0))
        with torch.no_grad():
            decided.append(checkpoint.network(torch.from_numpy(x)).argmax(dim=1).numpy())
    expected = balanced_accuracy_score(np.tile(windows.y, 10), np.concatenate(decided))
    assert result.training.scores["test gaussian -4 dB"] == pytest.approx(expected)
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert scores["labels"] == list(checkpoint.labels)
    assert scores["scores"] == [score.to_json() for score in result.scores] == result.to_json()["scores"]
    assert result.to_json()["run"] == str(tmp_path / "run")
    json.dumps(result.to_json(), allow_nan=False)


@pytest.mark.parametrize("quiet", [{"noise": ()}, {"snr": None}])
def test_trained_without_noise_and_scored_with_it(quiet: dict[str, object], dataset: str, tmp_path: Path) -> None:
    result = run(dataset, tmp_path / "run", epochs=1, **quiet)
    assert (result.training.noises, result.training.snr_db) == ((), None)
    assert "test gaussian -10 dB" in result.training.scores


class Killed(BaseException):
    pass


def test_a_killed_run_is_usable_and_a_resumed_one_equal(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(dataset, tmp_path / "whole", epochs=6)

    def kill(*args: object, **options: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("drsn_edge.training.evaluate.evaluate", kill)
        with pytest.raises(Killed):
            run(dataset, tmp_path / "run", epochs=6)
    unfinished = load_checkpoint(tmp_path / "run")
    assert unfinished.training is not None
    assert unfinished.training.scores == {}
    assert unfinished.training.best_epoch == whole.training.best_epoch
    assert not (tmp_path / "run" / "scores.json").exists()
    resumed = run(dataset, tmp_path / "run", epochs=6, resume=True)
    assert resumed.training == whole.training
    assert resumed.scores == whole.scores
    for name in ("model.safetensors", "split.json", "config.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_an_output_that_exists(dataset: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = run(dataset, out, epochs=1)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(UsageError, match=r"(?s)exists already.*run.*--force"):
        run(dataset, out, epochs=1)
    with pytest.raises(UsageError, match=r"(?s)begun with something else.*seed = 3\n.*expected: .*seed = 0\n"):
        run(dataset, out, epochs=1, seed=3, resume=True)
    with pytest.raises(UsageError, match=r"(?s)--force and --resume.*one of them"):
        run(dataset, out, epochs=1, force=True, resume=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert run(dataset, out, epochs=1, seed=3, force=True).training != first.training
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match=r"(?s)is a file.*file.*a folder"):
        run(dataset, tmp_path / "file", force=True)
    assert (tmp_path / "file").read_text() == "mine"


def test_nothing_is_written_for_data_that_cannot_be_used(dataset: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    table = tmp_path / "recordings.csv"
    one = tmp_path / "one.csv"
    one.write_text("\n".join([*table.read_text().splitlines()[:3], ""]))
    cases: list[tuple[str, dict[str, object], type[Exception], str]] = [
        (f"table:{one}", {}, InputError, "too few classes.*low.*at least 2"),
        (dataset, {"window": 100_000}, InputError, "too short|shorter"),
        (dataset, {"where": {"machine": "three"}}, UsageError, "machine=three.*one, two"),
        (dataset, {"model": "vgg"}, UsageError, "vgg.*drsn-cw"),
        (dataset, {"preset": "huge"}, UsageError, "huge.*paper, edge"),
        (dataset, {"protocol": "sometimes"}, UsageError, "sometimes.*time"),
        (dataset, {"noise": ("brown",)}, UsageError, "brown.*gaussian"),
        (dataset, {"snr": (10.0, -6.0)}, UsageError, "10:-6.*LOW:HIGH"),
        (dataset, {"batch": 1}, UsageError, "batch.*1.*at least 2"),
        (dataset, {"lr": 0.0}, UsageError, "learning rate.*0.0.*positive"),
        (dataset, {"epochs": 0}, UsageError, "epochs.*0.*at least 1"),
        (dataset, {"threads": 0}, UsageError, "threads.*0.*at least 1"),
        (dataset, {"init": tmp_path / "absent"}, InputError, "no checkpoint.*absent"),
        (dataset, {"resume": True}, UsageError, "no run to go on with.*state.pt"),
    ]
    for spec, changes, kind, words in cases:
        with pytest.raises(kind, match=f"(?s){words}"):
            run(spec, out, **changes)
        assert not out.exists(), changes


def test_starting_from_another_run(dataset: str, tmp_path: Path) -> None:
    first = run(dataset, tmp_path / "first", epochs=3)
    second = run(dataset, tmp_path / "second", epochs=1, lr=1e-9, init=tmp_path / "first", hop=16)
    one, other = load_checkpoint(tmp_path / "first").network, load_checkpoint(tmp_path / "second").network
    for (name, weight), moved in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(weight, moved, msg=name, rtol=1e-5, atol=1e-6)
    assert second.training.seed == first.training.seed
    with pytest.raises(UsageError, match=r"(?s)another kind.*window: 64 and 32.*resnet"):
        run(dataset, tmp_path / "third", init=tmp_path / "first", model="resnet", window=32, hop=16)
    assert not (tmp_path / "third").exists()


def test_a_dry_run_checks_and_writes_nothing(dataset: str, tmp_path: Path) -> None:
    result = run(dataset, tmp_path / "run", dry_run=True, epochs=None)
    assert not (tmp_path / "run").exists()
    assert result.scores == ()
    assert result.training.epochs == default_epochs(result.windows["train"], 16)
    assert any("Dry run" in note for note in result.notes)
    with pytest.raises(UsageError, match="sometimes"):
        run(dataset, tmp_path / "run", dry_run=True, protocol="sometimes")


def test_threads_are_those_asked_for_and_then_as_before(dataset: str, tmp_path: Path) -> None:
    seen: list[int] = []

    class Enough(Exception):
        pass

    class Watch:
        """Stops before the first step: training on two threads crawls while another test keeps a CPU busy."""

        def step(self, title: str, total: int | None = None) -> AbstractContextManager[Step]:
            seen.append(torch.get_num_threads())
            raise Enough

        def notice(self, text: str) -> None:
            pass

    with pytest.raises(Enough):
        run(dataset, tmp_path / "run", epochs=1, threads=2, progress=Watch())
    assert seen == [2]
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(("windows", "expected"), [(1, 200), (1274, 200), (4752, 53), (100_000, 20)])
def test_default_epochs(windows: int, expected: int) -> None:
    assert default_epochs(windows, 128) == expected


def test_without_torch(dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(MissingDependency, match=r"(?s)training needs the package torch.*drsn-edge\[host\]"):
        run(dataset, tmp_path / "run")
