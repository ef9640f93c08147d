"""One exported network with everything that a damaged form of it is held against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.faults.bundles import Recipe, exported
from benchmarks.faults.row import Row
from benchmarks.faults.stand_ins import Damaged, Recorded, Replay
from drsn_edge.bundle import GOLDEN, WEIGHTS, graph_name
from drsn_edge.exporters.precision import emulated
from drsn_edge.golden import Golden
from drsn_edge.model.checkpoint import network_from_bytes
from drsn_edge.model.runner import TorchRunner
from drsn_edge.parity.ledger import compare
from drsn_edge.parity.result import ParityResult
from drsn_edge.pipeline.data import ModelData
from drsn_edge.pipeline.hops import calibration_hop, measure_hops
from drsn_edge.pipeline.variants import Variant, Variants
from drsn_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner
from drsn_edge.runtime.runner import run_batched

Array = NDArray[Any]
FORMS = ("fp32", "fp16", "int8")


class Bench:
    """One bundle, its recorded results, its rebuild noise, its test windows."""

    def __init__(self, recipe: Recipe, work: Path) -> None:
        self.recipe = recipe
        self.bundle, self.source, data = exported(recipe, work)
        self.cache: dict[str, bytes] = {}
        self.base = Damaged(self.bundle, {}, self.cache)
        self.golden = Golden.from_bytes(self.bundle.read(GOLDEN))
        self.network = network_from_bytes(
            self.base.read(WEIGHTS), self.bundle.manifest["model"]["network"], self.bundle.contract
        )
        self.test = data.windows("test", overlap=False)
        self.data: ModelData = data
        self.noise = {form: self._rebuild(form) for form in FORMS}
        self.accuracy = {form: self.accuracy_of(self.base.read(graph_name(form))) for form in FORMS}
        with TorchRunner(self.network) as torch:
            self.accuracy["pytorch"] = self.right(run_batched(torch, self.test.x)["logits"])

    def _rebuild(self, form: str) -> float:
        """Largest change of any logit over sound rebuilds of a graph."""
        recorded, windows = self.golden.logits[f"onnx-{form}"], self.golden.windows
        data = emulated(self.base.read(graph_name(form)))
        largest = 0.0
        for threads, batch, seed in ((1, 7, None), (2, 96, None), (1, 32, 1), (1, 32, 2), (1, 32, 3)):
            x = windows
            if seed is not None:
                step = np.random.default_rng(seed).integers(-4, 5, x.shape).astype(np.float32)
                x = x * (1 + step * np.float32(2.0**-23))
            with OnnxRuntimeRunner(data, threads=threads) as runner:
                found = run_batched(runner, x, batch=batch)["logits"]
            largest = max(largest, float(np.abs(found - recorded).max()))
        return max(largest, 2e-5 * float(np.abs(recorded).max()))

    def right(self, logits: Array) -> float:
        return float(np.mean(logits.argmax(axis=1) == self.test.y))

    def accuracy_of(self, data: bytes) -> float:
        with OnnxRuntimeRunner(emulated(data)) as runner:
            return self.right(run_batched(runner, self.test.x)["logits"])

    def judge(self, bundle: Damaged, items: tuple[Variant, ...]) -> ParityResult:
        hops = (*measure_hops(bundle, self.golden, Variants(items)), *calibration_hop(bundle))
        return ParityResult("pytorch", hops).judged()

    def recorded(self, name: str) -> Variant:
        return Recorded(name, "onnxruntime", Replay(self.golden))

    def row(self, result: ParityResult, kind: str, form: str, place: str, logits: Array, accuracy: float) -> Row:
        """What the gates say of a damaged form that gave `logits`."""
        base = form.replace("engine-", "onnx-")
        recorded = self.golden.logits[base]
        with np.errstate(invalid="ignore"):
            change = float(np.abs(logits - recorded).max())
        change = change if np.isfinite(change) else float("inf")
        noise = self.noise.get(form.removeprefix("onnx-"), 2e-5 * float(np.abs(recorded).max()))
        if form.startswith("engine-"):
            own = compare(self.golden.logits["onnx-fp32"], recorded).max_abs
            noise = max(noise, own, self.noise[form.removeprefix("engine-")])
        failed = [hop for hop in result.hops if hop.status == "failed"]
        unit = failed[0].first_divergence if failed else None
        known = place == "logits" or place.startswith("units.")
        truth = place if place == "logits" else ".".join(place.split("/", maxsplit=1)[0].split(".")[:2])
        named = None if unit is None else unit if unit == "logits" else ".".join(unit.split(".")[:2])
        pytorch = self.golden.logits["pytorch"]
        return Row(
            "after", self.recipe.name, kind, form, place, change, noise,
            caught=not result.passed,
            right_hop=bool(failed) and failed[0].to == form,
            right_unit=named == truth if known and failed else None,
            gates={
                "drsn_edge": not result.passed,
                "accuracy_only": accuracy < self.accuracy["pytorch"] - 0.01,
                "atol_rtol_1e3": not np.allclose(logits, pytorch, rtol=1e-3, atol=1e-3),
            },
            said=f"{result.failures[0].where}: {result.failures[0].what}; {unit}" if result.failures else "",
        )  # fmt: skip
