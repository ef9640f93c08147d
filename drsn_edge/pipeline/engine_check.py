"""Golden windows through an engine that was just built or has just arrived, and the verdict into its `engine.json`.

Needs neither torch nor onnx: the graph's own logits were recorded when the bundle was made.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from drsn_edge.bundle import GOLDEN, Bundle, NewFile
from drsn_edge.errors import DrsnError, InputError, OutOfTolerance
from drsn_edge.files import dump_json
from drsn_edge.golden import Golden
from drsn_edge.parity.ledger import compare
from drsn_edge.parity.tolerances import derive
from drsn_edge.pipeline.engine_notes import engine_info, notes_of
from drsn_edge.pipeline.variants import open_engine
from drsn_edge.progress import SILENT, Progress
from drsn_edge.runtime import preflight
from drsn_edge.runtime.verification import Verification, VerifiedOn, outdated


@dataclass(frozen=True)
class EngineVerdict:
    """What became of one engine.

    Attributes:
        key: Its folder under `engines/`.
        verification: None where it could not run here; then it stays as unverified as it was.
        reason: Why it could not run here.
    """

    key: str
    verification: Verification | None
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        found = self.verification
        return {"key": self.key, "verified": None if found is None else found.to_json(), "reason": self.reason}


def mark_engines(
    bundle: Bundle, keys: Iterable[str] | None = None, *, progress: Progress = SILENT
) -> tuple[tuple[EngineVerdict, ...], Bundle]:
    """Run engines on the golden windows and write what was found into their `engine.json`.

    Args:
        bundle: The bundle; its manifest changes with every verdict.
        keys: Folders under `engines/`; all of them by default.
        progress: Where steps go.

    Returns:
        A verdict for each, and the bundle as it is now.

    Raises:
        InputError, HashMismatch: A file of the bundle cannot be used.
    """
    verdicts: list[EngineVerdict] = []
    files: dict[str, NewFile] = {}
    golden = Golden.from_bytes(bundle.read(GOLDEN))
    for key in sorted(bundle.engines()) if keys is None else keys:
        with progress.step(f"golden windows through {key}") as step:
            verdict = check_engine(bundle, key, golden)
            step.advance()
        verdicts.append(verdict)
        if verdict.verification is not None:
            name = notes_of(bundle, key)
            info = engine_info(bundle, key) | {"verified": verdict.verification.to_json()}
            files[name] = NewFile(dump_json(info).encode(), "engine-info")
    return tuple(verdicts), bundle.update(files) if files else bundle


def check_engine(bundle: Bundle, key: str, golden: Golden) -> EngineVerdict:
    """One engine against what its graph gave when the bundle was made."""
    info = engine_info(bundle, key)
    precision = info.get("precision")
    wanted, single = golden.logits.get(f"onnx-{precision}"), golden.logits.get("onnx-fp32", golden.logits["pytorch"])
    if precision not in ("fp32", "fp16", "int8") or wanted is None:
        return EngineVerdict(key, None, f"the golden file holds no logits of {precision}")
    with contextlib.ExitStack() as stack:
        variant = open_engine(bundle, key, stack)
        here = preflight.describe_here()
        device = VerifiedOn.here(variant.runner_name, here)
        if variant.runner is None or device is None:
            return EngineVerdict(key, None, variant.reason or "no GPU")
        try:
            logits = variant.logits(golden.windows)
            if logits.shape != wanted.shape:
                raise InputError(
                    "the engine's output has another shape", got=list(logits.shape), expected=list(wanted.shape)
                )
        except DrsnError as refused:
            return EngineVerdict(key, _failed(device, f"{refused.what}: {refused.got}", len(golden)))
    error = compare(wanted, logits)
    tolerance = derive("engine", precision, reference=single, recorded=wanted)
    broken = [f"{item.figure} {item.value:.3g}, limit {item.limit:.3g}" for item in tolerance.violations(error)]
    if broken:
        return EngineVerdict(key, _failed(device, "; ".join(broken), len(golden), error.max_abs, error.top1_agreement))
    return EngineVerdict(key, Verification(True, device, None, error.max_abs, error.top1_agreement, len(golden)))


def refuse_failed(bundle: Bundle, verdicts: Iterable[EngineVerdict]) -> None:
    """Raise for the first engine that did not pass.

    Raises:
        OutOfTolerance: There is one. It stays in the bundle, marked, so that it can be looked into.
    """
    for verdict in verdicts:
        if verdict.verification is not None and not verdict.verification.passed:
            raise OutOfTolerance(
                f"the engine {verdict.key} does not decide as its graph does, and is marked so",
                got=verdict.verification.reason,
                expected="golden windows within the tolerance of its precision",
                hint=f"drsn-edge verify {bundle.path}; another --precision, or another TensorRT",
            )


def outdated_engines(bundle: Bundle, here: preflight.Here | None = None) -> dict[str, tuple[str, str]]:
    """Engines that this device built before its TensorRT or driver changed: key to precision and what has changed."""
    if not bundle.engines():
        return {}
    if here is None:
        if preflight.describe_device().device is None:  # asked first: loading TensorRT takes 100 MB
            return {}
        here = preflight.describe_here()
    found = {}
    for key in bundle.engines():
        info = engine_info(bundle, key)
        why = outdated(info, here)
        if why is not None:
            found[key] = (str(info["precision"]), why)
    return found


def _failed(
    device: VerifiedOn, reason: str, windows: int, max_abs: float | None = None, agreement: float | None = None
) -> Verification:
    return Verification(False, device, reason, max_abs, agreement, windows)
