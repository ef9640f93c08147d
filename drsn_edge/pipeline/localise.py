"""Where a form of the network parts from what it was: its probes now against those that the bundle recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge.bundle import Bundle, graph_name
from drsn_edge.errors import DrsnError
from drsn_edge.extras import available
from drsn_edge.golden import Golden
from drsn_edge.parity.localise import first_divergence, summarise
from drsn_edge.parity.tolerances import FP32_MAX_REL, REBUILD_FACTOR
from drsn_edge.pipeline.variants import Variants, probe_outputs
from drsn_edge.runtime.runner import open_runner, run_batched

Probes = Mapping[str, NDArray[Any]]

# Relative error of a tensor that any other execution of one precision may have, whatever was measured.
_ENGINE_FLOOR = 1e-3
# What stands behind the last unit has no probe: the error is in the classifier.
LOGITS = "logits"


class Localiser:
    """Finds the first tensor of a form that has left its limit.

    The reference is what the form itself gave when the bundle was made (thresholds, and sketches of the shrunk
    features, in `golden.npz`), so that the rounding of a precision does not hide a small fault. An engine is asked
    through a probe engine, which is built for it where its builder is at hand.

    Args:
        bundle: With probe graphs.
        golden: Its golden vectors.
        variants: Open.
    """

    def __init__(self, bundle: Bundle, golden: Golden, variants: Variants) -> None:
        self._bundle, self._golden, self._variants = bundle, golden, variants
        self._found: dict[tuple[str, bool], str | None] = {}

    def locate(self, to: str, *, recorded: bool = True) -> str | None:
        """The first tensor of a form that is out of its limit: `units.3.threshold`, or `logits` behind the last unit.

        Args:
            to: The form, as `onnx-int8` or `engine-fp16`.
            recorded: Whether the form's own past is the reference; else the form before it in the chain.

        Returns:
            None where the network has no units, or nothing can be probed here.
        """
        key = (to, recorded)
        if key not in self._found:
            self._found[key] = self._locate(to, recorded=recorded) if self._bundle.units else None
        return self._found[key]

    def _locate(self, to: str, *, recorded: bool) -> str | None:
        units = self._bundle.units
        outputs = self._probe(to)
        if outputs is None:
            return None
        candidate = summarise(outputs, units)
        form = to.replace("engine-", "onnx-")
        own = self._golden.probes_of(form)
        if not recorded and to == "onnx-fp32":
            own = self._pytorch() or own
        if not own:
            return self._against_fp32(to, candidate)
        shared = {name: value for name, value in own.items() if name in candidate}
        limits = self._limits(to)
        found = first_divergence(shared, candidate, units, dict.fromkeys(shared, 0.0) | limits)
        if found is None and not recorded and to in ("onnx-fp16", "onnx-int8"):
            return self._against_fp32(to, candidate)
        return LOGITS if found is None else found.tensor

    def _limits(self, to: str) -> dict[str, float]:
        """Per tensor: rebuild noise for a graph, the precision's own error for an engine."""
        tolerances = self._bundle.manifest["tolerances"]
        form = to.replace("engine-", "onnx-")
        names = self._golden.probes_of(form)
        if to.startswith("engine-"):
            own = tolerances.get("tensor_errors", {}).get(form, {})
            # The sketch of a tensor is off as far as the tensor is.
            return {name: max(_ENGINE_FLOOR, 2 * own.get(name.replace(".sketch", ".shrunk"), 0.0)) for name in names}
        noise = tolerances.get("rebuild", {}).get(form, {})
        return {name: max(FP32_MAX_REL, REBUILD_FACTOR * noise.get(name, 0.0)) for name in names}

    def _against_fp32(self, to: str, candidate: Probes) -> str | None:
        """For bundles that recorded no probes, and for a precision that was out of tolerance from the start."""
        reference = self._golden.probes_of("onnx-fp32")
        if not reference:
            outputs = probe_outputs(self._bundle, "fp32", self._golden.windows)
            if outputs is None:
                return None
            reference = summarise(outputs, self._bundle.units)
        errors = self._bundle.manifest["tolerances"].get("tensor_errors", {}).get(to.replace("engine-", "onnx-"), {})
        clean = {name.replace(".shrunk", ".sketch"): value for name, value in errors.items()}
        found = first_divergence(reference, candidate, self._bundle.units, _ENGINE_FLOOR, clean=clean)
        return LOGITS if found is None else found.tensor

    def _pytorch(self) -> dict[str, NDArray[np.float32]]:
        outputs = self._probe("pytorch")
        return {} if outputs is None else summarise(outputs, self._bundle.units)

    def _probe(self, name: str) -> Probes | None:
        """Probe outputs of a form on the golden windows; None where it cannot be asked here."""
        windows = self._golden.windows
        if name == "pytorch":
            runner = self._variants[name].runner
            if runner is None:
                return None
            from drsn_edge.model.runner import TorchRunner

            assert isinstance(runner, TorchRunner)
            with runner.probing() as probing:
                outputs = run_batched(probing, windows, batch=32, workers=1)
            return self._columns(outputs)
        precision = name.partition("-")[2]
        if name.startswith("engine-"):
            return self._engine(name, precision)
        if available("onnx") and available("onnx_ir"):
            from drsn_edge.exporters.precision import emulated, graft_probes

            grafted = graft_probes(
                self._bundle.read(graph_name(precision)), self._bundle.read(graph_name(precision, probe=True))
            )
            with open_runner("onnxruntime", emulated(grafted)) as opened:
                return run_batched(opened, windows, batch=32)
        return probe_outputs(self._bundle, precision, windows)

    def _columns(self, outputs: Probes) -> Probes:
        """PyTorch gives a shared threshold for every channel, as the graphs do; narrower ones are cut alike."""
        own = self._golden.probes_of("onnx-fp32")
        return {name: value[:, : own[name].shape[1]] if name in own else value for name, value in outputs.items()}

    def _engine(self, name: str, precision: str) -> Probes | None:
        from drsn_edge.pipeline.probe_engine import probe_engine

        runner_name = self._variants[name].runner_name
        try:
            with probe_engine(self._bundle, runner_name, precision) as plan, open_runner(runner_name, plan) as runner:
                return run_batched(runner, self._golden.windows, batch=16)
        except DrsnError:
            return None  # no builder here, or one that refuses: then the place stays unknown
