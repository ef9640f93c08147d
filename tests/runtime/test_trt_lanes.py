"""What is kept between calls: a graph for every batch size in use, several streams, buffers handed out, weights."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from drsn_edge.errors import DrsnError, InputError, UsageError
from drsn_edge.runtime import run_batched
from drsn_edge.runtime.tensorrt_runner import TensorRTRunner

Install = Callable[[str], Any]
Write = Callable[[Any], Path]
SHARING = ["10.3", "10.7", "10.13", "10.16", "11.4"]


def windows(batch: int, start: float = 0) -> NDArray[np.float32]:
    return start + np.arange(batch * 4, dtype=np.float32).reshape(batch, 4)


def run(runner: TensorRTRunner, *batches: int) -> None:
    """Runs batches in turn; every result is checked."""
    for number, batch in enumerate(batches):
        x = windows(batch, start=number)
        np.testing.assert_array_equal(runner.run({"x": x})["y"], 2 * x + 1)


@pytest.mark.parametrize("generation", SHARING)
def test_a_graph_for_each_batch_size_is_kept(generation: str, tensorrt: Install, plan: Write, machine: Any) -> None:
    trt = tensorrt(generation)
    with TensorRTRunner(plan(trt)) as runner:
        run(runner, 1, 1, 2, 2, 4, 4, 8, 8)
        assert machine.calls.count("cudaGraphInstantiate") == 4
        machine.calls.clear()
        trt.calls.clear()
        run(runner, 1, 8, 2, 4, 1, 2)
        assert machine.calls == ["cudaGraphLaunch", "cudaStreamSynchronize"] * 6
        assert trt.calls == []
    assert machine.calls.count("cudaGraphExecDestroy") == 4


def test_each_graph_has_a_context_of_its_own(tensorrt: Install, plan: Write) -> None:
    trt = tensorrt("10.3")
    with TensorRTRunner(plan(trt)) as runner:
        run(runner, 1, 2, 1, 2)
    assert trt.calls.count("create_execution_context") == 2
    assert trt.calls.count("set_optimization_profile_async 0") == 1  # the first context has its profile by itself


def test_the_one_that_was_used_longest_ago_gives_way(tensorrt: Install, plan: Write, machine: Any) -> None:
    trt = tensorrt("11.4")
    with TensorRTRunner(plan(trt), graphs=2) as runner:
        run(runner, 1, 1, 2, 2, 1, 4, 4)  # 4 takes the place of 2
        machine.calls.clear()
        run(runner, 1, 4)
        assert machine.calls == ["cudaGraphLaunch", "cudaStreamSynchronize"] * 2
        run(runner, 2, 2)
        assert machine.calls.count("cudaGraphExecDestroy") == 1
        assert machine.calls.count("cudaGraphInstantiate") == 1
    assert trt.calls.count("create_execution_context") == 2


def test_an_engine_of_8_6_that_does_not_share_its_profile_captures_anew(
    tensorrt: Install, plan: Write, machine: Any
) -> None:
    trt = tensorrt("8.6")
    with TensorRTRunner(plan(trt)) as runner:
        run(runner, 2, 2, 4, 4, 2, 2)
        assert machine.calls.count("cudaGraphInstantiate") == 3
        assert machine.calls.count("cudaGraphExecDestroy") == 2
        assert machine.calls.count("cudaMalloc") == 2  # one for x and one for y, for good
    assert trt.calls.count("set_optimization_profile_async 0") == 1, "asked once, not with every shape"


def test_an_engine_of_8_6_that_was_built_to_share_keeps_graphs(tensorrt: Install, plan: Write, machine: Any) -> None:
    trt = tensorrt("8.6")
    trt.shares_profiles = True
    with TensorRTRunner(plan(trt)) as runner:
        run(runner, 2, 2, 4, 4, 2, 4)
        assert machine.calls.count("cudaGraphInstantiate") == 2


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batches=st.lists(st.integers(1, 8), max_size=12),
    graphs=st.integers(1, 3),
    generation=st.sampled_from(["8.6", "10.3", "11.4"]),
)
def test_any_order_of_batch_sizes_is_right(
    batches: list[int], graphs: int, generation: str, tensorrt: Install, plan: Write
) -> None:
    trt = tensorrt(generation)
    with TensorRTRunner(plan(trt), graphs=graphs) as runner:
        run(runner, *batches)


def test_a_shape_that_is_refused_costs_nothing(tensorrt: Install, plan: Write, machine: Any) -> None:
    trt = tensorrt("10.3")
    with TensorRTRunner(plan(trt)) as runner:
        run(runner, 2, 2)
        for _ in range(2):
            with pytest.raises(InputError, match="outside of the engine's profile"):
                runner.run({"x": windows(9)})
        machine.calls.clear()
        run(runner, 2)
        assert machine.calls == ["cudaGraphLaunch", "cudaStreamSynchronize"]
        run(runner, 4, 4)
    assert trt.calls.count("create_execution_context") == 2


# Several streams.


@pytest.mark.parametrize("generation", ["10.3", "11.4"])
def test_streams_have_contexts_and_buffers_of_their_own(
    generation: str, tensorrt: Install, plan: Write, machine: Any
) -> None:
    trt = tensorrt(generation)
    with TensorRTRunner(plan(trt), streams=3, cuda_graph=False) as runner:
        assert (runner.concurrent, runner.calls_at_a_time) == (True, 3)
        assert machine.calls.count("cudaStreamCreateWithFlags") == 3
        assert machine.calls.count("cudaHostAlloc") == 6
        assert trt.calls.count("create_execution_context") == 3
        x = windows(100)
        np.testing.assert_array_equal(run_batched(runner, x, batch=4)["y"], 2 * x + 1)
    assert machine.calls.count("cudaStreamDestroy") == 3


def test_calls_beyond_the_streams_wait_their_turn(tensorrt: Install, plan: Write, machine: Any) -> None:
    trt = tensorrt("10.3")
    inside, most, lock = 0, 0, threading.Lock()
    both = threading.Barrier(2)
    wait = type(machine).cudaStreamSynchronize

    def synchronize(stream: Any) -> Any:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        both.wait(timeout=30)  # two calls are here at the same time, or this breaks
        with lock:
            inside -= 1
        return wait(machine, stream)

    machine.cudaStreamSynchronize = synchronize
    results: dict[int, NDArray[Any]] = {}
    with TensorRTRunner(plan(trt), streams=2, cuda_graph=False) as runner:
        threads = [
            threading.Thread(target=lambda n=n: results.update({n: runner.run({"x": windows(2, start=n)})["y"]}))
            for n in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most == 2
    for number, result in results.items():
        np.testing.assert_array_equal(result, 2 * windows(2, start=number) + 1)


def test_streams_need_a_profile_that_can_be_shared(tensorrt: Install, plan: Write, machine: Any) -> None:
    trt = tensorrt("8.6")
    with pytest.raises(DrsnError) as error, TensorRTRunner(plan(trt), streams=2):
        pass
    assert "finds its profile taken" in str(error.value.got)
    assert "streams=1" in str(error.value.hint)
    assert machine.calls.count("cudaStreamDestroy") == 2


# Buffers and options.


def test_outputs_can_be_the_buffers_themselves(tensorrt: Install, plan: Write) -> None:
    trt = tensorrt("10.3")
    with TensorRTRunner(plan(trt), reuse_outputs=True) as runner:
        first = runner.run({"x": windows(2)})["y"]
        again = runner.run({"x": windows(2, start=5)})["y"]
        assert np.shares_memory(first, again)
        np.testing.assert_array_equal(first, 2 * windows(2, start=5) + 1)


@pytest.mark.parametrize(
    ("options", "got", "expected"),
    [
        ({"graphs": 0}, "0", "1 or more"),
        ({"streams": 0}, "0", "1 or more"),
        ({"streams": 2, "reuse_outputs": True}, "reuse_outputs=True, streams=2", "one of both"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], got: str, expected: str) -> None:
    with pytest.raises(UsageError) as error:
        TensorRTRunner("model.engine", **options)
    assert (error.value.got, error.value.expected) == (got, expected)


# Weights that are put back.


@pytest.mark.parametrize("generation", SHARING)
def test_weights_are_put_back_before_there_is_a_context(
    generation: str, tensorrt: Install, plan: Write, tmp_path: Path
) -> None:
    trt = tensorrt(generation)
    trt.refittable = True
    graph = tmp_path / "model.onnx"
    graph.write_bytes(b"the graph")
    for weights in (graph, b"the graph"):
        trt.calls.clear()
        with TensorRTRunner(plan(trt), weights=weights) as runner:
            run(runner, 2)
        assert trt.refits.pop() == b"the graph"
        assert trt.calls.index("refit_cuda_engine") < trt.calls.index("create_execution_context")


def test_weights_that_cannot_be_put_back(tensorrt: Install, plan: Write, tmp_path: Path) -> None:
    old = tensorrt("8.6")
    with (
        pytest.raises(UsageError, match=r"8\.6\.0 cannot refit[\s\S]*TensorRT 10"),
        TensorRTRunner(plan(old), weights=b""),
    ):
        pass
    trt = tensorrt("10.3")
    with pytest.raises(UsageError, match=r"not refittable[\s\S]*--refit"), TensorRTRunner(plan(trt), weights=b"x"):
        pass
    trt.refittable = True
    with pytest.raises(InputError, match=r"none\.onnx"), TensorRTRunner(plan(trt), weights=tmp_path / "none.onnx"):
        pass
    trt.refit_error = "initializer stem/weight is of another shape"
    with (
        pytest.raises(InputError, match=r"another shape[\s\S]*was built from"),
        TensorRTRunner(plan(trt), weights=b"x"),
    ):
        pass
    trt.refit_error, trt.missing_weights = "", ("stem/weight",)
    with pytest.raises(InputError, match="stem/weight"), TensorRTRunner(plan(trt), weights=b"x"):
        pass
