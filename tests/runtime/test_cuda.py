from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from drsn_edge.errors import DrsnError, MissingDependency, MissingDevice
from drsn_edge.runtime import cuda
from drsn_edge.runtime.cuda import Event, Stream, TransferBuffer, capture, use_device

FakeCuda = Any  # of conftest.py, which tests do not import


def test_copies_through_page_locked_memory(machine: FakeCuda) -> None:
    stream, there, back = Stream(), TransferBuffer(64, mapped=False), TransferBuffer(64, mapped=False)
    there.view("float32", (4, 3))[...] = np.arange(12, dtype=np.float32).reshape(4, 3)
    there.to_device(48, stream)
    assert there.device != there.host.ctypes.data
    assert machine.pinned_flags == [machine.cudaHostAllocDefault] * 2
    machine.cudaMemcpyAsync(back.device, there.device, 48, machine.cudaMemcpyKind.cudaMemcpyHostToDevice, 0)
    back.to_host(48, stream)
    stream.synchronize()
    np.testing.assert_array_equal(back.view("float32", (12,)), np.arange(12))
    for thing in (there, back, stream):
        thing.close()
        thing.close()  # a second time does nothing
    assert machine.calls.count("cudaFree") == machine.calls.count("cudaFreeHost") == 2
    assert machine.calls.count("cudaStreamDestroy") == 1


def test_shares_memory_on_an_integrated_gpu(machine: FakeCuda) -> None:
    stream, buffer = Stream(), TransferBuffer(16, mapped=True)
    assert buffer.device == buffer.host.ctypes.data
    assert machine.pinned_flags == [machine.cudaHostAllocMapped]
    buffer.to_device(16, stream)
    buffer.to_host(16, stream)
    assert not [call for call in machine.calls if call.startswith("copy") or call == "cudaMalloc"]
    buffer.close()
    stream.close()


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8", "bool", "int64"])
def test_views_have_every_element_type(dtype: str, machine: FakeCuda) -> None:
    buffer = TransferBuffer(64, mapped=False)
    view = buffer.view(dtype, (2, 3))
    view[...] = np.ones((2, 3), dtype)
    assert view.dtype == dtype
    assert buffer.host[: view.nbytes].tobytes() == np.ones((2, 3), dtype).tobytes()
    buffer.close()


def test_a_failed_allocation_gives_the_other_half_back(machine: FakeCuda) -> None:
    machine.fail("cudaMalloc")
    with pytest.raises(DrsnError, match="cudaMalloc failed"):
        TransferBuffer(64, mapped=False)
    assert "cudaFreeHost" in machine.calls  # and the fixture finds nothing left


def test_captures_and_replays(machine: FakeCuda) -> None:
    stream, buffer = Stream(), TransferBuffer(4, mapped=False)
    done: list[int] = []
    with capture(stream) as graph:
        machine.queue(lambda: done.append(1))
    assert done == []
    graph.launch(stream)
    graph.launch(stream)
    assert done == [1, 1]
    graph.close()
    graph.close()
    assert machine.calls.count("cudaGraphExecDestroy") == machine.calls.count("cudaGraphDestroy") == 1
    buffer.close()
    stream.close()


def test_a_failure_inside_a_capture_ends_it(machine: FakeCuda) -> None:
    stream = Stream()
    with pytest.raises(ZeroDivisionError), capture(stream):
        _ = 1 / 0
    assert machine.calls[-1] == "cudaStreamEndCapture"
    assert "cudaGraphInstantiate" not in machine.calls
    stream.close()


def test_a_graph_that_cannot_be_made_leaves_nothing(machine: FakeCuda) -> None:
    stream = Stream()
    machine.fail("cudaGraphInstantiate")
    with pytest.raises(DrsnError, match="cudaGraphInstantiate failed"), capture(stream):
        pass
    assert machine.calls[-1] == "cudaGraphDestroy"
    stream.close()


def test_measures(machine: FakeCuda) -> None:
    stream, start, end = Stream(), Event(), Event()
    start.record(stream)
    end.record(stream)
    end.synchronize()
    assert start.elapsed_ms(end) == 1.5
    for thing in (start, end, stream):
        thing.close()
        thing.close()
    assert machine.calls.count("cudaEventDestroy") == 2


@pytest.mark.parametrize(
    ("status", "kind", "hint"), [("old_driver", MissingDevice, "drsn-edge doctor"), ("invalid", DrsnError, None)]
)
def test_errors_carry_cudas_own_text(status: str, kind: type[DrsnError], hint: str | None, machine: FakeCuda) -> None:
    machine.fail("cudaSetDevice", status)
    with pytest.raises(DrsnError) as error:
        use_device()
    assert type(error.value) is kind
    assert error.value.got is not None
    assert f"text of {status}" in error.value.got
    assert (hint or "") in (error.value.hint or "")


def test_a_driver_that_cannot_be_loaded_is_a_missing_device(machine: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(index: int) -> Any:
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    monkeypatch.setattr(machine, "cudaSetDevice", broken)
    with pytest.raises(MissingDevice, match=r"libcuda\.so\.1[\s\S]*NVIDIA driver"):
        use_device()


def test_missing_bindings_name_both_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "cuda"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cuda", None)
    with pytest.raises(MissingDependency) as error:
        cuda.Stream()
    assert "drsn-edge[cuda13]" in str(error.value.hint)
    assert "drsn-edge[cuda12]" in str(error.value.hint)


def test_real_bindings_answer_without_a_driver() -> None:
    pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-bindings")
    if cuda.probe_device().device is not None:
        pytest.skip("this machine has a GPU")
    with pytest.raises(MissingDevice, match="needs an NVIDIA GPU"):
        use_device()
    with pytest.raises(MissingDevice, match="cudaStreamCreateWithFlags failed"):
        Stream()
