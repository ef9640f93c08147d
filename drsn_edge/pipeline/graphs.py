"""The graphs of every precision, checked against the network, with calibration and golden vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge._version import __version__
from drsn_edge.bundle import CALIBRATION, GOLDEN, SPLIT, WEIGHTS, NewFile, graph_name
from drsn_edge.calibration.calibrate import CalibrationOptions, calibrate, tool_versions
from drsn_edge.calibration.contract import Calibration
from drsn_edge.calibration.half_range import HalfRanges, half_ranges, refuse_overflow
from drsn_edge.calibration.quantize import quantize_as
from drsn_edge.calibration.sensitivity import reduce_plan
from drsn_edge.calibration.windows import apart, choose
from drsn_edge.errors import OutOfTolerance
from drsn_edge.exporters.canonical import CanonicalGraph, CanonicalOptions, canonicalise, parse
from drsn_edge.exporters.diagnose import diagnose
from drsn_edge.exporters.padding import pad_channels
from drsn_edge.exporters.precision import to_half, with_probes, with_telemetry
from drsn_edge.files import dump_json, sha256_bytes
from drsn_edge.golden import Golden
from drsn_edge.parity.gate import Gate
from drsn_edge.parity.ledger import compare
from drsn_edge.parity.tolerances import derive
from drsn_edge.pipeline.data import ModelData
from drsn_edge.pipeline.golden import choose_golden, record_golden, reference_windows
from drsn_edge.pipeline.sources import Source
from drsn_edge.pipeline.telemetry import telemetry_range
from drsn_edge.progress import SILENT, Progress
from drsn_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner
from drsn_edge.runtime.runner import run_batched
from drsn_edge.signals.noise import COLOURS, Noise

if TYPE_CHECKING:
    from drsn_edge.pipeline.export import ExportOptions

Array = NDArray[Any]
# Beside the golden windows, which are the hard ones.
_RANGE_WINDOWS = 160
# Windows that a budget of changed decisions is held on, for each that calibrates.
_BUDGET_DRAWS = 4


@dataclass(frozen=True, eq=False)
class Graphs:
    """Files of a bundle and its manifest, before engines and report.

    Attributes:
        files: By name.
        manifest: Without `files`.
        plan: Rows of the precision plan; empty without int8.
        notes: What the user should know.
    """

    files: Mapping[str, NewFile]
    manifest: dict[str, Any]
    plan: tuple[Mapping[str, str], ...]
    notes: tuple[str, ...]


def make_graphs(
    source: Source,
    data: ModelData | None,
    *,
    options: ExportOptions,
    progress: Progress = SILENT,
) -> Graphs:
    """Make and check everything that needs no builder.

    Raises:
        OutOfTolerance: The canonical graph does not equal the network.
        InputError: The network or the data cannot be used.
    """
    notes: list[str] = []
    with progress.step("canonical graph") as step:
        graph, reference = _canonical(source, options)
        if options.pad_channels is not None:
            graph = pad_channels(graph, multiple=options.pad_channels)
        shrinks = source.config is None or str(source.config["model"]).startswith("drsn")
        notes += [*graph.notes, *diagnose(graph, shrinks=shrinks, traced=source.onnx is None)]
        step.advance()
    pool, real = reference_windows(data, source, seed=options.seed)
    trained, snr = _trained_noise(source)
    noises = tuple(kind for kind in trained if kind in (*COLOURS, *pool.source.kinds))
    if noises != trained:
        missing = ", ".join(kind for kind in trained if kind not in noises)
        notes.append(f"trained in noise that these data cannot have, calibrated and judged without it: {missing}")
    windows, y, snr_db = choose_golden(
        pool,
        reference["fp32"],
        noises=noises or ("gaussian",),
        seed=options.seed,
        contract=source.contract,
    )
    fp32 = graph.to_bytes()
    _ensure_equal(fp32, reference["fp32"](windows), windows)
    plain: dict[str, bytes] = {"fp32": fp32}
    ranges = _half(graph, plain, np.concatenate([windows, pool.x[:_RANGE_WINDOWS]]), options, real=real)
    notes += () if ranges is None else ranges.notes
    weights_sha256 = sha256_bytes(source.weights if source.weights is not None else fp32)
    files: dict[str, NewFile] = {}
    plan: tuple[Mapping[str, str], ...] = ()
    calibration: dict[str, Any] | None = None
    if "int8" in options.precisions and data is None and source.qat is None:
        notes.append(
            "no int8 graph: it needs --calibrate DATASET, recordings of the kind that the network was trained on"
        )
    elif "int8" in options.precisions:
        found = _scales(source, graph, data, weights_sha256, noises, snr, options, progress)
        calibration = found.to_json()
        plan = tuple(found.plan.to_json())
        plain["int8"] = quantize_as(graph, found, glue="fp16").to_bytes()
        plain["int8-fp32"] = quantize_as(graph, found, glue="fp32").to_bytes()
        notes.append(
            f"{found.plan.summary}, ranges by {found.method} from {found.windows} windows, {found.rounding} rounding"
        )
        files[CALIBRATION] = NewFile(dump_json(calibration).encode(), "calibration")
    for name, content in plain.items():
        files[graph_name(name)] = NewFile(with_telemetry(content) if options.telemetry else content, "graph")
        if graph.units:
            files[graph_name(name, probe=True)] = NewFile(with_probes(content), "probe")
    with progress.step("golden vectors") as step:
        golden, errors = record_golden(
            source, graph, plain, reference, windows, y if real else np.full_like(y, -1), snr_db
        )
        step.advance()
    files[GOLDEN] = NewFile(golden.to_bytes(), "golden")
    if source.weights is not None:
        files[WEIGHTS] = NewFile(source.weights, "weights")
    if source.split is not None:
        files[SPLIT] = NewFile(dump_json(source.split.to_json()).encode(), "split")
    manifest = _manifest(source, graph, weights_sha256, calibration, golden, errors, snr, ranges, options.pad_channels)
    manifest["model"]["telemetry"] = telemetry_range(fp32, graph, data, noises, snr, options, notes)
    return Graphs(files, manifest, plan, tuple(notes))


def _half(
    graph: CanonicalGraph, plain: dict[str, bytes], windows: NDArray[np.float32], options: ExportOptions, *, real: bool
) -> HalfRanges | None:
    """Add the FP16 graph, if it is wanted, and look at what FP16 does to the network's values.

    Raises:
        InputError: One overflows on real windows.
    """
    if not {"fp16", "int8"} & {*options.precisions}:  # what lies between the integers of int8 is FP16, too
        return None
    half = to_half(graph)
    if "fp16" in options.precisions:
        plain["fp16"] = half.to_bytes()
    ranges = half_ranges(graph, half, windows)
    # Without recordings nobody knows what will come in, and nothing is refused: a note says it.
    if real:
        refuse_overflow(ranges)
    return ranges


def _scales(
    source: Source,
    graph: CanonicalGraph,
    data: ModelData | None,
    weights_sha256: str,
    noises: tuple[Noise, ...],
    snr: tuple[float, float] | None,
    options: ExportOptions,
    progress: Progress,
) -> Calibration:
    """Plan and scales: of the training where there are such, else by calibration."""
    if source.qat is not None:
        trained = Calibration.from_json(source.qat)
        trained.check(weights=weights_sha256, contract=source.contract.to_json())
        return trained
    if data is None:
        raise TypeError("int8 without data was left out before")
    pool = data.windows("train", overlap=True)
    # Of recordings that trained nothing, as far as anybody knows, all parts are the same windows.
    training, judging = (pool, data.windows("validation", overlap=True)) if data.trained else apart(pool)
    count = options.calibration_windows
    # The range methods are judged a little beyond the lowest SNR that was trained too: there decisions are close.
    # Judged there alone they would clip too much, and change decisions of clean windows.
    hard = None if snr is None else (snr[0] - 4, snr[1])
    found = calibrate(
        graph,
        choose(training, count=count, noises=noises, snr_db=snr, seed=options.seed),
        choose(judging, count=count, noises=noises, snr_db=hard, seed=options.seed, stream="held-out"),
        contract=source.contract,
        weights_sha256=weights_sha256,
        network=source.module,
        options=CalibrationOptions(
            method=options.method,
            quantize_first=options.quantize_first,
            plan=options.plan,
            rounding=options.rounding or "learned",
        ),
        progress=progress,
    )
    if options.max_changed is None:
        return found
    # The budget holds over what was trained, as the default gate does; more draws than judge the range methods, because
    # a share of half a per cent is counted in single windows.
    draws = choose(judging, count=_BUDGET_DRAWS * count, noises=noises, snr_db=snr, seed=options.seed, stream="budget")
    return reduce_plan(graph, found, draws.windows.x, max_changed=options.max_changed, progress=progress).calibration


def _canonical(
    source: Source, options: ExportOptions
) -> tuple[CanonicalGraph, dict[str, Callable[[NDArray[np.float32]], Array]]]:
    """The graph, and the reference in FP32 and, as the noise floor, in FP64."""
    settings = CanonicalOptions(opset=options.opset)
    if source.onnx is not None:
        original = source.onnx
        graph = canonicalise(parse(original), contract=source.contract, labels=source.labels, options=settings)

        def run(x: NDArray[np.float32]) -> Array:
            return _foreign_logits(original, x)

        return graph, {"fp32": run, "fp64": run}
    import torch

    from drsn_edge.exporters.torch_graph import export_network

    graph = export_network(source.module, contract=source.contract, labels=source.labels, options=settings)

    def torch_logits(kind: torch.dtype) -> Callable[[NDArray[np.float32]], Array]:
        import copy

        module = copy.deepcopy(source.module).to("cpu", kind).eval()

        def run(x: NDArray[np.float32]) -> Array:
            with torch.inference_mode():
                pieces = [module(torch.from_numpy(x[i : i + 64]).to(kind)).numpy() for i in range(0, len(x), 64)]
            return np.concatenate(pieces)

        return run

    return graph, {"fp32": torch_logits(torch.float32), "fp64": torch_logits(torch.float64)}


def _foreign_logits(data: bytes, x: NDArray[np.float32]) -> Array:
    with OnnxRuntimeRunner(data) as runner:
        (output,), (window,) = runner.outputs, runner.inputs.values()
        size = window.shape[0]
        if not isinstance(size, int):
            return run_batched(runner, x)[output]
        # A file for one batch size: the last piece is filled up.
        full = np.concatenate([x, np.repeat(x[-1:], -len(x) % size, axis=0)])
        return run_batched(runner, full, batch=size)[output][: len(x)]


def _ensure_equal(data: bytes, wanted: Array, windows: NDArray[np.float32]) -> None:
    """The exporter's promise: the graph decides as the network and differs by FP32 rounding only."""
    with OnnxRuntimeRunner(data) as runner:
        found = run_batched(runner, windows)["logits"]
    error, tolerance = compare(wanted, found), derive("export", "fp32", samples=windows[0, 0].size)
    broken = tolerance.violations(error)
    if broken:
        raise OutOfTolerance(
            "the exported graph does not equal the network",
            got=", ".join(f"{item.figure} {item.value:.3g}" for item in broken),
            expected=", ".join(f"{item.figure} {item.limit:.3g}" for item in broken),
            hint="this is a defect of the exporter: please report the network",
        )


