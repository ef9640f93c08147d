"""Graphs that name other files are refused before anything opens those."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drsn_edge.errors import InputError
from drsn_edge.runtime.onnx_file import DATA_LOCATION, EXTERNAL_DATA, MESSAGES, refuse_external_data
from drsn_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner

onnx = pytest.importorskip("onnx", reason="writes the graphs")


def tensor(name: str, location: str | None = None) -> Any:
    value = onnx.numpy_helper.from_array(np.ones(4, np.float32), name)
    if location is not None:
        value.ClearField("raw_data")
        value.data_location = onnx.TensorProto.EXTERNAL
        entry = value.external_data.add()
        entry.key, entry.value = "location", location
    return value


def model(weight: Any, *, nodes: tuple[Any, ...] = (), **rest: Any) -> bytes:
    helper = onnx.helper
    x = helper.make_tensor_value_info("window", 1, ["batch", 4])
    y = helper.make_tensor_value_info("logits", 1, ["batch", 4])
    node = helper.make_node("Add", ["window", weight.name], ["logits"])
    graph = helper.make_graph([node, *nodes], "g", [x], [y], initializer=[weight])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, **rest)
    data: bytes = made.SerializeToString()
    return data


def constant(location: str) -> Any:
    return onnx.helper.make_node("Constant", [], ["c"], value=tensor("inner", location))


def branch(location: str) -> Any:
    y = onnx.helper.make_tensor_value_info("c", 1, [4])
    body = onnx.helper.make_graph([constant(location)], "body", [], [y])
    return onnx.helper.make_node("If", ["window"], ["z"], then_branch=body, else_branch=body)


def sparse(location: str) -> Any:
    value = onnx.helper.make_sparse_tensor(tensor("values", location), tensor("indices"), [9])
    return onnx.helper.make_node("Constant", [], ["s"], sparse_value=value)


def function(location: str) -> bytes:
    ids = [onnx.helper.make_opsetid("", 17)]
    made = onnx.helper.make_function("own", "F", [], ["c"], [constant(location)], ids)
    return model(tensor("w"), functions=[made])


HIDING: dict[str, Callable[[str], bytes]] = {
    "an initializer": lambda location: model(tensor("w", location)),
    "an attribute": lambda location: model(tensor("w"), nodes=(constant(location),)),
    "a branch": lambda location: model(tensor("w"), nodes=(branch(location),)),
    "a sparse value": lambda location: model(tensor("w"), nodes=(sparse(location),)),
    "a function": function,
}


@pytest.mark.parametrize("where", HIDING)
@pytest.mark.parametrize("location", ["weights.bin", "../../secret.bin", "/etc/passwd"])
def test_weights_in_other_files_are_refused(where: str, location: str, tmp_path: Path) -> None:
    from drsn_edge.exporters.canonical import parse

    path = tmp_path / "a.onnx"
    path.write_bytes(HIDING[where](location))
    words = r"(?s)keeps its weights in another file.*tensor '(w|inner|values)'.*one file with everything in it"
    with pytest.raises(InputError, match=words):
        parse(path.read_bytes())
    pytest.importorskip("onnxruntime", reason="the runner needs it")
    for source in (path, path.read_bytes()):
        with pytest.raises(InputError, match=words), OnnxRuntimeRunner(source):
            pass


def test_no_engine_is_built_of_such_a_graph(workshop: Any, tmp_path: Path) -> None:
    from drsn_edge.bundle import Bundle, NewFile
    from drsn_edge.pipeline.build import build

    pytest.importorskip("tensorrt_rtx", reason="needs a builder")
    graph = HIDING["an initializer"]("../../secret.bin")
    bundle = Bundle.open(workshop.copy(tmp_path)).update({"model.fp16.onnx": NewFile(graph, "graph")})
    with pytest.raises(InputError, match=r"(?s)model.fp16.onnx: tensor 'w'"):
        build(bundle, backend="rtx")


def test_a_whole_graph_passes() -> None:
    refuse_external_data(model(tensor("w")))
    refuse_external_data(b"")


def test_the_ways_to_a_tensor_are_all_that_onnx_has() -> None:
    """Held against onnx's own descriptors: a release that adds a way makes this fail."""
    for name, fields in MESSAGES.items():
        known = {field.number: field.message_type.name for field in getattr(onnx, name).DESCRIPTOR.fields
                 if field.message_type is not None and field.message_type.name in MESSAGES}  # fmt: skip
        assert fields == known, name
    numbers = {field.name: field.number for field in onnx.TensorProto.DESCRIPTOR.fields}
    assert (numbers["external_data"], numbers["data_location"]) == (EXTERNAL_DATA, DATA_LOCATION)
    assert numbers["name"] == 8


@settings(max_examples=300)
@given(st.binary(max_size=80) | st.tuples(st.integers(0, 200), st.binary(max_size=6)))
def test_damage_is_an_error_of_ours(change: bytes | tuple[int, bytes]) -> None:
    whole = model(tensor("w"))
    data = change if isinstance(change, bytes) else whole[: change[0]] + change[1] + whole[change[0] + 3 :]
    with contextlib.suppress(InputError):
        refuse_external_data(data)


@pytest.mark.parametrize("data", [b"\x3a\x7f", b"\x0b", b"\x3a" + b"\xff" * 12, b"\x0d\x00", b"\x08"])
def test_what_is_no_protocol_buffer_is_named(data: bytes) -> None:
    with pytest.raises(InputError, match=r"(?s)this is no ONNX file.*whole and in one piece"):
        refuse_external_data(data)
