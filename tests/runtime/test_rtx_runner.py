"""TensorRT for RTX: strategies, and the kernels that are kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drsn_edge.errors import InputError, UsageError
from drsn_edge.runtime import open_runner
from drsn_edge.runtime.rtx_runner import RtxRunner

Install = Callable[[str], Any]
Write = Callable[[Any], Path]
X = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.mark.parametrize(("cuda_graph", "strategy"), [(True, "WHOLE_GRAPH_CAPTURE"), (False, "DISABLED")])
def test_the_library_captures_by_itself(
    cuda_graph: bool, strategy: str, tensorrt: Install, plan: Write, machine: Any
) -> None:
    trt = tensorrt("rtx")
    with open_runner("tensorrt-rtx", plan(trt), cuda_graph=cuda_graph) as runner:
        for _ in range(3):
            np.testing.assert_array_equal(runner.run({"x": X})["y"], 2 * X + 1)
    assert f"create_execution_context {strategy}" in trt.calls
    assert "cudaStreamBeginCapture" not in machine.calls


@pytest.mark.parametrize("specialisation", ["lazy", "eager", "none"])
def test_specialisation_of_kernels(specialisation: Any, tensorrt: Install, plan: Write) -> None:
    trt = tensorrt("rtx")
    with RtxRunner(plan(trt), specialisation=specialisation):
        assert f"create_execution_context WHOLE_GRAPH_CAPTURE {specialisation.upper()}" in trt.calls


def test_unknown_specialisation() -> None:
    with pytest.raises(UsageError) as error:
        RtxRunner("model.engine", specialisation="always")  # type: ignore[arg-type]
    assert (error.value.got, error.value.expected) == ("always", "lazy, eager, none")


def test_streams_share_what_is_compiled(tensorrt: Install, plan: Write, tmp_path: Path) -> None:
    trt = tensorrt("rtx")
    with RtxRunner(plan(trt), streams=2, runtime_cache=tmp_path / "kernels") as runner:
        runner.run({"x": X})
    assert trt.calls.count("set_runtime_cache") == 1
    assert trt.calls.count("create_execution_context WHOLE_GRAPH_CAPTURE") == 2


@pytest.mark.parametrize("beside", [True, False])
def test_compiled_kernels_are_kept(beside: bool, tensorrt: Install, plan: Write, tmp_path: Path) -> None:
    trt = tensorrt("rtx")
    cache = tmp_path / ("model.engine.cache" if beside else "kernels")
    with RtxRunner(plan(trt), runtime_cache=True if beside else cache) as runner:
        runner.run({"x": X})
    assert cache.read_bytes().endswith(b"compiled kernels")
    assert trt.cache == []
    with RtxRunner(plan(trt), runtime_cache=True if beside else cache):
        assert trt.cache == [b"compiled kernels"]


def test_nothing_is_kept_unless_asked_for(tensorrt: Install, plan: Write, tmp_path: Path) -> None:
    trt = tensorrt("rtx")
    with RtxRunner(plan(trt)) as runner:
        runner.run({"x": X})
    assert "set_runtime_cache" not in trt.calls
    assert [path.name for path in tmp_path.iterdir()] == ["model.engine"]


@pytest.mark.parametrize("damage", ["flipped", "cut", "foreign", "of another plan"])
def test_a_cache_that_is_not_whole_is_not_loaded(damage: str, tensorrt: Install, plan: Write, tmp_path: Path) -> None:
    trt = tensorrt("rtx")
    path, cache = plan(trt), tmp_path / "kernels"
    with RtxRunner(path, runtime_cache=cache):
        pass
    whole = cache.read_bytes()
    if damage == "of another plan":
        path.write_bytes(b"another plan")
        trt.plan = b"another plan"
    else:
        cache.write_bytes({"flipped": whole[:-1] + b"?", "cut": whole[:-3], "foreign": b"kernels"}[damage])
    with RtxRunner(path, runtime_cache=cache):
        assert trt.cache == []
    assert cache.read_bytes().endswith(b"compiled kernels"), "and it is written anew"


def test_a_folder_that_cannot_be_written_costs_the_cache_only(tensorrt: Install, plan: Write, tmp_path: Path) -> None:
    trt = tensorrt("rtx")
    (tmp_path / "file").write_bytes(b"")
    with RtxRunner(plan(trt), runtime_cache=tmp_path / "file" / "kernels") as runner:
        np.testing.assert_array_equal(runner.run({"x": X})["y"], 2 * X + 1)


def test_no_cache_is_written_when_it_could_not_start(tensorrt: Install, tmp_path: Path) -> None:
    tensorrt("rtx")
    path, cache = tmp_path / "model.engine", tmp_path / "kernels.cache"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(InputError), RtxRunner(path, runtime_cache=cache):
        pass
    assert not cache.exists()
