"""The faults of `benchmarks.fault_injection`: each is a fault, lies where it says, and leaves a graph that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="the benchmark trains networks")
pytest.importorskip("onnx_ir", reason="the benchmark damages graphs")

from benchmarks.faults.graph import Context, Graph, NoPlace  # noqa: E402 - after what they need
from benchmarks.faults.inputs import INPUTS  # noqa: E402
from benchmarks.faults.kept import Kept  # noqa: E402
from benchmarks.faults.kinds import ANY  # noqa: E402
from drsn_edge.exporters.precision import emulated, to_half  # noqa: E402
from drsn_edge.exporters.torch_graph import export_network  # noqa: E402
from drsn_edge.model.config import NetworkConfig  # noqa: E402
from drsn_edge.model.network import Network  # noqa: E402
from drsn_edge.runtime.onnxruntime_runner import OnnxRuntimeRunner  # noqa: E402
from drsn_edge.signals.contract import SignalContract  # noqa: E402

UNITS = ("units.0", "units.1")


@pytest.fixture(scope="module")
def sound() -> tuple[dict[str, bytes], dict[str, NDArray[Any]]]:
    """FP32 and FP16 files of a network with statistics, and its variances."""
    torch.manual_seed(3)
    contract = SignalContract(sample_rate_hz=1000, channels=("one",), window=64, hop=64)
    network = Network(NetworkConfig(model="drsn-cw", classes=3, widths=(4, 6), units=(1, 1)), contract)
    with torch.no_grad():
        for _ in range(20):
            network.train()(torch.randn(16, 1, 64))
    network.eval()
    graph = export_network(network, contract=contract, labels=("a", "b", "c"))
    variances = {
        name: layer.running_var.numpy()
        for name, layer in network.named_modules()
        if isinstance(layer, torch.nn.BatchNorm1d) and layer.running_var is not None
    }
    return {"fp32": graph.to_bytes(), "fp16": to_half(graph).to_bytes()}, variances


def logits(data: bytes) -> NDArray[Any]:
    x = np.random.default_rng(0).standard_normal((8, 1, 64)).astype(np.float32)
    with OnnxRuntimeRunner(emulated(data)) as runner:
        return runner.run({"window": x})["logits"]


@pytest.mark.parametrize("form", ["fp32", "fp16"])
def test_every_kind_changes_what_it_names(sound: Any, form: str) -> None:
    files, variances = sound
    wanted = logits(files[form])
    found: dict[str, float] = {}
    for kind, fault in ANY.items():
        for seed in range(6):
            graph = Graph(files[form])
            unit = UNITS[seed % 2]
            try:
                place = fault(graph, Context(unit, np.random.default_rng(seed), variances))
            except NoPlace:
                continue
            assert place == "logits" or place.startswith((f"{unit}.", f"{unit}/")), kind
            got = logits(graph.bytes())
            assert got.shape == wanted.shape
            found[kind] = max(found.get(kind, 0.0), float(np.abs(got - wanted).max()))
    assert set(found) == set(ANY)
    assert min(found.values()) > 0, found


def test_what_an_engine_is_fed_keeps_its_shape() -> None:
    x = np.random.default_rng(1).standard_normal((4, 2, 64)).astype(np.float32)
    for kind, feed in INPUTS.items():
        assert feed(x).shape == x.shape, kind
        assert not np.array_equal(feed(x), x), kind


def test_a_result_is_made_once_and_a_later_run_goes_on(tmp_path: Path) -> None:
    first = Kept(tmp_path, make=True)
    assert first.once("one", lambda: {"value": 1}) == {"value": 1}
    assert "to go" in first.left(3)

    def again() -> Any:
        raise AssertionError("made again")

    for make in (True, False):
        later = Kept(tmp_path, make=make)
        assert later.once("one", again) == {"value": 1}
        assert later.cpu_s == first.cpu_s
    assert Kept(tmp_path, make=False).once("two", again) is None
    assert Kept(tmp_path, make=False).rows("three", again) == []
