from __future__ import annotations

import io
import json
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from drsn_edge.bundle import graph_name
from drsn_edge.errors import InputError
from drsn_edge.pipeline.export import ExportOptions, ExportResult, export
from drsn_edge.pipeline.golden import choose_golden
from drsn_edge.pipeline.sources import load_source
from drsn_edge.pipeline.sweep import SweepOptions
from drsn_edge.pipeline.verify import verify
from drsn_edge.signals.contract import SignalContract
from drsn_edge.signals.datasets import load_dataset
from drsn_edge.signals.noise import add_noise, noise_rng
from drsn_edge.signals.windows import Segment, Windows, cut

CONTRACT = SignalContract(1000.0, ("channel-0",), window=64, hop=32)
LABELS = ("high", "low", "middle")
OPTIONS = ExportOptions(engines=(), method="min-max", calibration_windows=96, report=False)
SWEEP = SweepOptions(noises=("gaussian",), snrs_db=(10.0,), draws=1)


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three tones, as a table."""
    folder = tmp_path_factory.mktemp("tones")
    rng = np.random.default_rng(0)
    lines = ["path,label,sample_rate_hz"]
    for label, order in (("low", 3), ("middle", 9), ("high", 17)):
        signal = np.sin(2 * np.pi * order * np.arange(4800) / 64) + 0.1 * rng.standard_normal(4800)
        np.save(folder / f"{label}.npy", signal.astype(np.float32))
        lines.append(f"{label}.npy,{label},1000")
    (folder / "recordings.csv").write_text("\n".join(lines) + "\n")
    return f"table:{folder / 'recordings.csv'}"


@pytest.fixture(scope="module")
def trained(tones: str) -> Callable[[str], torch.nn.Module]:
    """A foreign model that has learned the tones."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("foreign", Path(__file__).with_name("foreign_models.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    dataset = load_dataset(tones, expect=CONTRACT)
    whole = [Segment(index, 0, item.samples) for index, item in enumerate(dataset.recordings)]
    windows = cut(dataset, whole, CONTRACT, labels=LABELS)
    made: dict[str, torch.nn.Module] = {}

    def train(name: str) -> torch.nn.Module:
        if name not in made:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                network: torch.nn.Module = getattr(module, name)()
                optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
                for step in range(80):
                    rows = noise_rng(0, "rows", step).integers(0, len(windows), 48)
                    x = add_noise(windows.x[rows], 5.0, "gaussian", noise_rng(0, "noise", step))
                    loss = torch.nn.functional.cross_entropy(
                        network(torch.from_numpy(x)), torch.from_numpy(windows.y[rows])
                    )
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
            made[name] = network.eval()
        return made[name]

    return train


def write_config(folder: Path, **more: Any) -> Path:
    path = folder / "foreign.json"
    path.write_text(json.dumps({"contract": CONTRACT.to_json(), "labels": list(LABELS), **more}))
    return path


def check(result: ExportResult, network: torch.nn.Module, tones: str, *, units: int) -> None:
    """Found, quantized and verified as a network of ours."""
    assert len(result.bundle.units) == units
    assert result.parity.passed, [str(item) for item in result.parity.failures]
    assert not [note for note in result.notes if "threshold" in note or "BatchNorm" in note], result.notes
    dataset = load_dataset(tones, expect=CONTRACT)
    windows = cut(dataset, [Segment(1, 0, 640)], CONTRACT, labels=LABELS)
    with torch.no_grad():
        wanted = network(torch.from_numpy(windows.x)).numpy()
    runtime = pytest.importorskip("onnxruntime")
    for precision, limit in (("fp32", 2e-5), ("int8-fp32", 0.3)):
        data = result.bundle.read(graph_name(precision))
        session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
        (logits,) = session.run(["logits"], {"window": windows.x})
        assert np.abs(logits - wanted).max() <= limit * np.abs(wanted).max()
    # Every convolution but the first is integer, and nothing of the threshold branch.
    precisions = Counter(row["precision"] for row in result.plan)
    quantized = [row["layer"] for row in result.plan if row["precision"] == "int8"]
    convolutions = [row["layer"] for row in result.plan if row["layer"].endswith("Conv") or "/Conv" in row["layer"]]
    assert len(quantized) == len(convolutions) - 1 >= 5, precisions
    assert {point.noise for point in result.parity.decisions} == {"none", "gaussian"}
    assert {row.variant for row in result.parity.shrinkage} >= {"onnx-fp16", "onnx-int8"}
    assert {row.unit for row in result.parity.shrinkage} == set(result.bundle.units)


