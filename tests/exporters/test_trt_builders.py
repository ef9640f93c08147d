"""The same build against the generations of TensorRT: what each has, and in which order it is asked.

The fakes have only the attributes that the real modules have (read from their bindings); they record every call.
"""

from __future__ import annotations

import enum
import json
import sys
import types
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from drsn_edge.errors import BuildError, InputError, MissingDependency, MissingDevice, UsageError
from drsn_edge.exporters import trt_choice
from drsn_edge.exporters.trt_choice import builder_choice, graph_for, typing_for, wanted_graph
from drsn_edge.exporters.trt_engine import EngineBuild, EngineOptions, build_engine, sidecar
from drsn_edge.exporters.trt_layers import check_precision, count_precisions
from drsn_edge.exporters.trt_types import LayerInfo, Precision
from drsn_edge.runtime import driver, trt_log
from drsn_edge.runtime.driver import DeviceInfo, DeviceProbe

VERSIONS = {"8.6": "8.6.2", "10.3": "10.3.0", "10.13": "10.13.3.9", "11.4": "11.4.0.106", "rtx": "1.7.1.116"}
WEAK = ("8.6", "10.3", "10.13")
ORIN = DeviceInfo("Orin", "sm87", "12.6", 64 << 30, integrated=True)

Kind = enum.Enum("Kind", "CONSTANT SHUFFLE ELEMENTWISE UNARY REDUCE ACTIVATION SCALE POOLING CONVOLUTION")
DataType = enum.Enum("DataType", "FLOAT HALF INT8 INT32")


class Layer:
    """One layer of a parsed network."""

    def __init__(self, name: str, kind: Kind, dtype: DataType = DataType.FLOAT) -> None:
        self.name, self.type, self.dtype = name, kind, dtype
        self.precision: DataType | None = None
        self.output_type: DataType | None = None

    def get_output(self, index: int) -> Any:
        return SimpleNamespace(dtype=self.dtype)

    def set_output_type(self, index: int, dtype: DataType) -> None:
        self.output_type = dtype


def drsn() -> list[Layer]:
    """What the parser makes of a small DRSN."""
    return [
        Layer("front/shape", Kind.CONSTANT, DataType.INT32),
        Layer("front/GlobalAveragePool", Kind.REDUCE),
        Layer("front/Sub", Kind.ELEMENTWISE),
        Layer("front/Sqrt", Kind.UNARY),
        Layer("front/reshape", Kind.SHUFFLE),
        Layer("stem/Conv", Kind.CONVOLUTION),
        Layer("unit/Relu", Kind.ACTIVATION),
        Layer("unit/Abs", Kind.UNARY),
        Layer("unit/GlobalAveragePool", Kind.REDUCE),
        Layer("unit/Sub", Kind.ELEMENTWISE),
    ]


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


def names(title: str, *members: str) -> Any:
    """An enumeration counted from 0, as pybind11's flags are."""
    return enum.IntEnum(title, [(name, number) for number, name in enumerate(members)])


