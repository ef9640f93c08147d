from __future__ import annotations

import json
from typing import Any

import pytest

from drsn_edge.exporters.trt_verdict import bundle_verdicts, int8_verdict

PLAN = [
    {"layer": "stem/Conv", "precision": "fp16", "warning": ""},
    {"layer": "a/Conv", "precision": "int8", "warning": ""},
    {"layer": "b/Conv", "precision": "int8", "warning": ""},
]


def layer(kind: str, nodes: list[str], outputs: list[str], precision: str | None = None) -> dict[str, Any]:
    return {"type": kind, "onnx_nodes": nodes, "outputs": outputs, "precision": precision}


def engine(layers: list[dict[str, Any]], *, precision: str = "int8", **changes: Any) -> dict[str, Any]:
    kernels = sum(item["type"] != "shape_call" for item in layers)
    common = {"backend": "rtx", "version": "1.7.1", "targets": ["sm86"]}
    return common | {"precision": precision, "layers": layers, "kernels": kernels} | changes


# Two integer convolutions that hand integers on: what full TensorRT does at its best.
FUSED = [
    layer("shape_call", [], []),
    layer("conv", ["stem/Conv"], ["int8"], "fp16"),
    layer("conv", ["a/Conv", "a/Relu", "b/Conv.input/QuantizeLinear"], ["int8"], "int8"),
    layer("conv", ["b/Conv"], ["float16"], "int8"),
]
HALF = [
    layer("conv", ["stem/Conv"], ["float16"], "fp16"),
    layer("conv", ["a/Conv", "a/Relu"], ["float16"], "fp16"),
    layer("conv", ["b/Conv"], ["float16"], "fp16"),
]
# As TensorRT for RTX 1.7 writes it: FP32 out of every integer convolution, and a kernel that scales it.
RESTORED = [
    layer("conv", ["stem/Conv"], ["float16"], "fp16"),
    layer("kgen", ["x/Relu", "a/Conv.input/QuantizeLinear"], ["int8"]),
    layer("conv", ["a/Conv"], ["float32"], "int8"),
    layer("kgen", ["a/Conv", "a/Relu", "b/Conv.input/QuantizeLinear"], ["int8"]),
    layer("conv", ["b/Conv"], ["float32"], "int8"),
    layer("kgen", ["b/Conv", "s/Abs"], ["float16"]),
]


def test_nothing_against_it_is_no_yes() -> None:
    found = int8_verdict(engine(FUSED), engine(HALF, precision="fp16"), PLAN)
    assert (found.worth, found.planned, found.integer, found.restored, found.converting) == ("measure", 2, 2, 0, 0)
    assert (found.kernels, found.kernels_fp16) == (3, 3)
    assert found.text.startswith("nothing speaks against INT8 here, by structure: 2 of 2 planned")
    assert "Latency is not measured" in found.text


def test_what_integers_cost_is_counted() -> None:
    found = int8_verdict(engine(RESTORED), engine(HALF, precision="fp16"), PLAN)
    assert (found.worth, found.restored, found.converting, found.kernels - (found.kernels_fp16 or 0)) == ("no", 2, 3, 3)
    assert "6 kernels instead of FP16's 3: 3 more for Q/DQ" in found.text
    assert "2 of 2 integer convolutions write FP32, which 3 other kernels scale" in found.text
    assert "Latency is not measured" in found.text
    assert json.loads(json.dumps(found.to_json()))["reasons"] == list(found.reasons)


def test_a_planned_convolution_that_stayed_in_float_is_named() -> None:
    layers = [*FUSED[:3], layer("conv", ["b/Conv"], ["float16"], "fp16")]
    found = int8_verdict(engine(layers), None, PLAN)
    assert (found.worth, found.integer, found.not_integer, found.kernels_fp16) == ("no", 1, ("b/Conv",), None)
    assert "1 planned convolutions do not run in int8: b/Conv" in found.text


def test_narrow_channels_of_the_plan_speak_against_it() -> None:
    plan = [*PLAN[:2], PLAN[2] | {"warning": "4 to 4 channels: integer tensor cores want multiples of 32, …"}]
    found = int8_verdict(engine(FUSED), engine(HALF, precision="fp16"), plan)
    assert (found.worth, found.narrow) == ("no", 1)
    assert "1 convolutions have channels that are no multiple of 32" in found.text


def test_engines_are_compared_with_those_of_the_same_builder_and_target() -> None:
    engines = {
        "int8": engine(RESTORED),
        "fp16": engine(HALF, precision="fp16"),
        "fp16-other": engine(HALF[:1], precision="fp16", targets=["sm89"]),
        "int8-other": engine(RESTORED, version="1.8"),
        "damaged": None,
    }
    found = bundle_verdicts(engines, PLAN)
    assert {key: item.kernels_fp16 for key, item in found.items()} == {"int8": 3, "int8-other": None}


@pytest.mark.parametrize("plan", [[], PLAN[:1]])
def test_a_plan_without_integers_has_nothing_to_count(plan: list[dict[str, str]]) -> None:
    found = int8_verdict(engine(HALF), None, plan)
    assert (found.planned, found.integer, found.converting) == (0, 0, 0)
