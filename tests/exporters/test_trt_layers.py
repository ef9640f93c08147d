from __future__ import annotations

import json
from typing import Any

import pytest

from drsn_edge.errors import BuildError
from drsn_edge.exporters.trt_layers import (
    check_precision,
    contraction_precision,
    count_precisions,
    parse_inspector,
    parse_rtx_log,
)
from drsn_edge.exporters.trt_types import LayerInfo, Precision

# As TensorRT for RTX 1.7 writes them; dimensions and strides have brackets and commas of their own.
RTX = """Layers:
Name: __mye121_0_myl0_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, Metadata: 
Name: units.0.conv1/Conv_myl0_2, LayerType: correlation, Inputs: [ { Name: a, Dimensions: [-1,32,1,64], Strides: [2048,1,2048,32], StrideOrder: [3,0,2,1], Datatype: Int8, Format: (NHWC) Channel major format }], Constants: [ { Name: w, Dimensions: [32,32,1,3], Datatype: Int8, Format: (NHWC) Channel major format }, { Name: s, Dimensions: [1,32,1,1], Datatype: Float, Format: (NHWC) Channel major format }], Outputs: [ { Name: b, Dimensions: [-1,32,1,64], Datatype: Float, Format: (NHWC) Channel major format }], TacticName: __myelin_CASK_STUB, StreamId: 0, Metadata: [ONNX Layer: units.0.conv1/Conv][ONNX Layer: odd [name], LayerType: x]
Name: __myl_MulAdd_myl0_3, LayerType: kgen, Inputs: [ { Name: b, Datatype: Float }, { Name: c, Datatype: Half }], Constants: [], Outputs: [ { Name: y, Datatype: Half }], TacticName: __myl_MulAdd_0xc5, StreamId: 0, Metadata: [ONNX Layer: units.0.conv1/Conv]
A line of another kind

I/O Tensors:
 Name: x, IOMode: Input, DataType: Float, Dimensions: [-1,32,1,64], Location: Device
"""  # noqa: E501, W291


def test_reads_rtxs_log() -> None:
    shape, conv, fused = parse_rtx_log(["something else", RTX])
    assert shape == LayerInfo(
        name="__mye121_0_myl0_0", type="shape_call", onnx_nodes=(), inputs=(), outputs=(), tactic=""
    )
    assert conv == LayerInfo(
        name="units.0.conv1/Conv_myl0_2",
        type="correlation",
        onnx_nodes=("units.0.conv1/Conv", "odd [name], LayerType: x"),
        inputs=("int8",),
        outputs=("float32",),
        tactic="__myelin_CASK_STUB",
    )
    assert (fused.inputs, fused.outputs) == (("float32", "float16"), ("float16",))


def test_no_list_no_layers() -> None:
    assert parse_rtx_log(["Engine generation completed"]) == ()


def entry(**tensor: str) -> dict[str, Any]:
    return {"Name": "t", "Dimensions": [1, 32], **tensor}


