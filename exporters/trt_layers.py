"""What an engine really consists of: read back after the build, and held against what was asked.

A builder that does not find a precision it likes takes another one and says nothing. Here that is an error.

Two sources: TensorRT's engine inspector (JSON, needs the GPU), and the `Layers:` message of TensorRT for RTX's verbose
log, which comes with every build, GPU or not.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from drsn_edge.errors import BuildError
from drsn_edge.exporters.trt_types import LayerInfo, Precision

# TensorRT writes element types in several ways: `Half`, `FP16`, `Channel major FP16 format where channel % 8 == 0`.
_DTYPES = {
    "float": "float32",
    "fp32": "float32",
    "half": "float16",
    "fp16": "float16",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "fp8": "float8",
    "int8": "int8",
    "uint8": "uint8",
    "int32": "int32",
    "int64": "int64",
    "bool": "bool",
}
_DTYPE = re.compile(rf"\b({'|'.join(_DTYPES)})\b", re.IGNORECASE)
_ONNX_NODE = re.compile(r"\[ONNX Layer: (.*?)\](?=\[ONNX Layer: |[\x1e\x1f]|\s*$)")
_RTX_LAYER = re.compile(
    r"^Name: (?P<name>.*), LayerType: (?P<type>[^,]*), Inputs: \[(?P<inputs>.*?)\],"
    r"(?: Constants: \[.*?\],)? Outputs: \[(?P<outputs>.*?)\], TacticName: (?P<tactic>.*?), StreamId: \d+,"
    r" Metadata: (?P<metadata>.*)$"
)
# Layers that multiply by weights, where precision is decided: by LayerType, whatever the generation calls them.
_CONTRACTION = re.compile(r"conv|correlation|gemm|gemv|matmul|matrix_?multiply|fully_?connected", re.IGNORECASE)
_PRECISIONS: dict[str, Precision] = {"float32": "fp32", "float16": "fp16", "int8": "int8"}


def parse_inspector(text: str) -> tuple[LayerInfo, ...]:
    """The layers in the engine inspector's JSON, of TensorRT 8.5 to 11.

    Raises:
        BuildError: Not the inspector's JSON.
    """
    try:
        layers = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise BuildError(
            "the engine inspector's answer cannot be read", got=f"{error!r}: {text[:80]!r}", expected="JSON with Layers"
        ) from None
    # Without DETAILED verbosity the entries are bare names: nothing to learn from those.
    return tuple(_inspected(layer) for layer in layers if isinstance(layer, dict))


def _inspected(layer: Mapping[str, Any]) -> LayerInfo:
    name = str(layer.get("Name", ""))
    nodes = _ONNX_NODE.findall(str(layer.get("Metadata", "")))
    if not nodes:
        # Before 8.6 there is no metadata; fused layers are named after their nodes.
        nodes = [part.strip() for part in name.split(" + ")]
    return LayerInfo(
        name=name,
        type=str(layer.get("LayerType", "")),
        onnx_nodes=tuple(nodes),
        inputs=tuple(map(_tensor_dtype, layer.get("Inputs", ()))),
        outputs=tuple(map(_tensor_dtype, layer.get("Outputs", ()))),
        tactic=str(layer.get("TacticName", "")),
    )


def _tensor_dtype(tensor: Any) -> str:
    """Element type of one entry: `Format/Datatype` up to 10.x, `Datatype` beside `Format` later."""
    if not isinstance(tensor, dict):
        return "unknown"
    for key in ("Datatype", "DataType", "Format/Datatype", "Format"):
        found = _DTYPE.search(str(tensor.get(key, "")))
        if found:
            return _DTYPES[found.group(1).lower()]
    return "unknown"


def parse_rtx_log(texts: Iterable[str]) -> tuple[LayerInfo, ...]:
    """The layers in TensorRT for RTX's verbose log; empty where it has no such message."""
    return tuple(
        LayerInfo(
            name=match["name"],
            type=match["type"],
            onnx_nodes=tuple(_ONNX_NODE.findall(match["metadata"])),
            inputs=_rtx_dtypes(match["inputs"]),
            outputs=_rtx_dtypes(match["outputs"]),
            tactic=match["tactic"],
        )
        for text in texts
        if text.startswith("Layers:")
        for line in text.partition("\nI/O Tensors:")[0].splitlines()
        if (match := _RTX_LAYER.match(line))
    )


def _rtx_dtypes(tensors: str) -> tuple[str, ...]:
    return tuple(_DTYPES.get(name.lower(), name.lower()) for name in re.findall(r"Datatype: (\w+)", tensors))


def contraction_precision(layer: LayerInfo) -> Precision | None:
    """The precision that a convolution or matrix product multiplies in; None for every other layer."""
    if not _CONTRACTION.search(layer.type) or not layer.inputs:
        return None
    return _PRECISIONS.get(layer.inputs[0])


def count_precisions(layers: Iterable[LayerInfo]) -> dict[str, int]:
    """How many convolutions and matrix products of each precision an engine has."""
    found = Counter(precision for layer in layers if (precision := contraction_precision(layer)))
    return {precision: found[precision] for precision in ("fp32", "fp16", "int8")}


def check_precision(
    layers: tuple[LayerInfo, ...],
    precision: Precision,
    *,
    strongly_typed: bool,
    expected: Mapping[str, Precision] | None = None,
    targets: tuple[str, ...] = (),
) -> None:
    """Refuse an engine that is not what was asked for.

    Args:
        layers: Of the engine.
        precision: Asked for: at least one convolution or matrix product must have it, and for fp32 no other.
        strongly_typed: A weakly typed builder may take FP32 for a single layer that was allowed FP16; never where the
            graph quantizes.
        expected: Precision per node of the graph, from the precision plan: each is checked.
        targets: GPUs of the engine, where a builder was told some.

    Raises:
        BuildError: Another precision, or none that can be read.
    """
    counts = count_precisions(layers)
    if not any(counts.values()):
        raise BuildError(
            "the engine does not say which precision it has",
            got=f"{len(layers)} layers, no convolution or matrix product among them",
            expected=f"layers in {precision}",
            hint="if the network has convolutions, this version's layer list is written in a way that is not known yet",
        )
    summary = ", ".join(f"{count} in {name}" for name, count in counts.items())
    others = sum(counts.values()) - counts["fp32"]
    if counts[precision] == 0 or (precision == "fp32" and others):
        raise BuildError(
            f"the engine is not what was asked for: {precision}",
            got=f"convolutions and matrix products: {summary}",
            expected=f"{precision} only" if precision == "fp32" else f"{precision} convolutions",
            hint="TensorRT for RTX computes INT8 graphs in floating point on sm75: build fp16 for it"
            if precision == "int8" and "sm75" in targets
            else "give the builder the graph of that precision (`graph_for`)",
        )
    wrong = []
    for node, wanted in (expected or {}).items():
        if not strongly_typed and wanted == "fp16":
            continue
        actual = {found for layer in layers if node in layer.onnx_nodes and (found := contraction_precision(layer))}
        if actual and wanted not in actual:
            wrong.append(f"{node} is {', '.join(sorted(actual))} instead of {wanted}")
    if wrong:
        raise BuildError(
            "layers of the engine do not have the planned precision",
            got=f"{len(wrong)}: " + "; ".join(wrong[:5]),
            expected="the precision plan",
            hint="see the layer list of the engine; `drsn-edge inspect` shows it",
        )
