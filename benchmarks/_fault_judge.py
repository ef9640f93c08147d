"""One fault or one clean export through the gates, for `benchmarks.fault_injection`."""

from __future__ import annotations

import contextlib
import functools
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._fault_bundles import Recipe, exported, running_variances, wrong_epsilon
from benchmarks._faults import ANY, FP16, INPUTS, INT8, Context, Fault, Graph
from drsn_edge.bundle import CALIBRATION, GOLDEN, WEIGHTS, Bundle, graph_name
from drsn_edge.calibration.contract import Calibration
from drsn_edge.calibration.quantize import quantize
from drsn_edge.errors import DrsnError, InputError
from drsn_edge.exporters.canonical import CanonicalGraph, parse
from drsn_edge.exporters.precision import emulated
from drsn_edge.exporters.units import find_units
from drsn_edge.golden import Golden
from drsn_edge.model.checkpoint import network_from_bytes
from drsn_edge.model.runner import TorchRunner
from drsn_edge.parity.decision_point import DecisionPoint
from drsn_edge.parity.decisions import DecisionTally
from drsn_edge.parity.gate import Gate
from drsn_edge.parity.ledger import compare
from drsn_edge.parity.result import ParityResult
from drsn_edge.parity.tolerances import derive
from drsn_edge.pipeline.data import ModelData
from drsn_edge.pipeline.hops import calibration_hop, measure_hops
from drsn_edge.pipeline.sweep import SweepOptions, sweep
from drsn_edge.pipeline.variants import Variant, Variants, open_variants
from drsn_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner
from drsn_edge.runtime.runner import Runner, run_batched
from drsn_edge.signals.noise import add_noise, noise_rng

Array = NDArray[Any]
FORMS = ("fp32", "fp16", "int8")
_LEVELS: tuple[float | None, ...] = (None, -4.0, 0.0, 4.0)


@dataclass(frozen=True)
class Row:
    """One fault and what the gates said of it.

    Attributes:
        when: `after` export, judged against what was recorded, or `before` it.
        network, kind, form, place: What was damaged where.
        change: Largest change of a logit (after) or share of decisions that changed (before).
        noise: What that is held against.
        caught: Whether the gate failed.
        right_hop: Whether the first hop that failed leads to the damaged form.
        right_unit: Whether the unit named is the damaged one; None where nothing names a unit.
        gates: What each of the three gates said.
        said: What the gate said first.
    """

    when: str
    network: str
    kind: str
    form: str
    place: str
    change: float
    noise: float
    caught: bool
    right_hop: bool
    right_unit: bool | None
    gates: dict[str, bool] = field(default_factory=dict)
    said: str = ""

    @property
    def counts(self) -> bool:
        """Whether the fault is one: it changes more than noise does."""
        return not self.change <= self.noise

    def to_json(self) -> dict[str, Any]:
        change = self.change if np.isfinite(self.change) else None
        return {**vars(self), "change": change, "counts": self.counts}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Row:
        change = float("inf") if value["change"] is None else value["change"]
        return cls(**{key: item for key, item in value.items() if key != "counts"} | {"change": change})


class Damaged(Bundle):
    """A bundle with other content in some files; what is not damaged is read once."""

    def __init__(self, base: Bundle, changed: dict[str, bytes], cache: dict[str, bytes]) -> None:
        super().__init__(base.path, base.manifest, base.digest)
        self.changed, self.cache = changed, cache

    def read(self, name: str) -> bytes:
        if name in self.changed:
            return self.changed[name]
        if name not in self.cache:
            self.cache[name] = super().read(name)
        return self.cache[name]


class Recorded(Variant):
    """An undamaged form: it gives again what it gave, to the bit, so it need not run."""

    def logits(self, windows: NDArray[np.float32], *, batch: int = 64, workers: int | None = None) -> Array:
        del batch, workers
        golden: Golden = self.runner.golden  # type: ignore[union-attr]
        assert windows.shape == golden.windows.shape
        return golden.logits[self.name]


class Replay(Runner):
    """Stands where a runner would."""

    name = "onnxruntime"

    def __init__(self, golden: Golden) -> None:
        super().__init__()
        self.golden = golden

    def _activate(self) -> None: ...

    def _deactivate(self) -> None: ...

    def _infer(self, feeds: Any) -> dict[str, Array]:
        del feeds
        raise AssertionError("a recorded form is not run")


class Fed(Runner):
    """A graph that is fed something else than the window: an engine behind a faulty driver."""

    name = "onnxruntime"

    def __init__(self, runner: Runner, feed: Callable[[Array], Array]) -> None:
        super().__init__(inputs=runner.inputs, outputs=runner.outputs)
        self.inner, self.feed = runner, feed
        self._active = True

    def _activate(self) -> None: ...

    def _deactivate(self) -> None: ...

    def _infer(self, feeds: Any) -> dict[str, Array]:
        return self.inner.run({name: np.ascontiguousarray(self.feed(value)) for name, value in feeds.items()})


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
        self.accuracy = {form: self._accuracy(self.base.read(graph_name(form))) for form in FORMS}
        with TorchRunner(self.network) as torch:
            self.accuracy["pytorch"] = self._right(run_batched(torch, self.test.x)["logits"])

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

    def _right(self, logits: Array) -> float:
        return float(np.mean(logits.argmax(axis=1) == self.test.y))

    def _accuracy(self, data: bytes) -> float:
        with OnnxRuntimeRunner(emulated(data)) as runner:
            return self._right(run_batched(runner, self.test.x)["logits"])

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


