"""A model repository for Triton Inference Server: the unmodified plan or graph, its configuration, its labels.

    REPO/NAME/config.pbtxt
    REPO/NAME/labels.txt
    REPO/NAME/1/model.plan          or model.onnx

Field names and rules: Triton's `model_config.proto` and its model configuration page. With `max_batch_size` above zero
Triton adds the batch axis itself, so `dims` are those of one window; a file named `model.plan` or `model.onnx` in a
numbered folder is what its TensorRT and ONNX Runtime backends look for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from drsn_edge.errors import UsageError
from drsn_edge.runtime.runner import TensorSpec

# NumPy's names of element types, as Triton writes them.
_DTYPES = {"float32": "TYPE_FP32", "float16": "TYPE_FP16", "int8": "TYPE_INT8", "int32": "TYPE_INT32",
           "int64": "TYPE_INT64", "bool": "TYPE_BOOL"}  # fmt: skip
_BACKENDS = {"plan": ("tensorrt", "model.plan"), "onnx": ("onnxruntime", "model.onnx")}
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class TritonOptions:
    """How Triton serves a network.

    Attributes:
        name: Of the model; the folder in the repository.
        version: The numbered folder.
        max_batch: Windows that Triton joins at most.
        preferred: Batch sizes that are sent at once, without waiting for more.
        queue_delay_us: How long a window may wait for others, in microseconds.
        instances: Copies that run at a time.
        device: `gpu` or `cpu`; a plan needs a GPU.
    """

    name: str
    version: int = 1
    max_batch: int = 256
    preferred: tuple[int, ...] = (16, 64)
    queue_delay_us: int = 500
    instances: int = 1
    device: Literal["gpu", "cpu"] = "gpu"

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UsageError("this is no name for a model", got=repr(self.name), expected="letters, digits, . _ -")
        for what, value, least in (
            ("version", self.version, 1), ("largest batch", self.max_batch, 1), ("delay", self.queue_delay_us, 0),
            ("number of instances", self.instances, 1),
        ):  # fmt: skip
            if value < least:
                raise UsageError(f"the {what} is too small", got=value, expected=f"at least {least}")
        wrong = [size for size in self.preferred if not 1 <= size <= self.max_batch]
        if wrong:
            raise UsageError(
                "a preferred batch size does not fit", got=wrong, expected=f"1 to {self.max_batch}, the largest batch"
            )
        if self.device not in ("gpu", "cpu"):
            raise UsageError("there is no such device", got=self.device, expected="gpu or cpu")


def triton_files(
    model: bytes,
    *,
    kind: Literal["plan", "onnx"],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    labels: Sequence[str],
    options: TritonOptions,
    parameters: dict[str, str] | None = None,
) -> dict[str, bytes]:
    """The files of one model, by their path in the repository.

    Args:
        model: The plan or graph; goes into the repository byte for byte.
        kind: Which of both.
        inputs: As the file declares them; the first axis is the batch.
        outputs: Likewise; the output `logits` gets the labels.
        labels: Class names in the order of the logits.
        options: How to serve.
        parameters: What else stands in the configuration, such as hashes.

    Raises:
        UsageError: A tensor that Triton cannot batch, an element type that it does not have, or a plan on a CPU.
    """
    backend, file = _BACKENDS[kind]
    if kind == "plan" and options.device == "cpu":
        raise UsageError("a TensorRT plan needs a GPU", got="cpu", expected="gpu, or --source onnx")
    lines = [
        f"name: {_quoted(options.name)}",
        f"backend: {_quoted(backend)}",
        f"max_batch_size: {options.max_batch}",
        *_tensors("input", inputs),
        *_tensors("output", outputs, label_file="labels.txt"),
        "instance_group [",
        f"  {{ count: {options.instances} kind: KIND_{options.device.upper()} }}",
        "]",
        "dynamic_batching {",
        *([f"  preferred_batch_size: [ {', '.join(map(str, options.preferred))} ]"] if options.preferred else []),
        f"  max_queue_delay_microseconds: {options.queue_delay_us}",
        "}",
        "version_policy { latest { num_versions: 1 } }",
    ]
    for key, value in sorted((parameters or {}).items()):
        lines.append(f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(value)} }} }}")
    if any(set(label) & set("\r\n") for label in labels):
        raise UsageError("a label has a line break", got=list(labels), expected="one line each")
    return {
        f"{options.name}/config.pbtxt": ("\n".join(lines) + "\n").encode(),
        f"{options.name}/labels.txt": ("\n".join(labels) + "\n").encode(),
        f"{options.name}/{options.version}/{file}": model,
    }


def _tensors(what: str, specs: Sequence[TensorSpec], *, label_file: str | None = None) -> list[str]:
    lines = [f"{what} ["]
    for index, spec in enumerate(specs):
        dims = [-1 if isinstance(size, str) else size for size in spec.shape[1:]]
        if spec.dtype not in _DTYPES or not spec.shape or isinstance(spec.shape[0], int) or not dims:
            raise UsageError(
                f"Triton cannot batch the {what} {spec.name}",
                got=spec,
                expected=f"a free first axis, another behind it, and one of {', '.join(_DTYPES)}",
            )
        entry: list[Any] = [f"name: {_quoted(spec.name)}", f"data_type: {_DTYPES[spec.dtype]}",
                            f"dims: [ {', '.join(map(str, dims))} ]"]  # fmt: skip
        if label_file is not None and spec.name == "logits":
            entry.append(f"label_filename: {_quoted(label_file)}")
        lines.append(f"  {{ {' '.join(entry)} }}" + ("," if index + 1 < len(specs) else ""))
    return [*lines, "]"]


def _quoted(text: str) -> str:
    """A string of protobuf's text format: what is not plain ASCII as octal bytes."""
    plain = (chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}" for byte in text.encode())
    return f'"{"".join(plain)}"'
