"""`export`: from a network to a bundle that has been checked, in one go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drsn_edge.bundle import Bundle, check_bundle_output, fill_folder
from drsn_edge.errors import MissingError
from drsn_edge.extras import require
from drsn_edge.files import new_folder
from drsn_edge.parity.result import ParityResult
from drsn_edge.pipeline.build import BuildResult, EngineRecord, build
from drsn_edge.pipeline.data import ModelData, open_data
from drsn_edge.pipeline.export_options import PRECISIONS, ExportOptions, check_options, planned_engines
from drsn_edge.pipeline.sources import Source, load_source
from drsn_edge.pipeline.sweep import SweepOptions
from drsn_edge.pipeline.verify import verify
from drsn_edge.progress import SILENT, Progress

__all__ = ["PRECISIONS", "ExportOptions", "ExportResult", "check_export", "export"]


@dataclass(frozen=True, eq=False)
class ExportResult:
    """What `export` made.

    Attributes:
        bundle: The finished bundle.
        parity: What `verify` said of it; the bundle is kept when it failed, and says so.
        engines: Built.
        plan: Rows of the precision plan; empty without int8.
        notes: What the user should know.
    """

    bundle: Bundle
    parity: ParityResult
    engines: tuple[EngineRecord, ...]
    plan: tuple[Mapping[str, str], ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "format_version": 1,
            "bundle": str(self.bundle.path),
            "digest": self.bundle.digest,
            "passed": self.parity.passed,
            "files": self.bundle.manifest["files"],
            "engines": [{"key": engine.key, "info": engine.info} for engine in self.engines],
            "plan": [dict(row) for row in self.plan],
            "parity": self.parity.to_json(),
            "notes": list(self.notes),
        }


def export(
    source: str | Path,
    *,
    out: Path,
    calibrate: str | None = None,
    where: Mapping[str, str] | None = None,
    config: Path | None = None,
    weights: Path | None = None,
    options: ExportOptions | None = None,
    sweep: SweepOptions | None = None,
    force: bool = False,
    progress: Progress = SILENT,
) -> ExportResult:
    """Make the graphs, the engine if a builder is at hand, the parity check and the report, and bundle them.

    Args:
        source: A run folder, `FILE.onnx`, `FILE.pt`, or `module:Class`.
        out: The bundle, `NAME.drsn`.
        calibrate: A data set by name: its training windows calibrate int8, its test windows are verified on. Without
            one there is no int8 graph (but of a network that was trained to be quantized, which has its scales), and
            golden windows are made from noise.
        where: Group values that recordings are chosen by.
        config: Contract and labels of a foreign network.
        weights: State dict of a `module:Class`.
        options: How.
        sweep: Of the parity check.
        force: Replace an existing bundle.
        progress: Where steps go.

    Raises:
        UsageError: Options that do not fit together, or an output that exists.
        InputError: A file or data that cannot be used.
        OutOfTolerance: The graph does not equal the network.
        MissingDependency: torch, onnx or onnxruntime is not installed.
    """
    options = options or ExportOptions()
    loaded, data = _prepare(source, out, calibrate, where, config, weights, options, force=force)
    # Imported late: this module is the public function, and `drsn_edge.export` must not load onnx before it is called.
    from drsn_edge.pipeline.graphs import make_graphs

    made = make_graphs(loaded, data, options=options, progress=progress)
    notes = [*made.notes, *(data.notes if data is not None else ())]
    with new_folder(out, force=force) as work:
        bundle = fill_folder(work, made.manifest | {"name": out.name.removesuffix(".drsn")}, made.files)
        engines, bundle = _engines(bundle, options, notes, progress)
        classes = data is not None and bool(data.dataset.labels)
        if data is not None and not classes:
            notes.append(
                "the recordings that calibrated have no classes: decisions over noise were not judged; "
                "verify --data DATASET does it with recordings that have some"
            )
        parity = verify(
            bundle, data=calibrate if classes else None, where=where if classes else None, options=sweep,
            progress=progress,
        )  # fmt: skip
        if options.report:
            from drsn_edge.pipeline.reporting import add_report

            bundle = add_report(bundle, parity, title=out.name, notes=notes)
    return ExportResult(Bundle.open(out), parity, engines, made.plan, tuple(dict.fromkeys([*notes, *parity.notes])))


def check_export(
    source: str | Path,
    *,
    out: Path,
    calibrate: str | None = None,
    where: Mapping[str, str] | None = None,
    config: Path | None = None,
    weights: Path | None = None,
    options: ExportOptions | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Everything that `export` checks before it starts, and what it would make; writes nothing.

    Arguments and errors as for `export`.
    """
    options = options or ExportOptions()
    loaded, data = _prepare(source, out, calibrate, where, config, weights, options, force=force)
    training = None if data is None else data.windows("train", overlap=True)
    return {
        "format_version": 1,
        "bundle": str(out),
        "network": loaded.config,
        "contract": loaded.contract.to_json(),
        "labels": list(loaded.labels),
        "graphs": [name for name in options.graphs if name != "int8" or data is not None or loaded.qat is not None],
        "engines": [engine.summary for engine in planned_engines(options)],
        "calibration_windows": 0 if training is None else min(options.calibration_windows, len(training)),
    }


def _prepare(
    source: str | Path,
    out: Path,
    calibrate: str | None,
    where: Mapping[str, str] | None,
    config: Path | None,
    weights: Path | None,
    options: ExportOptions,
    *,
    force: bool,
) -> tuple[Source, ModelData | None]:
    check_bundle_output(out, force=force)
    require("onnx", "onnx_ir", "onnxscript", purpose="exporting")
    require("onnxruntime", purpose="exporting", extra="host")
    loaded = load_source(str(source), config=config, weights=weights)
    check_options(options, calibrate=calibrate, trained=loaded.qat is not None)
    if calibrate is None:
        return loaded, None
    data = open_data(
        calibrate, contract=loaded.contract, labels=loaded.labels, training=loaded.training, split=loaded.split,
        where=where, unlabelled=True,
    )  # fmt: skip
    return loaded, data


def _engines(
    bundle: Bundle, options: ExportOptions, notes: list[str], progress: Progress
) -> tuple[tuple[EngineRecord, ...], Bundle]:
    """Build what was asked; a builder that is not here is a notice, unless an engine was asked for by name."""
    if not options.wanted_engines:
        return (), bundle
    try:
        result: BuildResult = build(
            bundle,
            precisions=options.wanted_engines,
            backend=options.backend,
            targets=options.targets,
            max_batch=options.max_batch,
            progress=progress,
        )
    except MissingError as error:
        if options.names_a_builder:
            raise
        notes.append(f"no engine was built: {error.what}, got: {error.got}; {error.hint}")
        return (), bundle
    return result.engines, Bundle.open(bundle.path)
