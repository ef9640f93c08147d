"""Which part of a data set a network may see, and what is taken over from its training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drsn_edge.calibration.windows import apart
from drsn_edge.errors import ContractError
from drsn_edge.pipeline.data import ModelData, open_data, same_data
from drsn_edge.signals.datasets import Dataset, load_dataset
from drsn_edge.signals.splits import Split
from drsn_edge.signals.splits import split as make_split

FILTER = {"load": "1"}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A table of recordings of noise: two classes, two loads, three specimens."""
    folder = tmp_path_factory.mktemp("plant")
    return f"table:{write_table(folder / 'old.csv')}"


def write_table(path: Path, *, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    rows = ["path,label,sample_rate_hz,load"]
    for index, (label, load) in enumerate([("good", 1), ("bad", 1), ("good", 2), ("bad", 2)] * 3):
        np.save(path.parent / f"{path.stem}{index}.npy", rng.standard_normal(256 * 100).astype(np.float32))
        rows.append(f"{path.stem}{index}.npy,{label},12800,{load}")
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def dataset(spec: str) -> Dataset:
    return load_dataset(spec, where=FILTER, window=256, hop=64)


@pytest.fixture(scope="module")
def split(dataset: Dataset) -> Split:
    return make_split(dataset)


def opened(dataset: Dataset, split: Split | None, spec: str | None = None, **options: Any) -> ModelData:
    options = {"training": {"dataset": dataset.spec, "where": FILTER, "protocol": "time"}} | options
    return open_data(spec or dataset.spec, contract=dataset.contract, labels=dataset.labels, split=split, **options)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("cwru:data/cwru", "cwru:/elsewhere/cwru", True),
        ("cwru:data/cwru,or=all", "cwru:data", True),
        ("synthetic", "synthetic:seed=4", True),
        ("cwru:data", "synthetic", False),
        ("table:plant/a.csv", "table:/other/machine/a.csv", True),
        ("table:plant/a.csv", "table:plant/b.csv", False),
        ("images:a.npz", "images:b.npz", False),
        ("images:x/a.npz", "images:a.npz", True),
    ],
)
def test_same_data(one: str, other: str, same: bool) -> None:
    assert same_data(one, other) == same_data(other, one) == same


def test_parts_share_no_sample(dataset: Dataset, split: Split) -> None:
    data = opened(dataset, split)
    seen: dict[str, set[tuple[int, int]]] = {}
    for part in ("train", "validation", "test"):
        segments, note = data.segments(part)
        assert note is None
        assert segments
        seen[part] = {(item.recording, at) for item in segments for at in range(item.start, item.stop, 64)}
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]
    assert not seen["validation"] & seen["test"]


def test_overlap_is_a_hop(dataset: Dataset, split: Split) -> None:
    data = opened(dataset, split)
    apart_, close = data.windows("train", overlap=False), data.windows("train", overlap=True)
    assert len(close) > 3 * len(apart_)
    assert close.independent == apart_.independent
    assert np.array_equal(close.x[0], apart_.x[0])


def test_without_a_split_everything_is_used_and_it_says_so(dataset: Dataset) -> None:
    data = opened(dataset, None)
    segments, note = data.segments("test")
    assert len(segments) == len(dataset.recordings)
    assert "nobody recorded what this network was trained on" in str(note)
    one, two = data.windows("train", overlap=True), data.windows("test", overlap=True)
    assert np.array_equal(one.x, two.x)
    # Then what calibrates and what judges must be told apart by other means.
    calibrating, judging = apart(one)
    assert len(calibrating) > 64
    assert len(judging) > 16
    assert not {row.tobytes() for row in calibrating.x} & {row.tobytes() for row in judging.x}


def test_the_filter_of_the_training_is_taken_over(dataset: Dataset) -> None:
    few = opened(dataset, None)
    assert len(few.dataset.recordings) == 6
    assert few.notes == ("recordings chosen as in training: load=1",)
    others = opened(dataset, None, where={"load": "2"})
    assert others.notes == ()
    assert {item.groups["load"] for item in others.dataset.recordings} == {"2"}


def test_the_filter_of_another_table_is_not_taken_over(dataset: Dataset, tmp_path: Path) -> None:
    other = opened(dataset, None, f"table:{write_table(tmp_path / 'new.csv', seed=1)}")
    assert other.notes == ()
    assert len(other.dataset.recordings) == 12


def test_classes_that_the_network_does_not_have_are_refused(dataset: Dataset) -> None:
    labels = (dataset.labels[0], "worn")
    with pytest.raises(ContractError, match="classes that the network does not have") as caught:
        open_data(dataset.spec, contract=dataset.contract, labels=labels, training=None, split=None)
    assert caught.value.got == dataset.labels[1]
    assert caught.value.expected == ", ".join(labels)
    assert "--where" in str(caught.value.hint)


def test_another_sample_rate_is_refused(dataset: Dataset) -> None:
    contract = dataclasses.replace(dataset.contract, sample_rate_hz=1.0)
    with pytest.raises(ContractError) as caught:
        open_data(dataset.spec, contract=contract, labels=dataset.labels, training=None, split=None)
    assert "12800" in str(caught.value.got)
    assert "1" in str(caught.value.expected)
