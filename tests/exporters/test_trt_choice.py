"""Which builder, which typing, which graph: by what a machine and a module have."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from drsn_edge.errors import MissingDependency, MissingDevice, UsageError
from drsn_edge.exporters.trt_choice import builder_choice, graph_for, typing_for, wanted_graph
from drsn_edge.exporters.trt_engine import EngineOptions, build_engine
from drsn_edge.runtime.driver import DeviceInfo

Make = Callable[..., Any]
ORIN = DeviceInfo("Orin", "sm87", "12.6", 64 << 30, integrated=True)


@pytest.mark.parametrize(
    ("generation", "asked", "typed"),
    [
        ("8.6", None, False),
        ("10.3", None, False),
        ("10.3", True, True),
        ("10.7", None, False),
        ("10.13", None, True),
        ("10.16", None, True),
        ("10.13", False, False),
        ("11.4", None, True),
        ("rtx", None, True),
    ],
)
def test_typing(generation: str, asked: bool | None, typed: bool, tensorrt: Make) -> None:
    assert typing_for(tensorrt(generation).trt, asked) is typed


@pytest.mark.parametrize(("generation", "asked"), [("8.6", True), ("11.4", False), ("rtx", False)])
def test_typing_that_a_builder_does_not_have(generation: str, asked: bool, tensorrt: Make) -> None:
    with pytest.raises(UsageError) as error:
        typing_for(tensorrt(generation).trt, asked)
    assert {"8.6": "8.6.0", "11.4": "11.4.0.106", "rtx": "1.7.1.116"}[generation] in error.value.what
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
    assert wanted_graph(EngineOptions(precision=precision), trt=tensorrt("11.4").trt) == strong
    assert wanted_graph(EngineOptions(precision=precision), trt=tensorrt("8.6").trt) == weak


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
    monkeypatch.setitem(sys.modules, "tensorrt", trt.trt)
    with pytest.raises(MissingDevice, match="no CUDA driver"):
        build_engine(b"graph", options=EngineOptions(precision="fp32"), trt=trt.trt)
    assert trt.calls == []


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