@pytest.mark.parametrize(
    ("tensor", "dtype"),
    [
        ({"Format/Datatype": "Row major linear FP32"}, "float32"),
        ({"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}, "float16"),
        ({"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format."}, "int8"),
        ({"Format/Datatype": "Channel major INT8 format where column stride % 32 == 0"}, "int8"),
        ({"Format/Datatype": "Row major linear UInt8 format"}, "uint8"),
        ({"Format/Datatype": "Row major linear BFloat16 format"}, "bfloat16"),
        ({"Format/Datatype": "Half"}, "float16"),
        ({"Format/Datatype": "Float"}, "float32"),
        ({"Format/Datatype": "Row major linear BOOL"}, "bool"),
        ({"Datatype": "Half", "Format": "(NHWC) Channel major format"}, "float16"),
        ({"Format/Datatype": "Unknown format"}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_element_types_in_every_wording(tensor: dict[str, str], dtype: str) -> None:
    layer = {"Name": "a", "LayerType": "CaskConvolution", "Inputs": [entry(**tensor)], "Outputs": []}
    (read,) = parse_inspector(json.dumps({"Layers": [layer], "Bindings": ["x"]}))
    assert read.inputs == (dtype,)


@pytest.mark.parametrize(
    ("layer", "nodes"),
    [
        ({"Name": "a/Conv + b/Relu"}, ("a/Conv", "b/Relu")),
        ({"Name": "__myl_1", "Metadata": "[ONNX Layer: a/Conv]\x1e[ONNX Layer: b/Relu]"}, ("a/Conv", "b/Relu")),
        ({"Name": "__myl_1", "Metadata": "[ONNX Layer: a/Conv]\x1f[ONNX Layer: b/Relu]"}, ("a/Conv", "b/Relu")),
        ({"Name": "__myl_1", "Metadata": "[ONNX Layer: a/Conv]"}, ("a/Conv",)),
    ],
)
def test_nodes_of_a_layer(layer: dict[str, str], nodes: tuple[str, ...]) -> None:
    (read,) = parse_inspector(json.dumps({"Layers": [layer], "I/O Tensors": []}))
    assert read.onnx_nodes == nodes


def test_layers_without_details_are_left_out() -> None:
    assert parse_inspector('{"Layers": ["a/Conv + b/Relu"], "Bindings": []}') == ()


@pytest.mark.parametrize("text", ["", "no json", "[]", '{"Bindings": []}'])
def test_what_is_not_the_inspectors_answer(text: str) -> None:
    with pytest.raises(BuildError) as error:
        parse_inspector(text)
    assert repr(text) in str(error.value.got)
    assert error.value.expected == "JSON with Layers"


def conv(dtype: str, *nodes: str, kind: str = "correlation") -> LayerInfo:
    return LayerInfo(
        name="layer", type=kind, onnx_nodes=nodes or ("a/Conv",), inputs=(dtype,), outputs=("float32",), tactic=""
    )


@pytest.mark.parametrize(
    ("kind", "counted"),
    [
        ("correlation", True),
        ("CaskConvolution", True),
        ("CaskGemmConvolution", True),
        ("gemm", True),
        ("MatrixMultiply", True),
        ("FullyConnected", True),
        ("kgen", False),
        ("Reformat", False),
        ("PointWiseV2", False),
        ("shape_call", False),
    ],
)
def test_which_layers_multiply(kind: str, counted: bool) -> None:
    assert (contraction_precision(conv("float16", kind=kind)) == "fp16") is counted


def test_counts() -> None:
    layers = (conv("float32"), conv("int8"), conv("int8"), conv("float16", kind="kgen"))
    assert count_precisions(layers) == {"fp32": 1, "fp16": 0, "int8": 2}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_engine_that_says_nothing_is_not_trusted(precision: Precision) -> None:
    with pytest.raises(BuildError) as error:
        check_precision((conv("float32", kind="kgen"),), precision, strongly_typed=True)
    assert error.value.got == "1 layers, no convolution or matrix product among them"
    assert precision in str(error.value.expected)


def test_plan_is_held_layer_by_layer() -> None:
    layers = (conv("int8", "a/Conv"), conv("float32", "b/Conv"), conv("float16", "c/Conv"))
    check_precision(layers, "int8", strongly_typed=True, expected={"a/Conv": "int8", "c/Conv": "fp16"})
    with pytest.raises(BuildError) as error:
        check_precision(layers, "int8", strongly_typed=True, expected={"a/Conv": "int8", "b/Conv": "int8"})
    assert error.value.got == "1: b/Conv is fp32 instead of int8"
    assert error.value.expected == "the precision plan"


def test_an_epilogue_in_fp32_does_not_count_against_its_convolution() -> None:
    epilogue = conv("float32", "a/Conv", kind="kgen")
    check_precision((conv("int8", "a/Conv"), epilogue), "int8", strongly_typed=True, expected={"a/Conv": "int8"})
