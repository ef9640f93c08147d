"""Data for a network that exists already: the part of a data set that it may see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from drsn_edge.errors import ContractError
from drsn_edge.signals.contract import SignalContract
from drsn_edge.signals.datasets import Dataset, load_dataset
from drsn_edge.signals.datasets.spec import DatasetSpec
from drsn_edge.signals.interference import noise_source
from drsn_edge.signals.splits import Part, Split, known
from drsn_edge.signals.window_plan import WindowPlan
from drsn_edge.signals.windows import Segment, Windows, cut, planned, shifts

# Names of data sets that say how recordings are written, not which they are.
_FORMATS = ("table", "images")


@dataclass(frozen=True, eq=False)
class ModelData:
    """A data set as a network's training left it.

    Attributes:
        dataset: Loaded with the network's contract.
        split: Of the training; None when the network was not trained here.
        labels: The network's.
        notes: What was filtered, used whole or skipped.
    """

    dataset: Dataset
    split: Split | None
    labels: tuple[str, ...]
    notes: tuple[str, ...]

    def segments(self, part: Part) -> tuple[list[Segment], str | None]:
        """Segments of a part; everything where no split is known."""
        if self.split is None:
            whole = [
                Segment(index, 0, recording.samples)
                for index, recording in enumerate(self.dataset.recordings)
                if not recording.label or recording.label in self.labels
            ]
            return whole, "nobody recorded what this network was trained on: the data set is used whole"
        return known(self.dataset, self.split, part)

    def windows(self, part: Part, *, overlap: bool) -> Windows:
        """Windows of a part; without overlap for testing, a hop apart for training and calibration."""
        contract = self.dataset.contract
        segments, _ = self.segments(part)
        return cut(
            self.dataset,
            segments,
            contract,
            hop=contract.hop if overlap else contract.window,
            labels=self.labels,
            source=noise_source(self.dataset, self.split, part),
        )

    @property
    def trained(self) -> bool:
        """Whether any of these recordings is known to have trained the network: then the parts hold other windows."""
        known = set() if self.split is None else {*self.split.parts}
        return any(recording.fingerprint in known for recording in self.dataset.recordings)

    def shifted(self, part: Part, *, draws: int) -> Windows:
        """Independent windows, each at several shifts: clean draws."""
        segments, _ = self.segments(part)
        source = noise_source(self.dataset, self.split, part)
        return shifts(self.dataset, segments, self.dataset.contract, draws=draws, labels=self.labels, source=source)

    def planned(self, part: Part, *, draws: int | None = None) -> WindowPlan:
        """The same without overlap, or with `draws` the shifted ones, cut when they are asked for."""
        segments, _ = self.segments(part)
        source = noise_source(self.dataset, self.split, part)
        return planned(self.dataset, segments, self.dataset.contract, draws=draws, labels=self.labels, source=source)


def same_data(one: str, other: str) -> bool:
    """Whether two names mean one data set, which may lie elsewhere on another machine.

    A published set is known by its name; of those that are everybody's own, the name is but a format, and the file
    counts.
    """
    a, b = DatasetSpec.parse(one), DatasetSpec.parse(other)
    files = [spec.path.name if spec.path is not None else "" for spec in (a, b)]
    return a.name == b.name and (a.name not in _FORMATS or files[0] == files[1])


def open_data(
    spec: str,
    *,
    contract: SignalContract,
    labels: tuple[str, ...],
    training: Mapping[str, Any] | None,
    split: Split | None,
    where: Mapping[str, str] | None = None,
    unlabelled: bool = False,
) -> ModelData:
    """Load a data set for a network.

    The filter and the protocol of the training are taken over when it is the same data set and none is given here.

    `unlabelled`: recordings without classes will do.

    Raises:
        ContractError: Another sample rate or other channels than the network's, or classes that it does not have.
        InputError: Recordings without classes.
    """
    notes: list[str] = []
    same = training is not None and same_data(spec, str(training["dataset"]))
    chosen = dict(where or {})
    if same and training is not None and not chosen and training["where"]:
        chosen = dict(training["where"])
        notes.append("recordings chosen as in training: " + ", ".join(f"{k}={v}" for k, v in chosen.items()))
    protocol = str(training["protocol"]) if same and training is not None else None
    dataset = load_dataset(spec, where=chosen, protocol=protocol, expect=contract, unlabelled=unlabelled)
    unknown = sorted(
        {recording.label for recording in dataset.recordings} - set(labels) - set(split.dropped if split else ()) - {""}
    )
    if unknown:
        raise ContractError(
            f"{spec} has classes that the network does not have", got=", ".join(unknown), expected=", ".join(labels),
            hint="choose recordings with --where, or name the classes as in training",
        )  # fmt: skip
    return ModelData(dataset, split, labels, tuple(notes))
