"""What a bundle's own engines say of INT8, before anything is measured."""

from __future__ import annotations

from collections.abc import Sequence

from drsn_edge.bundle import CALIBRATION, Bundle
from drsn_edge.exporters.trt_verdict import Int8Verdict, bundle_verdicts


def int8_worth(bundle: Bundle, keys: Sequence[str] | None = None) -> dict[str, Int8Verdict]:
    """By key, a verdict for every INT8 engine; each is held against the FP16 engine beside it, if there is one.

    Args:
        bundle: With or without engines.
        keys: Only these engines.
    """
    engines = {key: bundle.read_json(f"engines/{key}/engine.json") for key in bundle.engines()}
    if CALIBRATION not in bundle.files or not any(info["precision"] == "int8" for info in engines.values()):
        return {}
    found = bundle_verdicts(engines, bundle.read_json(CALIBRATION)["plan"])
    return {key: item for key, item in found.items() if keys is None or key in keys}
