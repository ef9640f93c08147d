"""The chain of hops on golden windows: what was recorded against what runs now, then form against form."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge.bundle import Bundle, graph_name
from drsn_edge.extras import available
from drsn_edge.golden import Golden
from drsn_edge.parity.ledger import HopError, compare
from drsn_edge.parity.result import Hop
from drsn_edge.parity.shrinkage import ShrinkageDrift, drift
from drsn_edge.parity.tolerances import FP32_MAX_REL, Tolerance, derive
from drsn_edge.parity.variants import precision_of
from drsn_edge.pipeline.localise import Localiser
from drsn_edge.pipeline.variants import Variants, probe_outputs

Logits = NDArray[Any]
_DRIFT_WINDOWS = 64
# In place of a runner, where both sides of a hop come from the golden file: nothing was run.
RECORDED = "recorded"


def measure_hops(bundle: Bundle, golden: Golden, variants: Variants) -> tuple[Hop, ...]:
    """Every hop of the chain, measured and judged; those that failed say where they part.

    In order: each form against its own recorded logits, the noise floor, then PyTorch to FP32 to the other precisions
    to their engines. The first that fails is the one to look at: what stands behind it inherits its error.
    """
    now: dict[str, Logits] = {item.name: item.logits(golden.windows) for item in variants.running}
    pytorch = now.get("pytorch", golden.logits["pytorch"])
    samples = golden.windows[0, 0].size
    localiser = Localiser(bundle, golden, variants)
    hops: list[Hop] = []

    def add(from_: str, to: str, want: Logits, tolerance: Tolerance) -> None:
        item = variants[to]
        if item.runner is None:
            hops.append(Hop.not_run(from_, to, runner=item.runner_name, reason=item.reason or "not available"))
            return
        hop = Hop.measured(from_, to, runner=item.runner_name, error=compare(want, now[to]), tolerance=tolerance)
        if hop.status == "failed":
            hop = dataclasses.replace(hop, first_divergence=localiser.locate(to, recorded=hop.recorded))
        hops.append(hop)

    for name in ("pytorch", "onnx-fp32", "onnx-fp16", "onnx-int8"):
        recorded = golden.logits.get(name)
        if name in variants and recorded is not None and (name != "pytorch" or variants[name].runner is not None):
            tolerance = derive(
                "recorded",
                precision_of(name),
                reference=golden.logits["pytorch"],
                recorded=recorded,
                rebuild=_rebuild(bundle, name),
                samples=samples,
            )
            add(f"recorded-{name.removeprefix('onnx-')}", name, recorded, tolerance)
    hops += _noise_floor_hop(golden, pytorch, variants, samples)
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


def _rebuild(bundle: Bundle, name: str) -> HopError | None:
    """How far a rebuild of a graph was from itself at export; None in bundles that do not say."""
    found = bundle.manifest["tolerances"].get("rebuild", {}).get(name, {}).get("logits")
    return None if found is None else HopError.from_json(found)


def _noise_floor_hop(golden: Golden, pytorch: Logits, variants: Variants, samples: int) -> list[Hop]:
    """FP64 to FP32 in PyTorch: what everything else is held against. Not there where FP64 never ran."""
    fp64 = golden.logits.get("pytorch-fp64")
    if fp64 is None or np.array_equal(fp64, golden.logits["pytorch"]):
        return []
    limit = derive("export", "fp32", samples=samples).max_rel
    tolerance = Tolerance(max_rel=limit, reason="FP32 against FP64, the noise floor")
    runner = "torch" if "pytorch" in variants and variants["pytorch"].runner is not None else RECORDED
    return [Hop.measured("pytorch-fp64", "pytorch", runner=runner, error=compare(fp64, pytorch), tolerance=tolerance)]


def _noise_floor(golden: Golden, single: Logits) -> Logits:
    """FP64 logits of the network; where it was an ONNX file, which runs in FP32 only, as far off as FP32 may be."""
    fp64 = golden.logits.get("pytorch-fp64")
    if fp64 is None or np.array_equal(fp64, golden.logits["pytorch"]):
        return np.asarray(single + FP32_MAX_REL * np.abs(single).max())
    return fp64


def calibration_hop(bundle: Bundle) -> tuple[Hop, ...]:
    """A failed hop where scales, graphs, weights and contract do not belong together, and none where they do."""
    if not available("onnx") or not available("onnx_ir"):
        return ()
    from drsn_edge.calibration.check import check_bundle_calibration

    found = check_bundle_calibration(bundle)
    if not found:
        return ()
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return (Hop("calibration", "onnx-int8", "onnx", "failed", reason=found[0] + more),)


def shrinkage_drift(bundle: Bundle, golden: Golden) -> tuple[ShrinkageDrift, ...]:
    """Thresholds and dead zones of every precision against FP32, unit by unit."""
    if not bundle.units or not available("onnxruntime"):
        return ()
    windows = np.ascontiguousarray(golden.windows[:_DRIFT_WINDOWS])
    reference = probe_outputs(bundle, "fp32", windows)
    rows: list[ShrinkageDrift] = []
    for precision in bundle.precisions[1:]:
        if graph_name(precision, probe=True) in bundle.files and reference is not None:
            found = probe_outputs(bundle, precision, windows)
            if found is not None:
                rows += drift(reference, found, f"onnx-{precision}")
    return tuple(rows)
