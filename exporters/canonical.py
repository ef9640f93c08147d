"""The one canonical form of a network's graph, whatever it came from, and the promises that it keeps."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from drsn_edge._version import __version__
from drsn_edge.errors import InputError, UsageError
from drsn_edge.exporters.passes.batch_norm import FoldBatchNormPass
from drsn_edge.exporters.passes.naming import ModuleNamesPass
from drsn_edge.exporters.passes.pooling import GlobalMeanPass
from drsn_edge.exporters.passes.reshape import StaticReshapePass
from drsn_edge.exporters.passes.simplify import SimplifyPass
from drsn_edge.exporters.passes.soft_threshold import SoftThresholdPass
from drsn_edge.exporters.units import ShrinkageUnit, find_units
from drsn_edge.signals.contract import SignalContract

INPUT, OUTPUT = "window", "logits"
# IR version that came with each opset: an older runtime refuses a file by this number alone.
IR_VERSIONS = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10}
# Everything that a network of this toolkit may need; a foreign graph may have more, which is then named.
STANDARD_OPS = frozenset(
    {
        "Conv", "Relu", "Abs", "GlobalAveragePool", "Gemm", "Sigmoid", "Mul", "Add", "Sub", "Min", "Max", "Neg",
        "Slice", "Pad", "Concat", "Reshape", "Flatten", "Unsqueeze", "Squeeze", "Sqrt", "Div",
    }
)  # fmt: skip


@dataclass(frozen=True)
class CanonicalOptions:
    """How the graph is written.

    Attributes:
        opset: 17 to 21; 17 is what every TensorRT from 8.5 on reads.
    """

    opset: int = 17

    def __post_init__(self) -> None:
        if self.opset not in IR_VERSIONS:
            raise UsageError(
                "this opset is not supported",
                got=self.opset,
                expected=f"{min(IR_VERSIONS)} to {max(IR_VERSIONS)}",
                hint="17 is read by every TensorRT from 8.5 on",
            )


@dataclass(frozen=True)
class CanonicalGraph:
    """A graph in canonical form.

    Attributes:
        model: The graph; FP32, one input `window`, output `logits`.
        units: Its shrinkage units, in order.
        notes: What could not be brought into the standard form, in words.
    """

    model: ir.Model
    units: tuple[ShrinkageUnit, ...]
    notes: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """The file: equal graphs give equal bytes."""
        return serialise(self.model)

    def clone(self) -> CanonicalGraph:
        """An independent copy, for passes that change it."""
        model = parse(self.to_bytes())
        return CanonicalGraph(model, find_units(model), self.notes)


def canonicalise(
    model: ir.Model, *, contract: SignalContract, labels: tuple[str, ...], options: CanonicalOptions | None = None
) -> CanonicalGraph:
    """Bring a graph into canonical form, in place.

    Args:
        model: One input of windows, one output of logits; torch's exporter or any other made it.
        contract: Of the windows; goes into the file, and fixes all dimensions but the batch.
        labels: Class names, in the order of the logits.
        options: How it is written.

    Raises:
        InputError: Not one input and output of the right shape, or something that cannot be brought into the form.
    """
    options = options or CanonicalOptions()
    _ensure_signature(model, contract, labels)
    try:
        ir.passes.Sequential(
            SimplifyPass(),
            GlobalMeanPass(),
            StaticReshapePass(),
            FoldBatchNormPass(),
            SoftThresholdPass(),
            SimplifyPass(),
            ModuleNamesPass(),
        )(model)
    except ir.passes.PassError as error:
        raise InputError(
            "the graph cannot be brought into canonical form",
            got=error.__cause__ or error,
            expected="a network in evaluation mode with constant weights",
        ) from error
    model.graph.sort()
    model.graph.opset_imports.clear()
    model.graph.opset_imports[""] = options.opset
    model.ir_version = IR_VERSIONS[options.opset]
    model.producer_name, model.producer_version = "drsn-edge", __version__
    model.domain, model.model_version = None, None
    model.functions.clear()
    write_metadata(model, contract=contract, labels=labels, precision="fp32")
    graph = CanonicalGraph(model, find_units(model), _notes(model))
    ensure_promises(model, opset=options.opset)
    return graph


def write_metadata(model: ir.Model, *, contract: SignalContract, labels: tuple[str, ...], precision: str) -> None:
    """What a file must say of itself when it is met alone."""
    model.metadata_props.clear()
    model.metadata_props.update(
        {
            "drsn_edge.contract": json.dumps(contract.to_json(), sort_keys=True),
            "drsn_edge.labels": json.dumps(list(labels), ensure_ascii=False),
            "drsn_edge.precision": precision,
            "drsn_edge.version": __version__,
        }
    )


def ensure_promises(model: ir.Model, *, opset: int) -> None:
    """Check the file that will be written: opset, domains, dynamic batch and nothing else, what onnx's checker knows.

    Raises:
        InputError: A promise is broken.
    """
    proto = onnx.load_from_string(serialise(model))
    written = {entry.domain: entry.version for entry in proto.opset_import}
    if written != {"": opset}:
        raise InputError("the graph has other opsets than asked", got=written, expected={"": opset})
    for value in (*proto.graph.input, *proto.graph.output):
        sizes = [entry.dim_param or entry.dim_value for entry in value.type.tensor_type.shape.dim]
        if not sizes or sizes[0] != "batch" or not all(isinstance(size, int) and size > 0 for size in sizes[1:]):
            raise InputError(
                f"{value.name} has the wrong axes", got=sizes, expected="a dynamic batch first, fixed sizes behind it"
            )
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InputError("the graph is not valid ONNX", got=error, expected=f"opset {opset}") from None


def serialise(model: ir.Model) -> bytes:
    """Deterministic bytes of a model."""
    data: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return data


def parse(data: bytes) -> ir.Model:
    """A model from bytes.

    Raises:
        InputError: Not an ONNX file.
    """
    try:
        return ir.from_proto(onnx.load_from_string(data))
    except Exception as error:  # noqa: BLE001 - protobuf raises its own classes, by backend
        raise InputError("this is no ONNX file", got=error, expected="a serialised ModelProto") from None


def _ensure_signature(model: ir.Model, contract: SignalContract, labels: tuple[str, ...]) -> None:
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    if len(inputs) != 1 or len(model.graph.outputs) != 1:
        raise InputError(
            "the graph has another number of inputs or outputs",
            got=f"inputs {[value.name for value in inputs]}, outputs {[value.name for value in model.graph.outputs]}",
            expected="one input of windows and one output of logits",
        )
    window, logits = inputs[0], model.graph.outputs[0]
    for value, sizes, what in ((window, contract.shape, "the contract"), (logits, (len(labels),), "the labels")):
        found = None if value.shape is None else tuple(value.shape)[1:]
        if found is not None and (
            len(found) != len(sizes)
            or any(isinstance(size, int) and size != want for size, want in zip(found, sizes, strict=True))
        ):
            raise InputError(
                f"{value.name} does not fit {what}", got=f"[batch, {', '.join(map(str, found))}]",
                expected=f"[batch, {', '.join(map(str, sizes))}]",
            )  # fmt: skip
        value.shape = ir.Shape(["batch", *sizes])
    window.name, logits.name = INPUT, OUTPUT


def _notes(model: ir.Model) -> tuple[str, ...]:
    extra = Counter(node.op_type for node in model.graph if node.op_type not in STANDARD_OPS)
    named = [f"{count} {kind}" for kind, count in sorted(extra.items())]
    return (f"operators outside the canonical list, kept as they are: {', '.join(named)}",) if named else ()
