"""The one canonical form of a network's graph, whatever it came from, and the promises that it keeps."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.version_converter
import onnx_ir as ir
from onnx_ir.passes import common

from drsn_edge._version import __version__
from drsn_edge.errors import InputError, UsageError
from drsn_edge.exporters.graph_tools import constant
from drsn_edge.exporters.passes.batch_norm import FoldBatchNormPass
from drsn_edge.exporters.passes.naming import ModuleNamesPass
from drsn_edge.exporters.passes.opset import OpsetPass
from drsn_edge.exporters.passes.pooling import GlobalMeanPass
from drsn_edge.exporters.passes.reshape import StaticReshapePass
from drsn_edge.exporters.passes.simplify import SimplifyPass
from drsn_edge.exporters.passes.soft_threshold import SoftThresholdPass
from drsn_edge.exporters.units import ShrinkageUnit, find_units
from drsn_edge.runtime.onnx_file import refuse_external_data
from drsn_edge.signals.contract import SignalContract

INPUT, OUTPUT = "window", "logits"
_OTHER_FLOATS = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
# IR version that came with each opset: an older runtime refuses a file by this number alone.
IR_VERSIONS = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10}
_PASSES_SINCE = 13  # the passes know the operators from here on
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
        folded: Names of the nodes that a BatchNormalization was folded into.
    """

    model: ir.Model
    units: tuple[ShrinkageUnit, ...]
    notes: tuple[str, ...] = ()
    folded: frozenset[str] = frozenset()

    def to_bytes(self) -> bytes:
        """The file: equal graphs give equal bytes."""
        return serialise(self.model)

    def clone(self) -> CanonicalGraph:
        """An independent copy, for passes that change it."""
        model = parse(self.to_bytes())
        return CanonicalGraph(model, find_units(model), self.notes, self.folded)


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
    batch_norm = FoldBatchNormPass()
    try:
        # Old exporters list weights among the inputs, where a caller might replace them.
        ir.passes.Sequential(common.InlinePass(), common.RemoveInitializersFromInputsPass())(model)
        _ensure_signature(model, contract, labels)
        _ensure_no_chance(model)
        # While a fixed batch is still written in the shapes it can be told from the other axes of a Reshape.
        ir.passes.Sequential(SimplifyPass(), StaticReshapePass())(model)
        _free_batch(model, contract)
        ir.passes.Sequential(
            SimplifyPass(),
            GlobalMeanPass(),
            batch_norm,
            SoftThresholdPass(),
            SimplifyPass(),
            OpsetPass(options.opset),
            ModuleNamesPass(),
        )(model)
    except (ir.passes.PassError, ir.passes.InvariantError) as error:
        raise InputError(
            "the graph cannot be brought into canonical form",
            got=error.__cause__ or error,
            expected="a network in evaluation mode with constant weights",
        ) from error
    _ensure_batch_is_free(model, labels)
    _ensure_single(model)
    model.graph.sort()
    model.graph.opset_imports.clear()
    model.graph.opset_imports[""] = options.opset
    model.ir_version = IR_VERSIONS[options.opset]
    model.producer_name, model.producer_version = "drsn-edge", __version__
    model.domain, model.model_version = None, None
    write_metadata(model, contract=contract, labels=labels, precision="fp32")
    folded = frozenset(node.name for node in batch_norm.folded if node.name)
    graph = CanonicalGraph(model, find_units(model), _notes(model), folded)
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


def ensure_promises(model: ir.Model, *, opset: int) -> bytes:
    """Check the file that will be written: opset, domains, dynamic batch and nothing else, what onnx's checker knows.

    Returns:
        The file: `serialise(model)`.

    Raises:
        InputError: A promise is broken.
    """
    data = serialise(model)
    proto = onnx.load_from_string(data)
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
    return data


def serialise(model: ir.Model) -> bytes:
    """Deterministic bytes of a model."""
    data: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return data


