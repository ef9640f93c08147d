"""The range of thresholds that training windows have: what `run` compares with on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from drsn_edge.calibration.windows import choose
from drsn_edge.exporters.canonical import CanonicalGraph
from drsn_edge.exporters.precision import with_telemetry
from drsn_edge.pipeline.data import ModelData
from drsn_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner
from drsn_edge.runtime.runner import run_batched
from drsn_edge.signals.noise import Noise
from drsn_edge.stream.drift import TelemetryRange

if TYPE_CHECKING:
    from drsn_edge.pipeline.export_options import ExportOptions


def telemetry_range(
    graph: bytes,
    canonical: CanonicalGraph,
    data: ModelData | None,
    noises: tuple[Noise, ...],
    snr: tuple[float, float] | None,
    options: ExportOptions,
    notes: list[str],
) -> dict[str, Any] | None:
    """Run training windows, clean up to the lowest trained SNR, and note the range of each unit's figures.

    Args:
        graph: The FP32 graph, without telemetry yet.
        canonical: For the names of the units.
        data: Its training part.
        noises: Of the training.
        snr: Of the training.
        options: Whether at all, how many windows, and the seed.
        notes: Told why there is none although one was asked for.

    Returns:
        For the manifest; None where nothing was asked for or no training windows are known.
    """
    if not options.telemetry:
        return None
    if data is None:
        notes.append("no range of thresholds to watch on the device: it needs --calibrate DATASET")
        return None
    chosen = choose(
        data.windows("train", overlap=True), count=options.calibration_windows, noises=noises, snr_db=snr,
        seed=options.seed, stream="telemetry",
    )  # fmt: skip
    with OnnxRuntimeRunner(with_telemetry(graph)) as runner:
        found = run_batched(runner, chosen.windows.x)
    return TelemetryRange.measured(found, tuple(unit.name for unit in canonical.units), snr).to_json()
