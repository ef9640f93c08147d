from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drsn_edge.errors import InputError, UsageError
from drsn_edge.files import dump_json
from drsn_edge.signals.datasets import Dataset
from drsn_edge.signals.recording import Recording
from drsn_edge.signals.splits import PARTS, PROTOCOLS, Part, Split, known, split
from drsn_edge.signals.windows import Segment, cut

Refuses = Callable[..., AbstractContextManager[None]]
Measure = Callable[..., Recording]
Collect = Callable[..., Dataset]


def owners(made: Split, dataset: Dataset) -> list[np.ndarray]:
    """For every sample of every recording the number of its part, -1 for none; fails where two parts share one."""
    owner = [np.full(recording.samples, -1) for recording in dataset.recordings]
    for number, part in enumerate(PARTS):
        for segment in made.segments(part, dataset):
            stretch = owner[segment.recording][segment.start : segment.stop]
            assert (stretch == -1).all()
            stretch[:] = number
    return owner


@given(lengths=st.lists(st.integers(56, 300), min_size=2, max_size=5))
def test_time_keeps_one_window_between_parts(lengths: list[int], measure: Measure, collect: Collect) -> None:
    dataset = collect([measure(index, length, label="ab"[index % 2]) for index, length in enumerate(lengths)])
    made = split(dataset)
    for owner in owners(made, dataset):
        train, validation, test = (np.flatnonzero(owner == number) for number in range(3))
        # No window of the contract's length reaches from one part into the next.
        assert validation[0] - train[-1] > 8
        assert test[0] - validation[-1] > 8
        assert (train[0], test[-1]) == (0, owner.size - 1)
        assert min(train.size, validation.size, test.size) >= 8
        assert train.size == pytest.approx(0.6 * (owner.size - 16), abs=1)
        assert test.size == pytest.approx(0.2 * (owner.size - 16), abs=2)
    assert (made.labels, made.dropped, made.notes) == (("a", "b"), (), ())


