"""ONNX Runtime on the CPU: the oracle for graphs, and the fallback where there is no TensorRT.

Two things about it were measured (1.32, x86; `tests/runtime/test_onnxruntime_runner.py` holds them) and decide the
defaults here:

* **Graph optimisation changes quantized graphs.** From its lowest level up it also quantizes the float bias of a
  quantized convolution. Against exact integer arithmetic a graph of two convolutions was off by 2e-6 without and by
  3e-2 with optimisation (1.4 % of the values by more than 1e-3), for 1.5 times the speed. So `optimise` is off unless
  asked for: what runs is what the file says.
* **FP16 graphs are computed in FP32.** The CPU of a PC has hardly any FP16 kernels; ORT replaces them by FP32 ones and
  removes the casts between them, *at every optimisation level*. Only the rounding of the weights is left. A graph that
  must show what FP16 arithmetic does has to be FP32-typed, with an explicit Cast to FP16 and back behind every node:
  those casts survive at every level, and elementwise results are then bit for bit those of NumPy's float16.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from drsn_edge.errors import InputError, UsageError
from drsn_edge.extras import require
from drsn_edge.runtime.onnx_file import refuse_external_data
from drsn_edge.runtime.runner import Runner, TensorSpec

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


class OnnxRuntimeRunner(Runner):
    """Runs an ONNX file.

    Args:
        model: A path, or the bytes of the file.
        threads: Threads within one operator. One by default: for networks this small several batches side by side
            (`run_batched`) are faster than threads that wait for each other at every node.
        optimise: Let ONNX Runtime rewrite the graph: faster, and not the arithmetic of the file (see above).

    Raises:
        MissingDependency: onnxruntime is not installed.
        InputError: On activation: no such file, not a graph, or one that ONNX Runtime cannot run.
        UsageError: `threads` is not positive.
    """

    name = "onnxruntime"
    concurrent = True

    def __init__(self, model: Path | str | bytes, *, threads: int = 1, optimise: bool = False) -> None:
        super().__init__()
        if threads < 1:
            raise UsageError("the number of threads is too small", got=threads, expected="at least 1")
        self._ort: Any = require("onnxruntime", purpose="running ONNX graphs")
        self._model = model if isinstance(model, bytes) else Path(model)
        self._threads = threads
        self._optimise = optimise
        self._session: Any = None

    def _activate(self) -> None:
        ort = self._ort
        options = ort.SessionOptions()
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if self._optimise else level.ORT_DISABLE_ALL
        # Given in any case: left at 0, ORT pins its threads to CPUs, and complains on stderr where it may not.
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        # Its plan of memory is made anew for every batch size that comes up twice: 5 MB more whenever it happens, days
        # after the start perhaps. Without it the network of the paper is as fast on 64 windows, 6 % slower on one.
        options.enable_mem_pattern = False
        options.log_severity_level = 4  # fatal only: errors come as exceptions
        if isinstance(self._model, Path):
            if not self._model.is_file():
                raise InputError("the graph is not there", got=self._model, expected="an ONNX file")
            what, source = str(self._model), self._model.read_bytes()
        else:
            what, source = f"{len(self._model)} bytes", self._model
        refuse_external_data(source, what=what)
        try:
            self._session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base below this one
            raise InputError(
                "ONNX Runtime cannot load the graph",
                got=f"{what}: {error}",
                expected=f"an ONNX graph that ONNX Runtime {ort.__version__} can run",
            ) from error
        self._declare(map(_spec, self._session.get_inputs()), map(_spec, self._session.get_outputs()))

    @property
    def metadata(self) -> dict[str, str]:
        """What the file says of itself: labels, contract, version. Known once the runner is active."""
        return {} if self._session is None else dict(self._session.get_modelmeta().custom_metadata_map)

    def _deactivate(self) -> None:
        self._session = None

    def _infer(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        names = list(self.outputs)
        try:
            values = self._session.run(names, dict(feeds))
        except Exception as error:
            # The shapes fitted the declared ones, so a free size does not suit the network (too short a window, say).
            shapes = ", ".join(f"{name}{list(value.shape)}" for name, value in feeds.items())
            raise InputError(
                "ONNX Runtime cannot run the graph on this input",
                got=f"{shapes}: {error}",
                expected="sizes that the network was made for",
            ) from error
        return dict(zip(names, values, strict=True))


def _spec(value: Any) -> TensorSpec:
    """An input or output as ONNX Runtime describes it; a size that has no name gets one by its position."""
    shape = tuple(size if isinstance(size, int | str) else f"dim{axis}" for axis, size in enumerate(value.shape))
    return TensorSpec(value.name, _DTYPES.get(value.type, value.type), shape)
