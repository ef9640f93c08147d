"""`verify`: does every form of the network still decide as PyTorch does?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge.bundle import GOLDEN, SPLIT, Bundle, graph_name
from drsn_edge.errors import InputError, MissingDependency, MissingDevice, UsageError
from drsn_edge.extras import available, install_hint
from drsn_edge.files import read_json
from drsn_edge.golden import Golden
from drsn_edge.parity.decision_point import DecisionPoint
from drsn_edge.parity.gate import Gate, load_gate
from drsn_edge.parity.ledger import compare
from drsn_edge.parity.localise import first_divergence
from drsn_edge.parity.result import Hop, ParityResult
from drsn_edge.parity.shrinkage import ShrinkageDrift, drift
from drsn_edge.parity.tolerances import FP32_MAX_REL, Tolerance, derive
from drsn_edge.parity.variants import precision_of
from drsn_edge.pipeline.data import open_data
from drsn_edge.pipeline.engine_check import outdated_engines
from drsn_edge.pipeline.sweep import SweepOptions, sweep
from drsn_edge.pipeline.variants import Variants, open_variants, probe_outputs
from drsn_edge.progress import SILENT, Progress
from drsn_edge.signals.splits import Split

Logits = NDArray[Any]


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
            hops = (*_hops(opened, golden, variants), *_calibration(opened))
            step.advance()
        with progress.step("thresholds") as step:
            shrinkage = _shrinkage(opened, golden)
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
    if all(hop.status == "not_run" for hop in hops):
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


def _hops(bundle: Bundle, golden: Golden, variants: Variants) -> tuple[Hop, ...]:
    """The chain on golden windows: what was recorded against what runs now, then form against form."""
    now: dict[str, Logits] = {item.name: item.logits(golden.windows) for item in variants.running}
    pytorch = now.get("pytorch", golden.logits["pytorch"])
    hops: list[Hop] = []
    samples = golden.windows[0, 0].size

    def add(from_: str, to: str, want: Logits, tolerance: Tolerance) -> None:
        item = variants[to]
        if item.runner is None:
            hops.append(Hop.not_run(from_, to, runner=item.runner_name, reason=item.reason or "not available"))
            return
        hop = Hop.measured(from_, to, runner=item.runner_name, error=compare(want, now[to]), tolerance=tolerance)
        if hop.status == "failed" and to.startswith("onnx-"):
            where = _localise(bundle, golden, to.removeprefix("onnx-"))
            hop = dataclasses.replace(hop, first_divergence=where)
        hops.append(hop)

    for name in ("pytorch", "onnx-fp32", "onnx-fp16", "onnx-int8"):
        recorded = golden.logits.get(name)
        if name in variants and recorded is not None and (name != "pytorch" or variants[name].runner is not None):
            precision = precision_of(name)
            tolerance = derive(
                "recorded", precision, reference=golden.logits["pytorch"], recorded=recorded, samples=samples
            )
            add(f"recorded-{name.removeprefix('onnx-')}", name, recorded, tolerance)
    if "onnx-fp32" in variants:
        add("pytorch", "onnx-fp32", pytorch, derive("export", "fp32", samples=samples))
    single = now.get("onnx-fp32", golden.logits.get("onnx-fp32", pytorch))
    for name in ("onnx-fp16", "onnx-int8"):
        if name in variants:
            tolerance = derive("precision", precision_of(name), reference=single, fp64=_noise_floor(golden, single))
            add("onnx-fp32", name, single, tolerance)
    for item in variants.items:
        if item.name.startswith("engine-"):
            graph = f"onnx-{item.name.removeprefix('engine-')}"
            wanted = now.get(graph, golden.logits.get(graph))
            if wanted is None:
                hops.append(Hop.not_run(graph, item.name, runner=item.runner_name, reason=f"no logits of {graph}"))
                continue
            tolerance = derive("engine", precision_of(item.name), reference=single, recorded=wanted)
            add(graph, item.name, wanted, tolerance)
    return tuple(hops)


def _noise_floor(golden: Golden, single: Logits) -> Logits:
    """FP64 logits of the network; where it was an ONNX file, which runs in FP32 only, as far off as FP32 may be."""
    fp64 = golden.logits.get("pytorch-fp64")
    if fp64 is None or np.array_equal(fp64, golden.logits["pytorch"]):
        return np.asarray(single + FP32_MAX_REL * np.abs(single).max())
    return fp64


def _calibration(bundle: Bundle) -> tuple[Hop, ...]:
    """A failed hop where scales, graphs, weights and contract do not belong together, and none where they do."""
    if not available("onnx") or not available("onnx_ir"):
        return ()
    from drsn_edge.calibration.check import check_bundle_calibration

    found = check_bundle_calibration(bundle)
    if not found:
        return ()
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return (Hop("calibration", "onnx-int8", "onnx", "failed", reason=found[0] + more),)


def _localise(bundle: Bundle, golden: Golden, precision: str) -> str | None:
    """The first unit that left its limit, from the probe graphs; None without units."""
    reference = probe_outputs(bundle, "fp32", golden.windows)
    candidate = probe_outputs(bundle, precision, golden.windows)
    if reference is None or candidate is None:
        return None
    if precision == "fp32":
        # The graph itself is in question: what PyTorch recorded is the reference.
        reference = {f"{unit}.threshold": golden.thresholds[unit] for unit in bundle.units if unit in golden.thresholds}
    clean = bundle.manifest["tolerances"].get("tensor_errors", {}).get(f"onnx-{precision}")
    found = first_divergence(reference, candidate, bundle.units, 1e-3, clean=clean)
    return None if found is None else found.tensor


def _shrinkage(bundle: Bundle, golden: Golden) -> tuple[ShrinkageDrift, ...]:
    if not bundle.units or not available("onnxruntime"):
        return ()
    windows = golden.windows[: min(len(golden), 64)]
    reference = probe_outputs(bundle, "fp32", np.ascontiguousarray(windows))
    rows: list[ShrinkageDrift] = []
    for precision in bundle.precisions[1:]:
        if graph_name(precision, probe=True) in bundle.files and reference is not None:
            found = probe_outputs(bundle, precision, np.ascontiguousarray(windows))
            if found is not None:
                rows += drift(reference, found, f"onnx-{precision}")
    return tuple(rows)
