"""What a bundle knows of a precision besides its speed: whether decisions stay, and what its engine is made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from drsn_edge.bundle import REPORT_DATA, Bundle
from drsn_edge.parity.precision_verdict import PrecisionEvidence
from drsn_edge.parity.result import ParityResult
from drsn_edge.parity.variants import PRECISIONS, Precision
from drsn_edge.pipeline.bench_result import BenchRow


def evidence_for(bundle: Bundle, runner: str, rows: Sequence[BenchRow]) -> dict[Precision, PrecisionEvidence]:
    """Evidence of the precisions that a runner ran: the saved parity result, and `engine.json` of what was measured."""
    parity = _parity(bundle)
    found: dict[Precision, PrecisionEvidence] = {}
    for precision in PRECISIONS:
        own = [row for row in rows if row.runner == runner and row.precision == precision and row.p50_ms is not None]
        if not own:
            continue
        best = min(own, key=lambda row: (row.batch, row.p50_ms))
        info = {} if best.engine is None else bundle.read_json(f"engines/{best.engine}/engine.json")
        passed, changed = _decisions(parity, precision, info)
        found[precision] = PrecisionEvidence(
            passed=passed,
            changed=changed,
            kernels=info.get("kernels"),
            reformats=_reformats(info),
            int8_share=_int8_share(info),
        )
    return found


def _parity(bundle: Bundle) -> ParityResult | None:
    if REPORT_DATA not in bundle.files:
        return None
    value = json.loads(bundle.read(REPORT_DATA)).get("parity")
    return None if value is None else ParityResult.from_json(value)


def _decisions(
    parity: ParityResult | None, precision: Precision, info: dict[str, Any]
) -> tuple[bool | None, float | None]:
    """Of the graph; the engine's own verdict on golden windows counts where it is worse."""
    verified = (info.get("verified") or {}).get("passed")
    if parity is None:
        return verified, None
    names = (f"onnx-{precision}", f"engine-{precision}")
    hops = [hop for hop in parity.hops if hop.to in names and hop.status != "not_run"]
    upper = [
        changed.ci95[1]
        for point in parity.decisions
        if point.gated
        for name, changed in point.changed.items()
        if name in names
    ]
    failed = verified is False or any(_subject(failure.where) in names for failure in parity.failures)
    known = bool(hops or upper) or verified is not None
    return (not failed if known else None), max(upper, default=None)


def _subject(where: str) -> str:
    """`onnx-fp32 to onnx-int8` is about the latter, `onnx-int8 at clean` about the former."""
    return where.partition(" to ")[2] or where.partition(" at ")[0]


def _reformats(info: dict[str, Any]) -> int | None:
    layers = info.get("layers")
    if not layers:
        return None
    return sum("reformat" in f"{layer['type']} {layer['name']}".lower() for layer in layers)


def _int8_share(info: dict[str, Any]) -> float | None:
    counts = info.get("precisions")
    made = sum(counts.values()) if counts else 0
    return counts.get("int8", 0) / made if counts and made else None