class FakeTensorRT(types.ModuleType):
    """A generation of TensorRT as a builder."""

    def __init__(self, generation: str) -> None:
        super().__init__("tensorrt_rtx" if generation == "rtx" else "tensorrt")
        trt = self
        self.calls: list[str] = []
        self.layers = drsn()
        self.input_shape: tuple[int, ...] = (-1, 1, 2048)
        self.parser_errors: list[Any] = []
        self.says: list[tuple[str, str]] = []
        self.plan: bytes | None = b"ftrt" + bytes(100)
        self.engine_loads = True
        self.cache_fits = True
        self.built_precision: str | None = None
        self.__version__ = VERSIONS[generation]
        weak, rtx = generation in WEAK, generation == "rtx"

        self.BuilderFlag = names(
            "BuilderFlag",
            "TF32",
            "REFIT",
            "VERSION_COMPATIBLE",
            "EXCLUDE_LEAN_RUNTIME",
            *(("FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS") if weak else ()),
        )
        self.NetworkDefinitionCreationFlag = names(
            "NetworkDefinitionCreationFlag",
            *(("EXPLICIT_BATCH",) if weak else ()),
            *(("STRONGLY_TYPED",) if generation != "8.6" else ()),
        )
        self.Severity = names("Severity", "INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")
        self.MemoryPoolType = SimpleNamespace(WORKSPACE="WORKSPACE")
        self.ProfilingVerbosity = SimpleNamespace(DETAILED="DETAILED")
        self.LayerInformationFormat = SimpleNamespace(JSON="JSON")
        self.HardwareCompatibilityLevel = SimpleNamespace(AMPERE_PLUS="AMPERE_PLUS")
        self.LayerType, self.DataType = Kind, DataType

        class ILogger:
            def __init__(self) -> None:
                trt.logger = self

        class Config:
            def __init__(self) -> None:
                self.set: set[str] = set()

            def __setattr__(self, name: str, value: Any) -> None:
                super().__setattr__(name, value)
                if name in ("profiling_verbosity", "hardware_compatibility_level", "num_compute_capabilities"):
                    trt.calls.append(f"{name} = {value}")

            def set_memory_pool_limit(self, pool: str, size: int) -> None:
                trt.calls.append(f"set_memory_pool_limit {pool} {size}")

            def set_flag(self, flag: Any) -> None:
                self.set.add(flag.name)
                trt.calls.append(f"set_flag {flag.name}")

            def clear_flag(self, flag: Any) -> None:
                trt.calls.append(f"clear_flag {flag.name}")

            def add_optimization_profile(self, profile: Any) -> int:
                trt.calls.append("add_optimization_profile")
                return 0

            def create_timing_cache(self, content: bytes) -> Any:
                trt.calls.append(f"create_timing_cache {content!r}")
                return SimpleNamespace(serialize=lambda: b"measured")

            def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
                trt.calls.append(f"set_timing_cache {ignore_mismatch}")
                fits, trt.cache_fits = trt.cache_fits, True
                return fits

        if rtx:

            def set_compute_capability(self: Config, value: Any, index: int) -> bool:
                trt.calls.append(f"set_compute_capability {value.name} {index}")
                return True

            Config.set_compute_capability = set_compute_capability  # type: ignore[attr-defined]
            self.ComputeCapability = names("ComputeCapability", "NONE", "CURRENT", "SM80", "SM86")

        class Builder:
            def __init__(self, logger: Any) -> None:
                trt.calls.append("Builder")

            def create_network(self, value: int) -> Any:
                names = [flag.name for flag in trt.NetworkDefinitionCreationFlag if value >> int(flag) & 1]
                trt.calls.append(f"create_network {' '.join(names)}".strip())
                tensor = SimpleNamespace(name="window", dtype=DataType.FLOAT, shape=trt.input_shape)
                logits = SimpleNamespace(name="logits", dtype=DataType.FLOAT, shape=(trt.input_shape[0], 10))
                trt.network_typed = "STRONGLY_TYPED" in names or not weak
                return SimpleNamespace(
                    num_inputs=1,
                    num_outputs=1,
                    get_input=lambda index: tensor,
                    get_output=lambda index: logits,
                    num_layers=len(trt.layers),
                    get_layer=lambda index: trt.layers[index],
                )

            def create_builder_config(self) -> Config:
                return Config()

            def create_optimization_profile(self) -> Any:
                def set_shape(name: str, *shapes: tuple[int, ...]) -> None:
                    trt.calls.append(f"set_shape {name} {shapes}")

                return SimpleNamespace(set_shape=set_shape)

            def build_serialized_network(self, network: Any, config: Config) -> Any:
                trt.calls.append("build_serialized_network")
                if trt.network_typed and config.set & {"FP16", "INT8"}:
                    raise AssertionError("precision flags and strong typing exclude each other")
                for severity, text in trt.says:
                    trt.logger.log(trt.Severity[severity], text)
                return trt.plan

        class OnnxParser:
            def __init__(self, network: Any, logger: Any) -> None:
                self.num_errors = len(trt.parser_errors)

            def parse(self, content: bytes) -> bool:
                trt.calls.append("parse")
                return not trt.parser_errors

            def get_error(self, index: int) -> Any:
                return trt.parser_errors[index]

        class Runtime:
            def __init__(self, logger: Any) -> None:
                if rtx:
                    raise AssertionError("TensorRT for RTX cannot deserialize without a GPU")
                trt.calls.append("Runtime")

            def deserialize_cuda_engine(self, plan: bytes) -> Any:
                if not trt.engine_loads:
                    return None
                text = inspector_json(generation, trt.built_precision or "fp32")
                inspector = SimpleNamespace(get_engine_information=lambda kind: text)
                return SimpleNamespace(create_engine_inspector=lambda: inspector)

        self.ILogger, self.Builder, self.OnnxParser, self.Runtime = ILogger, Builder, OnnxParser, Runtime
        self.IBuilderConfig = Config
        if generation not in ("8.6",):
            self.IProgressMonitor = type("IProgressMonitor", (), {})
        self.logger: Any = None
        self.network_typed = False


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeTensorRT]:
    """Makes a generation, on a machine with an Orin."""
    monkeypatch.setattr(driver, "probe_device", lambda index=0: DeviceProbe(ORIN))
    monkeypatch.setattr(trt_log, "_LOGGERS", {})

    def make(generation: str, *, precision: str = "fp32") -> FakeTensorRT:
        trt = FakeTensorRT(generation)
        trt.built_precision = precision
        if generation == "rtx":
            trt.says = [("VERBOSE", rtx_log(precision))]
        return trt

    return make


