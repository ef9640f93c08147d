"""What every backend looks like: named arrays in, named arrays out, checks in one place.

A backend is one file with one class of three methods (`_activate`, `_infer`, `_deactivate`) and one line in `RUNNERS`.
"""

from __future__ import annotations

import abc
import importlib
import inspect
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from drsn_edge.errors import DrsnError, InputError, UsageError
from drsn_edge.runtime.cpus import usable_cpus

if TYPE_CHECKING:
    from typing_extensions import Self

# Runner name -> where its class is. Imported when asked for, so that a device needs one backend and not all of them.
RUNNERS: dict[str, str] = {
    "torch": "drsn_edge.model.runner:TorchRunner",
    "onnxruntime": "drsn_edge.runtime.onnxruntime_runner:OnnxRuntimeRunner",
    "tensorrt": "drsn_edge.runtime.tensorrt_runner:TensorRTRunner",
    "tensorrt-rtx": "drsn_edge.runtime.rtx_runner:RtxRunner",
}


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    Attributes:
        name: As the graph calls it.
        dtype: NumPy's name of the element type, e.g. `float32`.
        shape: A number where the size is fixed, a name where it is free.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"

    def check(self, value: Any) -> None:
        """Refuse an array that does not fit.

        Raises:
            InputError: Not an array; another element type, rank or fixed size; nothing in it.
        """
        if not isinstance(value, np.ndarray):
            raise InputError(f"input {self.name} is not an array", got=type(value).__name__, expected=self)
        if str(value.dtype) != self.dtype:
            raise InputError(
                f"input {self.name} has the wrong type",
                got=value.dtype,
                expected=self.dtype,
                hint=f"convert it: x.astype('{self.dtype}')",
            )
        fits = value.ndim == len(self.shape) and all(
            isinstance(wanted, str) or wanted == size for wanted, size in zip(self.shape, value.shape, strict=True)
        )
        if not fits:
            raise InputError(f"input {self.name} has the wrong shape", got=list(value.shape), expected=self)
        if value.size == 0:
            raise InputError(f"input {self.name} is empty", got=list(value.shape), expected="at least one of each axis")


