"""Which samples train, validate and test: recordings are split first and cut into windows afterwards.

Windows that overlap, or come from the same bearing, know each other. A split is therefore made on recordings, by
protocol, and travels with the model by the recordings' fingerprints: what was trained on is known wherever it turns up.

    time      60/20/20 contiguous blocks of every recording, one window of guard between blocks
    load      one load tests, the next one validates, the others train; so do
    bearing   physical bearings, and
    speaker   speakers
    given     as the group `part` of the recordings says; a tenth of what trains validates where it names nothing
    random    windows at random: leaks, only for comparison with the literature
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from drsn_edge.errors import InputError, UsageError
from drsn_edge.files import dump_json, sha256_bytes
from drsn_edge.signals.contract import SignalContract
from drsn_edge.signals.datasets import Dataset
from drsn_edge.signals.protocols import (
    PARTS,
    PROTOCOLS,
    Part,
    Protocol,
    Ranges,
    given_parts,
    group_parts,
    random_parts,
    time_parts,
)
from drsn_edge.signals.windows import Segment

__all__ = ["PARTS", "PROTOCOLS", "Part", "Protocol", "Split", "known", "split"]

_FORMAT = 1


@dataclass(frozen=True)
class Split:
    """Which samples of which recording belong to which part.

    Attributes:
        protocol: One of `PROTOCOLS`.
        fold: Which group was left out; 0 for `time`, `given` and `random`.
        seed: Of the draw; only `random` and `given` depend on it.
        labels: The classes of the model, in its order.
        parts: Per fingerprint and part, `(start, stop)` ranges of samples; no ranges for recordings that were dropped.
        notes: What the user should know, one sentence each.
        dropped: Classes that the protocol cannot serve, because one of the parts has none of them.
    """

    protocol: Protocol
    fold: int
    seed: int
    labels: tuple[str, ...]
    parts: Mapping[str, Mapping[Part, Ranges]]
    notes: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    def segments(self, part: Part, dataset: Dataset) -> list[Segment]:
        """The segments of a part, in the data set's order; recordings are found by fingerprint, whatever their name.

        Recordings that the split does not know are left out: see `known`.

        Raises:
            UsageError: There is no such part.
            InputError: The split does not know a single recording of the data set.
        """
        _check_part(part)
        found = [(index, self.parts.get(item.fingerprint)) for index, item in enumerate(dataset.recordings)]
        if all(ranges is None for _, ranges in found):
            raise InputError(
                f"the split does not know any recording of {dataset.spec}",
                got=f"{len(found)} other recordings",
                expected=f"some of the {len(self.parts)} recordings that were split",
            )
        return [
            Segment(index, start, stop)
            for index, ranges in found
            if ranges is not None
            for start, stop in ranges.get(part, ())
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "format_version": _FORMAT,
            "protocol": self.protocol,
            "fold": self.fold,
            "seed": self.seed,
            "labels": list(self.labels),
            "dropped": list(self.dropped),
            "notes": list(self.notes),
            "parts": {
                fingerprint: {part: [list(item) for item in ranges] for part, ranges in parts.items()}
                for fingerprint, parts in self.parts.items()
            },
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Split:
        """The split that `to_json` wrote.

        Raises:
            InputError: Another format version, or a field that is missing or of the wrong kind.
        """
        if value.get("format_version") != _FORMAT:
            raise InputError("the split has another format version", got=value.get("format_version"), expected=_FORMAT)
        try:
            protocol = value["protocol"]
            if protocol not in PROTOCOLS:
                raise ValueError(f"protocol {protocol!r}")
            parts: dict[str, dict[Part, Ranges]] = {}
            for fingerprint, item in value["parts"].items():
                for part in item:
                    if part not in PARTS:
                        raise ValueError(f"part {part!r}")
                parts[str(fingerprint)] = {
                    part: tuple((int(start), int(stop)) for start, stop in item[part]) for part in PARTS if part in item
                }
            return cls(
                protocol=protocol,
                fold=int(value["fold"]),
                seed=int(value["seed"]),
                labels=tuple(str(label) for label in value["labels"]),
                parts=parts,
                notes=tuple(str(note) for note in value["notes"]),
                dropped=tuple(str(label) for label in value["dropped"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                "the split has a bad value", got=f"{type(error).__name__}: {error}", expected="the fields of to_json"
            ) from None

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over everything but the notes: two models with the same digest saw the same samples."""
        value = {key: item for key, item in self.to_json().items() if key != "notes"}
        return sha256_bytes(dump_json(value).encode())


