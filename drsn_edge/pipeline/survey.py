"""`data`: what a data set holds, and how it would be split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from drsn_edge.signals.datasets import load_dataset
from drsn_edge.signals.splits import PARTS, split
from drsn_edge.signals.windows import cut


def data(
    spec: str,
    *,
    where: Mapping[str, str] | None = None,
    protocol: str = "time",
    fold: int = 0,
    seed: int = 0,
    window: int | None = None,
    hop: int | None = None,
) -> dict[str, Any]:
    """Load a data set, split it, count windows: what would be trained on, before anything is.

    Args:
        spec: Name of a data set, see `load_dataset`.
        where: Only recordings of these groups.
        protocol: How recordings are split, see `split`.
        fold: Which group tests, for protocols that leave one out.
        seed: Of the protocol `random`.
        window: Samples per window, instead of the data set's own.
        hop: Samples from window to window in training, instead of the data set's own.

    Returns:
        Plain JSON values: recordings, classes, groups, contract, windows per part and class, notes.

    Raises:
        UsageError, InputError, ContractError: As `load_dataset` and `split`.
    """
    dataset = load_dataset(spec, where=where or {}, protocol=protocol, window=window, hop=hop)
    made = split(dataset, protocol=protocol, fold=fold, seed=seed)
    parts: dict[str, Any] = {}
    for part in PARTS:
        step = dataset.contract.hop if part == "train" else dataset.contract.window
        windows = cut(dataset, made.segments(part, dataset), dataset.contract, hop=step, labels=made.labels)
        counts = Counter(windows.y.tolist())
        parts[part] = {
            "windows": len(windows),
            "independent": windows.independent,
            "per_class": {label: counts[index] for index, label in enumerate(made.labels)},
        }
    return {
        "format_version": 1,
        "dataset": dataset.spec,
        "recordings": [
            {
                "source": item.source,
                "label": item.label,
                "groups": dict(item.groups),
                "seconds": item.duration_s,
                "sha256": item.fingerprint,
            }
            for item in dataset.recordings
        ],
        "labels": list(dataset.labels),
        "groups": {key: list(values) for key, values in dataset.groups().items()},
        "contract": dataset.contract.to_json(),
        "protocol": protocol,
        "fold": fold,
        "parts": parts,
        "notes": [*dataset.notes, *made.notes],
    }