Make = Callable[..., FakeTensorRT]


def build(trt: FakeTensorRT, **options: Any) -> EngineBuild:
    return build_engine(b"graph", options=EngineOptions(**options), trt=trt)


COMMON = [
    "set_memory_pool_limit WORKSPACE 1073741824",
    "profiling_verbosity = DETAILED",
    "clear_flag TF32",
]
PROFILE = [
    "set_shape window ((1, 1, 2048), (16, 1, 2048), (256, 1, 2048))",
    "add_optimization_profile",
]
CACHE = ["create_timing_cache b''", "set_timing_cache False"]


@pytest.mark.parametrize(
    ("generation", "precision", "network", "flags"),
    [
        ("8.6", "fp32", "EXPLICIT_BATCH", ()),
        ("8.6", "fp16", "EXPLICIT_BATCH", ("FP16", "OBEY_PRECISION_CONSTRAINTS")),
        ("8.6", "int8", "EXPLICIT_BATCH", ("FP16", "OBEY_PRECISION_CONSTRAINTS", "INT8")),
        ("10.3", "fp16", "EXPLICIT_BATCH", ("FP16", "OBEY_PRECISION_CONSTRAINTS")),
        ("10.13", "fp16", "EXPLICIT_BATCH STRONGLY_TYPED", ()),
        ("10.13", "int8", "EXPLICIT_BATCH STRONGLY_TYPED", ()),
        ("11.4", "fp32", "", ()),
        ("11.4", "fp16", "", ()),
        ("11.4", "int8", "", ()),
    ],
)
def test_calls_in_order(generation: str, precision: str, network: str, flags: tuple[str, ...], tensorrt: Make) -> None:
    trt = tensorrt(generation, precision=precision)
    result = build(trt, precision=precision)
    assert trt.calls == [
        "Builder",
        f"create_network {network}".strip(),
        "parse",
        *COMMON,
        *(f"set_flag {flag}" for flag in flags),
        *PROFILE,
        *CACHE,
        "build_serialized_network",
        "Runtime",
    ]
    assert result.flags == (*network.split(), *flags)
    assert result.strongly_typed is ("STRONGLY_TYPED" in network or generation == "11.4")
    assert (result.backend, result.version, result.targets) == ("tensorrt", VERSIONS[generation], ("sm87",))
    assert result.timing_cache == b"measured"


def test_rtx_names_its_targets_and_never_deserializes(tensorrt: Make) -> None:
    trt = tensorrt("rtx", precision="fp16")
    result = build(trt, precision="fp16", backend="rtx", targets=("sm80", "sm86"))
    assert trt.calls == [
        "Builder",
        "create_network",
        "parse",
        *COMMON,
        "num_compute_capabilities = 2",
        "set_compute_capability SM80 0",
        "set_compute_capability SM86 1",
        *PROFILE,
        "build_serialized_network",
    ]
    assert (result.backend, result.targets, result.timing_cache) == ("rtx", ("sm80", "sm86"), None)


@pytest.mark.parametrize("strongly_typed", [True, False])
def test_both_ways_can_be_asked_for_where_both_exist(strongly_typed: bool, tensorrt: Make) -> None:
    trt = tensorrt("10.3", precision="fp16")
    assert build(trt, precision="fp16", strongly_typed=strongly_typed).strongly_typed is strongly_typed
    assert ("set_flag FP16" in trt.calls) is not strongly_typed


@pytest.mark.parametrize(
    ("generation", "asked", "typed"),
    [
        ("8.6", None, False),
        ("10.3", None, False),
        ("10.3", True, True),
        ("10.13", None, True),
        ("10.13", False, False),
        ("11.4", None, True),
        ("rtx", None, True),
    ],
)
def test_typing(generation: str, asked: bool | None, typed: bool, tensorrt: Make) -> None:
    assert typing_for(tensorrt(generation), asked) is typed


