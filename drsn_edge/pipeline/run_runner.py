"""What executes a bundle's network on this device: a verified engine, else ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass

from drsn_edge.bundle import Bundle, graph_name
from drsn_edge.errors import MissingDevice, UsageError
from drsn_edge.runtime import preflight
from drsn_edge.runtime.plan import read_plan_header
from drsn_edge.runtime.runner import Runner, open_runner
from drsn_edge.runtime.verification import unverified

RUNNERS = ("auto", "engine", "onnxruntime")
PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True, eq=False)
class Chosen:
    """A runner that is not active yet.

    Attributes:
        name: `engine-fp16`, `onnx-fp32`, ...
        runner: Of it.
        verified: Whether its decisions were compared with the reference on this device; None for ONNX Runtime.
        notes: Why this one and no other.
    """

    name: str
    runner: Runner
    verified: bool | None
    notes: tuple[str, ...]


def choose_runner(
    bundle: Bundle, *, runner: str = "auto", precision: str | None = None, allow_unverified: bool = False
) -> Chosen:
    """Choose.

    Args:
        bundle: With or without engines.
        runner: `auto`, `engine` to insist on one, or `onnxruntime`.
        precision: Only this one; None: fp16, int8, fp32 for engines, fp32 for ONNX Runtime.
        allow_unverified: Take an engine that never passed a parity check.

    Raises:
        UsageError: No such runner or precision.
        MissingDevice: An engine was insisted on, and none can be used.
        MissingDependency: Neither an engine nor ONNX Runtime is here.
    """
    if runner not in RUNNERS:
        raise UsageError("there is no such runner", got=runner, expected=", ".join(RUNNERS))
    if precision is not None and precision not in bundle.precisions:
        raise UsageError("the bundle has no such precision", got=precision, expected=", ".join(bundle.precisions))
    reasons: list[str] = []
    if runner != "onnxruntime":
        chosen = _engine(bundle, precision, reasons, allow_unverified=allow_unverified)
        if chosen is not None:
            return chosen
        if runner == "engine":
            raise MissingDevice(
                "no engine of the bundle can be used here",
                got="; ".join(reasons) or "the bundle holds no engine",
                expected="an engine for this device that has passed its parity check",
                hint="build and verify one here: drsn-edge build BUNDLE; or run with --allow-unverified",
            )
    wanted = precision or "fp32"
    notes = [f"ONNX Runtime on the CPU: {reason}" for reason in reasons]
    if wanted != "fp32":
        notes.append(f"ONNX Runtime computes the FP16 part of {wanted} in FP32 on most CPUs")
    # The optimiser also changes quantized graphs: those run as the file says.
    made = open_runner("onnxruntime", bundle.read(graph_name(wanted)), optimise=wanted == "fp32")
    return Chosen(f"onnx-{wanted}", made, None, tuple(notes))


def _engine(bundle: Bundle, precision: str | None, reasons: list[str], *, allow_unverified: bool) -> Chosen | None:
    found = []
    for key, plan in sorted(bundle.engines().items()):
        name = f"engines/{key}/engine.json"
        info = bundle.read_json(name) if name in bundle.files else {}
        kind = str(info.get("precision", "fp16"))
        if precision in (None, kind):
            found.append((("fp16", "int8", "fp32").index(kind) if kind in PRECISIONS else 3, key, plan, info, kind))
    here = preflight.describe_here() if found else None
    for _, key, plan, info, kind in sorted(found, key=lambda item: item[:2]):
        assert here is not None
        if here.device.device is None:
            reasons.append(f"engine {key} needs a GPU: {here.device.reason}")
            continue
        path = bundle.file(plan)
        header = read_plan_header(path)
        why = preflight.preflight(header, info, here)
        doubt = unverified(info, here)
        if why:
            reasons.append(f"engine {key}: {'; '.join(why)}")
        elif doubt is not None and not allow_unverified:
            reasons.append(
                f"engine {key} may not be used, {doubt}: drsn-edge build BUNDLE builds and verifies one here"
            )
        else:
            notes = () if doubt is None else (f"engine {key} is used by --allow-unverified, {doubt}",)
            runner = open_runner(str(info.get("runner", header.kind)), path)
            return Chosen(f"engine-{kind}", runner, doubt is None, notes)
    return None
