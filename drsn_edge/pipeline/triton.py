"""`triton`: a bundle as a model repository, for more than one machine."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from drsn_edge.bundle import Bundle, graph_name
from drsn_edge.errors import UsageError
from drsn_edge.exporters.triton_repository import TritonOptions, triton_files
from drsn_edge.files import check_output, new_folder, write_bytes
from drsn_edge.runtime.runner import TensorSpec, open_runner


@dataclass(frozen=True)
class TritonResult:
    """What was written.

    Attributes:
        repository: The folder that Triton is given.
        name: Of the model.
        source: File of the bundle that is served, unmodified.
        files: In the repository.
        max_batch: Windows that Triton joins at most.
        notes: What the user should know.
    """

    repository: Path
    name: str
    source: str
    files: tuple[str, ...]
    max_batch: int
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            **vars(self), "format_version": 1, "repository": str(self.repository), "files": list(self.files),
            "notes": list(self.notes),
        }  # fmt: skip


def triton(
    bundle: Path | str | Bundle,
    *,
    out: Path,
    source: str = "onnx",
    precision: str = "fp32",
    options: TritonOptions | None = None,
    force: bool = False,
    dry_run: bool = False,
) -> TritonResult:
    """Write a model repository for Triton Inference Server.

    Args:
        bundle: The folder.
        out: The repository; a new folder.
        source: `onnx`, or the key of an engine of the bundle, `engine` where it holds one of this precision only.
        precision: Of the graph or engine.
        options: How Triton serves it; the bundle's name by default.
        force: Replace what is at `out`.
        dry_run: Check everything, write nothing.

    Raises:
        UsageError: `out` exists; no such engine or graph; a batch that the engine does not take.
        InputError, HashMismatch: The bundle cannot be used.
        MissingDependency: ONNX Runtime, which says what a graph's tensors are, is not installed.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    check_output(out, force=force)
    chosen = options or TritonOptions(name=opened.path.name.removesuffix(".drsn"))
    notes: list[str] = []
    kind: Literal["plan", "onnx"]
    if source == "onnx":
        kind, file = "onnx", graph_name(precision)
        if file not in opened.files:
            raise UsageError(
                "the bundle holds no such graph", got=precision, expected=", ".join(opened.precisions),
                hint="export again with --precision, and --calibrate for int8",
            )  # fmt: skip
        inputs, outputs = _graph_tensors(opened, file)
    else:
        kind, key = "plan", _engine_key(opened, source, precision)
        file = opened.engines()[key]
        info = opened.read_json(f"engines/{key}/engine.json")
        inputs, outputs, largest = _engine_tensors(info)
        if largest is not None and chosen.max_batch > largest:
            notes.append(f"the engine takes at most {largest} windows: max_batch_size is that")
            fitting = tuple(size for size in chosen.preferred if size <= largest)
            chosen = replace(chosen, max_batch=largest, preferred=fitting)
        if info["runner"] != "tensorrt":
            raise UsageError(
                "Triton has no backend for this engine", got=f"{key}: {info['runner']}", expected="a TensorRT plan",
                hint="build one with the TensorRT of the server's image, or serve --source onnx",
            )  # fmt: skip
        notes.append(f"the plan needs TensorRT {info['version']} on {', '.join(info['targets']) or 'its GPU'}")
    parameters = {"drsn_edge.digest": opened.digest, "drsn_edge.source": file,
                  "drsn_edge.sha256": opened.files[file].sha256}  # fmt: skip
    files = triton_files(
        opened.read(file), kind=kind, inputs=inputs, outputs=outputs, labels=opened.labels, options=chosen,
        parameters=parameters,
    )  # fmt: skip
    if not dry_run:
        with new_folder(out, force=force) as work:
            for name, data in files.items():
                write_bytes(work / name, data)
    return TritonResult(out, chosen.name, file, tuple(sorted(files)), chosen.max_batch, tuple(notes))


def _graph_tensors(bundle: Bundle, file: str) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """As ONNX Runtime reads them, which is what Triton's backend does."""
    with contextlib.ExitStack() as stack:
        runner = stack.enter_context(open_runner("onnxruntime", bundle.read(file)))
        return list(runner.inputs.values()), list(runner.outputs.values())


def _engine_key(bundle: Bundle, source: str, precision: str) -> str:
    keys = bundle.engines()
    if source in keys:
        return source
    fitting = [key for key in keys if bundle.read_json(f"engines/{key}/engine.json")["precision"] == precision]
    if source == "engine" and len(fitting) == 1:
        return fitting[0]
    raise UsageError(
        "the bundle holds no such engine" if len(fitting) < 2 else "the bundle holds several such engines",
        got=f"{source}, {precision}",
        expected=f"onnx, or one of {', '.join(keys) or 'no engines: there are none'}",
        hint="drsn-edge build BUNDLE adds one",
    )


def _engine_tensors(info: dict[str, Any]) -> tuple[list[TensorSpec], list[TensorSpec], int | None]:
    found: dict[str, list[TensorSpec]] = {"input": [], "output": []}
    largest = []
    for tensor in info["tensors"]:
        # The batch is free even where the sidecar writes it as -1.
        shape = tuple("free" if size in (-1, None) else size for size in tensor["shape"])
        found[tensor["mode"]].append(TensorSpec(tensor["name"], tensor["dtype"], shape))
        if tensor["profile"] is not None:
            largest.append(int(tensor["profile"]["max"][0]))
    return found["input"], found["output"], min(largest, default=None)
