"""How each protocol shares recordings, or stretches of them, out. `splits.py` says what the protocols promise."""

from __future__ import annotations

import itertools
from typing import Literal, cast, get_args

import numpy as np

from drsn_edge.errors import InputError, UsageError
from drsn_edge.signals.datasets import Dataset, natural
from drsn_edge.signals.noise import noise_rng

Protocol = Literal["time", "load", "bearing", "speaker", "random", "given"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = get_args(Part)
Ranges = tuple[tuple[int, int], ...]

_LEAKS = (
    "The protocol random leaks: neighbouring windows of one recording train and test. "
    "Its figures only compare with literature that splits so, and say nothing of new recordings."
)
# Groups below this cannot give one value each to test, validation and training.
_LEAST = 3


def time_parts(dataset: Dataset, window: int) -> tuple[list[dict[Part, Ranges]], tuple[str, ...]]:
    """Contiguous blocks of every recording, with one window of guard between blocks.

    Raises:
        InputError: A recording whose smallest block would not hold a window.
    """
    parts: list[dict[Part, Ranges]] = []
    for recording in dataset.recordings:
        usable = recording.samples - 2 * window
        train, validation = usable * 3 // 5, usable // 5
        if validation < window:
            raise InputError(
                f"{recording.source} is too short for the protocol time",
                got=f"{recording.samples} samples",
                expected=f"at least {7 * window} samples: two windows of guard, and a fifth of the rest for testing",
                hint="choose a protocol that keeps recordings whole (load, bearing, speaker), or a shorter --window",
            )
        second = train + window
        third = second + validation + window
        parts.append(
            {
                "train": ((0, train),),
                "validation": ((second, second + validation),),
                "test": ((third, recording.samples),),
            }
        )
    return parts, ()


def random_parts(dataset: Dataset, window: int, seed: int) -> tuple[list[dict[Part, Ranges]], tuple[str, ...]]:
    """Windows of every class at random; neighbours that fall into one part become one range.

    The windows that are drawn do not overlap, so that no sample is in two parts. There is no guard.
    """
    rng = noise_rng(seed, "split", "random")
    owner = [np.full(recording.samples // window, -1) for recording in dataset.recordings]
    for label in dataset.labels:
        places = [
            (index, block)
            for index, recording in enumerate(dataset.recordings)
            if recording.label == label
            for block in range(owner[index].size)
        ]
        ends = np.rint(np.array([0.6, 0.8]) * len(places))
        for rank, place in enumerate(rng.permutation(len(places))):
            index, block = places[place]
            owner[index][block] = np.searchsorted(ends, rank, side="right")
    parts: list[dict[Part, Ranges]] = []
    for blocks in owner:
        # Borders of runs of equal owners.
        borders = [0, *(np.flatnonzero(np.diff(blocks)) + 1).tolist(), blocks.size] if blocks.size else [0]
        runs: dict[Part, Ranges] = {}
        for start, stop in itertools.pairwise(borders):
            part = PARTS[blocks[start]]
            runs[part] = (*runs.get(part, ()), (start * window, stop * window))
        parts.append(runs)
    return parts, (_LEAKS,)


def given_parts(dataset: Dataset, seed: int) -> tuple[list[dict[Part, Ranges]], tuple[str, ...]]:
    """Whole recordings, in the part that their group `part` names: what the makers of a data set decided.

    Where they named nothing to validate, a tenth of each class of the training part does, drawn by seed.

    Raises:
        UsageError: Recordings without the group, or with another value than `PARTS` has.
    """
    given = [recording.groups.get("part") for recording in dataset.recordings]
    for recording, name in zip(dataset.recordings, given, strict=True):
        if name not in PARTS:
            raise UsageError(
                "the protocol given needs recordings with the group part",
                got=f"{recording.source}: {'no part' if name is None else f'part={name}'}",
                expected=f"part = {', '.join(PARTS)} for every recording",
                hint="choose another --protocol, or add a column part to the table of recordings",
            )
    roles = cast("list[Part]", given)
    notes: tuple[str, ...] = ()
    if "validation" not in roles:
        rng = noise_rng(seed, "split", "given")
        for label in dataset.labels:
            of_label = [
                index
                for index, recording in enumerate(dataset.recordings)
                if recording.label == label and roles[index] == "train"
            ]
            for place in rng.permutation(len(of_label))[: round(len(of_label) / 10)]:
                roles[of_label[place]] = "validation"
        count = roles.count("validation")
        notes = (f"{count} recordings validate, a tenth of each class of the training part, drawn with seed {seed}.",)
    parts: list[dict[Part, Ranges]] = [
        {role: ((0, recording.samples),)} for role, recording in zip(roles, dataset.recordings, strict=True)
    ]
    return parts, notes


def group_parts(dataset: Dataset, key: str, fold: int) -> tuple[list[dict[Part, Ranges]], tuple[str, ...]]:
    """Whole recordings: fold `fold` of the group `key` tests, the next fold validates, the others train.

    Raises:
        UsageError: Recordings without the group, fewer than three folds, or a fold that does not exist.
    """
    groups = dataset.groups()
    without = [recording for recording in dataset.recordings if key not in recording.groups]
    if without:
        raise UsageError(
            f"the protocol {key} needs recordings with the group {key}",
            got=f"{len(without)} of {len(dataset.recordings)} without it, the first {without[0].source}",
            expected=f"one of the groups that exist: {', '.join(groups) or 'none'}",
            hint=f"choose another --protocol, or add a column {key} to the table of recordings",
        )
    folds = dataset.folds.get(key) or _folds(dataset, key)
    if len(folds) < _LEAST:
        raise UsageError(
            f"the protocol {key} needs more groups",
            got=f"{len(folds)}: {'; '.join(_words(item) for item in folds)}",
            expected=f"at least {_LEAST}: one tests, one validates, the others train",
            hint="choose the protocol time, or add recordings",
        )
    if not 0 <= fold < len(folds):
        raise UsageError(
            f"the protocol {key} has no such fold",
            got=fold,
            expected=f"0 to {len(folds) - 1}: {len(folds)} folds",
        )
    test, validation = folds[fold], folds[(fold + 1) % len(folds)]
    train = frozenset[str]().union(*folds) - test - validation
    role: dict[str, Part] = dict.fromkeys(train, "train")
    role |= dict.fromkeys(validation, "validation")
    role |= dict.fromkeys(test, "test")
    roles = f"{key} {_words(test)} tests, {_words(validation)} validates, {_words(train)} trains"
    notes: tuple[str, ...] = (f"Fold {fold} of {len(folds)}: {roles}.",)
    outside = frozenset(groups[key]) - role.keys()
    if outside:
        notes = (*notes, f"No fold has {key} {_words(outside)}: left out.")
    parts: list[dict[Part, Ranges]] = [
        {role[value]: ((0, recording.samples),)} if (value := recording.groups[key]) in role else {}
        for recording in dataset.recordings
    ]
    return parts, notes


def fold_count(dataset: Dataset, protocol: str) -> int:
    """How many folds a protocol has for a data set that it can split; 1 where it leaves no group out."""
    if protocol in ("time", "given", "random"):
        return 1
    return len(dataset.folds.get(protocol) or _folds(dataset, protocol))


def _folds(dataset: Dataset, key: str) -> tuple[frozenset[str], ...]:
    """Every value is a fold; where each value has one class only (bearings), a fold takes one value of each class."""
    classes: dict[str, set[str]] = {}
    for recording in dataset.recordings:
        classes.setdefault(recording.groups[key], set()).add(recording.label)
    values = sorted(classes, key=natural)
    if len(dataset.labels) < 2 or any(len(labels) > 1 for labels in classes.values()):
        return tuple(frozenset({value}) for value in values)
    of_class = {label: [value for value in values if label in classes[value]] for label in dataset.labels}
    # A class with fewer than three bearings cannot be split; it must not take the other classes' folds away.
    served = [len(of_label) for of_label in of_class.values() if len(of_label) >= _LEAST]
    if len(served) < 2:
        raise UsageError(
            f"the protocol {key} needs more than one class with {_LEAST} of them",
            got="; ".join(f"{label}: {', '.join(of_label)}" for label, of_label in of_class.items()),
            expected=f"at least 2 classes with at least {_LEAST} values of {key} each",
            hint="choose the protocol time or load; for CWRU load the data set with protocol bearing",
        )
    count = min(served)
    return tuple(
        frozenset(
            value
            for of_label in of_class.values()
            if len(of_label) >= _LEAST
            for rank, value in enumerate(of_label)
            if rank % count == fold
        )
        for fold in range(count)
    )


def _words(values: frozenset[str]) -> str:
    return ", ".join(sorted(values, key=natural))
