"""Every spelling of soft thresholding, rewritten to `y - Max(Min(y, tau), Neg(tau))`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from drsn_edge.exporters.graph_tools import constant, drop_dead, emit, producer, replace, scalar


@dataclass(frozen=True)
class SoftThreshold:
    """A recognised soft threshold: `root` computes `features` shrunk by `tau`."""

    root: ir.Node
    features: ir.Value
    tau: ir.Value
    form: str


class SoftThresholdPass(ir.passes.InPlacePass):
    """Write every soft threshold in the form that TensorRT fuses best and that cannot turn overflow into NaN.

    Given:  any of these, operands of commutative operators in either order, tau provably >= 0:
            1. `y - Max(Min(y, t), -t)`, `y - Min(Max(y, -t), t)`, `y - Clip(y, -t, t)`
            2. `Relu(y - t) - Relu(-y - t)`, `Relu(y - t) - Relu(-(y + t))`
            3. `Relu(y - t) + Min(y + t, 0)`
            4. `Sign(y) * Relu(Abs(y) - t)`, `Sign(y) * Max(Abs(y) - t, 0)`, the 0 also as `s - s`
            5. `Where(Abs(y) > t, Sign(y) * (Abs(y) - t), 0)`
    Result: `Sub(y, Max(Min(y, t), Neg(t)))`. Where tau might be negative the spellings differ: left alone.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply."""
        modified = False
        for node in list(model.graph):
            found = match(node)
            if found is None:
                continue
            y, tau = found.features, found.tau
            lower = emit(node, "Neg", [tau], like=tau)
            upper = emit(node, "Min", [y, tau], like=y)
            clamped = emit(node, "Max", [upper, lower], like=y)
            replace(node.outputs[0], emit(node, "Sub", [y, clamped], like=y))
            modified = True
        drop_dead(model.graph)
        return ir.passes.PassResult(model, modified)


def match(node: ir.Node) -> SoftThreshold | None:
    """The soft threshold that a node is the last operator of, in any form."""
    return next(
        (
            item
            for item in spelled(node)
            if non_negative(item.tau) and _keeps_shape(item.features, item.root.outputs[0])
        ),
        None,
    )


def spelled(node: ir.Node) -> Iterator[SoftThreshold]:
    """What is written like a soft threshold, whatever its tau: where that can be negative, it is none."""
    for form, find in _FORMS.get(node.op_type, ()):
        for features, tau in find(node):
            yield SoftThreshold(node, features, tau, form)


def _keeps_shape(features: ir.Value, result: ir.Value) -> bool:
    """Whether thresholds or zeros of a larger shape have not made the result larger than the features."""
    if features.shape is None or result.shape is None:
        return True
    return len(features.shape) == len(result.shape) and all(
        one == other or not (isinstance(one, int) and isinstance(other, int))
        for one, other in zip(features.shape, result.shape, strict=True)
    )


def non_negative(value: ir.Value | None, depth: int = 16) -> bool:
    """Whether a value can be seen to be >= 0 from the operators that made it."""
    array = constant(value)
    if array is not None:
        return bool(np.all(array >= 0))
    node = value.producer() if value is not None else None
    if node is None or depth == 0:
        return False
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type in (
        "Abs", "Sigmoid", "Relu", "Exp", "Sqrt", "Softplus", "HardSigmoid", "Softmax", "ReduceL1", "ReduceL2",
    ):  # fmt: skip
        return True
    if node.op_type in ("Mul", "Add", "Div", "Max", "Min"):
        sides = [non_negative(side, depth - 1) for side in node.inputs]
        same = node.op_type == "Mul" and len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]
        return same or (any(sides) if node.op_type == "Max" else all(sides))
    if node.op_type in (
        "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceSum", "ReduceMax", "AveragePool", "MaxPool",
        "Flatten", "Unsqueeze", "Squeeze", "Reshape", "Expand", "Identity", "Cast", "Transpose", "Slice",
    ):  # fmt: skip
        return non_negative(node.inputs[0], depth - 1)
    return False


_Pair = tuple[ir.Value, ir.Value]
_Finder = Callable[[ir.Node], Iterator[_Pair]]


def _orders(node: ir.Node | None) -> Iterator[_Pair]:
    """Both orders of a commutative operator's two inputs."""
    if node is not None and len(node.inputs) == 2:
        first, second = node.inputs
        if first is not None and second is not None:
            yield first, second
            yield second, first


def _is_negative(value: ir.Value | None, of: ir.Value) -> bool:
    """`value` is `-of`, as Neg, as a product with -1 or as a difference from 0."""
    node = producer(value, "Neg", "Mul", "Sub")
    if node is None:
        return False
    if node.op_type == "Neg":
        return node.inputs[0] is of
    if node.op_type == "Mul":
        return any(one is of and scalar(other) == -1.0 for one, other in _orders(node))
    return scalar(node.inputs[0]) == 0.0 and node.inputs[1] is of


