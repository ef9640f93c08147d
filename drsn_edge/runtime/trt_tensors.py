"""TensorRT's tensors in our words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from drsn_edge.errors import InputError
from drsn_edge.runtime.runner import TensorSpec

# trt.nptype is not used: in 8.x it reads np.bool, which NumPy 1.24 to 1.26 lack.
DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "FP8": "float8_e4m3fn",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}


def tensor_spec(name: str, dtype: Any, dims: Iterable[int]) -> TensorSpec:
    """A tensor of a network or engine; a free size (-1) is named `batch` on the first axis, else by position."""
    shape = tuple(int(size) if size >= 0 else "batch" if axis == 0 else f"dim{axis}" for axis, size in enumerate(dims))
    return TensorSpec(name, DTYPES.get(dtype.name, dtype.name.lower()), shape)


def engine_tensors(trt: Any, engine: Any) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """The inputs and the outputs of an engine, each in its order."""
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        spec = tensor_spec(name, engine.get_tensor_dtype(name), engine.get_tensor_shape(name))
        (inputs if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else outputs).append(spec)
    return inputs, outputs


def profile_limits(engine: Any, spec: TensorSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The smallest and the largest shape of an input that the engine takes.

    Raises:
        InputError: Its batch is free, and the engine has no profile that says how large it may be.
    """
    if all(isinstance(size, int) for size in spec.shape):
        fixed = tuple(int(size) for size in spec.shape)
        return fixed, fixed
    shapes = [tuple(shape) for shape in engine.get_tensor_profile_shape(spec.name, 0)]
    if len(shapes) != 3 or any(len(shape) != len(spec.shape) for shape in shapes):
        raise InputError(
            f"the engine has no profile for its input {spec.name}",
            got=f"{spec}, profile {shapes}",
            expected="smallest, best and largest shape",
            hint="build it with a profile: drsn-edge build, or trtexec --minShapes --optShapes --maxShapes",
        )
    return shapes[0], shapes[2]
