"""`drsn-edge export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from drsn_edge.cli import options as common
from drsn_edge.cli.ui import session
from drsn_edge.errors import OutOfTolerance, UsageError
from drsn_edge.extras import require

if TYPE_CHECKING:
    from drsn_edge.calibration.plan import PrecisionPlan

EPILOG = """
Examples:

    drsn-edge export runs/cw --out cw.drsn --calibrate cwru:DIR --target sm86
    drsn-edge export runs/cw --out cw.drsn --calibrate cwru:DIR --precision auto
    drsn-edge export mine.pt --config mine.json --out mine.drsn
    drsn-edge export mymodels:make --weights m.pt --config m.json --out m.drsn
    drsn-edge export old.onnx --config mine.toml --out old.drsn --engine none
"""


def _read_plan(path: Path) -> PrecisionPlan:
    """Only where one is given: plans are made of graphs, and need onnx."""
    require("onnx", "onnx_ir", purpose="reading a precision plan")
    from drsn_edge.calibration.plan_file import read_plan

    return read_plan(path)


def command(
    source: Annotated[str, typer.Argument(help="Run folder, FILE.onnx, FILE.pt, or module:Class.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The bundle, NAME.drsn.")],
    calibrate: Annotated[
        str | None,
        typer.Option(metavar="DATASET", help="Its training windows calibrate int8, its test windows verify."),
    ] = None,
    where: common.Where = None,
    load: common.Load = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            is_eager=True,
            callback=common.read_options,
            help="Contract and labels of a network that is no run (TOML or JSON); options too, if TOML.",
        ),
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="State dict of a module:Class.")] = None,
    precision: Annotated[
        str, typer.Option(help="Graphs to make; int8 needs --calibrate. auto: int8 layers within --max-changed.")
    ] = "fp32,fp16,int8",
    max_changed: Annotated[
        float | None, typer.Option(help="For --precision auto: share of decisions that int8 may change, 0.005.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="Precisions of the engines to build, or none; fp16 if a builder is here.")
    ] = None,
    backend: Annotated[str, typer.Option(help="auto, tensorrt or rtx.")] = "auto",
    target: Annotated[
        list[str] | None, typer.Option(help="GPU to build for, as sm86; may be given more than once (RTX only).")
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="Largest batch of the engine.")] = 256,
    opset: Annotated[int, typer.Option(help="17 to 21; 17 is read by every TensorRT from 8.5 on.")] = 17,
    pad_channels: Annotated[
        int | None,
        typer.Option(metavar="N", help="Widen channels to a multiple of N by zeros; 32 for integer kernels."),
    ] = None,
    telemetry: Annotated[bool, typer.Option("--telemetry", help="Thresholds and zeroed shares as outputs.")] = False,
    quantize_first: Annotated[
        bool, typer.Option("--quantize-first", help="The first convolution in int8 too.")
    ] = False,
    calibration_windows: Annotated[int, typer.Option(min=1, help="Windows that calibrate.")] = 512,
    method: Annotated[str, typer.Option(help="auto, min-max, percentile, mse or entropy.")] = "auto",
    rounding: Annotated[
        str | None, typer.Option(help="Of int8 weights: learned from the windows (the default), or nearest.")
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Precision of every layer, an edited plan: JSON, see inspect.")
    ] = None,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write report.html.")] = True,
    seed: Annotated[int, typer.Option(help="Of every draw.")] = 0,
    force: common.Force = False,
    dry_run: common.DryRun = False,
    json: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Make the graphs, the engine if a builder is at hand, the parity check and the report: one bundle."""
    with session(json=json, quiet=quiet, debug=debug) as ui:
        from drsn_edge.bundle import REPORT
        from drsn_edge.pipeline.export import PRECISIONS, ExportOptions, check_export, export

        auto = precision == "auto"
        if max_changed is not None and not auto:
            raise UsageError(
                "a budget of changed decisions is for a plan that may change", got=f"--precision {precision}",
                expected="--precision auto with --max-changed",
            )  # fmt: skip
        if auto and calibrate is None:
            raise UsageError(
                "a plan within a budget needs calibration data", got="--precision auto without --calibrate",
                expected="--calibrate DATASET",
            )  # fmt: skip
        options = ExportOptions(
            precisions=PRECISIONS if auto else common.parse_list(precision, what="precision"),
            opset=opset,
            pad_channels=pad_channels,
            telemetry=telemetry,
            quantize_first=quantize_first,
            method=method,
            rounding=rounding,
            plan=None if plan is None else _read_plan(plan),
            max_changed=(0.005 if max_changed is None else max_changed) if auto else None,
            calibration_windows=calibration_windows,
            engines=None if engine is None else common.parse_list(engine, what="engine precision"),
            backend=backend,
            targets=tuple(target or ()),
            max_batch=max_batch,
            report=report,
            seed=seed,
        )
        job: dict[str, Any] = {
            "out": out,
            "calibrate": calibrate,
            "where": common.parse_where(where, load),
            "config": common.network_file(config),
            "weights": weights,
            "options": options,
            "force": force,
        }
        from drsn_edge.cli.tables import export_table, plan_table

        if dry_run:
            found = check_export(source, **job)
            ui.show(found, lambda console: plan_table(console, found))
            return
        result = export(source, **job, progress=ui.progress)
        ui.notices(result.notes)
        ui.show(result.to_json(), lambda console: export_table(console, result))
        if not result.parity.passed:
            data = f" --data {calibrate}" if calibrate else ""
            raise OutOfTolerance(
                f"{out} was written, but is out of tolerance: {len(result.parity.failures)} failed",
                got=str(result.parity.failures[0].where),
                expected="every variant within its tolerance",
                hint=f"drsn-edge verify {out}{data}" + (f", or see {out / REPORT}" if options.report else ""),
            )
