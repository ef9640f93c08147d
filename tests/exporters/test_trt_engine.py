"""Real builds with TensorRT for RTX, which needs no GPU for that."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drsn_edge.errors import BuildError, InputError, UsageError
from drsn_edge.exporters.trt_engine import EngineBuild, EngineOptions, build_engine, sidecar
from drsn_edge.exporters.trt_layers import contraction_precision
from drsn_edge.exporters.trt_types import Precision
from drsn_edge.files import dump_json, sha256_bytes
from drsn_edge.runtime.driver import DeviceInfo
from drsn_edge.runtime.plan import read_plan_header

pytest.importorskip("tensorrt_rtx", reason="needs TensorRT for RTX")
onnx = pytest.importorskip("onnx", reason="graphs are made with onnx")
helper, numpy_helper, F32, F16 = onnx.helper, onnx.numpy_helper, onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
node = helper.make_node
CHANNELS, LENGTH = 32, 64


def make(kind: str, *, batch: int | str = "batch", length: int | str = LENGTH) -> bytes:
    """`conv/Conv`, `relu/Relu`; `fp32`, typed `fp16`, or `int8` with FP16 between the integer convolutions."""
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 0.1, (CHANNELS, CHANNELS, 1, 3)).astype(np.float32)
    bias = rng.normal(0, 0.1, CHANNELS).astype(np.float32)
    attributes = {"kernel_shape": [1, 3], "pads": [0, 1, 0, 1]}
    constants = {"w": weight, "b": bias}
    if kind == "fp32":
        nodes = [
            node("Conv", ["x", "w", "b"], ["c"], name="conv/Conv", **attributes),
            node("Relu", ["c"], ["y"], name="relu/Relu"),
        ]
    elif kind == "fp16":
        constants = {key: value.astype(np.float16) for key, value in constants.items()}
        nodes = [
            node("Cast", ["x"], ["h"], name="in/Cast", to=F16),
            node("Conv", ["h", "w", "b"], ["c"], name="conv/Conv", **attributes),
            node("Relu", ["c"], ["r"], name="relu/Relu"),
            node("Cast", ["r"], ["y"], name="out/Cast", to=F32),
        ]
    else:
        constants |= {
            "ws": (np.abs(weight).max((1, 2, 3)) / 127).astype(np.float32),
            "wz": np.zeros(CHANNELS, np.int8),
            "s": np.asarray(0.03, np.float32),
            "z": np.asarray(0, np.int8),
        }
        nodes = [
            node("QuantizeLinear", ["x", "s", "z"], ["q"], name="conv/input/Q"),
            node("DequantizeLinear", ["q", "s", "z"], ["d"], name="conv/input/DQ"),
            node("QuantizeLinear", ["w", "ws", "wz"], ["wq"], name="conv/weight/Q", axis=0),
            node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"], name="conv/weight/DQ", axis=0),
            node("Conv", ["d", "wd", "b"], ["c"], name="conv/Conv", **attributes),
            node("Cast", ["c"], ["h"], name="conv/Cast", to=F16),
            node("Relu", ["h"], ["r"], name="relu/Relu"),
            node("Cast", ["r"], ["y"], name="out/Cast", to=F32),
        ]
    x, y = (helper.make_tensor_value_info(name, F32, [batch, CHANNELS, 1, length]) for name in "xy")
    initializers = [numpy_helper.from_array(value, key) for key, value in constants.items()]
    return finish(nodes, [x], [y], initializers)


def finish(nodes: list[Any], inputs: list[Any], outputs: list[Any], initializers: list[Any]) -> bytes:
    model = helper.make_model(
        helper.make_graph(nodes, "test", inputs, outputs, initializers),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    content: bytes = model.SerializeToString()
    return content


def options(precision: Precision = "fp16", **more: Any) -> EngineOptions:
    return EngineOptions(
        **{"precision": precision, "backend": "rtx", "targets": ("sm86",), "workspace_mb": 256, **more}
    )


@pytest.fixture(scope="module")
def builds() -> dict[str, EngineBuild]:
    kinds: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    return {kind: build_engine(make(kind), options=options(kind)) for kind in kinds}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_convolution_has_the_precision_that_was_asked(precision: str, builds: dict[str, EngineBuild]) -> None:
    build = builds[precision]
    (conv,) = (layer for layer in build.layers if contraction_precision(layer))
    assert "conv/Conv" in conv.onnx_nodes
    assert contraction_precision(conv) == precision
    assert (build.backend, build.precision, build.strongly_typed) == ("rtx", precision, True)
    header = read_plan_header(build.plan)
    assert (header.kind, header.version, header.targets) == ("tensorrt-rtx", build.version, ("sm86",))
    assert build.targets == ("sm86",)
    assert 1 <= build.kernels <= len(build.layers)
    assert build.seconds > 0


def test_int8_convolutions_read_int8(builds: dict[str, EngineBuild]) -> None:
    (conv,) = (layer for layer in builds["int8"].layers if contraction_precision(layer))
    assert conv.inputs == ("int8",)
    assert conv.outputs == ("float32",)
    assert {"conv/weight/Q", "conv/weight/DQ"} <= set(conv.onnx_nodes)


def test_half_is_between_the_casts_only(builds: dict[str, EngineBuild]) -> None:
    first, *_, last = (layer for layer in builds["fp16"].layers if layer.inputs)
    assert (first.inputs, last.outputs) == (("float32",), ("float32",))
    assert "in/Cast" in first.onnx_nodes
    assert "out/Cast" in last.onnx_nodes


def test_tensors_and_profile(builds: dict[str, EngineBuild]) -> None:
    x, y = builds["fp16"].tensors
    assert str(x.spec) == f"x: float32[batch, {CHANNELS}, 1, {LENGTH}]"
    assert str(y.spec) == f"y: float32[batch, {CHANNELS}, 1, {LENGTH}]"
    assert (x.mode, y.mode, y.profile) == ("input", "output", None)
    assert x.profile == tuple((batch, CHANNELS, 1, LENGTH) for batch in (1, 16, 256))


def test_fixed_batch_needs_no_profile() -> None:
    build = build_engine(make("fp16", batch=4), options=options())
    assert build.tensors[0].profile is None
    assert build.tensors[0].spec.shape == (4, CHANNELS, 1, LENGTH)


def test_reads_a_file(tmp_path: Path) -> None:
    path = tmp_path / "model.fp16.onnx"
    path.write_bytes(make("fp16"))
    assert build_engine(path, options=options()).plan


def test_several_targets_and_none() -> None:
    graph = make("fp16")
    assert build_engine(graph, options=options(targets=("sm75", "sm120"))).targets == ("sm75", "sm120")
    assert set(build_engine(graph, options=options(targets=())).targets) >= {"sm80", "sm86", "sm89", "sm120"}


@pytest.mark.parametrize(("asked", "given", "found"), [
    ("int8", "fp32", "1 in fp32, 0 in fp16, 0 in int8"),
    ("fp16", "fp32", "1 in fp32, 0 in fp16, 0 in int8"),
    ("fp32", "fp16", "0 in fp32, 1 in fp16, 0 in int8"),
    ("fp16", "int8", "0 in fp32, 0 in fp16, 1 in int8"),
])  # fmt: skip
def test_never_another_precision_in_silence(asked: Precision, given: str, found: str) -> None:
    with pytest.raises(BuildError) as error:
        build_engine(make(given), options=options(asked))
    assert error.value.exit_code == 6
    assert asked in error.value.what
    assert error.value.got is not None
    assert found in error.value.got
    assert asked in str(error.value.expected)


def test_the_plan_is_checked_node_by_node() -> None:
    build_engine(make("int8"), options=options("int8"), expected={"conv/Conv": "int8"})
    with pytest.raises(BuildError, match=r"conv/Conv is int8 instead of fp16"):
        build_engine(make("int8"), options=options("int8"), expected={"conv/Conv": "fp16"})


@pytest.mark.parametrize("target", ["sm87", "sm90", "sm110"])
def test_unsupported_target_lists_the_supported(target: str) -> None:
    with pytest.raises(UsageError) as error:
        build_engine(make("fp16"), options=options(targets=("sm86", target)))
    assert error.value.got == target
    assert {"sm75", "sm80", "sm86", "sm89", "sm120", "sm121"} <= set(str(error.value.expected).split(", "))


@pytest.mark.parametrize("option", ["version_compatible", "hardware_compatible"])
def test_options_that_rtx_does_not_have(option: str) -> None:
    wanted: dict[str, Any] = {option: True}
    with pytest.raises(UsageError) as error:
        build_engine(make("fp16"), options=options(**wanted))
    assert error.value.got == option
    assert "targets" in str(error.value.expected)


def test_weak_typing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"strongly_typed=False[\s\S]*strongly typed networks"):
        build_engine(make("fp16"), options=options(strongly_typed=False))


def test_absent_graph(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        build_engine(tmp_path / "none.onnx", options=options())
    assert error.value.got == str(tmp_path / "none.onnx")


@pytest.mark.parametrize("content", [b"not a graph", b""])
def test_what_is_not_onnx(content: bytes) -> None:
    with pytest.raises(InputError, match=f"{len(content)} bytes") as error:
        build_engine(content, options=options())
    assert error.value.expected == "an ONNX file"


def test_an_operator_that_tensorrt_does_not_know_is_named() -> None:
    x, y = (helper.make_tensor_value_info(name, F32, ["batch", 4]) for name in "xy")
    graph = finish([node("Relu", ["x"], ["r"]), node("Det", ["r"], ["y"], name="odd/Det")], [x], [y], [])
    with pytest.raises(BuildError) as error:
        build_engine(graph, options=options())
    assert "node odd/Det (Det)" in str(error.value.got)
    assert "ONNX parser" in str(error.value.expected)


def test_a_free_length_is_refused() -> None:
    with pytest.raises(BuildError) as error:
        build_engine(make("fp16", length="length"), options=options())
    assert error.value.got == f"x: float32[batch, {CHANNELS}, 1, dim3]"
    assert "fixed others" in str(error.value.expected)


def test_the_builders_own_reason_is_told() -> None:
    with pytest.raises(BuildError) as error:
        build_engine(make("fp16"), options=options(workspace_mb=1))
    assert "workspace" in str(error.value.got)
    assert "--workspace" in str(error.value.hint)


def test_cancelling_ends_the_build() -> None:
    asked = 0

    def cancel() -> bool:
        nonlocal asked
        asked += 1
        return asked > 20

    with pytest.raises(BuildError, match="cancelled"):
        build_engine(make("fp16"), options=options(), cancel=cancel)
    assert 20 < asked < 100


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_exception_in_a_callback_survives_the_builder(error: type[BaseException]) -> None:
    def cancel() -> bool:
        raise error

    with pytest.raises(error):
        build_engine(make("fp16"), options=options(), cancel=cancel)
    assert build_engine(make("fp16"), options=options()).plan  # and the next build is not affected


def test_builders_of_several_threads_do_not_mix(builds: dict[str, EngineBuild]) -> None:
    done: dict[str, EngineBuild] = {}
    kinds: tuple[Precision, ...] = ("fp32", "fp16")
    threads = [
        threading.Thread(target=lambda kind=kind: done.update({kind: build_engine(make(kind), options=options(kind))}))
        for kind in kinds
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {kind: build.kernels for kind, build in done.items()} == {kind: builds[kind].kernels for kind in kinds}


def test_progress_names_the_phases() -> None:
    class Listener:
        def __init__(self) -> None:
            self.titles: list[str] = []
            self.notes: list[str] = []
            self.steps = 0

        @contextlib.contextmanager
        def step(self, title: str, total: int | None = None) -> Iterator[Any]:
            self.titles.append(title)
            yield self

        def advance(self, amount: int = 1, note: str | None = None) -> None:
            self.steps += amount
            if note:
                self.notes.append(note)

        def notice(self, text: str) -> None:
            raise AssertionError(text)

    listener = Listener()
    build_engine(make("fp16"), options=options(), progress=listener)
    assert listener.titles == ["building the fp16 engine"]
    assert "Building engine" in listener.notes
    assert listener.steps > 10


def test_sidecar_says_everything(builds: dict[str, EngineBuild]) -> None:
    build = builds["int8"]
    value = sidecar(build, onnx_name="model.int8.onnx", onnx_sha256="ab" * 32)
    assert json.loads(dump_json(value)) == value  # plain JSON
    assert value["runner"] == "tensorrt-rtx"
    assert value["targets"] == ["sm86"]
    assert value["precision"] == "int8"
    assert value["precisions"] == {"fp32": 0, "fp16": 0, "int8": 1}
    assert value["kernels"] == build.kernels
    assert value["onnx"] == {"name": "model.int8.onnx", "sha256": "ab" * 32}
    assert value["plan"] == {"sha256": sha256_bytes(build.plan), "size": len(build.plan)}
    assert value["flags"]["strongly_typed"] is True
    assert value["tensors"][0]["profile"]["max"] == [256, CHANNELS, 1, LENGTH]
    assert any("conv/Conv" in layer["onnx_nodes"] and layer["precision"] == "int8" for layer in value["layers"])


def test_an_rtx_plan_belongs_to_its_targets_and_not_to_the_builders_gpu(builds: dict[str, EngineBuild]) -> None:
    device = DeviceInfo("H200", "sm90", "13.0", 1 << 37, integrated=False)
    value = sidecar(builds["fp16"], onnx_name="m", onnx_sha256="", device=device)
    assert (value["gpu"], value["sm"], value["targets"]) == ("H200", None, ["sm86"])