@pytest.mark.parametrize(("generation", "asked"), [("8.6", True), ("11.4", False), ("rtx", False)])
def test_typing_that_a_builder_does_not_have(generation: str, asked: bool, tensorrt: Make) -> None:
    with pytest.raises(UsageError) as error:
        typing_for(tensorrt(generation), asked)
    assert VERSIONS[generation] in error.value.what
    assert error.value.got == f"strongly_typed={asked}"
    assert error.value.expected == ("weakly" if asked else "strongly") + " typed networks"


@pytest.mark.parametrize(
    ("precision", "strong", "weak"),
    [
        ("fp32", "model.fp32.onnx", "model.fp32.onnx"),
        ("fp16", "model.fp16.onnx", "model.fp32.onnx"),
        ("int8", "model.int8.onnx", "model.int8-fp32.onnx"),
    ],
)
def test_each_builder_gets_its_graph(precision: Any, strong: str, weak: str, tensorrt: Make) -> None:
    assert graph_for(precision, True) == strong
    assert graph_for(precision, False) == weak
    assert wanted_graph(EngineOptions(precision=precision), trt=tensorrt("11.4")) == strong
    assert wanted_graph(EngineOptions(precision=precision), trt=tensorrt("8.6")) == weak


def test_weak_half_keeps_the_contract_and_the_means_in_fp32(tensorrt: Make) -> None:
    trt = tensorrt("8.6", precision="fp16")
    build(trt, precision="fp16")
    pinned = {layer.name for layer in trt.layers if layer.precision is DataType.FLOAT}
    assert pinned == {"front/GlobalAveragePool", "front/Sub", "front/Sqrt", "unit/GlobalAveragePool"}
    assert pinned == {layer.name for layer in trt.layers if layer.output_type is DataType.FLOAT}


@pytest.mark.parametrize(("generation", "precision"), [("8.6", "fp32"), ("10.13", "fp16"), ("11.4", "fp16")])
def test_nothing_is_pinned_where_types_say_it(generation: str, precision: str, tensorrt: Make) -> None:
    trt = tensorrt(generation, precision=precision)
    build(trt, precision=precision)
    assert all(layer.precision is None for layer in trt.layers)


@pytest.mark.parametrize("generation", [*VERSIONS])
@pytest.mark.parametrize(("asked", "built"), [("fp16", "fp32"), ("int8", "fp16"), ("fp32", "fp16")])
def test_another_precision_than_asked_is_an_error_everywhere(
    generation: str, asked: str, built: str, tensorrt: Make
) -> None:
    trt = tensorrt(generation, precision=built)
    with pytest.raises(BuildError) as error:
        build(trt, precision=asked, backend="rtx" if generation == "rtx" else "tensorrt")
    assert f"1 in {built}" in str(error.value.got)
    assert asked in str(error.value.expected)


def test_weak_builders_may_take_fp32_for_single_layers() -> None:
    def layer(node: str, dtype: str) -> LayerInfo:
        return LayerInfo(
            name=node, type="CaskConvolution", onnx_nodes=(node,), inputs=(dtype,), outputs=(dtype,), tactic=""
        )

    layers = (layer("stem/Conv", "float16"), layer("unit/Conv", "float32"))
    planned: dict[str, Precision] = {"stem/Conv": "fp16", "unit/Conv": "fp16"}
    assert count_precisions(layers) == {"fp32": 1, "fp16": 1, "int8": 0}
    check_precision(layers, "fp16", strongly_typed=False, expected=planned)
    with pytest.raises(BuildError, match="unit/Conv is fp32 instead of fp16"):
        check_precision(layers, "fp16", strongly_typed=True, expected=planned)


@pytest.mark.parametrize("generation", ["8.6", "11.4"])
def test_what_the_graph_quantizes_must_be_int8_everywhere(generation: str, tensorrt: Make) -> None:
    trt = tensorrt(generation, precision="fp16")
    with pytest.raises(BuildError, match="stem/Conv is fp16 instead of int8"):
        build_engine(b"graph", options=EngineOptions(precision="fp16"), trt=trt, expected={"stem/Conv": "int8"})


