"""What a build is going to make, checked before anything is built: options, graph, builder, and what is at hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from drsn_edge.bundle import CALIBRATION, Bundle
from drsn_edge.errors import UsageError
from drsn_edge.exporters.trt_engine import (
    EngineOptions,
    builder_choice,
    check_targets,
    load_builder,
    wanted_graph,
)
from drsn_edge.runtime import driver
from drsn_edge.runtime.onnx_file import refuse_external_data


@dataclass(frozen=True)
class PlannedEngine:
    """One engine that is going to be built: how, from which of the bundle's graphs."""

    options: EngineOptions
    graph: str
    version: str

    @property
    def summary(self) -> str:
        """One line for people."""
        targets = ", ".join(self.options.targets) or "every GPU that it knows"
        if self.options.backend == "tensorrt":
            targets = "the GPU of this machine"
        return f"{self.options.precision} from {self.graph} with {self.options.backend} {self.version} for {targets}"

    @property
    def timing_cache(self) -> str | None:
        """Where in a bundle the builder's measurements for this GPU and version are; None where it keeps none."""
        device = driver.probe_device().device
        if self.options.backend == "rtx" or device is None:
            return None
        return f"engines/timing-{self.version}-{device.sm}.cache"


def plan_build(
    precisions: Sequence[str], *, backend: str = "auto", opt_batch: int = 16, max_batch: int = 256, **options: Any
) -> tuple[PlannedEngine, ...]:
    """Everything about a build that can be refused without a graph.

    Args:
        precisions: One engine for each.
        backend: `auto`, `tensorrt` or `rtx`.
        opt_batch: The batch that kernels are chosen for; not above `max_batch`.
        max_batch: Largest batch of the profile.
        options: Whatever else `EngineOptions` has.

    Raises:
        UsageError: No precision, an unknown one, or a target that the builder does not have.
        MissingDependency, MissingDevice: No builder here.
    """
    if not precisions:
        raise UsageError("there is no engine to build", got="no precision", expected="fp32, fp16, int8, or several")
    batches = {"opt_batch": min(opt_batch, max_batch), "max_batch": max_batch}
    wanted = [
        EngineOptions(precision=precision, backend=backend, **batches, **options)  # type: ignore[arg-type]  # checked
        for precision in dict.fromkeys(precisions)
    ]
    chosen = builder_choice(backend, targets=wanted[0].targets)
    plan = []
    for item in wanted:
        resolved = dataclasses.replace(item, backend=chosen)
        trt = load_builder(resolved)
        if chosen == "rtx":
            check_targets(trt, resolved.targets)
        plan.append(PlannedEngine(resolved, wanted_graph(resolved, trt=trt), str(trt.__version__)))
    return tuple(plan)


def check_graphs(bundle: Bundle, plan: Sequence[PlannedEngine]) -> None:
    """Refuse what the bundle has no graph for, before the first engine is built.

    Raises:
        UsageError: There is such a precision.
    """
    for item in plan:
        if item.graph not in bundle.files:
            raise UsageError(
                f"the bundle holds no {item.options.precision} graph",
                got=f"{item.options.precision}, which needs {item.graph}",
                expected=", ".join(bundle.precisions),
                hint="export again with --calibrate DATASET" if item.options.precision == "int8" else "export again",
            )


def read_graph(bundle: Bundle, item: PlannedEngine) -> bytes:
    """The graph of an engine, whole in itself.

    Raises:
        InputError, HashMismatch: It keeps weights in other files, or is not the one that the manifest lists.
    """
    data = bundle.read(item.graph)
    refuse_external_data(data, what=item.graph)
    return data


def expected_precisions(bundle: Bundle, precision: str) -> dict[str, Any] | None:
    """Precision per convolution, which the layers of the engine are held against."""
    if precision != "int8" or CALIBRATION not in bundle.files:
        return None
    rows = bundle.read_json(CALIBRATION)["plan"]
    return {row["layer"]: "int8" for row in rows if row["precision"] == "int8"}
