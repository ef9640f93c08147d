"""How a network is exported, and what can be refused before any of it is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from drsn_edge.errors import MissingError, UsageError
from drsn_edge.pipeline.build_plan import PlannedEngine, plan_build

if TYPE_CHECKING:
    from drsn_edge.calibration.plan import PrecisionPlan

PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class ExportOptions:
    """How a network is exported.

    Attributes:
        precisions: Graphs to make; fp32 always is.
        opset: 17 to 21.
        pad_channels: Widen channels to a multiple of so many, with zeros; None leaves them.
        telemetry: Thresholds and zeroed shares as outputs of every graph.
        quantize_first: The first convolution in int8 too.
        method: Range method of the calibration, `auto` tries all on held-out windows.
        rounding: Of int8 weights, `learned` or `nearest`; None: learned, or what the run was trained with.
        plan: A precision plan in place of the default one, as `read_plan` reads it.
        max_changed: Layers leave int8 until at most this share of held-out decisions changes; None keeps the plan.
        calibration_windows: How many calibrate; as many others judge the range methods.
        engines: Precisions of the engines to build; empty for none. None: fp16, where such a graph is made.
        backend: `auto`, `tensorrt` or `rtx`.
        targets: GPUs to build for, as `sm86`.
        max_batch: Of the engines.
        report: Write report.html.
        seed: Of every draw.
    """

    precisions: tuple[str, ...] = PRECISIONS
    opset: int = 17
    pad_channels: int | None = None
    telemetry: bool = False
    quantize_first: bool = False
    method: str = "auto"
    rounding: str | None = None
    plan: PrecisionPlan | None = None
    max_changed: float | None = None
    calibration_windows: int = 512
    engines: tuple[str, ...] | None = None
    backend: str = "auto"
    targets: tuple[str, ...] = ()
    max_batch: int = 256
    report: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name, values in (("precision", self.precisions), ("engine precision", self.engines or ())):
            unknown = [value for value in values if value not in PRECISIONS]
            if unknown:
                raise UsageError(f"unknown {name}", got=unknown[0], expected=", ".join(PRECISIONS))
        if self.max_changed is not None and not 0 < self.max_changed < 1:
            raise UsageError(
                "the budget of changed decisions cannot be used", got=self.max_changed, expected="between 0 and 1"
            )
        idle = [value for value in self.engines or () if value not in self.graphs]
        if idle:
            raise UsageError(
                "an engine is asked for without its graph",
                got=f"engine {idle[0]}, graphs {', '.join(self.graphs)}",
                expected=f"{idle[0]} among the precisions, or no such engine",
            )

    @property
    def graphs(self) -> tuple[str, ...]:
        """Graphs that are asked for, in order; fp32 is always among them."""
        return tuple(name for name in PRECISIONS if name == "fp32" or name in self.precisions)

    @property
    def wanted_engines(self) -> tuple[str, ...]:
        """Engines that are asked for."""
        if self.engines is not None:
            return self.engines
        return ("fp16",) if "fp16" in self.precisions else ()

    @property
    def names_a_builder(self) -> bool:
        """Whether engines are asked for in so many words: then a builder that is not here is an error."""
        return bool(self.targets) or self.backend != "auto" or bool(self.engines)


def check_options(options: ExportOptions, *, calibrate: str | None, trained: bool = False) -> None:
    """Refuse what would otherwise be refused after minutes of work.

    Args:
        options: How.
        calibrate: Name of the calibration data; None for none.
        trained: The network was trained to be quantized, and has plan and scales of its own.

    Raises:
        UsageError: Options that do not fit together, or that no tool here has.
        MissingError: The builder that was named is not here.
    """
    # int8 among the default's three is left out with a note; int8 by name is not.
    named = "int8" in options.precisions and options.precisions != PRECISIONS
    asked = _int8_choices(options)
    if trained and asked:
        raise UsageError(
            "the run was trained with plan and scales of its own", got=asked[0],
            expected=f"none of {', '.join(_CHOICES)}; its weights are rounded to nearest, as they were in training",
            hint="train --qat again with another plan, or export the run that it began with",
        )  # fmt: skip
    if calibrate is None and not trained and (named or "int8" in options.wanted_engines):
        raise UsageError(
            "int8 needs calibration data",
            got="no --calibrate",
            expected="--calibrate DATASET, recordings of the kind that the network was trained on",
            hint="random data would damage every scale without an error; there is no default",
        )
    from drsn_edge.calibration.calibrate import CalibrationOptions
    from drsn_edge.exporters.canonical import CanonicalOptions
    from drsn_edge.exporters.padding import check_multiple

    CanonicalOptions(opset=options.opset)
    if options.pad_channels is not None:
        check_multiple(options.pad_channels)
    CalibrationOptions(
        method=options.method, quantize_first=options.quantize_first, rounding=options.rounding or "learned"
    )
    if options.calibration_windows < 1:
        raise UsageError("nothing would calibrate", got=options.calibration_windows, expected="at least 1 window")
    if not trained and asked and ("int8" not in options.precisions or calibrate is None):
        raise UsageError(
            "an option of the int8 graph is given, and no such graph would be made",
            got=f"{asked[0]} without {'int8' if 'int8' not in options.precisions else '--calibrate'}",
            expected=f"int8 among the precisions and --calibrate DATASET, or no {asked[0].split()[0]}",
        )  # fmt: skip
    planned_engines(options)


_CHOICES = ("--plan", "--precision auto", "--quantize-first", "--method", "--rounding learned", "--calibration-windows")


def _int8_choices(options: ExportOptions) -> list[str]:
    """What was chosen of the int8 graph, as the command line names it; nearest rounding is what every run can have."""
    usual = ExportOptions()
    chosen = {
        "--plan": options.plan is not None,
        f"--precision auto --max-changed {options.max_changed}": options.max_changed is not None,
        "--quantize-first": options.quantize_first,
        f"--method {options.method}": options.method != usual.method,
        f"--rounding {options.rounding}": options.rounding not in (None, "nearest"),
        # The range of thresholds that telemetry watches is measured on as many.
        f"--calibration-windows {options.calibration_windows}": options.calibration_windows
        != usual.calibration_windows and not options.telemetry,
    }  # fmt: skip
    return [name for name, given in chosen.items() if given]


def planned_engines(options: ExportOptions) -> tuple[PlannedEngine, ...]:
    """The engines that are going to be built; none where no builder is here and none was named.

    Raises:
        UsageError: A builder or a target that does not exist.
        MissingError: The builder that was named is not here.
    """
    if not options.wanted_engines:
        return ()
    try:
        return plan_build(
            options.wanted_engines, backend=options.backend, targets=tuple(options.targets), max_batch=options.max_batch
        )
    except MissingError:
        if options.names_a_builder:
            raise
        return ()
