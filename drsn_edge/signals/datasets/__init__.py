"""Data sets by name: recordings, class names, the signal contract, and how they may be split."""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from drsn_edge.errors import ContractError, InputError, UsageError
from drsn_edge.signals.contract import SignalContract
from drsn_edge.signals.datasets.one_window import as_one_window
from drsn_edge.signals.datasets.spec import DatasetSpec
from drsn_edge.signals.readers import is_unnamed
from drsn_edge.signals.recording import Recording

__all__ = ["DATASETS", "Dataset", "load_dataset"]

# name -> the function `load(spec: DatasetSpec, protocol: str | None) -> Dataset`; imported when it is asked for
DATASETS = {
    "synthetic": "drsn_edge.signals.datasets.synthetic:load",
    "cwru": "drsn_edge.signals.datasets.cwru:load",
    "table": "drsn_edge.signals.datasets.table:load",
    "spoken-digits": "drsn_edge.signals.datasets.spoken_digits:load",
    "images": "drsn_edge.signals.datasets.images:load",
}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Recordings that belong together.

    Attributes:
        name: Short name, e.g. `cwru`.
        spec: As the user wrote it, e.g. `cwru:data/cwru,or=all`.
        recordings: In a fixed order; segments refer to them by index.
        labels: Class names, in a fixed order; none for recordings that nobody has labelled.
        contract: What a window of these recordings is.
        folds: Per protocol, sets of group values that are left out together; empty where every value is a fold.
        notes: What the user should know, one sentence each.
        one_window: Every recording is one event and is used as one window, see `as_one_window`.

    Raises:
        InputError: No recordings, or a recording of a class that is not in `labels`.
    """

    name: str
    spec: str
    recordings: tuple[Recording, ...]
    labels: tuple[str, ...]
    contract: SignalContract
    folds: Mapping[str, tuple[frozenset[str], ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    one_window: bool = False

    def __post_init__(self) -> None:
        if not self.recordings:
            raise InputError(f"the data set {self.spec} is empty", got="0 recordings", expected="at least one")
        for recording in self.recordings:
            if recording.label not in self.labels and (recording.label or self.labels):
                raise InputError(
                    f"{recording.source} has a label that is not a class of the data set {self.spec}",
                    got=repr(recording.label),
                    expected=", ".join(self.labels),
                )

    def groups(self) -> dict[str, tuple[str, ...]]:
        """Every group and its values, sorted; a number sorts as a number."""
        values: dict[str, set[str]] = {}
        for recording in self.recordings:
            for key, value in recording.groups.items():
                values.setdefault(key, set()).add(value)
        return {key: tuple(sorted(values[key], key=natural)) for key in sorted(values)}


def natural(value: str) -> tuple[float, str]:
    """Sort key: numbers by value and in front of words."""
    try:
        number = float(value)
    except ValueError:
        number = math.inf
    return (number if math.isfinite(number) else math.inf, value)


def load_dataset(
    spec: str,
    *,
    where: Mapping[str, str] = {},
    protocol: str | None = None,
    window: int | None = None,
    hop: int | None = None,
    expect: SignalContract | None = None,
    unlabelled: bool = False,
) -> Dataset:
    """Load a data set by name.

    Args:
        spec: `synthetic`, `cwru:DIR`, `spoken-digits:DIR`, `images:FILE.npz` or `table:FILE.csv`, with options behind:
            `synthetic:seed=1,seconds=8`.
        where: Keep only recordings of these groups, e.g. `{"load": "0"}`.
        protocol: How it will be split; some data sets name their classes by it (`cwru` under `bearing`).
        window: Samples per window, instead of the data set's own.
        hop: Samples from window to window; by default the same share of a window as the data set's own.
        expect: The contract of a model that exists already: its window and hop are taken, the rest must agree.
        unlabelled: Recordings without classes will do.

    Raises:
        UsageError: An unknown name or option, or a group or value that does not exist.
        InputError: Files that are missing or cannot be read, or recordings without classes.
        ContractError: The data do not keep `expect`.
        MissingDependency: A reader needs a package that is not installed.
    """
    parsed = DatasetSpec.parse(spec)
    if parsed.name not in DATASETS:
        raise UsageError(
            "there is no data set of this name",
            got=parsed.name,
            expected=", ".join(DATASETS),
            hint="for your own recordings write a table: table:recordings.csv",
        )
    module, _, function = DATASETS[parsed.name].partition(":")
    dataset = cast("Dataset", getattr(importlib.import_module(module), function)(parsed, protocol))
    if not dataset.labels and not unlabelled:
        raise InputError(
            f"the recordings of {spec} have no classes", got="an empty column label", expected="a class for every one",
            hint="recordings without classes can calibrate (export --calibrate), and nothing else",
        )  # fmt: skip
    dataset = _filter(dataset, where)
    if expect is not None:
        contract = _agree(dataset, expect, window=window, hop=hop)
    else:
        contract = _resize(dataset.contract, window, hop)
    recordings, notes = dataset.recordings, dataset.notes
    if dataset.one_window:
        recordings, said = as_one_window(recordings, contract.window)
        notes = (*notes, *said)
    return dataclasses.replace(dataset, contract=contract, recordings=recordings, notes=notes)


def _resize(contract: SignalContract, window: int | None, hop: int | None) -> SignalContract:
    if contract.image is not None and (window, hop) != (None, None):
        raise UsageError(
            "a picture is one window",
            got=f"--window {window}" if window is not None else f"--hop {hop}",
            expected=f"neither: pictures of {contract.image[0]} x {contract.image[1]} as they are",
        )
    if window is not None and hop is None:
        hop = max(1, window * contract.hop // contract.window)
    return dataclasses.replace(
        contract,
        window=contract.window if window is None else window,
        hop=contract.hop if hop is None else hop,
    )


def _filter(dataset: Dataset, where: Mapping[str, str]) -> Dataset:
    """The recordings of the wanted groups, and the classes that are left."""
    groups = dataset.groups()
    kept = dataset.recordings
    for key, value in where.items():
        if key not in groups:
            raise UsageError(
                f"the recordings of {dataset.spec} have no group of this name",
                got=f"{key}={value}",
                expected=", ".join(groups) or "no groups at all",
            )
        if value not in groups[key]:
            raise UsageError(
                f"no recording of {dataset.spec} has this {key}",
                got=f"{key}={value}",
                expected=f"{key} = {', '.join(groups[key])}",
            )
        kept = tuple(recording for recording in kept if recording.groups.get(key) == value)
    if not kept:
        raise UsageError(
            f"no recording of {dataset.spec} is in all these groups",
            got=", ".join(f"{key}={value}" for key, value in where.items()),
            expected="; ".join(f"{key} = {', '.join(groups[key])}" for key in where),
        )
    present = {recording.label for recording in kept}
    labels = tuple(label for label in dataset.labels if label in present)
    return dataclasses.replace(dataset, recordings=kept, labels=labels)


def _agree(dataset: Dataset, expect: SignalContract, *, window: int | None, hop: int | None) -> SignalContract:
    """The model's contract, when the data keep it."""
    have = dataset.contract
    wrong: list[tuple[str, object, object]] = []
    if not math.isclose(have.sample_rate_hz, expect.sample_rate_hz, rel_tol=1e-6):
        wrong.append(("sample rate", f"{have.sample_rate_hz:g} Hz", f"{expect.sample_rate_hz:g} Hz"))
    # A wav file does not name its channels: then only their number can be held against the model's.
    same = len(have.channels) == len(expect.channels) and all(
        ours == theirs or is_unnamed(ours) or is_unnamed(theirs)
        for ours, theirs in zip(have.channels, expect.channels, strict=True)
    )
    if not same:
        wrong.append(("channels", "+".join(have.channels), "+".join(expect.channels)))
    if have.image is not None or expect.image is not None:
        if have.image != expect.image:
            wrong.append(("image", have.image, expect.image))
    elif window is not None and window != expect.window:
        wrong.append(("window", window, expect.window))
    # Only a model that standardises does not mind another unit.
    if expect.standardise == "none" and have.units != expect.units and "unknown" not in (have.units, expect.units):
        wrong.append(("units", have.units, expect.units))
    if wrong:
        raise ContractError(
            f"the data set {dataset.spec} does not keep the signal contract of the model",
            got=", ".join(f"{name} {value}" for name, value, _ in wrong),
            expected=", ".join(f"{name} {value}" for name, _, value in wrong),
            hint="resample or choose other channels, or train a model for these data",
        )
    return expect if hop is None else dataclasses.replace(expect, hop=hop)
