"""Checkpoints: the round trip, and every way in which a folder can be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from drsn_edge.errors import HashMismatch, InputError
from drsn_edge.model.checkpoint import (
    CONFIG,
    SPLIT,
    WEIGHTS,
    Checkpoint,
    TrainingRecord,
    load_checkpoint,
    load_state_dict_file,
    network_from_bytes,
    save_checkpoint,
)
from drsn_edge.model.weights import weight_bytes
from drsn_edge.signals.splits import Split

MakeNetwork = Callable[..., Any]
LABELS = ("healthy", "inner", "outer", "ball", "cage")
RECORD = TrainingRecord(
    dataset="synthetic", where={"load": "1"}, noises=("gaussian", "pink"), snr_db=(-6.0, 10.0), epochs=3, best_epoch=2,
    scores={"clean": 0.75},
)  # fmt: skip


@pytest.fixture
def checkpoint(make_network: MakeNetwork) -> Checkpoint:
    network, contract = make_network()
    return Checkpoint(network, contract, LABELS, RECORD)


@pytest.fixture
def folder(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "run", checkpoint)
    return tmp_path / "run"


def edit(folder: Path, **changes: Any) -> None:
    value = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(value | changes))


SPLIT_OF_A_RUN = Split(
    protocol="time",
    fold=0,
    seed=0,
    labels=LABELS,
    parts={"ab" * 32: {"train": ((0, 600),), "validation": ((664, 800),), "test": ((864, 1000),)}},
)


def test_round_trip_keeps_everything(folder: Path, checkpoint: Checkpoint) -> None:
    loaded = load_checkpoint(folder)
    assert (loaded.config, loaded.contract, loaded.labels) == (checkpoint.config, checkpoint.contract, LABELS)
    assert loaded.training == RECORD
    assert loaded.split is None
    assert not loaded.network.training
    x = torch.randn(3, *checkpoint.contract.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded.network(x), checkpoint.network(x))


def test_same_weights_give_the_same_bytes(make_network: MakeNetwork, tmp_path: Path) -> None:
    for name in ("one", "two"):
        network, contract = make_network()
        save_checkpoint(tmp_path / name, Checkpoint(network, contract, LABELS, RECORD))
    for file in (WEIGHTS, CONFIG):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    other, _ = make_network(seed=1)
    assert weight_bytes(other) != (tmp_path / "one" / WEIGHTS).read_bytes()


def test_network_from_bytes_is_the_same_network(checkpoint: Checkpoint) -> None:
    data = weight_bytes(checkpoint.network)
    again = network_from_bytes(data, checkpoint.config.to_json(), checkpoint.contract)
    assert weight_bytes(again) == data
    with pytest.raises(InputError, match="safetensors"):
        network_from_bytes(data[:100], checkpoint.config.to_json(), checkpoint.contract)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_truncated_file_is_refused_by_its_hash(folder: Path, kept: int) -> None:
    data = (folder / WEIGHTS).read_bytes()[:kept]
    (folder / WEIGHTS).write_bytes(data)
    with pytest.raises(HashMismatch) as caught:
        load_checkpoint(folder)
    assert f"{len(data)} bytes" in str(caught.value)
    assert WEIGHTS in str(caught.value)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_truncated_file_without_a_hash_is_refused_too(folder: Path, kept: int) -> None:
    data = (folder / WEIGHTS).read_bytes()[:kept]
    (folder / WEIGHTS).write_bytes(data)
    edit(folder, weights_sha256=None)
    with pytest.raises(InputError, match=r"cannot be read[\s\S]*a whole safetensors file"):
        load_checkpoint(folder)


def test_weights_of_another_run_are_refused(folder: Path, make_network: MakeNetwork) -> None:
    (folder / WEIGHTS).write_bytes(weight_bytes(make_network(seed=1)[0]))
    expected = json.loads((folder / CONFIG).read_text())["weights_sha256"]
    with pytest.raises(HashMismatch) as caught:
        load_checkpoint(folder)
    assert caught.value.expected is not None
    assert expected in caught.value.expected


@pytest.mark.parametrize("version", [None, 0, 2, "1"])
def test_another_format_version_is_refused(folder: Path, version: Any) -> None:
    edit(folder, format_version=version)
    with pytest.raises(InputError) as caught:
        load_checkpoint(folder)
    assert caught.value.got == repr(version)
    assert caught.value.expected == "1"


def test_label_count_must_be_the_class_count(folder: Path) -> None:
    edit(folder, labels=list(LABELS[:-1]))
    with pytest.raises(InputError) as caught:
        load_checkpoint(folder)
    assert (caught.value.got, caught.value.expected) == ("4", "5")


def test_a_label_twice_is_refused(folder: Path) -> None:
    edit(folder, labels=[*LABELS[:-1], LABELS[0]])
    with pytest.raises(InputError, match="healthy"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("field", "value"), [("network", None), ("network", []), ("contract", 3), ("labels", "abcde"), ("labels", None)]
)
def test_a_field_of_the_wrong_kind_is_named(folder: Path, field: str, value: Any) -> None:
    edit(folder, **{field: value})
    with pytest.raises(InputError, match=field) as caught:
        load_checkpoint(folder)
    assert caught.value.got == repr(value)


def test_a_missing_field_is_named(folder: Path) -> None:
    value = json.loads((folder / CONFIG).read_text())
    del value["contract"]
    (folder / CONFIG).write_text(json.dumps(value))
    with pytest.raises(InputError, match="lacks contract"):
        load_checkpoint(folder)


def test_a_contract_of_other_channels_is_refused(folder: Path, checkpoint: Checkpoint) -> None:
    edit(folder, contract=replace(checkpoint.contract, channels=("x", "y")).to_json())
    with pytest.raises(InputError) as caught:
        load_checkpoint(folder)
    assert "(2, 64)" in str(caught.value)
    assert "1 channels" in str(caught.value)


def test_a_picture_contract_needs_a_2d_network(folder: Path, checkpoint: Checkpoint) -> None:
    edit(folder, contract=replace(checkpoint.contract, image=(8, 8)).to_json())
    with pytest.raises(InputError, match=r"8, 8[\s\S]*1 dimension"):
        load_checkpoint(folder)


def test_weights_of_another_network_are_refused_by_the_first_tensor(folder: Path, checkpoint: Checkpoint) -> None:
    edit(folder, network=replace(checkpoint.config, widths=(4, 6, 10)).to_json())
    with pytest.raises(InputError) as caught:
        load_checkpoint(folder)
    assert "of another shape" in str(caught.value)
    assert "(4, 6, 10)" in str(caught.value)


def test_an_empty_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint folder") as caught:
        load_checkpoint(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert CONFIG in str(caught.value)


def test_missing_weights_are_named(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with pytest.raises(InputError, match=r"not there[\s\S]*model.safetensors"):
        load_checkpoint(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff"])
def test_a_damaged_configuration_is_refused(folder: Path, text: str) -> None:
    (folder / CONFIG).write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=CONFIG):
        load_checkpoint(folder)


def test_the_split_is_bound_to_its_checkpoint(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, replace(checkpoint, split=SPLIT_OF_A_RUN))
    assert load_checkpoint(tmp_path).split == SPLIT_OF_A_RUN
    other = (tmp_path / SPLIT).read_text().replace("time", "load")
    (tmp_path / SPLIT).write_text(other)
    with pytest.raises(HashMismatch, match=SPLIT):
        load_checkpoint(tmp_path)
    (tmp_path / SPLIT).unlink()
    with pytest.raises(InputError, match="not there"):
        load_checkpoint(tmp_path)


def test_saving_over_another_run_leaves_nothing_of_it(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, replace(checkpoint, split=SPLIT_OF_A_RUN))
    save_checkpoint(tmp_path, checkpoint)
    assert not (tmp_path / SPLIT).exists()
    assert load_checkpoint(tmp_path).split is None


@pytest.mark.parametrize(
    "change",
    [{"snr_db": [1.0]}, {"snr_db": "ab"}, {"noises": None}, {"lr": 0.1}, {"dataset": None, "epochs": None, "x": 1}],
)
def test_a_damaged_training_record_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="training record") as caught:
        TrainingRecord.from_json(RECORD.to_json() | change)
    assert "best_epoch" in str(caught.value)


def test_training_record_survives_json() -> None:
    for record in (RECORD, TrainingRecord(dataset="cwru:data")):
        assert TrainingRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_state_dict_with_a_configuration(folder: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    torch.save(checkpoint.network.state_dict(), tmp_path / "w.pt")
    loaded = load_state_dict_file(tmp_path / "w.pt", folder / CONFIG)
    assert weight_bytes(loaded.network) == weight_bytes(checkpoint.network)
    (tmp_path / "w.safetensors").write_bytes(weight_bytes(checkpoint.network))
    assert load_state_dict_file(tmp_path / "w.safetensors", folder / CONFIG).labels == LABELS
    edit(folder, format_version=9)
    with pytest.raises(InputError, match=r"9[\s\S]*1"):
        load_state_dict_file(tmp_path / "w.pt", folder / CONFIG)
