"""Faults after export: in a graph, in the weights file, or in what an engine is fed."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.faults.bench import FORMS, Bench
from benchmarks.faults.bundles import Recipe, running_variances
from benchmarks.faults.graph import Context, Fault, Graph, NoPlace
from benchmarks.faults.inputs import INPUTS
from benchmarks.faults.kinds import ANY, FP16, INT8
from benchmarks.faults.row import Row
from benchmarks.faults.stand_ins import Damaged, Fed
from drsn_edge.bundle import WEIGHTS, graph_name
from drsn_edge.errors import DrsnError, InputError
from drsn_edge.exporters.precision import emulated
from drsn_edge.model.checkpoint import network_from_bytes
from drsn_edge.model.runner import TorchRunner
from drsn_edge.pipeline.variants import Variant
from drsn_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner
from drsn_edge.runtime.runner import run_batched

Array = NDArray[Any]


def faults_after(recipe: Recipe, work: Path, *, repeats: int) -> Iterator[Row]:
    """Every fault after export that this network has a place for."""
    bench = Bench(recipe, work)
    variances = running_variances(bench.source)
    for form in FORMS:
        kinds = ANY | (FP16 if form == "fp16" else INT8 if form == "int8" else {})
        for kind, fault in kinds.items():
            for repeat in range(repeats):
                seed = zlib.crc32(f"{recipe.name} {form} {kind} {repeat}".encode())
                found = _graph_fault(bench, variances, kind, form, fault, seed)
                if found is not None:
                    yield found
        for kind, feed in INPUTS.items():
            yield _input_fault(bench, kind, form, feed)
    for repeat in range(2 * repeats):
        found = _weights_fault(bench, zlib.crc32(f"{recipe.name} weights {repeat}".encode()))
        if found is not None:
            yield found


def _graph_fault(
    bench: Bench, variances: dict[str, Array], kind: str, form: str, fault: Fault, seed: int
) -> Row | None:
    """The same fault in the graph and in its probe graph: one builder made both."""
    units = bench.bundle.units
    files, place = {}, ""
    for probe in (False, True):
        rng = np.random.default_rng(seed)
        unit = units[int(rng.integers(len(units)))]
        name = graph_name(form, probe=probe)
        graph = Graph(bench.base.read(name))
        try:
            place = fault(graph, Context(unit, rng, variances))
        except NoPlace:
            return None
        files[name] = graph.bytes()
    bundle = Damaged(bench.bundle, files, bench.cache)
    try:
        runner = OnnxRuntimeRunner(emulated(files[graph_name(form)]))
        with runner, TorchRunner(bench.network) as torch:
            damaged = Variant(f"onnx-{form}", "onnxruntime", runner)
            others = [bench.recorded(f"onnx-{other}") for other in FORMS if other != form]
            pytorch = Variant("pytorch", "torch", torch) if form == "fp32" else bench.recorded("pytorch")
            items = tuple(sorted([damaged, *others], key=lambda item: FORMS.index(item.name.removeprefix("onnx-"))))
            logits = damaged.logits(bench.golden.windows)
            result = bench.judge(bundle, (pytorch, *items))
            accuracy = bench.right(run_batched(runner, bench.test.x)["logits"])
    except InputError as error:
        if "ONNX Runtime cannot" in error.what:
            return None  # no silent fault: nothing runs
        raise
    return bench.row(result, kind, f"onnx-{form}", place, logits, accuracy)


def _input_fault(bench: Bench, kind: str, form: str, feed: Callable[[Array], Array]) -> Row:
    """An engine of the graph's arithmetic that is fed something else; its probe engine is fed the same."""
    with contextlib.ExitStack() as stack:
        inner = stack.enter_context(OnnxRuntimeRunner(emulated(bench.base.read(graph_name(form)))))
        engine = Variant(f"engine-{form}", "onnxruntime", Fed(inner, feed))
        items = (bench.recorded("pytorch"), *(bench.recorded(f"onnx-{other}") for other in FORMS), engine)
        logits = engine.logits(bench.golden.windows)
        result = bench.judge(bench.base, items)
        accuracy = bench.right(engine.logits(bench.test.x))
    return bench.row(result, kind, f"engine-{form}", "input", logits, accuracy)


def _weights_fault(bench: Bench, seed: int) -> Row | None:
    """A flipped bit in model.safetensors: it is PyTorch that no longer is what it was."""
    rng = np.random.default_rng(seed)
    data = bytearray(bench.base.read(WEIGHTS))
    start = 8 + int.from_bytes(data[:8], "little")
    word = start + 4 * int(rng.integers((len(data) - start) // 4))
    data[word + int(rng.integers(2, 4))] ^= 1 << int(rng.integers(8))
    try:
        network = network_from_bytes(bytes(data), bench.bundle.manifest["model"]["network"], bench.bundle.contract)
    except DrsnError:
        return None  # refused outright
    with TorchRunner(network) as torch:
        pytorch = Variant("pytorch", "torch", torch)
        logits = pytorch.logits(bench.golden.windows)
        if not np.isfinite(logits).all():
            return None
        result = bench.judge(bench.base, (pytorch, *(bench.recorded(f"onnx-{form}") for form in FORMS)))
        accuracy = bench.right(run_batched(torch, bench.test.x)["logits"])
    return bench.row(result, "bit flip in the weights file", "pytorch", "weights", logits, accuracy)
