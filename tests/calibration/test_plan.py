"""The precision plan: which layers, why, and what becomes of a plan that somebody edited."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drsn_edge.errors import InputError

pytest.importorskip("onnxscript", reason="networks are exported with torch's exporter")

from drsn_edge.calibration.plan import LayerPlan, PrecisionPlan, fit, make_plan
from drsn_edge.calibration.quantize import quantize

Exported = Callable[..., Any]


def changed(plan: PrecisionPlan, layer: str, **fields: str) -> PrecisionPlan:
    """The plan with other fields in one row."""
    assert any(row.layer == layer for row in plan.layers)
    return PrecisionPlan(
        tuple(dataclasses.replace(row, **fields) if row.layer == layer else row for row in plan.layers)  # type: ignore[arg-type]
    )


def test_paper_network_has_all_but_the_first_convolution_in_int8(exported: Exported) -> None:
    _, graph = exported("drsn-cw", preset="paper", window=256)
    plan = make_plan(graph)
    convolutions = [row for row in plan.layers if row.kind == "Conv"]
    assert len(convolutions) == 25
    assert [row.precision for row in convolutions] == ["fp16", *["int8"] * 24]
    assert convolutions[0].layer == "stem/Conv"
    assert "first layer" in convolutions[0].reason
    assert plan.summary == "24 of 25 convolutions in int8"
    assert len(plan.int8) == 24
    assert make_plan(graph, quantize_first=True).summary == "25 of 25 convolutions in int8"


def test_every_threshold_branch_has_one_row_and_stays_float(exported: Exported) -> None:
    _, graph = exported("drsn-cw", preset="paper", window=256)
    plan = make_plan(graph)
    branches = [row for row in plan.layers if row.kind == "threshold branch"]
    assert [row.layer for row in branches] == [f"units.{index}/threshold" for index in range(12)]
    assert {row.precision for row in branches} == {"fp16"}
    assert all("dead zone" in row.reason and not row.tensor for row in branches)
    inside = {node.name for unit in graph.units for node in unit.nodes}
    assert not inside & {row.layer for row in plan.layers}


def test_every_product_and_every_tensor_is_the_graphs(exported: Exported) -> None:
    _, graph = exported("drsn-cw")
    nodes = {node.name: node for node in graph.model.graph}
    plan = make_plan(graph, quantize_first=True)
    for row in plan.int8:
        assert nodes[row.layer].op_type == "Conv"
        assert nodes[row.layer].inputs[0].name == row.tensor
    weighted = {name for name, node in nodes.items() if node.op_type in ("Conv", "Gemm", "MatMul")}
    inside = {node.name for unit in graph.units for node in unit.nodes}
    assert {row.layer for row in plan.layers if row.kind != "threshold branch"} == weighted - inside


@pytest.mark.parametrize(
    ("model", "options", "branches"),
    [
        ("drsn-cw", {"dims": 2}, 2),
        ("drsn-cs", {}, 2),
        ("resnet", {}, 0),
        ("senet", {}, 0),
    ],
)
def test_other_networks(exported: Exported, model: str, options: dict[str, Any], branches: int) -> None:
    _, graph = exported(model, **options)
    plan = make_plan(graph)
    assert sum(row.kind == "threshold branch" for row in plan.layers) == branches
    convolutions = [row for row in plan.layers if row.kind == "Conv"]
    assert [row.precision for row in convolutions] == ["fp16", *["int8"] * (len(convolutions) - 1)]
    assert plan.layers[-1].kind == "Gemm"
    assert "head" in plan.layers[-1].reason
    # The attention of an SENet is no head.
    others = [row.reason for row in plan.layers[:-1] if row.kind == "Gemm"]
    assert all("head" not in reason for reason in others)
    assert bool(others) == (model == "senet")


@pytest.mark.parametrize(
    ("widths", "words"),
    [
        ((32, 64), ""),
        ((8, 12), "integer tensor cores want multiples of 32"),
        ((32, 48), "integer tensor cores want multiples of 32"),
        ((6, 9), "integer kernels want multiples of 4"),
    ],
)
def test_narrow_channels_are_a_warning(one_convolution: Exported, widths: tuple[int, int], words: str) -> None:
    (layer,) = make_plan(one_convolution(*widths), quantize_first=True).int8
    assert bool(layer.warning) == bool(words)
    assert not words or layer.warning == f"{widths[0]} to {widths[1]} channels: {words}, expect no gain"


def test_json_round_trip(exported: Exported) -> None:
    plan = make_plan(exported()[1])
    again = PrecisionPlan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    assert again.differences(plan) == []


def test_differences_are_said_in_words(exported: Exported) -> None:
    plan = make_plan(exported()[1])
    other = PrecisionPlan(changed(plan, "stem/Conv", precision="int8").layers[:-1])
    assert plan.differences(other) == ["stem/Conv: fp16 and int8", f"{plan.layers[-1].layer}: fp16 and absent"]
    assert other.differences(plan) == ["stem/Conv: int8 and fp16", f"{plan.layers[-1].layer}: absent and fp16"]


@pytest.mark.parametrize(
    ("damage", "got"),
    [
        ({"precision": "int4"}, "int4"),
        ({"precision": None}, "None"),
        ({"reason": 3}, "3"),
        ({"extra": "x"}, "extra"),
        ({"tensor": ["a"]}, "['a']"),
    ],
)
def test_damaged_rows_are_refused(exported: Exported, damage: dict[str, Any], got: str) -> None:
    rows: list[Any] = make_plan(exported()[1]).to_json()
    rows[1] = rows[1] | damage
    with pytest.raises(InputError) as caught:
        PrecisionPlan.from_json(rows)
    assert got in str(caught.value.got)
    assert caught.value.expected


@pytest.mark.parametrize("row", [None, "stem/Conv", [], {"layer": "stem/Conv"}])
def test_what_is_no_row_is_refused(row: Any) -> None:
    with pytest.raises(InputError, match="damaged row") as caught:
        PrecisionPlan.from_json([row])
    assert caught.value.got == repr(row)
    assert "layer, kind, precision" in str(caught.value.expected)


@pytest.mark.parametrize("value", [None, {}, "rows", 3])
def test_what_is_no_list_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="no list") as caught:
        PrecisionPlan.from_json(value)
    assert caught.value.got == type(value).__name__


def test_a_layer_that_is_there_twice_is_refused(exported: Exported) -> None:
    rows = make_plan(exported()[1]).to_json()
    with pytest.raises(InputError, match="two rows of one layer") as caught:
        PrecisionPlan.from_json([*rows, rows[2]])
    assert caught.value.got == rows[2]["layer"]


def test_the_default_plan_fits_its_graph(exported: Exported) -> None:
    _, graph = exported()
    for plan in (make_plan(graph), make_plan(graph, quantize_first=True)):
        assert fit(plan, graph) == plan


def test_an_edited_precision_gets_its_tensor_and_a_true_reason(exported: Exported) -> None:
    _, graph = exported()
    plan = make_plan(graph)
    int8 = fit(changed(plan, "stem/Conv", precision="int8"), graph)
    (row,) = [row for row in int8.layers if row.layer == "stem/Conv"]
    node = next(node for node in graph.model.graph if node.name == "stem/Conv")
    assert row.tensor == node.inputs[0].name
    assert row.reason == "chosen by hand"
    name = plan.int8[0].layer
    (row,) = [row for row in fit(changed(plan, name, precision="fp16"), graph).layers if row.layer == name]
    assert (row.tensor, row.warning, row.reason) == ("", "", "chosen by hand")
    told = changed(plan, name, precision="fp16", reason="too loud at 3000 rpm")
    assert [row.reason for row in fit(told, graph).layers if row.layer == name] == ["too loud at 3000 rpm"]


@pytest.mark.parametrize("name", ["units.0/threshold", "Gemm", "Abs"])
def test_a_threshold_branch_is_never_quantized(exported: Exported, name: str) -> None:
    _, graph = exported()
    plan = make_plan(graph)
    unit = graph.units[0]
    if name != "units.0/threshold":
        name = next(node.name for node in unit.branch if node.op_type == name)
        edited = PrecisionPlan((*plan.layers, LayerPlan(name, "Gemm", "int8", "faster")))
    else:
        edited = changed(plan, name, precision="int8")
    for refuse in (lambda: fit(edited, graph), lambda: quantize(graph, plan=edited, scales={})):
        with pytest.raises(InputError, match="a threshold branch is never quantized") as caught:
            refuse()
        assert caught.value.got == f"int8 for {name}"
        assert caught.value.expected == "fp16 or fp32"
        assert "dead zone" in str(caught.value.hint)


def test_a_plan_of_another_network_is_refused(exported: Exported) -> None:
    _, graph = exported()
    plan = make_plan(graph)
    more = PrecisionPlan((*plan.layers, LayerPlan("units.2.conv1/Conv", "Conv", "int8", "deeper")))
    with pytest.raises(InputError, match="a layer that the graph does not have") as caught:
        fit(more, graph)
    assert caught.value.got == "units.2.conv1/Conv"
    less = PrecisionPlan(tuple(row for row in plan.layers if row.layer != "units.1.conv2/Conv"))
    with pytest.raises(InputError, match="leaves a layer out") as caught:
        fit(less, graph)
    assert caught.value.got == "no row for units.1.conv2/Conv"
    assert "every layer" in str(caught.value.expected)


def test_the_head_cannot_be_int8(exported: Exported) -> None:
    _, graph = exported()
    plan = make_plan(graph)
    head = plan.layers[-1].layer
    with pytest.raises(InputError, match=f"{head} cannot be quantized") as caught:
        fit(changed(plan, head, precision="int8"), graph)
    assert "int8 for a Gemm" in str(caught.value.got)
    assert "only convolutions" in str(caught.value.expected)


def test_grouped_convolutions_are_named_as_such(one_convolution: Exported) -> None:
    (layer,) = make_plan(one_convolution(8, 8, groups=4), quantize_first=True).int8
    assert layer.warning.startswith("8 to 8 channels in groups of 2: integer kernels want multiples of 4")


def test_computed_weights_are_not_quantized(one_convolution: Exported) -> None:
    graph = one_convolution(32, 32, constant=False)
    (layer,) = make_plan(graph, quantize_first=True).layers
    assert (layer.precision, layer.reason) == ("fp16", "its weights are computed, not constant")
    with pytest.raises(InputError, match="only/Conv cannot be quantized") as caught:
        fit(changed(PrecisionPlan((layer,)), "only/Conv", precision="int8"), graph)
    assert "computed" in str(caught.value.got)


@pytest.fixture(scope="session")
def one_convolution() -> Exported:
    """A function that makes a graph of one convolution by hand."""
    import numpy as np
    import onnx
    import onnx_ir as ir

    from drsn_edge.exporters.canonical import CanonicalGraph

    helper, kind = onnx.helper, onnx.TensorProto.FLOAT

    def make(inputs: int, outputs: int, *, groups: int = 1, constant: bool = True) -> CanonicalGraph:
        nodes = [helper.make_node("Conv", ["window", "w"], ["logits"], name="only/Conv", group=groups)]
        weights = "w"
        if not constant:
            nodes.insert(0, helper.make_node("Sigmoid", ["raw"], ["w"], name="only/Sigmoid"))
            weights = "raw"
        array = np.ones((outputs, inputs // groups, 1), np.float32)
        model = helper.make_model(
            helper.make_graph(
                nodes,
                "test",
                [helper.make_tensor_value_info("window", kind, ["batch", inputs, 16])],
                [helper.make_tensor_value_info("logits", kind, ["batch", outputs, 16])],
                [onnx.numpy_helper.from_array(array, weights)],
            ),
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=8,
        )
        return CanonicalGraph(ir.from_proto(model), ())

    return make


def test_a_plan_is_read_from_what_inspect_prints(fitted: Callable[..., Any], tmp_path: Path) -> None:
    from drsn_edge.calibration.plan_file import read_plan

    plan = make_plan(fitted()[1])
    file = tmp_path / "plan.json"
    file.write_text(json.dumps({"kind": "bundle", "plan": plan.to_json()}))
    assert read_plan(file) == plan


@pytest.mark.parametrize("text", ['{"plan": []}', "{}", '{"plan": "int8"}'])
def test_a_file_without_a_plan_is_refused(tmp_path: Path, text: str) -> None:
    from drsn_edge.calibration.plan_file import read_plan

    file = tmp_path / "plan.json"
    file.write_text(text)
    with pytest.raises(InputError, match="holds no precision plan") as caught:
        read_plan(file)
    assert str(json.loads(text).get("plan")).strip("'") in str(caught.value.got)
    assert "a list of rows" in str(caught.value.expected)
    assert "inspect" in str(caught.value.hint)