def parse(data: bytes) -> ir.Model:
    """A model from bytes; one of an opset before 13, where axes and bounds were attributes, is converted to 17.

    Raises:
        InputError: Not an ONNX file, one with weights in other files, or one that cannot be converted.
    """
    refuse_external_data(data)
    try:
        proto = onnx.load_from_string(data)
    except Exception as error:  # noqa: BLE001 - protobuf raises its own classes, by backend
        raise InputError("this is no ONNX file", got=error, expected="a serialised ModelProto") from None
    opset = max((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    try:
        if opset < _PASSES_SINCE:
            proto = onnx.version_converter.convert_version(proto, min(IR_VERSIONS))
        return ir.from_proto(proto)
    except Exception as error:  # noqa: BLE001 - the converter and the reader raise plain RuntimeErrors and their own
        raise InputError(
            "the graph cannot be read", got=f"opset {opset}: {error}",
            expected=f"one graph of ONNX's own operators, opset {_PASSES_SINCE} or later",
        ) from None  # fmt: skip


def _ensure_signature(model: ir.Model, contract: SignalContract, labels: tuple[str, ...]) -> None:
    inputs = [value for value in model.graph.inputs if not value.is_initializer()]
    if len(inputs) != 1 or len(model.graph.outputs) != 1:
        raise InputError(
            "the graph has another number of inputs or outputs",
            got=f"inputs {[value.name for value in inputs]}, outputs {[value.name for value in model.graph.outputs]}",
            expected="one input of windows and one output of logits",
        )
    window, logits = inputs[0], model.graph.outputs[0]
    _ensure_shape(window, contract.shape, "the contract")
    _ensure_shape(logits, (len(labels),), "the labels")
    batch = "batch" if window.shape is None or not isinstance(window.shape[0], int) else window.shape[0]
    window.shape = ir.Shape([batch, *contract.shape])
    inner = [*model.graph.initializers.values(), *(value for node in model.graph for value in node.outputs)]
    for value in inner:
        if value.name in (INPUT, OUTPUT) and value is not logits:
            value.name = f"{value.name}.inner"
    window.name, logits.name = INPUT, OUTPUT


def _ensure_shape(value: ir.Value, sizes: tuple[int, ...], what: str) -> None:
    found = None if value.shape is None else tuple(value.shape)[1:]
    if found is not None and (
        len(found) != len(sizes)
        or any(isinstance(size, int) and size != want for size, want in zip(found, sizes, strict=True))
    ):
        raise InputError(
            f"{value.name} does not fit {what}", got=f"[batch, {', '.join(map(str, found))}]",
            expected=f"[batch, {', '.join(map(str, sizes))}]",
        )  # fmt: skip


def _ensure_no_chance(model: ir.Model) -> None:
    """Refuse a Dropout that drops: without it the graph would be another network than the file."""
    for node in model.graph:
        if node.op_type == "Dropout" and len(node.inputs) > 2 and np.any(constant(node.inputs[2])):
            raise InputError(
                "the graph decides by chance",
                got=f"{node.name}: Dropout with training_mode",
                expected="a network in evaluation mode",
                hint="call eval() before the export; in forward write F.dropout(x, p, training=self.training)",
            )


def _free_batch(model: ir.Model, contract: SignalContract) -> None:
    """Forget the shapes that an exporter wrote for one batch size; they are inferred again from the free one."""
    (window,) = model.graph.inputs
    if window.shape is None or not isinstance(window.shape[0], int):
        return
    window.shape = ir.Shape(["batch", *contract.shape])
    for node in model.graph:
        for value in node.outputs:
            value.shape = None


def _ensure_batch_is_free(model: ir.Model, labels: tuple[str, ...]) -> None:
    logits = model.graph.outputs[0]
    if logits.shape is not None and isinstance(logits.shape[0], int):
        raise InputError(
            "the batch size is fixed inside the graph",
            got=f"{OUTPUT}: {list(logits.shape)}",
            expected=f"[batch, {len(labels)}]",
            hint="export the network with a dynamic batch axis",
        )
    _ensure_shape(logits, (len(labels),), "the labels")
    logits.shape = ir.Shape(["batch", len(labels)])


def _ensure_single(model: ir.Model) -> None:
    """Precisions are made from FP32: a graph that is half of one already would be converted twice."""
    values = (*model.graph.inputs, *model.graph.initializers.values(), *(v for n in model.graph for v in n.outputs))
    wrong = [value for value in values if value.dtype in _OTHER_FLOATS]
    wrong += [value for value in (*model.graph.inputs, *model.graph.outputs) if value.dtype != ir.DataType.FLOAT]
    if wrong:
        raise InputError(
            "the graph is not FP32",
            got=f"{wrong[0].name} is {wrong[0].dtype.name if wrong[0].dtype else 'of no known type'}",
            expected="FLOAT throughout",
            hint="export the network in FP32; FP16 and INT8 graphs are made from it",
        )


def _notes(model: ir.Model) -> tuple[str, ...]:
    extra = Counter(node.op_type for node in model.graph if node.op_type not in STANDARD_OPS)
    named = [f"{count} {kind}" for kind, count in sorted(extra.items())]
    return (f"operators outside the canonical list, kept as they are: {', '.join(named)}",) if named else ()
