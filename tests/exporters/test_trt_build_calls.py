"""The same build against the generations of TensorRT: what each is asked, in which order, and what comes of it.

The fakes have exactly the attributes of the genuine modules (`tests/trt_api`); they record every call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from drsn_edge.exporters.trt_engine import EngineBuild, EngineOptions, build_engine, sidecar
from drsn_edge.runtime.driver import DeviceInfo

Make = Callable[..., Any]
VERSIONS = {
    "8.6": "8.6.0",
    "10.3": "10.3.0",
    "10.7": "10.7.0",
    "10.13": "10.13.3.9",
    "10.16": "10.16.1.11",
    "11.4": "11.4.0.106",
}
WEAK, TYPED, NEW = ("8.6", "10.3", "10.7"), ("10.13", "10.16"), ("11.4",)


def build(fake: Any, **options: Any) -> EngineBuild:
    return build_engine(b"graph", options=EngineOptions(**options), trt=fake.trt)


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
FLAGS = {
    "fp32": (),
    "fp16": ("FP16", "OBEY_PRECISION_CONSTRAINTS"),
    "int8": ("FP16", "OBEY_PRECISION_CONSTRAINTS", "INT8"),
}


def test_the_fakes_invent_nothing(trt_api: Any) -> None:
    """Every public attribute that a fake gives behaviour to is one of the genuine class, in some version."""
    genuine = trt_api.load("genuine")
    for module, fake in (("fake_builder", trt_api.builder("10.3")), ("fake_runner", trt_api.runner("10.3", None))):
        assert genuine.undeclared(trt_api.load(module).behaviours(fake), trt_api.tables) == []


def test_the_fakes_refuse_what_the_genuine_ones_refuse(tensorrt: Make) -> None:
    old, new = tensorrt("8.6").trt, tensorrt("11.4").trt
    with pytest.raises(AttributeError):
        new.BuilderFlag.FP16  # noqa: B018
    with pytest.raises(AttributeError, match="progress_monitor"):
        old.IBuilderConfig().progress_monitor = None
    with pytest.raises(AttributeError, match="num_optimization_profiles"):
        new.IBuilderConfig().num_optimization_profiles = 1
    with pytest.raises(TypeError, match="3 instead of 2-2"):
        new.IBuilderConfig().set_timing_cache(None, False, True)
    with pytest.raises(TypeError):
        1 << new.BuilderFlag.TF32


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("generation", [*VERSIONS])
def test_calls_in_order(generation: str, precision: str, tensorrt: Make) -> None:
    fake = tensorrt(generation, built=precision)
    result = build(fake, precision=precision)
    network = [] if generation in NEW else ["EXPLICIT_BATCH"]
    network += ["STRONGLY_TYPED"] if generation in TYPED else []
    flags = FLAGS[precision] if generation in WEAK else ()
    assert fake.calls == [
        "Builder",
        f"create_network {' '.join(network)}".strip(),
        "parse",
        *COMMON,
        *(f"set_flag {flag}" for flag in flags),
        *(["set_preview_feature PROFILE_SHARING_0806 True"] if generation == "8.6" else []),
        *PROFILE,
        *CACHE,
        "build_serialized_network",
        "Runtime",
    ]
    assert result.flags == (*network, *flags)
    assert result.strongly_typed is (generation not in WEAK)
    assert (result.backend, result.version, result.targets) == ("tensorrt", VERSIONS[generation], ("sm87",))
    assert result.timing_cache == b"measured"


def test_rtx_names_its_targets_and_never_deserializes(tensorrt: Make) -> None:
    fake = tensorrt("rtx", built="fp16")
    result = build(fake, precision="fp16", backend="rtx", targets=("sm80", "sm86"))
    assert fake.calls == [
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
@pytest.mark.parametrize("generation", ["10.3", "10.7", "10.13", "10.16"])
def test_both_ways_can_be_asked_for_where_both_exist(generation: str, strongly_typed: bool, tensorrt: Make) -> None:
    fake = tensorrt(generation, built="fp16")
    assert build(fake, precision="fp16", strongly_typed=strongly_typed).strongly_typed is strongly_typed
    assert ("set_flag FP16" in fake.calls) is not strongly_typed


@pytest.mark.parametrize("generation", WEAK)
def test_weak_half_keeps_the_contract_and_the_means_in_fp32(generation: str, tensorrt: Make) -> None:
    fake = tensorrt(generation, built="fp16")
    build(fake, precision="fp16")
    pinned = {layer.name for layer in fake.layers if layer.precision is fake.trt.DataType.FLOAT}
    assert pinned == {"front/GlobalAveragePool", "front/Sub", "front/Sqrt", "unit/GlobalAveragePool"}
    assert pinned == {layer.name for layer in fake.layers if layer._output_type is fake.trt.DataType.FLOAT}


@pytest.mark.parametrize(("generation", "precision"), [("8.6", "fp32"), ("10.13", "fp16"), ("10.3", "fp32")])
def test_nothing_is_pinned_where_types_say_it(generation: str, precision: str, tensorrt: Make) -> None:
    fake = tensorrt(generation, built=precision)
    build(fake, precision=precision)
    assert all(layer.precision is None for layer in fake.layers)


# Options.


@pytest.mark.parametrize("generation", [*VERSIONS])
def test_compatible_engines_carry_no_code(generation: str, tensorrt: Make, orin: DeviceInfo) -> None:
    fake = tensorrt(generation)
    result = build(fake, precision="fp32", version_compatible=True, hardware_compatible=True)
    assert {"VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME"} <= set(result.flags)
    assert {"set_flag VERSION_COMPATIBLE", "set_flag EXCLUDE_LEAN_RUNTIME"} <= set(fake.calls)
    assert "hardware_compatibility_level = AMPERE_PLUS" in fake.calls
    flags = sidecar(result, onnx_name="m", onnx_sha256="", device=orin)["flags"]
    assert (flags["version_compatible"], flags["hardware_compatible"]) == (True, True)


@pytest.mark.parametrize(
    ("generation", "options", "flags"),
    [
        ("8.6", {"refit": True}, ["REFIT"]),
        ("10.3", {"refit": True}, ["REFIT"]),
        ("10.3", {"stripped": True}, ["STRIP_PLAN", "REFIT_IDENTICAL"]),
        ("11.4", {"stripped": True}, ["STRIP_PLAN", "REFIT_IDENTICAL"]),
        ("11.4", {"stripped": True, "refit": True}, ["STRIP_PLAN", "REFIT"]),
        ("rtx", {"stripped": True, "backend": "rtx"}, ["STRIP_PLAN", "REFIT_IDENTICAL"]),
    ],
)
def test_weights_that_can_be_exchanged_or_are_left_out(
    generation: str, options: dict[str, Any], flags: list[str], tensorrt: Make, orin: DeviceInfo
) -> None:
    fake = tensorrt(generation)
    result = build(fake, precision="fp32", **options)
    assert [call.removeprefix("set_flag ") for call in fake.calls if call.startswith("set_flag")] == flags
    said = sidecar(result, onnx_name="m", onnx_sha256="", device=orin)["flags"]
    assert (said["refit"], said["stripped"]) == ("REFIT" in flags, "STRIP_PLAN" in flags)


@pytest.mark.parametrize(
    ("generation", "left"),
    [
        ("8.6", "EDGE_MASK_CONVOLUTIONS JIT_CONVOLUTIONS"),
        ("10.16", "EDGE_MASK_CONVOLUTIONS JIT_CONVOLUTIONS"),
        ("11.4", "EDGE_MASK_CONVOLUTIONS JIT_CONVOLUTIONS"),
    ],
)
def test_kernels_of_other_libraries_can_be_left_out(generation: str, left: str, tensorrt: Make) -> None:
    fake = tensorrt(generation)
    build(fake, precision="fp32", external_tactics=False)
    (call,) = (call for call in fake.calls if call.startswith("set_tactic_sources"))
    assert sorted(call.split()[1:]) == left.split()


@pytest.mark.parametrize("generation", [*VERSIONS])
def test_timing_cache_of_another_machine_is_told_and_replaced(generation: str, tensorrt: Make) -> None:
    heard = Listener()
    fake = tensorrt(generation)
    fake.cache_fits = False
    options = EngineOptions(precision="fp32", timing_cache=b"old")
    result = build_engine(b"graph", options=options, trt=fake.trt, progress=heard)
    assert "another GPU" in heard.notices[0]
    assert [call for call in fake.calls if "timing" in call] == [
        "create_timing_cache b'old'",
        "set_timing_cache False",
        *CACHE,
    ]
    assert result.timing_cache == b"measured"


def test_warnings_are_kept_once(tensorrt: Make) -> None:
    fake = tensorrt("10.3")
    fake.says = [("WARNING", "odd"), ("INFO", "fine"), ("WARNING", "odd")]
    assert build(fake, precision="fp32").log == ("odd",)


def test_sidecar_of_a_tensorrt_engine_names_its_gpu(tensorrt: Make, orin: DeviceInfo) -> None:
    value = sidecar(build(tensorrt("10.3"), precision="fp32"), onnx_name="m", onnx_sha256="", device=orin)
    assert (value["runner"], value["gpu"], value["sm"], value["targets"]) == ("tensorrt", "Orin", "sm87", ["sm87"])


# Progress.


class Listener:
    """Progress that keeps what it hears."""

    def __init__(self) -> None:
        self.notices: list[str] = []
        self.totals: list[int | None] = []
        self.percent: list[int] = [0]

    @contextlib.contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Any]:
        self.totals.append(total)
        yield self

    def advance(self, amount: int = 1, note: str | None = None) -> None:
        assert amount >= 0
        self.percent.append(self.percent[-1] + amount)

    def notice(self, text: str) -> None:
        self.notices.append(text)


NESTED: list[tuple[Any, ...]] = [
    ("start", "build", None, 2),
    ("start", "tactics", "build", 4),
    ("step", "tactics"),
    ("step", "tactics"),
    ("start", "one", "tactics", 2),
    ("step", "one"),
    ("finish", "one"),
    ("step", "tactics"),
    ("finish", "tactics"),
    ("step", "build"),
    ("step", "build"),
    ("finish", "build"),
]


@pytest.mark.parametrize("generation", ["10.3", "10.16", "11.4"])
def test_nested_phases_are_one_percentage(generation: str, tensorrt: Make) -> None:
    fake, heard = tensorrt(generation), Listener()
    fake.nested = NESTED
    build_engine(b"graph", options=EngineOptions(precision="fp32"), trt=fake.trt, progress=heard)
    assert heard.totals == [100]
    assert [*dict.fromkeys(heard.percent)] == [0, 12, 25, 31, 37, 50, 100]


def test_8_6_says_nothing_of_its_progress(tensorrt: Make) -> None:
    fake, heard = tensorrt("8.6"), Listener()
    fake.nested = NESTED
    build_engine(b"graph", options=EngineOptions(precision="fp32"), trt=fake.trt, progress=heard)
    assert heard.totals == [None]
