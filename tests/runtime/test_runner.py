from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from drsn_edge.errors import DrsnError, InputError, UsageError
from drsn_edge.runtime import RUNNERS, Runner, TensorSpec, open_runner, run_batched

X = TensorSpec("x", "float32", ("batch", 4))


class Doubler(Runner):
    """Doubles; keeps a diary."""

    name = "doubler"

    def __init__(self, *, broken: str = "", limit: int | None = None) -> None:
        super().__init__(inputs={"x": X}, outputs={"y": TensorSpec("y", "float32", ("batch", 4))})
        self.broken = broken
        self.limit = limit
        self.diary: list[str] = []
        self.batches: list[int] = []

    @property
    def max_batch(self) -> int | None:
        return self.limit

    def _activate(self) -> None:
        self.diary.append("activate")
        if self.broken == "activate":
            raise DrsnError("half-way")

    def _deactivate(self) -> None:
        self.diary.append("deactivate")

    def _infer(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.batches.append(len(feeds["x"]))
        assert feeds["x"].flags.c_contiguous
        return {} if self.broken == "infer" else {"y": feeds["x"] * 2}


def ones(*shape: int, dtype: str = "float32") -> NDArray[Any]:
    return np.ones(shape, dtype)


def test_runs_between_activation_and_deactivation() -> None:
    with Doubler() as runner:
        np.testing.assert_array_equal(runner.run({"x": ones(3, 4)})["y"], 2 * ones(3, 4))
    assert runner.diary == ["activate", "deactivate"]


def test_releases_what_a_failed_activation_left() -> None:
    runner = Doubler(broken="activate")
    with pytest.raises(DrsnError, match="half-way"), runner:
        pass
    assert runner.diary == ["activate", "deactivate"]
    with pytest.raises(InputError, match="not active"):
        runner.run({"x": ones(3, 4)})


def test_releases_when_the_block_fails() -> None:
    runner = Doubler()
    with pytest.raises(ZeroDivisionError), runner:
        _ = 1 / 0
    assert runner.diary == ["activate", "deactivate"]


@pytest.mark.parametrize(
    ("feeds", "got", "expected"),
    [
        ({}, "[]", "x"),
        ({"x": ones(1, 4), "z": ones(1)}, "['x', 'z']", "x"),
        ({"x": [[1.0] * 4]}, "list", "x: float32[batch, 4]"),
        ({"x": ones(1, 4, dtype="float64")}, "float64", "float32"),
        ({"x": ones(4)}, "[4]", "x: float32[batch, 4]"),
        ({"x": ones(1, 4, 1)}, "[1, 4, 1]", "x: float32[batch, 4]"),
        ({"x": ones(1, 5)}, "[1, 5]", "x: float32[batch, 4]"),
        ({"x": ones(0, 4)}, "[0, 4]", "at least one of each axis"),
    ],
)
def test_refuses_feeds_that_do_not_fit(feeds: Any, got: str, expected: str) -> None:
    with Doubler() as runner, pytest.raises(InputError) as error:
        runner.run(feeds)
    assert error.value.got == got
    assert error.value.expected == expected
    assert runner.batches == []


def test_wrong_type_says_how_to_convert() -> None:
    with Doubler() as runner, pytest.raises(InputError, match=r"x\.astype\('float32'\)"):
        runner.run({"x": ones(1, 4, dtype="float16")})


def test_passes_contiguous_arrays_on() -> None:
    with Doubler() as runner:
        strided = np.arange(16, dtype=np.float32).reshape(4, 4).T
        np.testing.assert_array_equal(runner.run({"x": strided})["y"], 2 * strided)


def test_refuses_a_second_activation() -> None:
    with Doubler() as runner, pytest.raises(InputError, match=r"active already[\s\S]*one at a time"):
        runner.__enter__()


def test_can_be_activated_again_afterwards() -> None:
    runner = Doubler()
    for _ in range(2):
        with runner:
            runner.run({"x": ones(1, 4)})
    assert runner.diary == ["activate", "deactivate"] * 2


def test_a_backend_that_leaves_outputs_out_is_found() -> None:
    with Doubler(broken="infer") as runner, pytest.raises(DrsnError) as error:
        runner.run({"x": ones(1, 4)})
    assert error.value.expected == "y"


def test_tensors_of_a_file_are_unknown_before_activation() -> None:
    class Late(Doubler):
        def __init__(self) -> None:
            super().__init__()
            self._inputs = None

    with pytest.raises(InputError, match=r"inputs yet[\s\S]*`with` block"):
        _ = Late().inputs


def test_unknown_runner_lists_the_known() -> None:
    with pytest.raises(UsageError) as error:
        open_runner("openvino", "model.onnx")
    assert error.value.got == "openvino"
    assert error.value.expected == "torch, onnxruntime, tensorrt, tensorrt-rtx"


def test_unknown_option_lists_the_known() -> None:
    with pytest.raises(UsageError) as error:
        open_runner("onnxruntime", "model.onnx", cuda_graph=True)
    assert "cuda_graph" in str(error.value.got)
    assert error.value.expected == "threads, optimise"


@pytest.mark.parametrize("name", RUNNERS)
def test_every_runner_of_the_table_is_there(name: str) -> None:
    if name == "torch":
        pytest.importorskip("torch", reason="the torch runner needs torch")
    import importlib

    module, _, attribute = RUNNERS[name].partition(":")
    cls = getattr(importlib.import_module(module), attribute)
    assert issubclass(cls, Runner)
    assert cls.name == name


@given(windows=st.integers(1, 40), batch=st.integers(1, 50), limit=st.none() | st.integers(1, 9))
def test_batches_join_to_the_whole(windows: int, batch: int, limit: int | None) -> None:
    x = np.arange(windows * 4, dtype=np.float32).reshape(windows, 4)
    with Doubler(limit=limit) as runner:
        np.testing.assert_array_equal(run_batched(runner, x, batch=batch)["y"], 2 * x)
    assert max(runner.batches) <= min(batch, limit or batch)
    assert sum(runner.batches) == windows


def test_batches_read_a_memory_map_piece_by_piece(tmp_path: Any) -> None:
    path = tmp_path / "x.npy"
    np.save(path, ones(10, 4))
    with Doubler() as runner:
        result = run_batched(runner, np.load(path, mmap_mode="r"), batch=4)
    assert runner.batches == [4, 4, 2]
    assert result["y"].shape == (10, 4)


@pytest.mark.parametrize(
    ("x", "batch", "kind", "message"),
    [
        (ones(0, 4), 4, InputError, "at least one window"),
        (ones(3, 4), 0, UsageError, "at least 1"),
    ],
)
def test_batches_need_something_to_do(x: NDArray[Any], batch: int, kind: type[DrsnError], message: str) -> None:
    with Doubler() as runner, pytest.raises(kind, match=message):
        run_batched(runner, x, batch=batch)