class Runner(abc.ABC):
    """Runs one network; a context manager.

        with open_runner("onnxruntime", path) as runner:
            logits = runner.run({"window": windows})["logits"]

    `inputs` and `outputs` describe the tensors; a backend that learns them from its file knows them once it is active.

    Args:
        inputs: Known beforehand, or None when `_activate` will `_declare` them.
        outputs: Likewise.
    """

    name: ClassVar[str]
    # Whether `run` may be called from several threads at a time.
    concurrent: bool = False

    def __init__(
        self, *, inputs: Mapping[str, TensorSpec] | None = None, outputs: Mapping[str, TensorSpec] | None = None
    ) -> None:
        self._inputs = None if inputs is None else dict(inputs)
        self._outputs = None if outputs is None else dict(outputs)
        self._active = False

    # What a backend writes.

    @abc.abstractmethod
    def _activate(self) -> None:
        """Load, allocate, and `_declare` the tensors if they were not known."""

    @abc.abstractmethod
    def _deactivate(self) -> None:
        """Release everything. Also called after an `_activate` that failed half-way."""

    @abc.abstractmethod
    def _infer(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run. `feeds` are checked and contiguous; the arrays that are returned are the caller's own from then on,
        unless the backend has an option that says otherwise.
        """

    def _declare(self, inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec]) -> None:
        self._inputs = {spec.name: spec for spec in inputs}
        self._outputs = {spec.name: spec for spec in outputs}

    # What a caller uses.

    @property
    def inputs(self) -> dict[str, TensorSpec]:
        """The inputs by name, in the order of the graph."""
        return self._known(self._inputs, "inputs")

    @property
    def outputs(self) -> dict[str, TensorSpec]:
        """The outputs by name, in the order of the graph."""
        return self._known(self._outputs, "outputs")

    @property
    def max_batch(self) -> int | None:
        """The largest first axis that `run` takes; None where memory alone decides."""
        return None

    @property
    def calls_at_a_time(self) -> int:
        """How many calls at a time are worth making, where the runner is `concurrent`."""
        return usable_cpus()

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run once.

        Args:
            feeds: An array for every input, of exactly its element type, rank and fixed sizes.

        Returns:
            An array for every output.

        Raises:
            InputError: The runner is not active; an input is missing, unknown or does not fit.
        """
        if not self._active:
            raise InputError(
                f"the {self.name} runner is not active", got="run() outside of its `with` block", expected="inside"
            )
        inputs = self.inputs
        if set(feeds) != set(inputs):
            raise InputError(
                "the feeds are not the inputs of the network", got=sorted(feeds), expected=", ".join(map(str, inputs))
            )
        for name, spec in inputs.items():
            spec.check(feeds[name])
        results = self._infer({name: np.ascontiguousarray(feeds[name]) for name in inputs})
        absent = [name for name in self.outputs if name not in results]
        if absent:
            raise DrsnError(f"the {self.name} runner left outputs out", got=sorted(results), expected=", ".join(absent))
        return results

    def __enter__(self) -> Self:
        if self._active:
            raise InputError(
                f"the {self.name} runner is active already", got="a second `with`", expected="one at a time"
            )
        try:
            self._activate()
        except BaseException:
            self._deactivate()
            raise
        self._active = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._active = False
        self._deactivate()

    def _known(self, specs: dict[str, TensorSpec] | None, what: str) -> dict[str, TensorSpec]:
        if specs is None:
            raise InputError(
                f"the {self.name} runner does not know its {what} yet",
                got="a runner that is not active",
                expected="to be inside its `with` block: the file says what they are",
            )
        return specs


def open_runner(name: str, path: Path | str | bytes, **options: Any) -> Runner:
    """A runner by name, not active yet.

    Args:
        name: A key of `RUNNERS`.
        path: What the backend runs: a checkpoint folder, an ONNX file or its bytes, a plan.
        options: Of the backend's class.

    Raises:
        UsageError: No such runner, or an option that the backend does not have.
        MissingDependency: The backend's package is not installed.
    """
    if name not in RUNNERS:
        raise UsageError("there is no such runner", got=name, expected=", ".join(RUNNERS))
    module, _, attribute = RUNNERS[name].partition(":")
    cls: Any = getattr(importlib.import_module(module), attribute)
    try:
        inspect.signature(cls).bind(path, **options)
    except TypeError as error:
        known = list(inspect.signature(cls).parameters)[1:]
        raise UsageError(
            f"the {name} runner cannot be opened so", got=f"{sorted(options)}: {error}", expected=", ".join(known)
        ) from None
    runner: Runner = cls(path, **options)
    return runner


def run_batched(
    runner: Runner, x: NDArray[Any], *, batch: int = 64, workers: int | None = None
) -> dict[str, NDArray[Any]]:
    """Run an array of any length through a runner of one input, piece by piece.

    Memory: the outputs, and one piece of the input; `x` may be a memory map.

    Args:
        runner: Active.
        x: `[windows, ...]`.
        batch: Windows per piece; the runner's own limit is kept.
        workers: Pieces that run at a time, where the runner is `concurrent`; by default one for each CPU, or for each
            stream of a GPU. For networks this small, pieces side by side beat threads within one operator, which wait
            for each other at every node.

    Returns:
        Every output, joined along the first axis.

    Raises:
        InputError: No windows, or a runner of several inputs.
        UsageError: `batch` is not positive.
    """
    if batch < 1:
        raise UsageError("the batch is too small", got=batch, expected="at least 1")
    if len(runner.inputs) != 1:
        raise InputError("the network has several inputs", got=", ".join(runner.inputs), expected="one")
    (name,) = runner.inputs
    if x.ndim == 0 or len(x) == 0:
        raise InputError(f"input {name} is empty", got=list(x.shape), expected="at least one window")
    step = min(batch, runner.max_batch or batch)
    results: dict[str, NDArray[Any]] = {}

    def piece(start: int) -> dict[str, NDArray[Any]]:
        return runner.run({name: np.asarray(x[start : start + step])})

    def keep(start: int, found: dict[str, NDArray[Any]]) -> None:
        for key, value in found.items():
            if start == 0:
                results[key] = np.empty((len(x), *value.shape[1:]), value.dtype)
            results[key][start : start + step] = value

    starts = range(0, len(x), step)
    count = runner.calls_at_a_time if workers is None else workers
    if count == 1 or not runner.concurrent or len(starts) == 1:
        for start in starts:
            keep(start, piece(start))
    else:
        with ThreadPoolExecutor(count) as pool:
            for start, found in zip(starts, pool.map(piece, starts), strict=True):
                keep(start, found)
    return results
