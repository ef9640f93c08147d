from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from drsn_edge.errors import DrsnError, InputError, MissingDependency, MissingDevice
from drsn_edge.runtime import driver, open_runner, run_batched
from drsn_edge.runtime.tensorrt_runner import TensorRTRunner

FakeCuda = Any  # of conftest.py, which tests do not import
FakeTensorRT = Any
Install = Callable[[str], FakeTensorRT]
Write = Callable[[FakeTensorRT], Path]

GENERATIONS = ["8.6", "10.3", "10.7", "10.13", "10.16", "11.4", "rtx"]


def windows(batch: int, start: float = 0) -> NDArray[np.float32]:
    return start + np.arange(batch * 4, dtype=np.float32).reshape(batch, 4)


def runner_for(trt: FakeTensorRT, path: Path) -> TensorRTRunner:
    runner = open_runner("tensorrt-rtx" if trt.__name__ == "tensorrt_rtx" else "tensorrt", path)
    assert isinstance(runner, TensorRTRunner)
    return runner


@pytest.mark.parametrize("generation", GENERATIONS)
def test_runs_batches_of_every_size_again_and_again(generation: str, tensorrt: Install, plan: Write) -> None:
    trt = tensorrt(generation)
    with runner_for(trt, plan(trt)) as runner:
        assert str(runner.inputs["x"]) == "x: float32[batch, 4]"
        assert str(runner.outputs["y"]) == "y: float32[batch, 4]"
        assert runner.max_batch == 8
        kept = []
        for number, batch in enumerate([2, 2, 2, 2, 8, 8, 8, 1, 2, 2, 2]):
            x = windows(batch, start=number)
            kept.append((runner.run({"x": x})["y"], 2 * x + 1))
    for result, expected in kept:  # results are the caller's: later runs and the end must not touch them
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("generation", GENERATIONS[:-1])
def test_calls_in_order(generation: str, tensorrt: Install, plan: Write) -> None:
    trt = tensorrt(generation)
    with runner_for(trt, plan(trt)) as runner:
        assert trt.calls == [
            "Runtime",
            "deserialize_cuda_engine",
            "create_execution_context",
            "set_input_shape x (8, 4)",
            "infer_shapes",
            "set_tensor_address x",
            "set_tensor_address y",
        ]
        trt.calls.clear()
        runner.run({"x": windows(2)})
        assert trt.calls == ["set_input_shape x (2, 4)", "infer_shapes", "execute_async_v3"]


def test_steady_state_allocates_nothing_and_launches_one_graph(
    tensorrt: Install, plan: Write, machine: FakeCuda
) -> None:
    trt = tensorrt("10.3")
    with runner_for(trt, plan(trt)) as runner:
        runner.run({"x": windows(2)})  # TensorRT's own preparation for the shape must not be captured
        runner.run({"x": windows(2)})
        assert machine.calls[-4:] == [
            "cudaGraphInstantiate",
            "cudaGraphDestroy",
            "cudaGraphLaunch",
            "cudaStreamSynchronize",
        ]
        machine.calls.clear()
        trt.calls.clear()
        for _ in range(3):
            runner.run({"x": windows(2)})
        assert machine.calls == ["cudaGraphLaunch", "cudaStreamSynchronize"] * 3
        assert trt.calls == []


def test_copies_only_what_the_batch_needs(tensorrt: Install, plan: Write, machine: FakeCuda) -> None:
    trt = tensorrt("10.3")
    with runner_for(trt, plan(trt)) as runner:
        machine.calls.clear()
        runner.run({"x": windows(3)})
    assert [call for call in machine.calls if call.startswith("copy")] == [
        "copy HostToDevice 48",
        "copy DeviceToHost 48",
    ]


def test_graphs_can_be_left_out(tensorrt: Install, plan: Write, machine: FakeCuda) -> None:
    trt = tensorrt("10.3")
    with open_runner("tensorrt", plan(trt), cuda_graph=False) as runner:
        for _ in range(3):
            runner.run({"x": windows(2)})
    assert "cudaStreamBeginCapture" not in machine.calls
    assert trt.calls.count("execute_async_v3") == 3


def test_shares_memory_on_a_jetson(tensorrt: Install, plan: Write, jetson: FakeCuda) -> None:
    trt = tensorrt("10.3")
    with runner_for(trt, plan(trt)) as runner:
        for number in range(3):
            x = windows(2, start=number)
            np.testing.assert_array_equal(runner.run({"x": x})["y"], 2 * x + 1)
    assert not [call for call in jetson.calls if call.startswith("copy") or call == "cudaMalloc"]


