"""TensorRT as a runtime, recorded: it takes its own plan only, and computes `y = 2 x + 1` on `[batch, 4]`.

`FakeRuntime(generation, machine)` works on the memory and streams of the fake CUDA in `tests/runtime/conftest.py`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

TABLES = {
    "8.6": "8.6.0",
    "10.3": "10.3.0",
    "10.7": "10.7.0",
    "10.13": "10.13.3.9",
    "10.16": "10.16.1.11",
    "11.4": "11.4.0.106",
    "rtx": "rtx-1.7",
}


class FakeRuntime:
    """A generation of TensorRT as a runtime.

    Attributes:
        trt: The module.
        calls: What it was asked, in order.
        plan: The plan that it takes, and what it says of every other.
        profile: Smallest, best and largest shape of `x`.
        executes: Whether calls work.
        shares_profiles: Whether several contexts can have the one profile: since 10, in 8.6 only if built so.
        cache: What runtime caches were filled with.
        refits: The graphs whose weights were taken; `refit_error` makes the next one fail.
    """

    def __init__(self, generation: str, tables: Mapping[str, Any], genuine: Any, machine: Any) -> None:
        self.generation, self.machine = generation, machine
        self.calls: list[str] = []
        self.profile = ((1, 4), (2, 4), (8, 4))
        self.executes = True
        self.shares_profiles = generation != "8.6"
        self.contexts = 0
        self.plan = b"plan of " + generation.encode()
        self.complaint = "The engine plan file is not compatible with this version of TensorRT"
        self.cache: list[bytes] = []
        self.refits: list[bytes] = []
        self.refit_error, self.missing_weights, self.refittable = "", (), False
        self.logger: Any = None
        self.__name__ = "tensorrt_rtx" if generation == "rtx" else "tensorrt"
        self.trt: ModuleType = genuine.module(self.__name__, tables[TABLES[generation]], behaviours(self))

    def say(self, severity: str, text: str) -> None:
        self.logger.log(getattr(self.trt.ILogger.Severity, severity), text)


def behaviours(fake: FakeRuntime) -> dict[str, type]:
    """The classes that a run touches."""
    calls = fake.calls

    def make(title: str, **values: Any) -> Any:
        made = getattr(fake.trt, title)()
        vars(made).update(values)
        return made

    class ILogger:
        def __init__(self) -> None:
            fake.logger = self

    class IHostMemory:
        def __bytes__(self) -> bytes:
            return bytes(vars(self)["_content"])

    class IExecutionContext:
        def __init__(self) -> None:
            self._shape: tuple[int, ...] = (-1, 4)
            self._address: dict[str, int] = {}
            # The first context of an engine gets the profile, the others have to ask for it.
            vars(self)["active_optimization_profile"] = 0 if fake.contexts == 0 else -1
            fake.contexts += 1

        def set_optimization_profile_async(self, index: int, stream: int) -> bool:
            calls.append(f"set_optimization_profile_async {index}")
            if not fake.shares_profiles:
                fake.say("ERROR", "Profile 0 has been chosen by another IExecutionContext")
                return False
            vars(self)["active_optimization_profile"] = index
            return True

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            calls.append(f"set_input_shape {name} {tuple(shape)}")
            self._shape = tuple(shape)
            return True

        def infer_shapes(self) -> list[str]:
            calls.append("infer_shapes")
            return []

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return self._shape

        def set_tensor_address(self, name: str, address: int) -> bool:
            calls.append(f"set_tensor_address {name}")
            self._address[name] = address
            return True

        def execute_async_v3(self, stream: int) -> bool:
            calls.append("execute_async_v3")
            if not fake.executes:
                fake.say("ERROR", "enqueueV3: an illegal memory access was encountered")
                return False
            assert vars(self)["active_optimization_profile"] == 0
            shape, address = self._shape, dict(self._address)

            def compute() -> None:
                count = int(np.prod(shape))
                x, y = (np.ctypeslib.as_array((ctypes.c_float * count).from_address(address[name])) for name in "xy")
                y[:] = 2 * x + 1

            # A graph stays right only while its context stays as it was captured: as on a GPU.
            captured = self._shape

            def replay() -> None:
                assert self._shape == captured, "the context was changed under its graph"
                compute()

            fake.machine.queue(replay)
            return True

    class IRuntimeCache:
        def deserialize(self, content: bytes) -> bool:
            fake.cache.append(content)
            return True

        def serialize(self) -> Any:
            return make("IHostMemory", _content=b"compiled kernels")

    class IRuntimeConfig:
        def create_runtime_cache(self) -> Any:
            return make("IRuntimeCache")

        def set_runtime_cache(self, cache: Any) -> None:
            calls.append("set_runtime_cache")

    class ICudaEngine:
        num_io_tensors = 2

        def get_tensor_name(self, index: int) -> str:
            return "xy"[index]

        def get_tensor_mode(self, name: str) -> Any:
            return fake.trt.TensorIOMode.INPUT if name == "x" else fake.trt.TensorIOMode.OUTPUT

        def get_tensor_dtype(self, name: str) -> Any:
            return fake.trt.DataType.FLOAT

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return (-1, 4)

        def get_tensor_profile_shape(self, name: str, profile: int) -> Any:
            return fake.profile

        def create_runtime_config(self) -> Any:
            return make("IRuntimeConfig")

        def create_execution_context(self, config: Any = None) -> Any:
            names = ("cuda_graph_strategy", "dynamic_shapes_kernel_specialization_strategy") if config else ()
            words = [getattr(config, name).name for name in names if getattr(config, name) is not None]
            calls.append(" ".join(["create_execution_context", *words]))
            return make("IExecutionContext")

    class Runtime:
        def __init__(self, logger: Any) -> None:
            calls.append("Runtime")

        def load_runtime(self, path: str) -> Any:
            calls.append(f"load_runtime {path}")
            return self

        def deserialize_cuda_engine(self, plan: bytes) -> Any:
            calls.append("deserialize_cuda_engine")
            if plan != fake.plan:
                fake.say("ERROR", fake.complaint)
                return None
            fake.contexts = 0
            return make("ICudaEngine", refittable=fake.refittable)

    class ParserError:
        def desc(self) -> str:
            return fake.refit_error

    class Refitter:
        def __init__(self, engine: Any, logger: Any) -> None:
            calls.append("Refitter")

        def get_missing_weights(self) -> tuple[str, ...]:
            return fake.missing_weights

        def refit_cuda_engine(self) -> bool:
            calls.append("refit_cuda_engine")
            return True

    class OnnxParserRefitter:
        def __init__(self, refitter: Any, logger: Any) -> None:
            pass

        def refit_from_bytes(self, content: bytes) -> bool:
            fake.refits.append(content)
            vars(self)["num_errors"] = int(bool(fake.refit_error))
            return not fake.refit_error

        def get_error(self, index: int) -> Any:
            return make("ParserError")

    found = locals()
    return {name: value for name, value in found.items() if isinstance(value, type)}
