"""A sound export through every check of `verify`: what the gates say of it is a false alarm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faults.bundles import Recipe, exported
from drsn_edge.bundle import GOLDEN
from drsn_edge.golden import Golden
from drsn_edge.parity.gate import Gate
from drsn_edge.parity.result import ParityResult
from drsn_edge.pipeline.hops import calibration_hop, measure_hops
from drsn_edge.pipeline.sweep import SweepOptions, sweep
from drsn_edge.pipeline.variants import open_variants


def clean_export(recipe: Recipe, work: Path, *, opset: int, method: str, seed: int) -> dict[str, Any]:
    """A sound export through every check of `verify`, sweep included."""
    bundle, source, data = exported(recipe, work, opset=opset, method=method, seed=seed, windows=64)
    del source
    golden = Golden.from_bytes(bundle.read(GOLDEN))
    gate = Gate.from_json(bundle.manifest["tolerances"]["gate"])
    with open_variants(bundle) as variants:
        hops = (*measure_hops(bundle, golden, variants), *calibration_hop(bundle))
        options = SweepOptions(snrs_db=(-4.0,), draws=10)
        points = sweep(variants, data, reference="pytorch", gate=gate, options=options)
    result = ParityResult("pytorch", hops, points, gate=gate).judged()
    clean = next(point for point in points if point.snr_db is None)
    pytorch = golden.logits["pytorch"]
    forms = [name for name in ("onnx-fp32", "onnx-fp16", "onnx-int8") if name in golden.logits]
    return {
        "network": recipe.name, "opset": opset, "method": method, "seed": seed,
        "alarms": {
            "drsn_edge": not result.passed,
            "accuracy_only": any(clean.accuracy[name] < clean.accuracy["pytorch"] - 0.01 for name in forms),
            "atol_rtol_1e3": any(not np.allclose(golden.logits[name], pytorch, rtol=1e-3, atol=1e-3) for name in forms),
        },
        "failures": [failure.to_json() for failure in result.failures],
    }  # fmt: skip