@given(
    lengths=st.lists(st.integers(8, 120), min_size=2, max_size=8),
    seed=st.integers(0, 5),
    window=st.sampled_from([8, 5]),
)
def test_random_shares_windows_out_and_says_that_it_leaks(
    lengths: list[int], seed: int, window: int, measure: Measure, collect: Collect
) -> None:
    lengths = [200, 210, *lengths]
    dataset = collect([measure(index, length, label="ab"[index % 2]) for index, length in enumerate(lengths)])
    contract = dataclasses.replace(dataset.contract, window=window)
    made = split(dataset, protocol="random", seed=seed, contract=contract)
    assert "leaks" in made.notes[0]
    counts = np.zeros((2, 3))
    for index, owner in enumerate(owners(made, dataset)):
        blocks = owner[: owner.size // window * window].reshape(-1, window)
        assert (blocks == blocks[:, :1]).all()  # whole windows
        assert (blocks >= 0).all()
        assert (owner[blocks.size :] == -1).all()
        np.add.at(counts[index % 2], blocks[:, 0], 1)
    # 60/20/20 in every class, to the window.
    np.testing.assert_allclose(counts, counts.sum(1, keepdims=True) * [0.6, 0.2, 0.2], atol=1)
    assert made == split(dataset, protocol="random", seed=seed, contract=contract)
    assert made.digest != split(dataset, protocol="random", seed=seed + 1, contract=contract).digest


@given(data=st.data(), values=st.integers(3, 5))
def test_groups_never_straddle_a_split(data: st.DataObject, values: int, measure: Measure, collect: Collect) -> None:
    # Every class at every load, in any order, some of them more than once.
    pairs = [(label, str(value)) for label in "abc" for value in range(values)]
    pairs += data.draw(st.lists(st.sampled_from(pairs), max_size=6))
    pairs = data.draw(st.permutations(pairs))
    dataset = collect([measure(index, 20, label=label, load=load) for index, (label, load) in enumerate(pairs)])
    fold = data.draw(st.integers(0, values - 1))
    made = split(dataset, protocol="load", fold=fold)
    at = {
        part: {dataset.recordings[item.recording].groups["load"] for item in made.segments(part, dataset)}
        for part in PARTS
    }
    assert at["test"] == {str(fold)}
    assert at["validation"] == {str((fold + 1) % values)}
    assert at["train"] == {str(value) for value in range(values)} - at["test"] - at["validation"]
    for ranges in made.parts.values():
        assert len(ranges) == 1
    for owner in owners(made, dataset):
        assert (owner == owner[0]).all()
    assert made.labels == ("a", "b", "c")


def test_loads_are_sorted_as_numbers(measure: Measure, collect: Collect) -> None:
    recordings = [measure(n, 20, label="ab"[n % 2], load=str(load)) for n, load in enumerate([10, 10, 9, 9, 100, 100])]
    notes = split(collect(recordings), protocol="load", fold=2).notes
    assert notes == ("Fold 2 of 3: load 100 tests, 9 validates, 10 trains.",)


def test_classes_that_miss_a_part_are_dropped_and_named(measure: Measure, collect: Collect) -> None:
    recordings = [measure(index, 20, label="abc"[index % 3], load=str(index // 3)) for index in range(9)]
    dataset = collect(recordings[:-1])  # c was not measured at the last load
    made = split(dataset, protocol="load")
    assert (made.labels, made.dropped) == (("a", "b"), ("c",))
    assert made.notes[-1].endswith("in every part: c.")
    used = {dataset.recordings[item.recording].label for part in PARTS for item in made.segments(part, dataset)}
    assert used == {"a", "b"}
    # The classes are numbered without it.
    windows = cut(dataset, made.segments("test", dataset), dataset.contract, labels=made.labels)
    assert set(windows.y.tolist()) == {0, 1}


def test_bearings_of_one_class_each_are_left_out_one_per_class(measure: Measure, collect: Collect) -> None:
    # Three bearings with fault a, four with b, two with c: c cannot be in all parts.
    bearings = [f"{label}{number}" for label, count in (("a", 3), ("b", 4), ("c", 2)) for number in range(count)]
    dataset = collect([measure(index, 20, label=name[0], bearing=name) for index, name in enumerate(bearings)])
    made = split(dataset, protocol="bearing", fold=0)
    assert made.notes[0] == "Fold 0 of 3: bearing a0, b0, b3 tests, a1, b1 validates, a2, b2 trains."
    assert made.dropped == ("c",)
    with pytest.raises(UsageError, match="3 folds"):
        split(dataset, protocol="bearing", fold=3)


def test_explicit_folds_win(measure: Measure, collect: Collect) -> None:
    names = ["a1", "a2", "a3", "b1", "b2", "b3", "c1"]
    folds = {"bearing": tuple(frozenset(item) for item in (("a1", "b3"), ("a2", "b1"), ("a3", "b2")))}
    dataset = collect([measure(n, 20, label=name[0], bearing=name) for n, name in enumerate(names)], folds=folds)
    made = split(dataset, protocol="bearing", fold=1)
    assert [dataset.recordings[item.recording].groups["bearing"] for item in made.segments("test", dataset)] == [
        "a2",
        "b1",
    ]
    assert made.notes[1] == "No fold has bearing c1: left out."
    assert made.dropped == ("c",)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_split_survives_json(protocol: str, measure: Measure, collect: Collect) -> None:
    groups = [{"load": str(n // 2), "speaker": str(n // 2), "bearing": f"{n}", "part": PARTS[n // 2]} for n in range(6)]
    dataset = collect([measure(n, 60, label="ab"[n % 2], **group) for n, group in enumerate(groups)])
    made = split(dataset, protocol=protocol)
    again = Split.from_json(json.loads(dump_json(made.to_json())))
    assert again == made
    assert again.digest == made.digest
    assert dataclasses.replace(made, notes=("said otherwise",)).digest == made.digest
    assert dataclasses.replace(made, labels=("b", "a")).digest != made.digest


def test_recordings_are_found_by_what_was_measured(measure: Measure, collect: Collect) -> None:
    dataset = collect([measure(index, 60, label="ab"[index % 2]) for index in range(4)])
    made = split(dataset)
    moved = [dataclasses.replace(item, source="elsewhere") for item in reversed(dataset.recordings)]
    other = collect([measure(9, 60, label="a"), *moved])
    assert [item.recording for item in made.segments("test", other)] == [1, 2, 3, 4]
    assert {(item.start, item.stop) for item in made.segments("test", other)} == {
        (item.start, item.stop) for item in made.segments("test", dataset)
    }


def test_known_uses_new_recordings_whole_and_says_so(measure: Measure, collect: Collect) -> None:
    dataset = collect([measure(index, 60, label="ab"[index % 2]) for index in range(4)])
    made = split(dataset)
    for part in PARTS:
        assert known(dataset, made, part) == (made.segments(part, dataset), None)
    both = collect([*dataset.recordings, measure(9, 33, label="b")])
    segments, note = known(both, made, "test")
    assert segments == [*made.segments("test", dataset), Segment(4, 0, 33)]
    assert note == "1 of 5 recordings were not in the training data set and are used whole"


def test_known_skips_what_the_model_was_trained_without(measure: Measure, collect: Collect, refuses: Refuses) -> None:
    recordings = [measure(index, 20, label="abc"[index % 3], load=str(index // 3)) for index in range(8)]
    dataset = collect(recordings)
    made = split(dataset, protocol="load")
    more = collect([*recordings, measure(8, 20, label="c"), measure(9, 20, label="a")])
    segments, note = known(more, made, "test")
    assert [more.recordings[item.recording].label for item in segments] == ["a", "b", "a"]
    assert note is not None
    assert "1 of 10 recordings" in note
    assert "3 recordings are skipped: the model was trained without c" in note
    with refuses(InputError, got="z", expected="a, b", also=("recording 8", "--where")):
        known(collect([*recordings, measure(8, 20, label="z")]), made, "test")
    alone = collect([item for item in recordings if item.groups["load"] == "2"])
    with refuses(InputError, got="2 recordings", expected="recordings of the test part"):
        known(alone, made, "test")


def test_refusals(measure: Measure, collect: Collect, refuses: Refuses) -> None:
    dataset = collect([measure(n, 60, label="ab"[n % 2], load=str(n // 2), rig=str(n)) for n in range(6)])
    with refuses(UsageError, got="month", expected="time, load, bearing, speaker, random"):
        split(dataset, protocol="month")
    with refuses(UsageError, got="3", expected="0 to 2: 3 folds"):
        split(dataset, protocol="load", fold=3)
    with refuses(UsageError, got="-1", expected="0 to 2"):
        split(dataset, protocol="load", fold=-1)
    for protocol in ("time", "random"):
        with refuses(UsageError, got="1", expected="1 fold"):
            split(dataset, protocol=protocol, fold=1)
    with refuses(UsageError, got="6 of 6", expected="load, rig", also=("speaker", "recording 0")):
        split(dataset, protocol="speaker")
    some = collect([*dataset.recordings, measure(7, 60)])
    with refuses(UsageError, got="1 of 7 without it, the first recording 7", expected="load, rig"):
        split(some, protocol="load")
    two = collect(list(dataset.recordings[:4]))
    with refuses(UsageError, got="2: 0; 1", expected="at least 3"):
        split(two, protocol="load")
    with refuses(UsageError, got="a: 0, 2", expected="at least 3 values of bearing"):
        split(collect([measure(n, 60, label="ab"[n % 2], bearing=str(n)) for n in range(4)]), protocol="bearing")
    short = collect([measure(0, 60), measure(1, 55, label="b")])
    with refuses(InputError, got="55 samples", expected="at least 56 samples", also=("recording 1", "--window")):
        split(short)
    with refuses(InputError, got="1 in all three parts (a) of a", expected="at least 2 classes"):
        split(collect([measure(0, 60), measure(1, 60)]))
    twice = collect([measure(0, 60), dataclasses.replace(measure(0, 60, label="b"), source="a copy")])
    with refuses(InputError, got="recording 0 and a copy", expected="every measurement once"):
        split(twice)


def test_a_part_or_a_data_set_that_the_split_does_not_know(
    measure: Measure, collect: Collect, refuses: Refuses
) -> None:
    dataset = collect([measure(index, 60, label="ab"[index % 2]) for index in range(2)])
    made = split(dataset)
    part: Part = "exam"  # type: ignore[assignment]
    with refuses(UsageError, got="exam", expected="train, validation, test"):
        made.segments(part, dataset)
    with refuses(UsageError, got="exam", expected="train, validation, test"):
        known(dataset, made, part)
    with refuses(InputError, got="1 other recordings", expected="some of the 2 recordings"):
        made.segments("test", collect([measure(9, 60)]))


@pytest.mark.parametrize(
    ("change", "got"),
    [
        ({"format_version": 2}, "2"),
        ({"protocol": "month"}, "'month'"),
        ({"fold": "x"}, "'x'"),
        ({"labels": None}, "NoneType"),
        ({"parts": {"f": {"exam": [[0, 1]]}}}, "'exam'"),
        ({"parts": {"f": {"test": [[0]]}}}, "not enough values"),
        ({"parts": []}, "items"),
    ],
)
def test_a_split_that_was_tampered_with(
    change: dict[str, object], got: str, measure: Measure, collect: Collect, refuses: Refuses
) -> None:
    value = split(collect([measure(index, 60, label="ab"[index % 2]) for index in range(2)])).to_json()
    with refuses(InputError, got=got, expected="1" if "format_version" in change else "the fields of to_json"):
        Split.from_json({**value, **change})
    del value["seed"]
    with refuses(InputError, got="'seed'", expected="the fields of to_json"):
        Split.from_json(value)