def reopen(data: bytes) -> CanonicalGraph:
    """The canonical graph of a bundle's FP32 file."""
    model = parse(data)
    return CanonicalGraph(model, find_units(model))


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
    files, place = {}, None
    for probe in (False, True):
        rng = np.random.default_rng(seed)
        unit = units[int(rng.integers(len(units)))]
        name = graph_name(form, probe=probe)
        graph = Graph(bench.base.read(name))
        place = fault(graph, Context(unit, rng, variances))
        if place is None:
            return None
        files[name] = graph.bytes()
    assert place is not None
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
            accuracy = bench._right(run_batched(runner, bench.test.x)["logits"])
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
        accuracy = bench._right(engine.logits(bench.test.x))
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
        accuracy = bench._right(run_batched(torch, bench.test.x)["logits"])
    return bench.row(result, "bit flip in the weights file", "pytorch", "weights", logits, accuracy)


def _decide(bench: Bench, runners: dict[str, Runner]) -> list[DecisionPoint]:
    """Decisions of several forms against PyTorch, from -4 dB to clean."""
    points = []
    shifted = bench.data.shifted("test", draws=10)
    with TorchRunner(bench.network) as torch:
        for level in _LEVELS:
            tally = DecisionTally("pytorch", noise="none" if level is None else "gaussian", snr_db=level, gated=True)
            for draw in range(1 if level is None else 10):
                source = shifted if level is None else bench.test
                x = source.x
                if level is not None:
                    x = add_noise(x, level, "gaussian", noise_rng(3, "benchmark", level, draw))
                logits = {"pytorch": run_batched(torch, x)["logits"]}
                logits |= {name: run_batched(runner, x)["logits"] for name, runner in runners.items()}
                tally.add(source.y, source.cluster, logits)
            points.append(tally.point())
    return points


def before_export(recipe: Recipe, work: Path, *, quick: bool) -> Iterator[Row]:
    """Faults that are in everything that the bundle records of a form."""
    bench = Bench(recipe, work)
    graph = reopen(bench.base.read(graph_name("fp32")))
    sound = Calibration.from_json(bench.bundle.read_json(CALIBRATION))
    rng = np.random.default_rng(recipe.seed)
    kinds: dict[str, tuple[str, str]] = {}
    forms: dict[str, Callable[[], Runner]] = {}
    for epsilon in (1e-2, 1.0) if quick else (1e-3, 1e-2, 0.1, 0.3, 1.0):
        module = wrong_epsilon(bench.source, epsilon)
        kinds[f"eps {epsilon:g}"] = ("wrong BN epsilon", "fp32")
        forms[f"onnx-fp32-eps {epsilon:g}"] = functools.partial(TorchRunner, module)
    wrong: dict[str, Callable[[float], float]] = {
        "windows of a quarter of the size": lambda scale: scale / 4,
        "windows of an eighth of the size": lambda scale: scale / 8,
        "one window ten times as loud": lambda scale: scale * 10,
        "one window thirty times as loud": lambda scale: scale * 30,
        "noise in place of recordings": lambda scale: scale * float(rng.lognormal(0, 1.2)),
    }
    for name, change in wrong.items():
        scales = {layer: float(np.float32(change(scale))) for layer, scale in sound.scales.items()}
        data = quantize(graph, plan=sound.plan, scales=scales, full_range=sound.full_range).to_bytes()
        kinds[name] = ("wrong calibration", "int8")
        forms[f"onnx-int8-{name}"] = functools.partial(OnnxRuntimeRunner, emulated(data))
    for form in ("fp32", "int8"):
        forms[f"onnx-{form}"] = functools.partial(OnnxRuntimeRunner, emulated(bench.base.read(graph_name(form))))
    with contextlib.ExitStack() as stack:
        runners = {name: stack.enter_context(make()) for name, make in forms.items()}
        points = _decide(bench, runners)
        for name, (kind, form) in kinds.items():
            yield _judge_before(bench, points, name, kind, form, runners[f"onnx-{form}-{name}"])


def _judge_before(bench: Bench, points: list[DecisionPoint], name: str, kind: str, form: str, runner: Runner) -> Row:
    variant = f"onnx-{form}-{name}"
    bounds = [point.changed[f"onnx-{form}"].ci95[1] for point in points]
    rates = [point.changed[variant].rate for point in points]
    worst = int(np.argmax([rate - 2 * bound for rate, bound in zip(rates, bounds, strict=True)]))
    logits = run_batched(runner, bench.golden.windows)["logits"]
    accuracy = bench._right(run_batched(runner, bench.test.x)["logits"])
    golden = bench.golden
    single = golden.logits["onnx-fp32"]
    if form == "fp32":
        # What the exporter asserts before it returns.
        caught = bool(derive("export", "fp32").violations(compare(golden.logits["pytorch"], logits)))
    else:
        tolerance = derive("precision", "int8", reference=single)
        caught = bool(tolerance.violations(compare(single, logits)))
    chosen = [_alone(point, variant, f"onnx-{form}") for point in points]
    judged = ParityResult("pytorch", (), tuple(chosen), gate=Gate()).judged()
    caught = caught or not judged.passed
    return Row(
        "before", bench.recipe.name, kind, f"onnx-{form}", name, rates[worst], 2 * bounds[worst],
        caught=caught, right_hop=caught, right_unit=None,
        gates={
            "drsn_edge": caught,
            "accuracy_only": accuracy < bench.accuracy["pytorch"] - 0.01,
            "atol_rtol_1e3": not np.allclose(logits, golden.logits["pytorch"], rtol=1e-3, atol=1e-3),
        },
        said=judged.failures[0].where if judged.failures else "",
    )  # fmt: skip


def _alone(point: DecisionPoint, variant: str, name: str) -> DecisionPoint:
    """A noise level with one variant, under the name that says its precision."""
    return DecisionPoint(
        point.noise, point.snr_db, point.windows, point.draws, point.gated, changed={name: point.changed[variant]}
    )


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
