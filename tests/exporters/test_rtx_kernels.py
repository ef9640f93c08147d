"""How many kernels the real networks take with TensorRT for RTX: a change of the graph that costs some is noticed."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from drsn_edge.errors import BuildError
from drsn_edge.exporters.trt_engine import EngineOptions, build_engine

pytest.importorskip("tensorrt_rtx", reason="needs TensorRT for RTX, which builds without a GPU")
pytest.importorskip("onnxscript", reason="networks are exported with torch's exporter")


@pytest.fixture(scope="module")
def bench() -> Any:
    """`benchmarks/rtx_kernels.py`, and its graphs made once."""
    root = str(Path(__file__).parents[2])
    sys.path.insert(0, root)
    try:
        return importlib.import_module("benchmarks.rtx_kernels")
    finally:
        sys.path.remove(root)


@pytest.fixture(scope="module")
def graphs(bench: Any) -> dict[str, dict[str, bytes]]:
    class Lazy(dict[str, dict[str, bytes]]):
        def __missing__(self, preset: str) -> dict[str, bytes]:
            self[preset] = bench.make_graphs(preset)
            return self[preset]

    return Lazy()


def check(bench: Any, row: dict[str, Any]) -> None:
    assert row["built"], row["reason"]
    assert len(row["per_unit"]) == 12
    if row["precision"] != "int8" and row["target"] != "sm75":
        assert row["kernels"] <= bench.MOST[row["preset"]]
        assert row["most_per_unit"] <= bench.MOST_PER_UNIT[row["preset"]]


def test_the_paper_network_in_half_precision(bench: Any, graphs: Any) -> None:
    check(bench, bench.measure("paper", graphs["paper"], "fp16", "sm86"))


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["paper", "edge"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("target", ["sm80", "sm86", "sm89", "sm120", "sm121"])
def test_every_engine_builds_in_its_precision_and_few_kernels(
    preset: str, precision: str, target: str, bench: Any, graphs: Any
) -> None:
    check(bench, bench.measure(preset, graphs[preset], precision, target))


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["paper", "edge"])
def test_turing_takes_half_precision(preset: str, bench: Any, graphs: Any) -> None:
    check(bench, bench.measure(preset, graphs[preset], "fp16", "sm75"))


@pytest.mark.slow
def test_turing_without_integers_is_told_and_not_built_in_silence(bench: Any, graphs: Any) -> None:
    """The builder of 1.7 takes the INT8 graph and computes it in floating point."""
    for targets in (("sm75",), ("sm75", "sm86")):
        with pytest.raises(BuildError) as error:
            build_engine(
                graphs["paper"]["int8"], options=EngineOptions(precision="int8", backend="rtx", targets=targets)
            )
        assert "0 in int8" in str(error.value.got)
        assert "on sm75: build fp16" in str(error.value.hint)


@pytest.mark.slow
def test_turing_has_no_single_precision_product_and_its_refusal_costs_the_next_engine_nothing(
    bench: Any, graphs: Any
) -> None:
    """In 1.7 the next engine of the process had 78 kernels: a setting of the refused build was left."""
    row = bench.measure("paper", graphs["paper"], "fp32", "sm75")
    assert not row["built"]
    assert "FP32 GEMM is not supported" in row["reason"]
    check(bench, bench.measure("paper", graphs["paper"], "fp32", "sm80"))
