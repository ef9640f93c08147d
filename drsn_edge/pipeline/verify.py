"""`verify`: does every form of the network still decide as PyTorch does?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drsn_edge.bundle import GOLDEN, SPLIT, Bundle
from drsn_edge.errors import InputError, MissingDependency, MissingDevice, UsageError
from drsn_edge.extras import install_hint
from drsn_edge.files import read_json
from drsn_edge.golden import Golden
from drsn_edge.parity.decision_point import DecisionPoint
from drsn_edge.parity.gate import Gate, load_gate
from drsn_edge.parity.result import Hop, ParityResult
from drsn_edge.pipeline.data import open_data
from drsn_edge.pipeline.engine_check import outdated_engines
from drsn_edge.pipeline.hops import RECORDED, calibration_hop, measure_hops, shrinkage_drift
from drsn_edge.pipeline.sweep import SweepOptions, sweep
from drsn_edge.pipeline.variants import Variants, open_variants
from drsn_edge.progress import SILENT, Progress
from drsn_edge.signals.splits import Split


def verify(
    bundle: Path | str | Bundle,
    *,
    data: str | None = None,
    where: Mapping[str, str] | None = None,
    options: SweepOptions | None = None,
    gate: Path | Gate | None = None,
    require: str | None = None,
    expect_digest: str | None = None,
    progress: Progress = SILENT,
) -> ParityResult:
    """Compare every form of a bundle's network with its reference, and judge.

    Args:
        bundle: The folder.
        data: A data set by name: its test windows are swept over noise. Without one only golden windows are compared.
        where: Group values that recordings are chosen by.
        options: Of the sweep.
        gate: A file, or the gate itself; the bundle's own by default.
        require: `engine` makes an engine that could not run an error.
        expect_digest: SHA-256 that the manifest must have.
        progress: Where steps go.

    Raises:
        HashMismatch: A file of the bundle is not the one that the manifest lists.
        InputError: The bundle or the data cannot be used.
        MissingDependency: Nothing of the bundle can run here, or nothing that a sweep could be held against.
        MissingDevice: `require="engine"` and an engine could not run.
    """
    if require not in (None, "engine"):
        raise UsageError("nothing of this kind can be required", got=require, expected="engine")
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle, expect_digest=expect_digest)
    opened.check()
    golden = Golden.from_bytes(opened.read(GOLDEN))
    judged_by = _gate(opened, gate)
    notes = [
        f"the engine {key} is out of date, {why}: drsn-edge build {opened.path} --rebuild"
        for key, (_, why) in outdated_engines(opened).items()
    ]
    with open_variants(opened) as variants:
        notes += variants.notes
        with progress.step("golden windows") as step:
            hops = (*measure_hops(opened, golden, variants), *calibration_hop(opened))
            step.advance()
        with progress.step("thresholds") as step:
            shrinkage = shrinkage_drift(opened, golden)
            step.advance()
        _require_something(hops)
        if require == "engine":
            _require_engines(hops)
        live = variants["pytorch"].runner is not None
        if not live:
            notes.append(f"pytorch: {variants['pytorch'].reason}")
        if data is not None and not live:
            _require_reference(variants)
        decisions: tuple[DecisionPoint, ...] = ()
        if data is not None:
            split = Split.from_json(opened.read_json(SPLIT)) if SPLIT in opened.files else None
            training = opened.manifest["provenance"].get("training")
            model_data = open_data(
                data, contract=opened.contract, labels=opened.labels, training=training, split=split, where=where
            )
            notes += model_data.notes
            note = model_data.segments("test")[1]
            notes += [note] if note else []
            decisions = sweep(
                variants,
                model_data,
                reference="pytorch" if live else "onnx-fp32",
                gate=judged_by,
                options=_sweep_options(options, training),
                progress=progress,
            )
    return ParityResult(
        reference="pytorch" if live or data is None else "onnx-fp32",
        hops=hops,
        decisions=decisions,
        shrinkage=shrinkage,
        notes=tuple(notes),
        gate=judged_by,
    ).judged()


def judge_again(report: Path, *, gate: Path | None = None) -> ParityResult:
    """Judge a saved result without running anything.

    Raises:
        InputError: No saved result.
    """
    value = read_json(report, what="the saved result")
    parity = value.get("parity", value)
    if not isinstance(parity, dict):
        raise InputError("the saved result has the wrong shape", got=report, expected="what `verify --json` prints")
    return ParityResult.from_json(parity).judged(load_gate(gate) if gate is not None else None)


def _gate(bundle: Bundle, gate: Path | Gate | None) -> Gate:
    if isinstance(gate, Gate):
        return gate
    if gate is not None:
        return load_gate(gate)
    return Gate.from_json(bundle.manifest["tolerances"].get("gate", {}))


def _sweep_options(options: SweepOptions | None, training: Mapping[str, Any] | None) -> SweepOptions:
    chosen = options or SweepOptions()
    trained = tuple(training["noises"]) if training else ()
    return dataclasses.replace(chosen, noises=trained) if chosen.noises is None and trained else chosen


def _require_something(hops: Sequence[Hop]) -> None:
    """A check that ran nothing has found nothing, which is not the same as good."""
    if all(hop.status == "not_run" or hop.runner == RECORDED for hop in hops):
        raise MissingDependency(
            "nothing of this bundle can run here",
            got="; ".join(dict.fromkeys(f"{hop.to}: {hop.reason}" for hop in hops)),
            expected="at least ONNX Runtime for its graphs, or the GPU that its engines are for",
            hint=install_hint("host"),
        )


def _require_reference(variants: Variants) -> None:
    """Recorded logits are of golden windows: other data need a reference that runs."""
    if "onnx-fp32" not in variants or variants["onnx-fp32"].runner is None:
        raise MissingDependency(
            "other windows than the golden ones need a reference that runs here",
            got=f"pytorch: {variants['pytorch'].reason}",
            expected="PyTorch, or ONNX Runtime for the fp32 graph",
            hint=install_hint("onnxruntime"),
        )


def _require_engines(hops: Sequence[Hop]) -> None:
    engines = [hop for hop in hops if hop.to.startswith("engine-")]
    idle = [hop for hop in engines if hop.status == "not_run"]
    if idle or not engines:
        raise MissingDevice(
            f"{idle[0].to} was required and did not run" if idle else "an engine was required and there is none",
            got=idle[0].reason if idle else "the bundle holds no engine",
            expected="every engine of the bundle to run here",
            hint="run this on the device, or build one there: drsn-edge build",
        )
