"""Constants folded, dead nodes and identities gone."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import onnx_ir as ir
from onnx_ir.passes import common

from drsn_edge.exporters.graph_tools import drop_dead, replace

# Operators that do nothing at inference time.
_TRANSPARENT = {"Identity", "Dropout"}
_ANY_SIZE = 1 << 28


class SimplifyPass(ir.passes.InPlacePass):
    """Fold what is constant, and drop what does nothing.

    Given:  any model of one graph.
    Result: 1. no computation on constants alone (shape arithmetic of fixed dimensions included),
            2. no Identity, no Dropout, no Constant node (constants are initializers),
            3. no node or initializer that nobody reads,
            4. shapes inferred wherever onnx can.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply."""
        from onnxscript.optimizer import fold_constants  # 25 MB that whoever only reads a graph need not have

        with _silent("onnxscript"):
            # By default it leaves large inputs (a transposed weight, which then cannot be folded into) and
            # ConstantOfShape (the pads of torch's older exporter) as computations.
            fold_constants(model, output_size_limit=_ANY_SIZE, should_fold=lambda _: True)
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        for node in list(model.graph):
            if node.op_type in _TRANSPARENT and node.inputs[0] is not None:
                source = node.inputs[0]
                if node.outputs[0].is_graph_output() and (source.is_graph_input() or source.is_graph_output()):
                    continue  # an output that is an input needs its Identity
                replace(node.outputs[0], source)
        drop_dead(model.graph)
        common.ShapeInferencePass()(model)
        return ir.passes.PassResult(model, modified=True)


@contextlib.contextmanager
def _silent(name: str) -> Iterator[None]:
    """A library that logs every node that it leaves alone; nobody asked."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