def test_builder_that_returns_nothing_tells_its_log(tensorrt: Make) -> None:
    trt = tensorrt("10.3")
    trt.plan, trt.says = None, [("WARNING", "odd"), ("ERROR", "Error Code 9: no implementation for node stem/Conv")]
    with pytest.raises(BuildError) as error:
        build(trt, precision="fp32")
    assert error.value.what == "tensorrt 10.3.0 built no engine"
    assert error.value.got == "Error Code 9: no implementation for node stem/Conv"
    assert error.value.expected == "a plan"


def test_warnings_are_kept_once(tensorrt: Make) -> None:
    trt = tensorrt("10.3")
    trt.says = [("WARNING", "odd"), ("INFO", "fine"), ("WARNING", "odd")]
    assert build(trt, precision="fp32").log == ("odd",)


def parser_error(code: str, text: str, **more: Any) -> Any:
    return SimpleNamespace(code=lambda: SimpleNamespace(name=code), desc=lambda: text, node=lambda: 7, **more)


def test_parser_errors_name_the_node(tensorrt: Make) -> None:
    trt = tensorrt("10.3")
    trt.parser_errors = [
        parser_error("UNSUPPORTED_NODE", "no importer", node_name=lambda: "a/Det", node_operator=lambda: "Det")
    ]
    with pytest.raises(BuildError) as error:
        build(trt, precision="fp32")
    assert error.value.got == "node a/Det (Det): no importer"
    assert "opset 17" in str(error.value.hint)


def test_parser_errors_of_8_have_a_number_only(tensorrt: Make) -> None:
    trt = tensorrt("8.6")
    trt.parser_errors = [parser_error("UNSUPPORTED_NODE", "no importer")]
    with pytest.raises(BuildError, match="node number 7: no importer"):
        build(trt, precision="fp32")


def test_what_is_not_onnx(tensorrt: Make) -> None:
    trt = tensorrt("10.3")
    trt.parser_errors = [parser_error("MODEL_DESERIALIZE_FAILED", "Failed to parse the ONNX model")]
    with pytest.raises(InputError, match=r"5 bytes: Failed to parse[\s\S]*an ONNX file"):
        build(trt, precision="fp32")


def test_an_engine_that_does_not_load_after_the_build(tensorrt: Make) -> None:
    trt = tensorrt("10.3")
    trt.engine_loads = False
    with pytest.raises(BuildError, match="cannot be loaded"):
        build(trt, precision="fp32")


def test_timing_cache_of_another_machine_is_told_and_replaced(tensorrt: Make) -> None:
    class Listener:
        notices: list[str] = []  # noqa: RUF012

        def step(self, title: str, total: int | None = None) -> Any:
            import contextlib

            return contextlib.nullcontext(SimpleNamespace(advance=lambda *_: None))

        def notice(self, text: str) -> None:
            self.notices.append(text)

    trt = tensorrt("10.3")
    trt.cache_fits = False
    options = EngineOptions(precision="fp32", timing_cache=b"old")
    result = build_engine(b"graph", options=options, trt=trt, progress=Listener())
    assert "another GPU" in Listener.notices[0]
    assert [call for call in trt.calls if "timing" in call] == [
        "create_timing_cache b'old'",
        "set_timing_cache False",
        *CACHE,
    ]
    assert result.timing_cache == b"measured"


def test_compatible_engines_carry_no_code(tensorrt: Make) -> None:
    trt = tensorrt("10.3")
    result = build(trt, precision="fp32", version_compatible=True, hardware_compatible=True)
    assert {"VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME"} <= set(result.flags)
    assert "hardware_compatibility_level = AMPERE_PLUS" in trt.calls
    flags = sidecar(result, onnx_name="m", onnx_sha256="", device=ORIN)["flags"]
    assert (flags["version_compatible"], flags["hardware_compatible"]) == (True, True)


def test_compatibility_that_the_version_lacks(tensorrt: Make) -> None:
    trt = tensorrt("8.6")
    del trt.HardwareCompatibilityLevel  # as 8.5
    with pytest.raises(UsageError) as error:
        build(trt, precision="fp32", hardware_compatible=True)
    assert (error.value.got, error.value.expected) == ("hardware_compatible", "TensorRT 8.6 or later")


def test_sidecar_of_a_tensorrt_engine_names_its_gpu(tensorrt: Make) -> None:
    value = sidecar(build(tensorrt("10.3"), precision="fp32"), onnx_name="m", onnx_sha256="", device=ORIN)
    assert (value["runner"], value["gpu"], value["sm"], value["targets"]) == ("tensorrt", "Orin", "sm87", ["sm87"])


