"""An engine of a probe graph, to ask a faulty engine's builder where its numbers part from the graph's."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from drsn_edge.bundle import Bundle
from drsn_edge.errors import MissingError
from drsn_edge.exporters.trt_engine import EngineOptions, build_engine, load_builder, wanted_graph
from drsn_edge.runtime.driver import probe_device

# Names of runners and of the builders whose plans they run.
_BACKENDS = {"tensorrt": "tensorrt", "tensorrt-rtx": "rtx"}


def probe_options(runner: str, precision: str, target: str | None) -> EngineOptions:
    """How a probe engine is built: as the engine was, for one GPU, for the few golden windows.

    Raises:
        MissingError: No builder makes plans for this runner.
    """
    backend = _BACKENDS.get(runner)
    if backend is None:
        raise MissingError("no builder makes engines for this runner", got=runner, expected=", ".join(_BACKENDS))
    return EngineOptions(
        precision=precision,  # type: ignore[arg-type]  # checked by EngineOptions
        backend=backend,  # type: ignore[arg-type]  # one of two
        targets=(target,) if backend == "rtx" and target else (),
        opt_batch=16,
        max_batch=16,
    )


@contextlib.contextmanager
def probe_engine(bundle: Bundle, runner: str, precision: str) -> Iterator[Path]:
    """The plan of a probe engine for the GPU that is here, as a file that goes when the block ends.

    Its kernels are not those of the engine to the last one, since the probes are outputs: what the builder does to a
    layer shows, what it does only by fusing two layers across a probe does not.

    Raises:
        MissingError: No builder here, or none for this runner.
        BuildError: The builder failed.
        InputError: The bundle holds no such probe graph.
    """
    device = probe_device().device
    options = probe_options(runner, precision, None if device is None else device.sm)
    graph = wanted_graph(options, trt=load_builder(options))
    made = build_engine(bundle.read(graph.replace(".onnx", ".probe.onnx")), options=options)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.engine"
        path.write_bytes(made.plan)
        yield path