# The units of `post_activation` are exported from its ONNX file below.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("post_activation", marks=pytest.mark.slow),
        "two_relus",
        pytest.param("channel_shared", marks=pytest.mark.slow),
    ],
)
def test_a_class_of_somebody_else(
    name: str, trained: Callable[[str], torch.nn.Module], tones: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = trained(name)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    result = export(
        f"foreign_models:{name}", out=tmp_path / "foreign.drsn", calibrate=tones, config=write_config(tmp_path),
        weights=tmp_path / "weights.pt", options=OPTIONS, sweep=SWEEP,
    )  # fmt: skip
    check(result, network, tones, units=2)
    assert verify(tmp_path / "foreign.drsn").passed


def test_an_onnx_file_of_somebody_else(trained: Callable[[str], torch.nn.Module], tones: str, tmp_path: Path) -> None:
    network = trained("post_activation")
    stream: Any = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (torch.zeros(1, 1, 64),), stream, dynamo=False, opset_version=13)
    before = onnx.load_from_string(stream.getvalue())
    assert {"Sign", "Abs"} <= {node.op_type for node in before.graph.node}
    (tmp_path / "theirs.onnx").write_bytes(stream.getvalue())
    result = export(
        tmp_path / "theirs.onnx", out=tmp_path / "theirs.drsn", calibrate=tones, config=write_config(tmp_path),
        options=OPTIONS, sweep=SWEEP,
    )  # fmt: skip
    check(result, network, tones, units=2)


def test_their_weights_under_other_names(
    trained: Callable[[str], torch.nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = trained("two_relus")
    state = {name.replace("layers.", "blocks."): value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "weights.pth")
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    config = write_config(tmp_path, names={r"blocks\.(.*)": r"layers.\1"})
    source = load_source("foreign_models:two_relus", config=config, weights=tmp_path / "weights.pth")
    for name, value in source.module.state_dict().items():
        torch.testing.assert_close(value, network.state_dict()[name], rtol=0, atol=0)
    with pytest.raises(InputError, match="do not fit the model"):
        load_source("foreign_models:two_relus", config=write_config(tmp_path), weights=tmp_path / "weights.pth")


@pytest.mark.parametrize(
    ("detrend", "standardise", "factor", "offset", "gain"),
    [("mean", "window", 1, 10, 1000), ("none", "none", -1, 0, 0.5), ("mean", "none", 1, 10, 0.5)],
)
def test_made_up_windows_stay_within_what_a_network_was_made_for(
    detrend: Any, standardise: Any, factor: int, offset: int, gain: float
) -> None:
    x = np.random.default_rng(0).normal(size=(40, 1, 32)).astype(np.float32)
    windows = Windows(x=x, y=np.arange(40) % 2, cluster=np.arange(40), labels=("a", "b"))
    contract = replace(CONTRACT, window=32, detrend=detrend, standardise=standardise)
    found, _, _ = choose_golden(windows, lambda some: some[:, 0, :2], count=16, contract=contract)
    size = np.abs(x).max(axis=(1, 2))
    middle = np.argsort(size)[20]
    np.testing.assert_allclose(found[-2], factor * x[middle] + offset * size[middle], rtol=1e-6)
    np.testing.assert_allclose(found[-1], gain * x[middle], rtol=1e-6)
