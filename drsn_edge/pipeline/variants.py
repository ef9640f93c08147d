"""Every executable form of a bundle's network, opened once: PyTorch, the ONNX graphs, the engines."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge.bundle import WEIGHTS, Bundle, graph_name
from drsn_edge.errors import DrsnError, MissingError
from drsn_edge.extras import available
from drsn_edge.pipeline.engine_notes import engine_info
from drsn_edge.runtime import preflight
from drsn_edge.runtime.plan import read_plan_header
from drsn_edge.runtime.runner import Runner, open_runner, run_batched

# What runs when nothing else is said, in the order of the chain.
ONNX_VARIANTS = {"onnx-fp32": "fp32", "onnx-fp16": "fp16", "onnx-int8": "int8"}


@dataclass(frozen=True, eq=False)
class Variant:
    """One executable form.

    Attributes:
        name: `pytorch`, `onnx-int8`, `engine-fp16`, ...
        runner_name: What executes it.
        runner: Active; None when it cannot run here.
        reason: Why not; None when it can.
        note: What a reader should know of how it runs.
    """

    name: str
    runner_name: str
    runner: Runner | None
    reason: str | None = None
    note: str | None = None
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def logits(self, windows: NDArray[np.float32], *, batch: int = 64, workers: int | None = None) -> NDArray[Any]:
        """`[N, classes]`; may be called from several threads at a time."""
        if self.runner is None:
            raise MissingError(f"{self.name} cannot run here", got=self.reason)
        with contextlib.nullcontext() if self.runner.concurrent else self.lock:
            return run_batched(self.runner, windows, batch=batch, workers=workers)["logits"]


@dataclass(frozen=True, eq=False)
class Variants:
    """All forms of one bundle, in the order of the chain."""

    items: tuple[Variant, ...]
    notes: tuple[str, ...] = field(default=())

    def __getitem__(self, name: str) -> Variant:
        return next(item for item in self.items if item.name == name)

    def __contains__(self, name: object) -> bool:
        return any(item.name == name for item in self.items)

    @property
    def running(self) -> tuple[Variant, ...]:
        """Those that can run here."""
        return tuple(item for item in self.items if item.runner is not None)


@contextlib.contextmanager
def open_variants(bundle: Bundle, *, engines: bool = True) -> Iterator[Variants]:
    """Open whatever can run here; what cannot says why."""
    with contextlib.ExitStack() as stack:
        items = [open_pytorch(bundle, stack)]
        items += [
            _onnx(bundle, name, precision, stack)
            for name, precision in ONNX_VARIANTS.items()
            if graph_name(precision) in bundle.files
        ]
        if engines:
            items += _engines(bundle, stack)
        notes = tuple(dict.fromkeys(f"{item.name}: {item.note}" for item in items if item.note))
        yield Variants(tuple(items), notes)


def probe_outputs(bundle: Bundle, precision: str, windows: NDArray[np.float32]) -> dict[str, NDArray[Any]] | None:
    """Threshold, zeroed share and shrunk features of every unit, from a bundle's probe graph; None without one."""
    name = graph_name(precision, probe=True)
    if name not in bundle.files or not bundle.units:
        return None
    with open_runner("onnxruntime", _faithful(bundle.read(name))[0]) as runner:
        return run_batched(runner, windows, batch=32)


def open_pytorch(bundle: Bundle, stack: contextlib.ExitStack) -> Variant:
    """The network itself, from the bundle's weights, open until `stack` ends; or why it cannot run here."""
    network = bundle.manifest["model"].get("network")
    reason = None
    if network is None:
        reason = "the network is no class of drsn-edge; its recorded logits stand in"
    elif WEIGHTS not in bundle.files:
        reason = "the bundle holds no weights; the recorded logits stand in"
    elif not available("torch") or not available("safetensors"):
        reason = "PyTorch is not installed; the recorded logits stand in"
    if reason is not None:
        return Variant("pytorch", "torch", None, reason)
    from drsn_edge.model.checkpoint import network_from_bytes
    from drsn_edge.model.runner import TorchRunner

    module = network_from_bytes(bundle.read(WEIGHTS), network, bundle.contract)
    return Variant("pytorch", "torch", stack.enter_context(TorchRunner(module)))


def _faithful(data: bytes) -> tuple[bytes, bool]:
    """The graph with FP16 arithmetic that ONNX Runtime shows on a CPU, where onnx is installed to rewrite it."""
    if not available("onnx") or not available("onnx_ir"):
        return data, False
    from drsn_edge.exporters.precision import emulated

    return emulated(data), True


def _onnx(bundle: Bundle, name: str, precision: str, stack: contextlib.ExitStack) -> Variant:
    data, note = bundle.read(graph_name(precision)), None
    if precision != "fp32":
        data, emulated = _faithful(data)
        if not emulated:
            return Variant(
                name, "onnxruntime", None,
                "ONNX Runtime computes FP16 in FP32 on a CPU, and onnx is not installed to make the rounding visible",
            )  # fmt: skip
    try:
        runner = stack.enter_context(open_runner("onnxruntime", data))
    except MissingError as error:
        return Variant(name, "onnxruntime", None, error.got or error.what)
    return Variant(name, "onnxruntime", runner, note=note)


def _engines(bundle: Bundle, stack: contextlib.ExitStack) -> list[Variant]:
    """One for each precision: of engines for several devices, the one that fits this device."""
    found: dict[str, Variant] = {}
    for key in sorted(bundle.engines()):
        name = f"engine-{engine_info(bundle, key)['precision']}"
        if name not in found or found[name].runner is None:
            item = open_engine(bundle, key, stack)
            if name not in found or item.runner is not None:
                found[name] = item
    return list(found.values())


def engine_reasons(bundle: Bundle, key: str, here: preflight.Here) -> list[str]:
    """Why an engine of a bundle cannot run here, or is not of its graphs; empty where nothing is known against it."""
    info, path = engine_info(bundle, key), bundle.file(bundle.engines()[key])
    reasons = preflight.preflight(read_plan_header(path), info, here, plan=path)
    made = info.get("onnx") or {}
    name, sha256 = made.get("name"), made.get("sha256")
    if sha256 is not None and (name not in bundle.files or bundle.files[name].sha256 != sha256):
        have = f"sha256 {bundle.files[name].sha256[:12]}" if name in bundle.files else "no such graph"
        reasons.append(
            f"built from another model, {name} of sha256 {sha256[:12]}, here {have}: "
            "rebuild it with `drsn-edge build BUNDLE`"
        )
    return reasons


def open_engine(bundle: Bundle, key: str, stack: contextlib.ExitStack) -> Variant:
    """An engine of a bundle, open until `stack` ends, or why it cannot run here. Its verification is not asked for."""
    info, plan = engine_info(bundle, key), bundle.engines()[key]
    name, runner_name = f"engine-{info['precision']}", str(info["runner"])
    device = preflight.describe_device()  # asked first: loading TensorRT takes 100 MB
    if device.device is None:
        return Variant(name, runner_name, None, f"no GPU: {device.reason}")
    reasons = engine_reasons(bundle, key, preflight.describe_here())
    if reasons:
        return Variant(name, runner_name, None, "; ".join(reasons))
    # A stripped plan gets its weights back from the graph that it was built from.
    stripped = (info.get("flags") or {}).get("stripped")
    options = {"weights": bundle.read(info["onnx"]["name"])} if stripped else {}
    try:
        return Variant(name, runner_name, stack.enter_context(open_runner(runner_name, bundle.file(plan), **options)))
    except DrsnError as error:
        return Variant(name, runner_name, None, f"{error.what}: {error.got}" if error.got else error.what)
