"""How much two builds of one graph differ: a builder chooses kernels by measuring, and measurements vary.

Compared are plans, layer lists, outputs and decisions on the golden windows, and latency; once with every build
measuring for itself, once with all builds given the same timing cache.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from drsn_edge.bundle import GOLDEN, Bundle
from drsn_edge.errors import UsageError
from drsn_edge.exporters.trt_engine import EngineBuild, build_engine, sidecar
from drsn_edge.files import sha256_bytes
from drsn_edge.golden import Golden
from drsn_edge.pipeline.build_plan import PlannedEngine, expected_precisions, read_graph
from drsn_edge.progress import SILENT, Progress
from drsn_edge.runtime import preflight
from drsn_edge.runtime.plan import read_plan_header
from drsn_edge.runtime.runner import open_runner, run_batched

CachePolicy = Literal["none", "shared", "not used"]
_WARMUP, _RUNS = 20, 200


@dataclass(frozen=True)
class BuildSample:
    """One of several builds.

    Attributes:
        plan_sha256: Of the plan.
        size: Of the plan in bytes.
        kernels: Layers that launch work.
        layers_sha256: Of the layer list, kernels' names included: builds that agree here chose alike.
        seconds: The build took.
        latency_ms: Median of calls with one window, host copies included; None where it cannot run here.
    """

    plan_sha256: str
    size: int
    kernels: int
    layers_sha256: str
    seconds: float
    latency_ms: float | None


@dataclass(frozen=True)
class BuildNoise:
    """What several builds of one engine have in common, and what not.

    Attributes:
        precision: Of the engine.
        graph: It was built from.
        backend: Which builder.
        version: Of the builder.
        timing_cache: `none`: every build measured for itself. `shared`: all were given the same measurements. `not
            used`: this builder measures nothing.
        builds: Each of them.
        reason: Why outputs were not compared; None where they were.
        windows: Golden windows that were compared.
        max_abs: Largest spread of one logit over the builds.
        max_rel: The same over the largest logit.
        disagreements: Windows on which not all builds decide alike.
    """

    precision: str
    graph: str
    backend: str
    version: str
    timing_cache: CachePolicy
    builds: tuple[BuildSample, ...]
    reason: str | None = None
    windows: int | None = None
    max_abs: float | None = None
    max_rel: float | None = None
    disagreements: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        latencies = [item.latency_ms for item in self.builds if item.latency_ms is not None]
        return {
            **{key: value for key, value in vars(self).items() if key != "builds"},
            "builds": [vars(item) for item in self.builds],
            "distinct": {
                "plans": len({item.plan_sha256 for item in self.builds}),
                "layer_lists": len({item.layers_sha256 for item in self.builds}),
            },
            "kernels": [min(item.kernels for item in self.builds), max(item.kernels for item in self.builds)],
            "size": [min(item.size for item in self.builds), max(item.size for item in self.builds)],
            "latency_ms": [min(latencies), max(latencies)] if latencies else None,
        }

    @property
    def summary(self) -> str:
        """Lines for people."""
        value = self.to_json()
        kernels, size = (" to ".join(map(str, dict.fromkeys(value[key]))) for key in ("kernels", "size"))
        how = {"none": "each measuring for itself", "shared": "one timing cache", "not used": "no timing cache"}
        distinct = value["distinct"]
        found = (
            f"{self.precision} with {self.backend} {self.version}, "
            f"{len(self.builds)} builds, {how[self.timing_cache]}: "
            f"{distinct['plans']} different plans, {distinct['layer_lists']} layer lists, "
            f"{kernels} kernels, {size} bytes"
        )
        if self.reason is not None:
            return f"{found}\n  outputs were not compared: {self.reason}"
        low, high = value["latency_ms"]
        return (
            f"{found}\n  logits spread by {self.max_abs:.2g} ({self.max_rel:.2g} of the largest), "
            f"{self.disagreements} of {self.windows} golden windows decided in more than one way, "
            f"{low:.3f} to {high:.3f} ms a window"
        )


def repeat_builds(
    bundle: Bundle, plan: Sequence[PlannedEngine], *, repeat: int, progress: Progress = SILENT
) -> tuple[BuildNoise, ...]:
    """Build each engine several times over and compare; the bundle is left as it is.

    Raises:
        UsageError: Fewer than two builds.
        BuildError: A builder failed, or built something else than was asked.
    """
    if repeat < 2:
        raise UsageError("one build has nothing to be compared with", got=repeat, expected="2 or more builds")
    golden = Golden.from_bytes(bundle.read(GOLDEN))
    return tuple(noise for item in plan for noise in _repeat(bundle, item, golden, repeat, progress))


def _repeat(bundle: Bundle, item: PlannedEngine, golden: Golden, repeat: int, progress: Progress) -> list[BuildNoise]:
    data, expected = read_graph(bundle, item), expected_precisions(bundle, item.options.precision)

    def make(count: int, cache: bytes | None) -> list[EngineBuild]:
        options = dataclasses.replace(item.options, timing_cache=cache)
        return [build_engine(data, options=options, expected=expected, progress=progress) for _ in range(count)]

    alone = make(repeat, None)
    if alone[0].timing_cache is None:
        return [_compare(item, alone, "not used", data, golden)]
    shared = make(repeat, alone[0].timing_cache)
    return [_compare(item, alone, "none", data, golden), _compare(item, shared, "shared", data, golden)]


def _compare(
    item: PlannedEngine, builds: list[EngineBuild], policy: CachePolicy, graph: bytes, golden: Golden
) -> BuildNoise:
    here = preflight.describe_here()
    info = sidecar(builds[0], onnx_name=item.graph, onnx_sha256="", device=here.device.device)
    reasons = [f"no GPU: {here.device.reason}"] if here.device.device is None else []
    reasons = reasons or preflight.preflight(read_plan_header(builds[0].plan), info, here)
    logits: list[NDArray[Any]] = []
    samples = []
    for build in builds:
        latency = None
        if not reasons:
            found, latency = _run(build, str(info["runner"]), graph, golden)
            logits.append(found)
        layers = json.dumps([dataclasses.asdict(layer) for layer in build.layers])
        samples.append(
            BuildSample(
                plan_sha256=sha256_bytes(build.plan),
                size=len(build.plan),
                kernels=build.kernels,
                layers_sha256=sha256_bytes(layers.encode()),
                seconds=round(build.seconds, 3),
                latency_ms=latency,
            )
        )
    noise = BuildNoise(item.options.precision, item.graph, builds[0].backend, item.version, policy, tuple(samples))
    if reasons:
        return dataclasses.replace(noise, reason="; ".join(reasons))
    every = np.stack(logits).astype(np.float64)
    spread = float(np.ptp(every, axis=0).max())
    decisions = every.argmax(axis=2)
    return dataclasses.replace(
        noise,
        windows=len(golden),
        max_abs=spread,
        max_rel=spread / max(float(np.abs(every).max()), np.finfo(np.float64).tiny),
        disagreements=int((decisions != decisions[0]).any(axis=0).sum()),
    )


def _run(build: EngineBuild, runner_name: str, graph: bytes, golden: Golden) -> tuple[NDArray[Any], float]:
    """Logits of the golden windows, and the median time of a call with one window in ms."""
    options = {"weights": graph} if "STRIP_PLAN" in build.flags else {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.engine"
        path.write_bytes(build.plan)
        with open_runner(runner_name, path, **options) as runner:
            logits = run_batched(runner, golden.windows)["logits"]
            (name,) = runner.inputs
            feeds = {name: golden.windows[:1]}
            for _ in range(_WARMUP):
                runner.run(feeds)
            times = []
            for _ in range(_RUNS):
                began = time.perf_counter()
                runner.run(feeds)
                times.append(1e3 * (time.perf_counter() - began))
    return logits, statistics.median(times)
