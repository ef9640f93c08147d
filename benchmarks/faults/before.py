"""Faults before export: whatever the bundle records of a form, it records with the fault."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.faults.bench import Bench
from benchmarks.faults.bundles import Recipe, wrong_epsilon
from benchmarks.faults.row import Row
from drsn_edge.bundle import CALIBRATION, graph_name
from drsn_edge.calibration.contract import Calibration
from drsn_edge.calibration.quantize import quantize
from drsn_edge.exporters.canonical import CanonicalGraph, parse
from drsn_edge.exporters.precision import emulated
from drsn_edge.exporters.units import find_units
from drsn_edge.model.runner import TorchRunner
from drsn_edge.parity.decision_point import DecisionPoint
from drsn_edge.parity.decisions import DecisionTally
from drsn_edge.parity.gate import Gate
from drsn_edge.parity.ledger import compare
from drsn_edge.parity.result import ParityResult
from drsn_edge.parity.tolerances import derive
from drsn_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner
from drsn_edge.runtime.runner import Runner, run_batched
from drsn_edge.signals.noise import add_noise, noise_rng

_LEVELS: tuple[float | None, ...] = (None, -4.0, 0.0, 4.0)


def reopen(data: bytes) -> CanonicalGraph:
    """The canonical graph of a bundle's FP32 file."""
    model = parse(data)
    return CanonicalGraph(model, find_units(model))


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
    accuracy = bench.right(run_batched(runner, bench.test.x)["logits"])
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
