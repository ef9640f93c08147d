"""Padded channels change nothing that can be seen."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from drsn_edge.errors import UsageError
from drsn_edge.exporters.canonical import CanonicalGraph, canonicalise, parse
from drsn_edge.exporters.graph_tools import constant, dimension
from drsn_edge.exporters.padding import pad_channels
from drsn_edge.exporters.precision import to_half, with_probes, with_telemetry
from drsn_edge.signals.contract import SignalContract

Array = np.ndarray[Any, Any]


def close(found: dict[str, Array], wanted: dict[str, Array]) -> None:
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        assert found[name].shape == value.shape, name
        np.testing.assert_allclose(found[name], value, rtol=0, atol=2e-6 * max(np.abs(value).max(), 1), err_msg=name)


@pytest.mark.parametrize("model", ["drsn-cw", "drsn-cs", "senet"])
@pytest.mark.parametrize("multiple", [8, 32])
def test_outputs_and_probes_stay_the_same(
    model: str, multiple: int, exported: Callable[..., Any], windows: Callable[..., Any], run_onnx: Callable[..., Any]
) -> None:
    _, contract, graph = exported(model)
    before = graph.to_bytes()
    padded = pad_channels(graph, multiple=multiple)
    assert graph.to_bytes() == before, "a copy was padded"
    x = windows(contract, 12)
    close(run_onnx(padded.to_bytes(), window=x), run_onnx(before, window=x))
    if graph.units:
        assert [unit.name for unit in padded.units] == [unit.name for unit in graph.units]
        close(run_onnx(with_probes(padded.to_bytes()), window=x), run_onnx(with_probes(before), window=x))
        close(run_onnx(with_telemetry(padded.to_bytes()), window=x), run_onnx(with_telemetry(before), window=x))


@pytest.mark.parametrize("model", ["drsn-cw", "drsn-cs"])
def test_every_convolution_and_gate_is_widened_and_keeps_its_name(model: str, exported: Callable[..., Any]) -> None:
    _, _, graph = exported(model)
    padded = pad_channels(graph, multiple=32)
    nodes = {node.name: node for node in padded.model.graph}
    assert {node.name for node in graph.model.graph} <= set(nodes)
    for name, node in nodes.items():
        if node.op_type == "Conv":
            weight = constant(node.inputs[1])
            assert weight is not None
            assert weight.shape[0] == 32, name
            assert weight.shape[1] == (1 if name == "stem/Conv" else 32), name
            assert dimension(node.outputs[0], 1) == 32
    gates = [node for name, node in nodes.items() if name and name.endswith("fc1/Gemm")]
    assert {tuple(constant(node.inputs[1]).shape) for node in gates} == {(32, 32)}  # type: ignore[union-attr]
    extra = [name for name in nodes if name and name.endswith(".real/Slice")]
    # A shared threshold is a mean over the real channels, and a shortcut that widens puts zeros on both sides of them;
    # nothing else needs them alone.
    widened = [node for node in graph.model.graph if node.op_type in ("Pad", "Concat")]
    assert len(widened) == 1
    assert len(extra) == (2 if model == "drsn-cs" else 0) + len(widened)


def test_a_multiple_that_is_there_changes_no_weight(exported: Callable[..., Any]) -> None:
    _, _, graph = exported("drsn-cw", widths=(8, 8))
    padded = pad_channels(graph, multiple=8)
    sizes = {name: value.shape for name, value in graph.model.graph.initializers.items()}
    assert {name.removesuffix(".padded"): v.shape for name, v in padded.model.graph.initializers.items()} == sizes


def test_precisions_follow_from_the_padded_graph(
    exported: Callable[..., Any], windows: Callable[..., Any], run_onnx: Callable[..., Any]
) -> None:
    from drsn_edge.calibration.plan import make_plan
    from drsn_edge.calibration.quantize import quantize

    _, contract, graph = exported("drsn-cw")
    padded = pad_channels(graph, multiple=32)
    plan, narrow = make_plan(padded), make_plan(graph)
    assert [row.layer for row in plan.layers] == [row.layer for row in narrow.layers]
    assert all("multiples of" in row.warning for row in narrow.int8)
    assert not any(row.warning for row in plan.int8)
    scales = {row.layer: 0.05 for row in plan.int8}
    x = windows(contract, 8)
    for glue in ("fp32", "fp16"):
        wide = quantize(padded, plan=plan, scales=scales, glue=glue)
        thin = quantize(graph, plan=narrow, scales=scales, glue=glue)
        found, wanted = (
            run_onnx(with_probes(wide.to_bytes()), window=x),
            run_onnx(with_probes(thin.to_bytes()), window=x),
        )
        assert {name: value.shape for name, value in found.items()} == {n: v.shape for n, v in wanted.items()}
        # Integers are the same but where sums in another order round over an edge.
        error = np.abs(found["logits"] - wanted["logits"]).max(axis=1) / np.abs(wanted["logits"]).max()
        assert np.median(error) < (1e-6 if glue == "fp32" else 5e-3)
        assert error.max() < 0.02
    assert to_half(padded).units


def network(
    rng: np.random.Generator, widths: list[int], *, shared: bool, length: int
) -> tuple[list[Any], dict[str, Any]]:
    """A DRSN written by hand: the graph that torch's exporter makes, without the seconds that it takes."""
    nodes: list[Any] = [("Conv", ["window", "stem.w", "stem.b"], ["x0"], {"pads": [1, 1], "kernel_shape": [3]})]
    values: dict[str, Any] = {"stem.w": rng.normal(size=(widths[0], 2, 3)), "stem.b": rng.normal(size=widths[0])}
    for index, (inner, outer) in enumerate(itertools.pairwise(widths)):
        u, x = f"u{index}", f"x{index}"
        values |= {
            f"{u}.s": rng.normal(size=(inner, 1)), f"{u}.t": rng.normal(size=(inner, 1)),
            f"{u}.w1": rng.normal(size=(outer, inner, 3)) / inner, f"{u}.b1": rng.normal(size=outer),
            f"{u}.w2": rng.normal(size=(outer, outer, 3)) / outer, f"{u}.b2": rng.normal(size=outer),
            f"{u}.g1": rng.normal(size=(outer, outer)), f"{u}.h1": rng.normal(size=outer),
            f"{u}.g2": rng.normal(size=(1 if shared else outer, outer)),
            f"{u}.h2": rng.normal(size=1 if shared else outer),
            f"{u}.pads": np.array([0, (outer - inner) // 2, 0, 0, outer - inner - (outer - inner) // 2, 0]),
            "two": np.array([2]), "one": np.array([1]), "begin": np.array([0]), "end": np.array([2**62]),
        }  # fmt: skip
        conv = {"pads": [1, 1], "kernel_shape": [3]}
        nodes += [
            ("Mul", [x, f"{u}.s"], [f"{u}.1"]), ("Add", [f"{u}.1", f"{u}.t"], [f"{u}.2"]),
            ("Relu", [f"{u}.2"], [f"{u}.3"]),
            ("Conv", [f"{u}.3", f"{u}.w1", f"{u}.b1"], [f"{u}.4"], conv | {"strides": [2]}),
            ("Relu", [f"{u}.4"], [f"{u}.5"]), ("Conv", [f"{u}.5", f"{u}.w2", f"{u}.b2"], [f"{u}.y"], conv),
            ("Abs", [f"{u}.y"], [f"{u}.6"]), ("GlobalAveragePool", [f"{u}.6"], [f"{u}.7"]),
            ("Flatten", [f"{u}.7"], [f"{u}.m"], {"axis": 1}),
            ("Gemm", [f"{u}.m", f"{u}.g1", f"{u}.h1"], [f"{u}.8"], {"transB": 1}), ("Relu", [f"{u}.8"], [f"{u}.9"]),
            ("Gemm", [f"{u}.9", f"{u}.g2", f"{u}.h2"], [f"{u}.10"], {"transB": 1}),
            ("Sigmoid", [f"{u}.10"], [f"{u}.a"]),
        ]  # fmt: skip
        mean = f"{u}.m"
        if shared:
            mean = f"{u}.mm"
            nodes += [
                ("Unsqueeze", [f"{u}.m", "one"], [f"{u}.11"]), ("GlobalAveragePool", [f"{u}.11"], [f"{u}.12"]),
                ("Flatten", [f"{u}.12"], [mean], {"axis": 1}),
            ]  # fmt: skip
        nodes += [
            ("Mul", [f"{u}.a", mean], [f"{u}.13"]), ("Unsqueeze", [f"{u}.13", "two"], [f"{u}.tau"]),
            ("Neg", [f"{u}.tau"], [f"{u}.14"]), ("Min", [f"{u}.y", f"{u}.tau"], [f"{u}.15"]),
            ("Max", [f"{u}.15", f"{u}.14"], [f"{u}.16"]), ("Sub", [f"{u}.y", f"{u}.16"], [f"{u}.17"]),
            ("Slice", [x, "begin", "end", "two", "two"], [f"{u}.18"]),
        ]  # fmt: skip
        short = f"{u}.18"
        if outer > inner:
            short = f"{u}.19"
            nodes.append(("Pad", [f"{u}.18", f"{u}.pads"], [short]))
        nodes.append(("Add", [f"{u}.17", short], [f"x{index + 1}"]))
    last = f"x{len(widths) - 1}"
    values |= {"fc.w": rng.normal(size=(3, widths[-1])), "fc.b": rng.normal(size=3)}
    nodes += [
        ("Relu", [last], ["r"]), ("GlobalAveragePool", ["r"], ["p"]), ("Flatten", ["p"], ["f"], {"axis": 1}),
        ("Gemm", ["f", "fc.w", "fc.b"], ["logits"], {"transB": 1}),
    ]  # fmt: skip
    kinds = {"pads": np.int64, "two": np.int64, "one": np.int64, "begin": np.int64, "end": np.int64}
    return nodes, {
        name: np.asarray(value).astype(kinds.get(name.rpartition(".")[2], np.float32)) for name, value in values.items()
    }


# Without shrinking: an example is a handful of small numbers already.
@settings(max_examples=12, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    widths=st.lists(st.integers(2, 40), min_size=2, max_size=4).map(sorted),
    shared=st.booleans(),
    multiple=st.sampled_from([2, 4, 8, 32]),
    seed=st.integers(0, 99),
)
def test_any_widths_both_thresholds(
    graph: Callable[..., bytes], run_onnx: Callable[..., Any], widths: list[int], shared: bool, multiple: int, seed: int
) -> None:
    rng, length = np.random.default_rng(seed), 16
    nodes, values = network(rng, widths, shared=shared, length=length)
    data = graph(nodes, inputs={"window": ("batch", 2, length)}, outputs={"logits": ("batch", 3)}, constants=values)
    contract = SignalContract(
        sample_rate_hz=1.0, channels=("a", "b"), window=length, detrend="none", standardise="none"
    )
    single: CanonicalGraph = canonicalise(parse(data), contract=contract, labels=("a", "b", "c"))
    assert len(single.units) == len(widths) - 1
    padded = pad_channels(single, multiple=multiple)
    for node in padded.model.graph:
        if node.op_type == "Conv":
            assert dimension(node.outputs[0], 1) == 1 or (dimension(node.outputs[0], 1) or 1) % multiple == 0
    real = json.loads(padded.model.metadata_props["drsn_edge.channels"])
    assert list(real.values()) == widths[1:]
    x = rng.normal(size=(5, 2, length)).astype(np.float32)
    close(run_onnx(with_probes(padded.to_bytes()), window=x), run_onnx(with_probes(single.to_bytes()), window=x))


@pytest.mark.parametrize("multiple", [-1, 0, 1, 257])
def test_a_multiple_that_means_nothing_is_refused(multiple: int, exported: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match="padded to this multiple") as caught:
        pad_channels(exported("drsn-cw")[2], multiple=multiple)
    assert str(multiple) in str(caught.value.got)
    assert "2 to 256" in str(caught.value.expected)
