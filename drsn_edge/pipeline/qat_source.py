"""What `train --qat` starts from: a run in FP32, and the very recordings that trained it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drsn_edge.errors import UsageError
from drsn_edge.pipeline.data import ModelData, open_data
from drsn_edge.signals.splits import PARTS, Part
from drsn_edge.signals.windows import Windows

if TYPE_CHECKING:
    from drsn_edge.model.checkpoint import Checkpoint


def open_original(init: Path | None, asked: Mapping[str, tuple[Any, Any]]) -> Checkpoint:
    """The FP32 run that `--qat` starts from.

    Args:
        init: Its folder.
        asked: By option, what was asked for and the option's default: what differs from the default and from the run
            cannot be had.

    Raises:
        UsageError: No run is given, it was trained for quantization already or not by `train`, or it is another network
            than was asked for.
    """
    from drsn_edge.model.checkpoint import load_checkpoint
    from drsn_edge.model.config import WIDTHS

    if init is None:
        raise UsageError(
            "quantization-aware training starts from a trained network", got="--qat without --init",
            expected="--init RUN, a run in FP32", hint="train one first, then give its folder",
        )  # fmt: skip
    original = load_checkpoint(init)
    if original.qat is not None:
        raise UsageError(
            "the run was trained for quantization already", got=init, expected="the run in FP32 that it began with",
            hint="decisions are held against the original network, which this one no longer is",
        )  # fmt: skip
    record = original.training
    if record is None or original.split is None:
        raise UsageError(
            "nobody recorded what trained this network", got=f"{init} without a training record or a split",
            expected="a run that `drsn-edge train` made",
        )  # fmt: skip
    presets = {widths: name for name, widths in WIDTHS.items()}
    own: dict[str, Any] = {
        "model": original.config.model, "preset": presets.get(original.config.widths, "none"),
        "window": original.contract.window, "hop": original.contract.hop, "protocol": record.protocol,
        "fold": record.fold, "noise": record.noises, "snr": record.snr_db,
    }  # fmt: skip
    for name, (value, default) in asked.items():
        if value == default:
            continue
        if name not in own:
            raise UsageError(
                f"quantization-aware training has no --{name}", got=value, expected=f"--qat without --{name}",
                hint="it takes minutes on one CPU; one that was stopped is started anew with --force",
            )  # fmt: skip
        if value != own[name]:
            raise UsageError(
                f"the run of --init has another {name}", got=value, expected=own[name],
                hint=f"leave --{name} out: quantization-aware training takes it from the run",
            )  # fmt: skip
    return original


def open_windows(dataset: str, original: Checkpoint, where: Mapping[str, str]) -> tuple[ModelData, dict[Part, Windows]]:
    """The very recordings that trained the original, and their windows.

    Raises:
        UsageError: Recordings that it was not trained on.
        InputError: Data that cannot be used.
    """
    record = original.training
    data = open_data(
        dataset, contract=original.contract, labels=original.labels,
        training=None if record is None else record.to_json(), split=original.split, where=where,
    )  # fmt: skip
    known = set() if original.split is None else {*original.split.parts}
    strange = [item.source for item in data.dataset.recordings if item.fingerprint not in known]
    if strange:
        raise UsageError(
            "these are not the recordings that trained the run of --init",
            got=f"{len(strange)} of {len(data.dataset.recordings)} unknown to its split, {strange[0]} first",
            expected="the data set of that run", hint="its config.json names it",
        )  # fmt: skip
    return data, {part: data.windows(part, overlap=part == "train") for part in PARTS}