@pytest.mark.parametrize("batch", [9, 100])
def test_refuses_batches_outside_of_the_profile(batch: int, tensorrt: Install, plan: Write) -> None:
    trt = tensorrt("10.3")
    with runner_for(trt, plan(trt)) as runner:
        with pytest.raises(InputError) as error:
            runner.run({"x": windows(batch)})
        assert error.value.got == f"[{batch}, 4]"
        assert error.value.expected == "[1, 4] to [8, 4]"
        x = windows(batch)
        np.testing.assert_array_equal(run_batched(runner, x)["y"], 2 * x + 1)  # the runner's limit is kept


def test_a_plan_for_another_tensorrt_says_what_it_is(tensorrt: Install, tmp_path: Path, machine: FakeCuda) -> None:
    trt = tensorrt("10.3")
    path = tmp_path / "model.engine"
    path.write_bytes(b"ftrt" + bytes(20) + bytes([10, 16, 1, 11]) + bytes(64))
    with pytest.raises(InputError) as error, TensorRTRunner(path):
        pass
    assert error.value.what == "tensorrt 10.3.0 on Test GPU (sm86) does not take the engine"
    assert "built for TensorRT 10.16.1.11, here 10.3.0: rebuild it here" in str(error.value.got)
    assert trt.calls == [], "TensorRT is not even asked"
    assert error.value.hint == "rebuild it here: drsn-edge build BUNDLE"


def test_a_plan_that_says_nothing_of_itself_is_left_to_tensorrt(
    tensorrt: Install, tmp_path: Path, machine: FakeCuda
) -> None:
    tensorrt("10.3")
    path = tmp_path / "model.engine"
    path.write_bytes(b"????" + bytes(90))
    with pytest.raises(InputError) as error, TensorRTRunner(path):
        pass
    assert "not a plan that is recognised" in str(error.value.got)
    assert "not compatible with this version" in str(error.value.got)


def test_absent_plan(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error, TensorRTRunner(tmp_path / "none.engine"):
        pass
    assert error.value.got == str(tmp_path / "none.engine")


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_asks_the_driver_before_tensorrt_is_touched(
    name: str, tensorrt: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = tensorrt("rtx" if name == "tensorrt-rtx" else "8.6")
    monkeypatch.setattr(driver, "probe_device", lambda index=0: driver.DeviceProbe(None, "no CUDA driver"))
    path = tmp_path / "model.engine"
    path.write_bytes(trt.plan)
    with pytest.raises(MissingDevice, match="no CUDA driver"), open_runner(name, path):
        pass
    assert trt.calls == []


def test_missing_tensorrt_names_the_jetson_package(
    machine: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    path = tmp_path / "model.engine"
    path.write_bytes(b"plan")
    with pytest.raises(MissingDependency, match="python3-libnvinfer"), TensorRTRunner(path):
        pass


def test_a_failing_execution_tells_tensorrts_reason(tensorrt: Install, plan: Write) -> None:
    trt = tensorrt("10.3")
    with runner_for(trt, plan(trt)) as runner:
        trt.executes = False
        with pytest.raises(DrsnError, match="illegal memory access"):
            runner.run({"x": windows(2)})
        trt.executes = True
        np.testing.assert_array_equal(runner.run({"x": windows(2)})["y"], 2 * windows(2) + 1)


def test_a_failing_capture_is_ended_and_told(tensorrt: Install, plan: Write, machine: FakeCuda) -> None:
    trt = tensorrt("10.3")
    with runner_for(trt, plan(trt)) as runner:
        runner.run({"x": windows(2)})
        trt.executes = False
        with pytest.raises(DrsnError, match="illegal memory access"):
            runner.run({"x": windows(2)})
        assert machine.calls[-1] == "cudaStreamEndCapture"


def test_a_failed_activation_leaves_nothing_allocated(tensorrt: Install, plan: Write, machine: FakeCuda) -> None:
    trt = tensorrt("10.3")
    machine.fail("cudaMalloc")
    with pytest.raises(DrsnError, match="cudaMalloc failed"), runner_for(trt, plan(trt)):
        pass
    assert "cudaStreamDestroy" in machine.calls


def test_lean_runtime_is_loaded_for_plans_of_another_version(tensorrt: Install, plan: Write) -> None:
    trt = tensorrt("10.3")
    with TensorRTRunner(plan(trt), lean_runtime="/opt/libnvinfer_lean.so.8"):
        assert trt.calls[:3] == ["Runtime", "load_runtime /opt/libnvinfer_lean.so.8", "deserialize_cuda_engine"]
