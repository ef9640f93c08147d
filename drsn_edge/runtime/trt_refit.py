"""Put a graph's weights into an engine that was built without them, or for others. TensorRT 10 and later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from drsn_edge.errors import DrsnError, InputError, UsageError
from drsn_edge.runtime.trt_log import MessageLog, error_text


def refit(trt: Any, engine: Any, logger: Any, *, log: MessageLog, weights: Path | bytes) -> None:
    """Refit an engine.

    Args:
        trt: TensorRT's module.
        engine: Stripped or refittable, of no context yet.
        logger: Of the process.
        log: What TensorRT says.
        weights: An ONNX graph of the very structure that the engine was built from.

    Raises:
        UsageError: This TensorRT cannot, or the engine was not built for it.
        InputError: No such graph, or not one of this engine.
    """
    if not hasattr(trt, "OnnxParserRefitter"):
        raise UsageError(
            f"{trt.__name__} {trt.__version__} cannot refit", got="weights", expected="TensorRT 10 or later"
        )
    if not engine.refittable:
        raise UsageError(
            "the engine has its weights for good",
            got="weights for an engine that is not refittable",
            expected="one that was built with --refit or --stripped",
        )
    if isinstance(weights, Path):
        if not weights.is_file():
            raise InputError(
                "the graph is not there", got=weights, expected="the ONNX file that the engine is built of"
            )
        weights = weights.read_bytes()
    with log.record() as said:
        refitter = trt.Refitter(engine, logger)
        parser = trt.OnnxParserRefitter(refitter, logger)
        if not parser.refit_from_bytes(weights):
            problems = [parser.get_error(index).desc() for index in range(parser.num_errors)]
            raise InputError(
                "the weights do not fit the engine",
                got="; ".join(problems) or error_text(said),
                expected="the graph that the engine was built from, or another training of it",
            )
        missing = refitter.get_missing_weights()
        if missing:
            raise InputError(
                "the graph lacks weights of the engine",
                got=", ".join(missing[:5]),
                expected="all weights of the engine",
            )
        if not refitter.refit_cuda_engine():
            raise DrsnError("TensorRT cannot refit the engine", got=error_text(said))
