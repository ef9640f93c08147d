from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from drsn_edge.calibration.collect import tap
from drsn_edge.calibration.half_range import half_ranges, refuse_overflow
from drsn_edge.errors import InputError
from drsn_edge.exporters.canonical import CanonicalGraph
from drsn_edge.exporters.precision import to_half
from drsn_edge.exporters.units import find_units
from drsn_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner


@pytest.fixture
def pair(exported: Callable[..., Any]) -> tuple[Any, CanonicalGraph, CanonicalGraph]:
    contract, graph = exported()
    return contract, graph, to_half(graph)


def scaled(graph: CanonicalGraph, name: str, factor: float) -> tuple[CanonicalGraph, CanonicalGraph]:
    """The network with one constant scaled."""
    copy = graph.clone()
    value = copy.model.graph.initializers[name]
    assert value.const_value is not None
    value.const_value = ir.tensor((value.const_value.numpy() * factor).astype(np.float32), name=name)
    changed = CanonicalGraph(copy.model, find_units(copy.model))
    return changed, to_half(changed)


def test_figures_are_those_of_float16_itself(pair: Any) -> None:
    """Against NumPy's own conversion, on a tensor with values in every range."""
    contract, graph, half = pair
    name = "units.0.conv2/Conv:0"
    windows = np.random.default_rng(0).standard_normal((40, *contract.shape)).astype(np.float32)
    with OnnxRuntimeRunner(tap(graph.to_bytes(), [name])) as runner:
        values = runner.run({"window": windows})[name]
    (row,) = [item for item in half_ranges(graph, half, windows).tensors if item.tensor == name]
    present = np.abs(values[values != 0])
    narrow = present.astype(np.float16)
    # Batches of another size: sums in another order.
    assert row.largest == pytest.approx(present.max(), rel=1e-4)
    assert row.smallest == pytest.approx(present.min(), rel=0.5, abs=1e-6)
    assert row.subnormal == pytest.approx(np.mean(narrow < np.finfo(np.float16).smallest_normal), abs=2e-3)
    assert row.vanishing == pytest.approx(np.mean(narrow == 0), abs=2e-3)
    assert (row.node, row.kind, row.overflows) == ("units.0.conv2/Conv", "activation", False)


def test_every_value_that_is_in_fp16_is_looked_at(pair: Any) -> None:
    contract, graph, half = pair
    found = half_ranges(graph, half, np.ones((2, *contract.shape), np.float32))
    seen = {item.node for item in found.tensors if item.kind == "activation"}
    narrow = {
        node.name for node in half.model.graph
        if node.op_type != "Cast" and any(value.dtype == ir.DataType.FLOAT16 for value in node.outputs)
    }  # fmt: skip
    assert narrow <= seen
    weights = {item.tensor for item in found.tensors if item.kind == "weight"}
    assert {"units.0.conv1.weight", "fc.weight", "fc.bias"} <= weights


@pytest.mark.parametrize("offset", [0.0, 20_000.0])
def test_raw_counts_of_16_bit_converters_do_not_overflow(offset: float, pair: Any) -> None:
    contract, graph, half = pair
    rng = np.random.default_rng(1)
    wave = rng.choice([-32767.0, 32767.0], (16, *contract.shape)) * rng.uniform(0.99, 1, (16, *contract.shape))
    windows = np.clip(wave + offset, -32768, 32767).astype(np.float32)
    found = half_ranges(graph, half, windows)
    assert found.overflows == ()
    assert max(item.largest for item in found.tensors) < 1000
    # What is in FP16 computes: the same decisions, and nothing that is not finite.
    from drsn_edge.exporters.precision import emulated

    with OnnxRuntimeRunner(emulated(half.to_bytes())) as narrow, OnnxRuntimeRunner(graph.to_bytes()) as single:
        logits, wanted = narrow.run({"window": windows})["logits"], single.run({"window": windows})["logits"]
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(logits, wanted, atol=0.02 * np.abs(wanted).max())


def test_an_overflow_is_named_and_refused_on_real_windows(pair: Any) -> None:
    contract, graph, _ = pair
    name = next(n for n in graph.model.graph.initializers if n.startswith("units.0.conv1.weight"))
    loud, half = scaled(graph, name, 3e4)
    windows = np.random.default_rng(2).standard_normal((8, *contract.shape)).astype(np.float32)
    found = half_ranges(loud, half, windows)
    assert found.overflows[0].node == "units.0.conv1/Conv", "the first in the graph is the cause"
    assert "overflow" in found.summary
    with pytest.raises(InputError, match="overflows FP16") as caught:
        refuse_overflow(found)
    assert "units.0.conv1/Conv" in str(caught.value.got)
    assert "65520" in str(caught.value.expected)
    assert "--precision fp32" in str(caught.value.hint)
    (note, *_) = found.notes
    assert "overflows" in note
    assert "units.0.conv1/Conv" in note
    kept = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert kept["named"][0]["node"] == "units.0.conv1/Conv"


def test_a_tensor_that_goes_subnormal_is_named_in_a_note(pair: Any) -> None:
    contract, graph, half = pair
    windows = np.random.default_rng(3).standard_normal((8, *contract.shape)).astype(np.float32)
    assert not any("fc.weight" in note for note in half_ranges(graph, half, windows).notes)
    faint, small = scaled(graph, "fc.weight", 1e-5)
    found = half_ranges(faint, small, windows)
    assert found.overflows == ()
    assert found.subnormal[0].tensor == "fc.weight"
    assert found.subnormal[0].subnormal > 0.9
    refuse_overflow(found)
    (note,) = found.notes
    assert "fc/Gemm (fc.weight)" in note


def test_silence_has_nothing_to_say(pair: Any) -> None:
    contract, graph, half = pair
    found = half_ranges(graph, half, np.zeros((4, *contract.shape), np.float32))
    window = [item for item in found.tensors if item.node.startswith("front")]
    assert window
    assert {(item.largest, item.smallest, item.subnormal) for item in window} == {(0.0, 0.0, 0.0)}
