"""`build`: an engine from a bundle, for what is here or for a GPU that is named; verified where it can run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drsn_edge.bundle import Bundle, NewFile
from drsn_edge.exporters.trt_engine import EngineBuild, build_engine, sidecar
from drsn_edge.files import dump_json, sha256_bytes
from drsn_edge.pipeline.build_noise import BuildNoise, repeat_builds
from drsn_edge.pipeline.build_plan import PlannedEngine, check_graphs, expected_precisions, plan_build, read_graph
from drsn_edge.pipeline.engine_check import EngineVerdict, mark_engines, outdated_engines
from drsn_edge.pipeline.engine_notes import notes_of
from drsn_edge.pipeline.int8_worth import int8_worth
from drsn_edge.progress import SILENT, Progress
from drsn_edge.runtime.preflight import describe_device


@dataclass(frozen=True)
class EngineRecord:
    """One engine that was built.

    Attributes:
        key: Its folder under `engines/`.
        file: The plan, relative to the bundle.
        size: Of the plan in bytes.
        info: The content of `engine.json`.
    """

    key: str
    file: str
    size: int
    info: dict[str, Any]

    @property
    def summary(self) -> str:
        """One line for people."""
        targets = ", ".join(self.info["targets"]) or "every GPU that it knows"
        made = ", ".join(f"{count} in {name}" for name, count in self.info["precisions"].items() if count)
        return (
            f"{self.info['precision']} with {self.info['backend']} {self.info['version']} for {targets}: "
            f"{self.info['kernels']} kernels, products {made}, {self.size / 1e6:.1f} MB"
        )


@dataclass(frozen=True)
class BuildResult:
    """What `build` did.

    Attributes:
        bundle: The folder.
        engines: Built and added.
        planned: What a dry run would have built, one line for people each.
        verdicts: What golden windows said of each engine that was built; without figures where it cannot run here.
        removed: Keys of engines that were out of date and have been replaced.
        notes: What the user should know.
        noise: What builds of one engine have in common, where several were asked for.
    """

    bundle: Path
    engines: tuple[EngineRecord, ...]
    planned: tuple[str, ...] = ()
    verdicts: tuple[EngineVerdict, ...] = ()
    removed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    noise: tuple[BuildNoise, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "format_version": 1,
            "bundle": str(self.bundle),
            "engines": [{"key": e.key, "file": e.file, "size": e.size, "info": e.info} for e in self.engines],
            "planned": list(self.planned),
            "verdicts": [verdict.to_json() for verdict in self.verdicts],
            "removed": list(self.removed),
            "notes": list(self.notes),
            "noise": [item.to_json() for item in self.noise],
        }


def build(
    bundle: Path | str | Bundle,
    *,
    precisions: Sequence[str] | None = None,
    backend: str = "auto",
    targets: Sequence[str] = (),
    max_batch: int = 256,
    opt_batch: int = 16,
    workspace_mb: int = 1024,
    version_compatible: bool = False,
    hardware_compatible: bool = False,
    refit: bool = False,
    stripped: bool = False,
    external_tactics: bool = True,
    timing_cache: bool = True,
    repeat: int = 0,
    rebuild: bool = False,
    dry_run: bool = False,
    progress: Progress = SILENT,
) -> BuildResult:
    """Build engines, add them to the bundle, and run golden windows through each that can run here.

    Whether an engine passed stands in its `engine.json`; one that failed stays in the bundle, marked so.

    Args:
        bundle: The folder.
        precisions: Of the engines; the bundle must hold the graphs. fp16 by default.
        backend: `auto`, `tensorrt` or `rtx`.
        targets: GPUs, as `sm86`; only TensorRT for RTX builds for others than the one that is here.
        max_batch: Largest batch of the profile.
        opt_batch: The batch that kernels are chosen for.
        workspace_mb: Scratch memory in MiB.
        version_compatible: Plans that later TensorRT versions take too, without native code in them.
        hardware_compatible: Plans for every GPU from Ampere on.
        refit: Plans whose weights can be exchanged later.
        stripped: Plans without weights; the bundle's own graph gives them back when they are loaded.
        external_tactics: Let the builder choose kernels of cuBLAS and cuDNN, where it knows such.
        timing_cache: Keep in the bundle what the builder measures on this GPU, and build with what is kept: faster,
            and the same kernels again.
        repeat: Build each engine so many times and report how much the builds differ; the bundle is left as it is.
        rebuild: Replace the engines that were built on this device with another TensorRT or driver; of their
            precisions unless others are asked for.
        dry_run: Check and name the engines, build nothing.
        progress: Where steps go.

    Raises:
        UsageError: A precision that the bundle does not hold, or a target that the builder does not have.
        MissingDependency, MissingDevice: No builder here.
        BuildError: The builder failed, or built something else than was asked.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    stale = outdated_engines(opened)
    if rebuild and not stale and precisions is None:
        return BuildResult(opened.path, (), notes=("no engine is out of date on this device: nothing was rebuilt",))
    if precisions is None:
        precisions = tuple(dict.fromkeys(precision for precision, _ in stale.values())) if rebuild else ("fp16",)
    plan = plan_build(
        precisions,
        backend=backend,
        targets=tuple(targets),
        max_batch=max_batch,
        opt_batch=opt_batch,
        workspace_mb=workspace_mb,
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
        refit=refit,
        stripped=stripped,
        external_tactics=external_tactics,
    )
    check_graphs(opened, plan)
    wanted = {item.options.precision for item in plan}
    replaced = {key: why for key, (precision, why) in stale.items() if rebuild and precision in wanted}
    notes = tuple(
        f"the engine {key} is out of date, {why}: `drsn-edge build {opened.path} --rebuild` replaces it"
        for key, (_, why) in stale.items()
        if key not in replaced
    )
    if dry_run:
        return BuildResult(opened.path, (), tuple(item.summary for item in plan), removed=tuple(replaced), notes=notes)
    if repeat:
        noise = repeat_builds(opened, plan, repeat=repeat, progress=progress)
        return BuildResult(opened.path, (), notes=notes, noise=noise)
    records: list[EngineRecord] = []
    for item in plan:
        record, files = _build(opened, item, timing_cache=timing_cache, progress=progress)
        opened = opened.update(files)
        records.append(record)
    # A driver may change while TensorRT does not: then the new engine has taken the place of the old one already.
    keys = [record.key for record in records]
    old = [key for key in replaced if key not in keys]
    if old:
        gone = [name for key in old for name in (opened.engines()[key], notes_of(opened, key))]
        opened = opened.update({}, remove=tuple(gone))
    verdicts, opened = mark_engines(opened, keys, progress=progress)
    marks = {verdict.key: verdict.verification for verdict in verdicts if verdict.verification is not None}
    done = [
        dataclasses.replace(record, info=record.info | {"verified": marks[record.key].to_json()})
        if record.key in marks else record
        for record in records
    ]  # fmt: skip
    worth = tuple(f"{key}: {item.text}" for key, item in int8_worth(opened, keys).items())
    return BuildResult(
        opened.path,
        tuple(done),
        verdicts=verdicts,
        removed=tuple(replaced),
        notes=(*notes, *_unmarked(verdicts), *worth),
    )


