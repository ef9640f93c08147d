"""The runner, and the two measurements that its defaults stand on."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from drsn_edge.errors import InputError, MissingDependency, UsageError
from drsn_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner

pytest.importorskip("onnxruntime", reason="needs onnxruntime")
onnx = pytest.importorskip("onnx", reason="graphs are made with onnx")
helper, numpy_helper, F32, F16 = onnx.helper, onnx.numpy_helper, onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
node = helper.make_node
CHANNELS, LENGTH = 8, 32


def graph(nodes: list[Any], weights: dict[str, NDArray[Any]]) -> bytes:
    """`x[batch, CHANNELS, LENGTH]` to `y`, both FP32."""
    x, y = (helper.make_tensor_value_info(name, F32, ["batch", CHANNELS, LENGTH]) for name in "xy")
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "test", [x], [y], initializers),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


@pytest.fixture
def x() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(0, 1, (5, CHANNELS, LENGTH)).astype(np.float32)


@pytest.fixture
def relu(tmp_path: Path) -> Path:
    path = tmp_path / "relu.onnx"
    path.write_bytes(graph([node("Relu", ["x"], ["y"])], {}))
    return path


def run(model: bytes, x: NDArray[Any], **options: Any) -> NDArray[Any]:
    with OnnxRuntimeRunner(model, threads=1, **options) as runner:
        return runner.run({"x": x})["y"]


def test_runs_a_file_and_bytes(relu: Path, x: NDArray[np.float32]) -> None:
    for model in (relu, str(relu), relu.read_bytes()):
        with OnnxRuntimeRunner(model, threads=1) as runner:
            np.testing.assert_array_equal(runner.run({"x": x})["y"], np.maximum(x, 0))
            assert str(runner.inputs["x"]) == f"x: float32[batch, {CHANNELS}, {LENGTH}]"
            assert str(runner.outputs["y"]) == f"y: float32[batch, {CHANNELS}, {LENGTH}]"


def test_results_do_not_depend_on_threads(x: NDArray[np.float32]) -> None:
    w = np.random.default_rng(1).normal(0, 0.3, (CHANNELS, CHANNELS, 3)).astype(np.float32)
    model = graph([node("Conv", ["x", "w"], ["y"], kernel_shape=[3], pads=[1, 1])], {"w": w})
    results = []
    for threads in (1, 2, 3):
        with OnnxRuntimeRunner(model, threads=threads) as runner:
            results.append(runner.run({"x": x})["y"])
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_is_quiet(relu: Path, x: NDArray[np.float32], capfd: pytest.CaptureFixture[str]) -> None:
    with OnnxRuntimeRunner(relu) as runner:
        runner.run({"x": x})
    with pytest.raises(InputError), OnnxRuntimeRunner(b"not a graph"):
        pass
    assert capfd.readouterr() == ("", "")


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error, OnnxRuntimeRunner(tmp_path / "none.onnx"):
        pass
    assert error.value.got == str(tmp_path / "none.onnx")
    assert error.value.expected == "an ONNX file"


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x08\x08\x12"])
def test_broken_graph(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    for model, named in ((content, f"{len(content)} bytes"), (path, str(path))):
        with pytest.raises(InputError) as error, OnnxRuntimeRunner(model):
            pass
        assert named in str(error.value.got)
        # An empty file is a whole, empty message: ONNX Runtime itself refuses it.
        expected = "a serialised ModelProto" if content else "ONNX graph that ONNX Runtime"
        assert expected in str(error.value.expected)


def test_a_size_that_the_network_cannot_take_is_an_input_error() -> None:
    anything = helper.make_tensor_value_info("x", F32, ["batch", "length"])
    out = helper.make_tensor_value_info("y", F32, None)
    model = helper.make_model(
        helper.make_graph(
            [node("Reshape", ["x", "shape"], ["y"])],
            "test",
            [anything],
            [out],
            [numpy_helper.from_array(np.array([-1, 7]), "shape")],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    with OnnxRuntimeRunner(model.SerializeToString(), threads=1) as runner, pytest.raises(InputError) as error:
        runner.run({"x": np.ones((1, 6), np.float32)})
    assert "x[1, 6]" in str(error.value.got)


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_must_be_positive(threads: int) -> None:
    with pytest.raises(UsageError, match=f"{threads}[\\s\\S]*at least 1"):
        OnnxRuntimeRunner(b"", threads=threads)


def test_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # Python's own way to say that it cannot be imported
    with pytest.raises(MissingDependency) as error:
        OnnxRuntimeRunner(b"")
    assert error.value.exit_code == 3
    assert error.value.hint == "pip install 'drsn-edge[onnxruntime]'"


# What the defaults stand on.


def integer_conv(x: NDArray[Any], w: NDArray[Any], bias: NDArray[Any], step: float) -> NDArray[np.float32]:
    """A quantized convolution in exact integers."""
    steps = (np.abs(w).max((1, 2)) / 127).astype(np.float32)
    xq = np.clip(np.rint(x / np.float32(step)), -128, 127)
    wq = np.clip(np.rint(w / steps[:, None, None]), -128, 127)
    columns = np.lib.stride_tricks.sliding_window_view(np.pad(xq, ((0, 0), (0, 0), (1, 1))), 3, 2)
    total = np.einsum("nclk,ock->nol", columns, wq)
    scale = np.float64(step) * steps[:, None].astype(np.float64)
    result: NDArray[np.float32] = (total * scale + bias[:, None]).astype(np.float32)
    return result


def quantized_conv(source: str, target: str, name: str, w: NDArray[Any], bias: NDArray[Any], step: float) -> Any:
    weights = {
        f"{name}w": w,
        f"{name}b": bias,
        f"{name}ws": (np.abs(w).max((1, 2)) / 127).astype(np.float32),
        f"{name}wz": np.zeros(len(w), np.int8),
        f"{name}s": np.float32(step),
        f"{name}z": np.int8(0),
    }
    xs, ws = [f"{name}s", f"{name}z"], [f"{name}ws", f"{name}wz"]
    nodes = [
        node("QuantizeLinear", [source, *xs], [f"{name}q"]),
        node("DequantizeLinear", [f"{name}q", *xs], [f"{name}d"]),
        node("QuantizeLinear", [f"{name}w", *ws], [f"{name}wq"], axis=0),
        node("DequantizeLinear", [f"{name}wq", *ws], [f"{name}wd"], axis=0),
        node("Conv", [f"{name}d", f"{name}wd", f"{name}b"], [target], kernel_shape=[3], pads=[1, 1]),
    ]
    return nodes, {key: np.asarray(value) for key, value in weights.items()}


def test_quantized_graphs_are_exact_without_optimisation_and_not_with_it() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (64, CHANNELS, LENGTH)).astype(np.float32)
    w1, w2 = (rng.normal(0, 0.3, (CHANNELS, CHANNELS, 3)).astype(np.float32) for _ in range(2))
    b1, b2 = (rng.normal(0, 0.1, CHANNELS).astype(np.float32) for _ in range(2))
    first, weights1 = quantized_conv("x", "c", "one", w1, b1, 3 / 127)
    second, weights2 = quantized_conv("r", "y", "two", w2, b2, 5 / 127)
    model = graph([*first, node("Relu", ["c"], ["r"]), *second], {**weights1, **weights2})
    exact = integer_conv(np.maximum(integer_conv(x, w1, b1, 3 / 127), 0), w2, b2, 5 / 127)
    assert np.abs(run(model, x) - exact).max() < 1e-5
    # Why it is off: the float bias gets quantized as well, and values flip to the next step.
    assert np.abs(run(model, x, optimise=True) - exact).max() > 1e-3


def half_chain(x: NDArray[np.float32], a: NDArray[np.float16], b: NDArray[np.float16]) -> NDArray[np.float32]:
    half = x.astype(np.float16)
    total = half * a + b
    assert total.dtype == np.float16
    return ((total - half) * total).astype(np.float32)


@pytest.fixture
def factors() -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    rng = np.random.default_rng(2)
    a, b = (rng.normal(1, 0.3, (CHANNELS, 1)).astype(np.float16) for _ in range(2))
    return a, b


@pytest.mark.parametrize("optimise", [False, True])
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="ARM builds have some FP16 kernels")
def test_typed_half_graphs_are_not_rounded(
    optimise: bool, x: NDArray[np.float32], factors: tuple[NDArray[np.float16], NDArray[np.float16]]
) -> None:
    """Should this fail one day, ONNX Runtime has learned to round: then its FP16 results mean more than today."""
    a, b = factors
    nodes = [
        node("Cast", ["x"], ["h"], to=F16),
        node("Mul", ["h", "a"], ["m"]),
        node("Add", ["m", "b"], ["s"]),
        node("Sub", ["s", "h"], ["d"]),
        node("Mul", ["d", "s"], ["p"]),
        node("Cast", ["p"], ["y"], to=F32),
    ]
    y = run(graph(nodes, {"a": a, "b": b}), x, optimise=optimise)
    assert np.mean(y == half_chain(x, a, b)) < 0.1
    total = x * a.astype(np.float32) + b.astype(np.float32)
    np.testing.assert_allclose(y, (total - x) * total, rtol=1e-5, atol=1e-5)  # plain FP32, the input not rounded either


@pytest.mark.parametrize("optimise", [False, True])
def test_explicit_rounding_casts_survive(
    optimise: bool, x: NDArray[np.float32], factors: tuple[NDArray[np.float16], NDArray[np.float16]]
) -> None:
    a, b = factors

    def rounded(source: str, target: str) -> list[Any]:
        return [
            node("Cast", [source], [f"{target}_half"], to=F16),
            node("Cast", [f"{target}_half"], [target], to=F32),
        ]

    nodes = [
        *rounded("x", "h"),
        node("Mul", ["h", "a"], ["m_"]),
        *rounded("m_", "m"),
        node("Add", ["m", "b"], ["s_"]),
        *rounded("s_", "s"),
        node("Sub", ["s", "h"], ["d_"]),
        *rounded("d_", "d"),
        node("Mul", ["d", "s"], ["p_"]),
        *rounded("p_", "y"),
    ]
    weights = {"a": a.astype(np.float32), "b": b.astype(np.float32)}
    np.testing.assert_array_equal(run(graph(nodes, weights), x, optimise=optimise), half_chain(x, a, b))


VARIED = """
import sys
import numpy as np
from drsn_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner

def own_mb():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) / 1024

draw = np.random.default_rng(3)
x = draw.standard_normal((64, 1, 2048)).astype(np.float32)
with OnnxRuntimeRunner(sys.argv[1], optimise=True) as runner:
    for turn in range(40):
        for _ in range(3):
            runner.run({"window": x})
        if turn == 0:
            before = own_mb()
        runner.run({"window": x[: draw.integers(1, 64)]})
    print(own_mb() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for its memory")
def test_memory_does_not_step_when_batch_sizes_come_up_again(tmp_path: Path) -> None:
    """With ONNX Runtime's memory patterns it grew by 5 to 6 MB: once in a day of streaming, and for good."""
    pytest.importorskip("torch", reason="the network is made with PyTorch")
    from drsn_edge.exporters.precision import with_telemetry
    from drsn_edge.exporters.torch_graph import export_network
    from drsn_edge.model.config import NetworkConfig
    from drsn_edge.model.network import Network
    from drsn_edge.signals.contract import SignalContract

    contract = SignalContract(sample_rate_hz=12_000.0, window=2048)
    network = Network(NetworkConfig.preset("paper", model="drsn-cw", classes=10), contract).eval()
    labels = tuple(f"class-{index}" for index in range(10))
    plain = export_network(network, contract=contract, labels=labels).to_bytes()
    (tmp_path / "a.onnx").write_bytes(with_telemetry(plain))
    done = subprocess.run(
        [sys.executable, "-c", VARIED, str(tmp_path / "a.onnx")], capture_output=True, text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert -1 < float(done.stdout) < 2.5