def _is_zero(value: ir.Value | None) -> bool:
    array = constant(value)
    if array is not None:
        return bool(np.all(array == 0))
    node = producer(value, "Sub")
    return node is not None and node.inputs[0] is node.inputs[1]


def _positive_part(value: ir.Value | None) -> ir.Value | None:
    """`s` of `Relu(s)` or `Max(s, 0)`."""
    relu = producer(value, "Relu")
    if relu is not None:
        return relu.inputs[0]
    return next((one for one, other in _orders(producer(value, "Max")) if _is_zero(other)), None)


def _difference(value: ir.Value | None) -> _Pair | None:
    """`(a, b)` of `a - b`."""
    node = producer(value, "Sub")
    if node is None or node.inputs[0] is None or node.inputs[1] is None:
        return None
    return node.inputs[0], node.inputs[1]


def _clamped(node: ir.Node) -> Iterator[_Pair]:
    y, clamp = node.inputs
    if y is None:
        return
    clip = producer(clamp, "Clip")
    if clip is not None and len(clip.inputs) == 3 and clip.inputs[0] is y and clip.inputs[2] is not None:
        if _is_negative(clip.inputs[1], clip.inputs[2]) or _opposite(clip.inputs[1], clip.inputs[2]):
            yield y, clip.inputs[2]
        return
    for inner, lower in _orders(producer(clamp, "Max")):
        for source, tau in _orders(producer(inner, "Min")):
            if source is y and _is_negative(lower, tau):
                yield y, tau
    for inner, tau in _orders(producer(clamp, "Min")):
        for source, lower in _orders(producer(inner, "Max")):
            if source is y and _is_negative(lower, tau):
                yield y, tau


def _opposite(low: ir.Value | None, high: ir.Value | None) -> bool:
    one, other = constant(low), constant(high)
    return one is not None and other is not None and np.array_equal(one, -other)


def _two_relus(node: ir.Node) -> Iterator[_Pair]:
    upper = _difference(_positive_part(node.inputs[0]))
    inner = _positive_part(node.inputs[1])
    if upper is None or inner is None:
        return
    y, tau = upper
    lower = _difference(inner)
    if lower is not None:
        minus, subtrahend = lower
        if (_is_negative(minus, y) and subtrahend is tau) or (_is_negative(minus, tau) and subtrahend is y):
            yield y, tau
    negated = producer(inner, "Neg")
    if negated is not None and any(
        one is y and other is tau for one, other in _orders(producer(negated.inputs[0], "Add"))
    ):
        yield y, tau


def _relu_and_min(node: ir.Node) -> Iterator[_Pair]:
    for upper, lower in _orders(node):
        pair = _difference(_positive_part(upper))
        if pair is None:
            continue
        for total, zero in _orders(producer(lower, "Min")):
            if _is_zero(zero) and any(
                one is pair[0] and other is pair[1] for one, other in _orders(producer(total, "Add"))
            ):
                yield pair


def _excess(value: ir.Value | None, y: ir.Value | None) -> ir.Value | None:
    """`t` of `Abs(y) - t`."""
    pair = _difference(value)
    magnitude = producer(pair[0], "Abs") if pair else None
    return pair[1] if pair and magnitude is not None and magnitude.inputs[0] is y else None


def _signed(node: ir.Node) -> Iterator[_Pair]:
    for sign_value, rest in _orders(node):
        sign = producer(sign_value, "Sign")
        y = sign.inputs[0] if sign is not None else None
        tau = _excess(_positive_part(rest), y)
        if y is not None and tau is not None:
            yield y, tau


def _where(node: ir.Node) -> Iterator[_Pair]:
    condition, inside, outside = node.inputs
    greater = producer(condition, "Greater", "GreaterOrEqual")
    if greater is None or not _is_zero(outside):
        return
    for sign_value, rest in _orders(producer(inside, "Mul")):
        sign = producer(sign_value, "Sign")
        y = sign.inputs[0] if sign is not None else None
        tau = _excess(rest, y)
        magnitude = producer(greater.inputs[0], "Abs")
        if y is None or tau is None or magnitude is None:
            continue
        if magnitude.inputs[0] is y and greater.inputs[1] is tau:
            yield y, tau


_FORMS: dict[str, tuple[tuple[str, _Finder], ...]] = {
    "Sub": (("y - clamp(y)", _clamped), ("relu - relu", _two_relus)),
    "Add": (("relu + min", _relu_and_min),),
    "Mul": (("sign * relu", _signed),),
    "Where": (("where", _where),),
}