# How an engine's folder is named, by what is special about its plan: several kinds can stand side by side.
_KINDS = {"vc": "version_compatible", "hc": "hardware_compatible", "refit": "refit", "stripped": "stripped"}


def _unmarked(verdicts: Sequence[EngineVerdict]) -> list[str]:
    return [
        f"the engine {item.key} is not verified yet: {item.reason}; where it runs, `drsn-edge verify BUNDLE --mark`"
        for item in verdicts
        if item.verification is None
    ]


def _build(
    bundle: Bundle, item: PlannedEngine, *, timing_cache: bool, progress: Progress
) -> tuple[EngineRecord, dict[str, NewFile]]:
    """Build one engine; what it adds to the bundle."""
    data, options = read_graph(bundle, item), item.options
    cache = item.timing_cache if timing_cache else None
    if cache in bundle.files and cache is not None:
        options = dataclasses.replace(options, timing_cache=bundle.read(cache))
    expected = expected_precisions(bundle, options.precision)
    made = build_engine(data, options=options, expected=expected, progress=progress)
    record, files = _record(made, item.graph, sha256_bytes(data))
    if cache is not None and made.timing_cache not in (None, options.timing_cache):
        files[cache] = NewFile(made.timing_cache or b"", "timing-cache")
    return record, files


def _record(made: EngineBuild, graph: str, graph_sha256: str) -> tuple[EngineRecord, dict[str, NewFile]]:
    device = describe_device().device
    info = sidecar(made, onnx_name=graph, onnx_sha256=graph_sha256, device=device)
    targets = "-".join(made.targets) if len(made.targets) <= 3 else "any"
    kinds = "".join(f"-{word}" for word, name in _KINDS.items() if info["flags"][name])
    key = f"{made.backend}-{made.version}-{targets or 'any'}-{made.precision}{kinds}"
    plan, notes = f"engines/{key}/model.{made.precision}.engine", f"engines/{key}/engine.json"
    files = {plan: NewFile(made.plan, "engine"), notes: NewFile(dump_json(info).encode(), "engine-info")}
    return EngineRecord(key, plan, len(made.plan), info), files