def split(
    dataset: Dataset,
    *,
    protocol: str = "time",
    fold: int = 0,
    seed: int = 0,
    contract: SignalContract | None = None,
) -> Split:
    """Split a data set.

    Args:
        dataset: Its recordings, and explicit folds where it has some.
        protocol: One of `PROTOCOLS`; for the group protocols the recordings must have that group.
        fold: Which group tests, counted from 0 in sorted order; the next one validates.
        seed: For `random`, and `given` without a validation part.
        contract: Gives the window, and with it the guard; by default the data set's.

    Raises:
        UsageError: An unknown protocol, a group that the recordings lack, or a fold that does not exist.
        InputError: Fewer than two classes are left, a recording is too short, or occurs twice.
    """
    if protocol not in PROTOCOLS:
        raise UsageError("there is no protocol of this name", got=protocol, expected=", ".join(PROTOCOLS))
    _refuse_duplicates(dataset)
    window = (contract or dataset.contract).window
    if protocol in ("time", "given", "random") and fold != 0:
        raise UsageError(f"the protocol {protocol} has no such fold", got=fold, expected="0, its only one: 1 fold")
    if protocol == "time":
        parts, notes = time_parts(dataset, window)
    elif protocol == "random":
        parts, notes = random_parts(dataset, window, seed)
    elif protocol == "given":
        parts, notes = given_parts(dataset, seed)
    else:
        parts, notes = group_parts(dataset, protocol, fold)
    present: dict[Part, set[str]] = {part: set() for part in PARTS}
    for recording, ranges in zip(dataset.recordings, parts, strict=True):
        for part in ranges:
            present[part].add(recording.label)
    kept = set.intersection(*present.values())
    labels = tuple(label for label in dataset.labels if label in kept)
    dropped = tuple(label for label in dataset.labels if label not in kept)
    if len(labels) < 2:
        raise InputError(
            f"the protocol {protocol} leaves too few classes of {dataset.spec}",
            got=f"{len(labels)} in all three parts ({', '.join(labels) or 'none'}) of {', '.join(dataset.labels)}",
            expected="at least 2 classes with recordings in training, validation and test",
            hint="choose another --protocol, or add recordings of more classes",
        )
    if dropped:
        notes = (
            *notes,
            f"Classes left out, because the protocol {protocol} cannot have them in every part: {', '.join(dropped)}.",
        )
    return Split(
        protocol=protocol,
        fold=fold,
        seed=seed,
        labels=labels,
        parts={
            recording.fingerprint: ranges if recording.label in kept else {}
            for recording, ranges in zip(dataset.recordings, parts, strict=True)
        },
        notes=notes,
        dropped=dropped,
    )


def known(dataset: Dataset, split: Split, part: Part) -> tuple[list[Segment], str | None]:
    """What of a data set may be used as `part` of a split that was made earlier, perhaps on another machine.

    Recordings that the split knows give the samples of that part. Others are used whole. Recordings of classes that
    the split dropped are skipped.

    Returns:
        Segments, and a note saying what was used whole or skipped; None when the split knows everything.

    Raises:
        UsageError: There is no such part.
        InputError: A recording of a class that the model does not have, or nothing is left to use.
    """
    _check_part(part)
    segments: list[Segment] = []
    whole = skipped = 0
    for index, recording in enumerate(dataset.recordings):
        ranges = split.parts.get(recording.fingerprint)
        if ranges is not None and (recording.label in split.labels or not recording.label):
            segments += [Segment(index, start, stop) for start, stop in ranges.get(part, ())]
        elif recording.label in split.dropped:
            skipped += 1
        elif recording.label and recording.label not in split.labels:
            raise InputError(
                f"{recording.source} is of a class that the model does not have",
                got=recording.label,
                expected=", ".join(split.labels),
                hint="leave these recordings out (--where), or name the classes as in training",
            )
        else:
            whole += 1
            segments.append(Segment(index, 0, recording.samples))
    if not segments:
        raise InputError(
            f"nothing of {dataset.spec} is in the {part} part of the split",
            got=f"{len(dataset.recordings)} recordings, {skipped} of classes that the model leaves out",
            expected=f"recordings of the {part} part, or new ones",
            hint="choose other recordings (--where)",
        )
    notes = []
    if whole:
        notes.append(
            f"{whole} of {len(dataset.recordings)} recordings were not in the training data set and are used whole"
        )
    if skipped:
        notes.append(f"{skipped} recordings are skipped: the model was trained without {', '.join(split.dropped)}")
    return segments, "; ".join(notes) or None


def _check_part(part: str) -> None:
    if part not in PARTS:
        raise UsageError("a split has no such part", got=part, expected=", ".join(PARTS))


def _refuse_duplicates(dataset: Dataset) -> None:
    """The same samples under two names would be on both sides, or count twice."""
    sources: dict[str, str] = {}
    for recording in dataset.recordings:
        if recording.fingerprint in sources:
            raise InputError(
                f"two recordings of {dataset.spec} hold the same samples",
                got=f"{sources[recording.fingerprint]} and {recording.source}",
                expected="every measurement once",
                hint="take one of them out",
            )
        sources[recording.fingerprint] = recording.source
