"""Builds that must not succeed: another precision than asked, what a version lacks, and TensorRT's own reasons."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from drsn_edge.errors import BuildError, InputError, MissingDevice, UsageError
from drsn_edge.exporters.trt_engine import EngineBuild, EngineOptions, build_engine
from drsn_edge.exporters.trt_layers import check_precision, count_precisions
from drsn_edge.exporters.trt_types import LayerInfo, Precision
from drsn_edge.runtime import driver
from drsn_edge.runtime.driver import DeviceProbe

Make = Callable[..., Any]
GENERATIONS = ("8.6", "10.3", "10.7", "10.13", "10.16", "11.4", "rtx")


def build(fake: Any, **options: Any) -> EngineBuild:
    return build_engine(b"graph", options=EngineOptions(**options), trt=fake.trt)


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize(("asked", "built"), [("fp16", "fp32"), ("int8", "fp16"), ("fp32", "fp16")])
def test_another_precision_than_asked_is_an_error_everywhere(
    generation: str, asked: str, built: str, tensorrt: Make
) -> None:
    with pytest.raises(BuildError) as error:
        build(tensorrt(generation, built=built), precision=asked, backend="rtx" if generation == "rtx" else "tensorrt")
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


@pytest.mark.parametrize("generation", ["8.6", "10.3", "10.13", "11.4"])
def test_what_the_graph_quantizes_must_be_int8_everywhere(generation: str, tensorrt: Make) -> None:
    fake = tensorrt(generation, built="fp16")
    with pytest.raises(BuildError, match="stem/Conv is fp16 instead of int8"):
        build_engine(b"graph", options=EngineOptions(precision="fp16"), trt=fake.trt, expected={"stem/Conv": "int8"})


# Options that a version does not have.


@pytest.mark.parametrize("generation", ["8.6"])
def test_a_flag_that_the_version_lacks(generation: str, tensorrt: Make) -> None:
    with pytest.raises(UsageError) as error:
        build(tensorrt(generation), precision="fp32", stripped=True)
    assert error.value.what == "tensorrt 8.6.0 cannot build so"
    assert (error.value.got, error.value.expected) == ("STRIP_PLAN", "a version that has this flag")


def test_compatibility_that_the_version_lacks(tensorrt: Make) -> None:
    fake = tensorrt("8.6")
    del fake.trt.HardwareCompatibilityLevel  # as 8.5
    with pytest.raises(UsageError) as error:
        build(fake, precision="fp32", hardware_compatible=True)
    assert (error.value.got, error.value.expected) == ("hardware_compatible", "TensorRT 8.6 or later")


@pytest.mark.parametrize("option", ["refit", "stripped"])
def test_rtx_needs_a_gpu_to_leave_weights_open(option: str, tensorrt: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tensorrt("rtx")
    monkeypatch.setattr(driver, "probe_device", lambda index=0: DeviceProbe(None, "no CUDA driver"))
    with pytest.raises(MissingDevice, match=rf"{option}[\s\S]*a GPU") as error:
        build(fake, precision="fp32", backend="rtx", **{option: True})
    assert error.value.exit_code == 3
    assert "build_serialized_network" not in fake.calls


# What TensorRT says.


@pytest.mark.parametrize("generation", GENERATIONS)
def test_builder_that_returns_nothing_tells_its_log(generation: str, tensorrt: Make) -> None:
    fake = tensorrt(generation)
    fake.plan = None
    fake.says = [("WARNING", "odd"), ("ERROR", "Error Code 9: no implementation for node stem/Conv")]
    with pytest.raises(BuildError) as error:
        build(fake, precision="fp32", backend="rtx" if generation == "rtx" else "tensorrt")
    assert error.value.what.endswith(f"{fake.trt.__version__} built no engine")
    assert error.value.got == "Error Code 9: no implementation for node stem/Conv"
    assert error.value.expected == "a plan"
    assert ("add_input" in fake.calls) is (generation == "rtx"), "only RTX remembers a failed build"


@pytest.mark.parametrize(
    ("generation", "words"), [("8.6", "node number 7: no importer"), ("10.3", r"node a/Det \(Det\): no importer")]
)
def test_parser_errors_name_the_node(generation: str, words: str, tensorrt: Make) -> None:
    """8.x knows its number only."""
    fake = tensorrt(generation)
    fake.parser_errors = [("UNSUPPORTED_NODE", "no importer", "a/Det", "Det")]
    with pytest.raises(BuildError, match=words) as error:
        build(fake, precision="fp32")
    assert "opset 17" in str(error.value.hint)


@pytest.mark.parametrize("generation", ["8.6", "10.3", "11.4"])
def test_what_is_not_onnx(generation: str, tensorrt: Make) -> None:
    fake = tensorrt(generation)
    fake.parser_errors = [("MODEL_DESERIALIZE_FAILED", "Failed to parse the ONNX model", "", "")]
    with pytest.raises(InputError, match=r"5 bytes: Failed to parse[\s\S]*an ONNX file"):
        build(fake, precision="fp32")


def test_an_engine_that_does_not_load_after_the_build(tensorrt: Make) -> None:
    fake = tensorrt("10.3")
    fake.engine_loads = False
    with pytest.raises(BuildError, match="cannot be loaded"):
        build(fake, precision="fp32")


def test_a_builder_that_is_null_is_a_missing_device(tensorrt: Make) -> None:
    fake = tensorrt("8.6")
    fake.null = True
    with pytest.raises(MissingDevice, match="error: 35"):
        build(fake, precision="fp32")


def test_cancelling_between_phases_ends_the_build(tensorrt: Make) -> None:
    fake = tensorrt("10.16")
    fake.nested = [("start", "build", None, 2), ("step", "build"), ("step", "build"), ("step", "build")]
    asked: list[bool] = []

    def cancel() -> bool:
        asked.append(len(asked) > 1)
        return asked[-1]

    with pytest.raises(BuildError, match="cancelled"):
        build_engine(b"graph", options=EngineOptions(precision="fp32"), trt=fake.trt, cancel=cancel)
    assert asked == [False, False, True], "before the build and after each step, until it says yes"