# Which builder.


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def install(*modules: str, device: DeviceInfo | None = None) -> None:
        monkeypatch.setattr(trt_choice, "available", lambda name: name in modules)
        probe = DeviceProbe(device, None if device else "no CUDA driver")
        monkeypatch.setattr(driver, "probe_device", lambda index=0: probe)

    return install


@pytest.mark.parametrize(
    ("modules", "device", "backend", "targets", "choice"),
    [
        (("tensorrt", "tensorrt_rtx"), ORIN, "auto", (), "tensorrt"),
        (("tensorrt", "tensorrt_rtx"), ORIN, "auto", ("sm87",), "tensorrt"),
        (("tensorrt", "tensorrt_rtx"), ORIN, "auto", ("sm86",), "rtx"),
        (("tensorrt", "tensorrt_rtx"), None, "auto", (), "rtx"),
        (("tensorrt_rtx",), ORIN, "auto", (), "rtx"),
        (("tensorrt", "tensorrt_rtx"), ORIN, "rtx", (), "rtx"),
        (("tensorrt", "tensorrt_rtx"), ORIN, "tensorrt", (), "tensorrt"),
    ],
)
def test_choice(
    modules: tuple[str, ...],
    device: DeviceInfo | None,
    backend: str,
    targets: tuple[str, ...],
    choice: str,
    installed: Callable[..., None],
) -> None:
    installed(*modules, device=device)
    assert builder_choice(backend, targets=targets) == choice


@pytest.mark.parametrize(
    ("modules", "backend", "kind", "got", "hint"),
    [
        ((), "auto", MissingDependency, "neither is installed", "pip install 'drsn-edge[rtx]'"),
        (("tensorrt",), "auto", MissingDependency, "tensorrt without a GPU", "pip install 'drsn-edge[rtx]'"),
        ((), "rtx", MissingDependency, "tensorrt_rtx is not installed", "pip install 'drsn-edge[rtx]'"),
        ((), "tensorrt", MissingDependency, "tensorrt is not installed", "python3-libnvinfer"),
        (("tensorrt",), "tensorrt", MissingDevice, "no CUDA driver", "--backend rtx --target sm86"),
    ],
)
def test_no_builder_names_what_to_do(
    modules: tuple[str, ...], backend: str, kind: type[Exception], got: str, hint: str, installed: Callable[..., None]
) -> None:
    installed(*modules)
    with pytest.raises(kind) as caught:
        builder_choice(backend)
    error: Any = caught.value
    assert error.exit_code == 3
    assert got in error.got
    assert hint in error.hint


def test_tensorrt_does_not_build_for_others(installed: Callable[..., None]) -> None:
    installed("tensorrt", device=ORIN)
    with pytest.raises(UsageError) as error:
        builder_choice("tensorrt", targets=("sm86",))
    assert (error.value.got, error.value.expected) == ("sm86", "sm87 (Orin)")


def test_unknown_backend(installed: Callable[..., None]) -> None:
    with pytest.raises(UsageError) as error:
        builder_choice("openvino")
    assert (error.value.got, error.value.expected) == ("openvino", "auto, tensorrt, rtx")


def test_the_driver_is_asked_before_the_builder_is_touched(
    tensorrt: Make, installed: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = tensorrt("8.6")
    installed("tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    with pytest.raises(MissingDevice, match="no CUDA driver"):
        build(trt, precision="fp32")
    assert trt.calls == []


def test_a_builder_that_is_null_is_a_missing_device(tensorrt: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    trt = tensorrt("8.6")

    def null(logger: Any) -> Any:
        trt.logger.log(trt.Severity.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(trt, "Builder", null)
    with pytest.raises(MissingDevice, match="error: 35"):
        build(trt, precision="fp32")


@pytest.mark.parametrize(
    ("options", "got", "expected"),
    [
        ({"precision": "fp8"}, "fp8", "fp32, fp16, int8"),
        ({"backend": "trtexec"}, "trtexec", "auto, tensorrt or rtx"),
        ({"targets": ("8.6",)}, "8.6", "a compute capability such as sm86"),
        ({"opt_batch": 300}, "min 1, opt 300, max 256", "1 <= min <= opt <= max"),
        ({"min_batch": 0}, "min 0, opt 16, max 256", "1 <= min <= opt <= max"),
        ({"workspace_mb": 0}, "0", "at least 1 MiB"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], got: str, expected: str) -> None:
    with pytest.raises(UsageError) as error:
        EngineOptions(**options)
    assert (error.value.got, error.value.expected) == (got, expected)
