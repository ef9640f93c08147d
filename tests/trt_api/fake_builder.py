"""TensorRT as a builder, recorded: what it is asked, in which order; a small DRSN is what it parses.

`FakeBuilder(generation)` has `trt`, a module of exactly the genuine interface, `calls`, and switches for what can go
wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

TABLES = {
    "8.6": "8.6.0",
    "10.3": "10.3.0",
    "10.7": "10.7.0",
    "10.13": "10.13.3.9",
    "10.16": "10.16.1.11",
    "11.4": "11.4.0.106",
    "rtx": "rtx-1.7",
}
# What the parser makes of a small DRSN: name, kind, element type.
DRSN = (
    ("front/shape", "CONSTANT", "INT32"),
    ("front/GlobalAveragePool", "REDUCE", "FLOAT"),
    ("front/Sub", "ELEMENTWISE", "FLOAT"),
    ("front/Sqrt", "UNARY", "FLOAT"),
    ("front/reshape", "SHUFFLE", "FLOAT"),
    ("stem/Conv", "CONVOLUTION", "FLOAT"),
    ("unit/Relu", "ACTIVATION", "FLOAT"),
    ("unit/Abs", "UNARY", "FLOAT"),
    ("unit/GlobalAveragePool", "REDUCE", "FLOAT"),
    ("unit/Sub", "ELEMENTWISE", "FLOAT"),
)


class FakeBuilder:
    """A generation of TensorRT as a builder.

    Attributes:
        trt: The module to build with.
        calls: What it was asked, in order; attributes that were set are `name = value`.
        layers: Of the network, as it was left.
        built: Precision that the engine's layers have.
        plan: What the build returns; None where it fails.
        says: Messages during the build, as severity and text.
        parser_errors: What the parser complains of: error code, text, and the node's name and operator.
        nested: What the progress monitor hears: (`start`, phase, parent, steps), (`step`, phase) and (`finish`, phase).
    """

    def __init__(self, generation: str, tables: Mapping[str, Any], genuine: Any, *, built: str = "fp32") -> None:
        self.generation, self.built = generation, built
        self.calls: list[str] = []
        self.layers: list[Any] = []
        self.input_shape: tuple[int, ...] = (-1, 1, 2048)
        self.parser_errors: list[tuple[str, str, str, str]] = []
        self.says: list[tuple[str, str]] = [("VERBOSE", rtx_log(built))] if generation == "rtx" else []
        self.plan: bytes | None = b"ftrt" + bytes(100)
        self.plans: list[bytes] = []
        self.engine_loads, self.cache_fits, self.null = True, True, False
        self.nested: list[tuple[Any, ...]] = []
        self.logger: Any = None
        self.shares_profiles = generation.startswith("10")
        name = "tensorrt_rtx" if generation == "rtx" else "tensorrt"
        self.trt: ModuleType = genuine.module(name, tables[TABLES[generation]], behaviours(self))

    def say(self, severity: str, text: str) -> None:
        self.logger.log(getattr(self.trt.ILogger.Severity, severity), text)


def behaviours(machine: FakeBuilder) -> dict[str, type]:
    """The classes that a build touches."""
    calls = machine.calls

    def make(title: str, **values: Any) -> Any:
        made = getattr(machine.trt, title)()
        vars(made).update(values)
        return made

    class ILogger:
        def __init__(self) -> None:
            machine.logger = self

    class ITensor:
        pass

    class ILayer:
        def get_output(self, index: int) -> Any:
            return make("ITensor", dtype=vars(self)["_dtype"])

        def set_output_type(self, index: int, dtype: Any) -> None:
            vars(self)["_output_type"] = dtype

    class IIdentityLayer(ILayer):
        get_output = ILayer.get_output

    class INetworkDefinition:
        def get_input(self, index: int) -> Any:
            return make("ITensor", name="window", dtype=machine.trt.DataType.FLOAT, shape=machine.input_shape)

        def get_output(self, index: int) -> Any:
            shape = (machine.input_shape[0], 10)
            return make("ITensor", name="logits", dtype=machine.trt.DataType.FLOAT, shape=shape)

        def get_layer(self, index: int) -> Any:
            return machine.layers[index]

        def add_input(self, name: str, dtype: Any, shape: tuple[int, ...]) -> Any:
            calls.append("add_input")
            return make("ITensor", name=name, dtype=dtype, shape=shape)

        def add_identity(self, tensor: Any) -> Any:
            return make("IIdentityLayer", _dtype=tensor.dtype)

        def mark_output(self, tensor: Any) -> None:
            pass

        num_inputs = num_outputs = 1
        num_layers = len(DRSN)

    class IHostMemory:
        def __bytes__(self) -> bytes:
            return bytes(vars(self)["_content"])

    class ITimingCache:
        def serialize(self) -> Any:
            return make("IHostMemory", _content=b"measured")

    class IOptimizationProfile:
        def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
            calls.append(f"set_shape {name} {shapes}")

    class IBuilderConfig:
        def __init__(self) -> None:
            self._flags: set[str] = set()

        def _on_set(self, name: str, value: Any) -> None:
            if name != "progress_monitor":
                calls.append(f"{name} = {getattr(value, 'name', value)}")

        def set_memory_pool_limit(self, pool: Any, size: int) -> None:
            calls.append(f"set_memory_pool_limit {pool.name} {size}")

        def set_flag(self, flag: Any) -> None:
            self._flags.add(flag.name)
            calls.append(f"set_flag {flag.name}")

        def clear_flag(self, flag: Any) -> None:
            calls.append(f"clear_flag {flag.name}")

        def get_preview_feature(self, feature: Any) -> bool:
            return machine.shares_profiles

        def set_preview_feature(self, feature: Any, on: bool) -> None:
            calls.append(f"set_preview_feature {feature.name} {on}")

        def get_tactic_sources(self) -> int:
            return int(sum(1 << int(source) for source in machine.trt.TacticSource))

        def set_tactic_sources(self, mask: int) -> bool:
            left = [source.name for source in machine.trt.TacticSource if mask >> int(source) & 1]
            calls.append(f"set_tactic_sources {' '.join(left)}")
            return True

        def add_optimization_profile(self, profile: Any) -> int:
            calls.append("add_optimization_profile")
            return 0

        def create_timing_cache(self, content: bytes) -> Any:
            calls.append(f"create_timing_cache {content!r}")
            return make("ITimingCache")

        def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
            calls.append(f"set_timing_cache {ignore_mismatch}")
            fits, machine.cache_fits = machine.cache_fits, True
            return fits

        def set_compute_capability(self, value: Any, index: int) -> bool:
            calls.append(f"set_compute_capability {value.name} {index}")
            return True

    class Builder:
        def __init__(self, logger: Any) -> None:
            if machine.null:
                machine.say("ERROR", "CUDA initialization failure with error: 35")
                raise TypeError("pybind11::init(): factory function returned nullptr")
            calls.append("Builder")

        def create_network(self, flags: int) -> Any:
            members = machine.trt.NetworkDefinitionCreationFlag
            self._typed = [flag.name for flag in members if flags >> int(flag) & 1]
            calls.append(f"create_network {' '.join(sorted(self._typed))}".strip())
            trt = machine.trt
            machine.layers = [
                make("ILayer", name=name, type=trt.LayerType[kind], _dtype=trt.DataType[dtype], _output_type=None)
                for name, kind, dtype in DRSN
            ]
            return make("INetworkDefinition")

        def create_builder_config(self) -> Any:
            return make("IBuilderConfig")

        def create_optimization_profile(self) -> Any:
            return make("IOptimizationProfile")

        def build_serialized_network(self, network: Any, config: Any) -> Any:
            calls.append("build_serialized_network")
            if "STRONGLY_TYPED" in self._typed and config._flags & {"FP16", "INT8"}:
                raise AssertionError("precision flags and strong typing exclude each other")
            for severity, text in machine.says:
                machine.say(severity, text)
            monitor: Any = getattr(config, "progress_monitor", None)
            for what, *rest in machine.nested if monitor else ():
                act: dict[str, Callable[..., Any]] = {
                    "start": monitor.phase_start,
                    "step": lambda phase: monitor.step_complete(phase, 0),
                    "finish": monitor.phase_finish,
                }
                if act[what](*rest) is False:
                    return None
            plan = machine.plans.pop(0) if machine.plans else machine.plan
            return None if plan is None else make("IHostMemory", _content=plan)

    class ParserError:
        def code(self) -> Any:
            return getattr(machine.trt.ErrorCode, vars(self)["_what"][0])

        def desc(self) -> str:
            return str(vars(self)["_what"][1])

        def node(self) -> int:
            return 7

        def node_name(self) -> str:
            return str(vars(self)["_what"][2])

        def node_operator(self) -> str:
            return str(vars(self)["_what"][3])

    class OnnxParser:
        def __init__(self, network: Any, logger: Any) -> None:
            vars(self)["num_errors"] = len(machine.parser_errors)

        def parse(self, content: bytes) -> bool:
            calls.append("parse")
            return not machine.parser_errors

        def get_error(self, index: int) -> Any:
            return make("ParserError", _what=machine.parser_errors[index])

        num_errors = 0

    class EngineInspector:
        def get_engine_information(self, kind: Any) -> str:
            assert kind.name == "JSON"
            return inspector_json(machine.generation, machine.built)

    class ICudaEngine:
        def create_engine_inspector(self) -> Any:
            return make("EngineInspector")

    class Runtime:
        def __init__(self, logger: Any) -> None:
            if machine.generation == "rtx":
                raise AssertionError("TensorRT for RTX cannot deserialize without a GPU")
            calls.append("Runtime")

        def deserialize_cuda_engine(self, plan: bytes) -> Any:
            return make("ICudaEngine") if machine.engine_loads else None

    class IProgressMonitor:
        def __init__(self) -> None:
            pass

    found = locals()
    return {name: value for name, value in found.items() if isinstance(value, type)}


def inspector_json(generation: str, precision: str) -> str:
    """What the engine inspector says, in the words of the generation."""
    word = {"fp32": "FP32", "fp16": "FP16", "int8": "Int8"}[precision]
    if generation == "11.4":
        tensor: dict[str, Any] = {"Datatype": {"FP32": "Float", "FP16": "Half", "Int8": "Int8"}[word], "Format": "NHWC"}
        layer = {"Name": "conv_myl0_2", "LayerType": "correlation", "Metadata": "[ONNX Layer: stem/Conv]"}
        io: Any = {"I/O Tensors": [{"Name": "window", "IOMode": "Input", "DataType": "Float"}]}
    else:
        tensor = {"Format/Datatype": f"Thirty-two wide channel vectorized row major {word} format"}
        layer = {"Name": "stem/Conv + unit/Relu", "LayerType": "CaskConvolution", "TacticName": "sm80_xmma_fprop"}
        io = {"Bindings": ["window", "logits"]}
    tensors = {"Inputs": [{"Name": "x", **tensor}], "Outputs": [{"Name": "y", **tensor}]}
    return json.dumps({"Layers": [{**layer, **tensors}], **io})


def rtx_log(precision: str) -> str:
    """The message of TensorRT for RTX that lists the layers."""
    dtype = {"fp32": "Float", "fp16": "Half", "int8": "Int8"}[precision]
    return (
        f"Layers:\nName: stem/Conv_0, LayerType: correlation, Inputs: [ {{ Name: x, Datatype: {dtype} }}],"
        f" Outputs: [ {{ Name: y, Datatype: {dtype} }}], TacticName: t, StreamId: 0, Metadata: "
        "[ONNX Layer: stem/Conv]\n\nI/O Tensors:\n"
    )