def _manifest(
    source: Source,
    graph: CanonicalGraph,
    weights_sha256: str,
    calibration: dict[str, Any] | None,
    golden: Golden,
    errors: Mapping[str, Any],
    snr: tuple[float, float] | None,
    ranges: HalfRanges | None,
    padded: int | None,
) -> dict[str, Any]:
    gate = Gate().for_trained(None if snr is None else snr[0])
    noise_floor = compare(golden.logits["pytorch-fp64"], golden.logits["pytorch"])
    return {
        "drsn_edge": __version__,
        "model": {
            "source": source.name,
            "network": source.config,
            "units": [unit.name for unit in graph.units],
            "weights_sha256": weights_sha256,
            "temperature": 1.0 if source.training is None else source.training["temperature"],
            "padded_channels": padded,
            "fp16_ranges": None if ranges is None else ranges.to_json(),
        },
        "contract": source.contract.to_json(),
        "labels": list(source.labels),
        "tolerances": {"gate": gate.to_json(), "noise_floor_max_abs": noise_floor.max_abs, **errors},
        "provenance": {
            "training": source.training,
            "calibration": None
            if calibration is None
            else {"method": calibration["method"], "windows": calibration["windows"], "trials": calibration["trials"]},
            "tools": tool_versions(),
        },
    }


def _trained_noise(source: Source) -> tuple[tuple[Noise, ...], tuple[float, float] | None]:
    if source.training is None or not source.training["noises"] or source.training["snr_db"] is None:
        return (), None
    low, high = source.training["snr_db"]
    return tuple(source.training["noises"]), (float(low), float(high))
