from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drsn_edge.errors import InputError
from drsn_edge.exporters.canonical import CanonicalGraph, canonicalise, parse
from drsn_edge.exporters.diagnose import diagnose
from drsn_edge.exporters.precision import to_half, with_probes, with_telemetry
from drsn_edge.exporters.torch_graph import export_network
from drsn_edge.signals.contract import SignalContract

Fixture = Callable[..., Any]
LABELS = ("a", "b", "c", "d", "e")
CONTRACT = SignalContract(sample_rate_hz=1000.0, window=16, channels=("x", "y", "z"))


class Suspect(nn.Module):
    """Two units with one fault each."""

    def __init__(self, fault: str = "none") -> None:
        super().__init__()
        self.fault = fault
        self.stem = nn.Sequential(nn.Conv1d(3, 6, 3, padding=1), nn.BatchNorm1d(6))
        norm = nn.Identity if fault == "no norm" else nn.BatchNorm1d
        outputs = 1 if fault in ("shared", "one coefficient") else 6
        self.gates = nn.ModuleList(
            nn.Sequential(nn.Linear(6, 6), norm(6), nn.ReLU(), nn.Linear(6, outputs), nn.Sigmoid()) for _ in range(2)
        )
        self.position = nn.Conv1d(1, 1, 1)
        self.fc = nn.Linear(6, 5)

    def tau(self, x: Tensor, gate: nn.Module) -> Tensor:
        magnitude = x.abs()
        if self.fault == "by position":
            # The axis of the channels is taken for that of time.
            mean = magnitude.mean(dim=1, keepdim=True)
            return torch.sigmoid(self.position(mean)) * mean
        mean = magnitude.mean(dim=2)
        alpha: Tensor = gate(mean)
        if self.fault in ("shared", "many coefficients"):
            mean = mean.mean(dim=1, keepdim=True)
        if self.fault == "signed":
            alpha = torch.tanh(alpha)
        return (alpha * mean).unsqueeze(2)

    def forward(self, window: Tensor) -> Tensor:
        x = self.stem(window)
        for gate in self.gates:
            if self.fault == "no units":
                x = x * gate(x.abs().mean(dim=2)).unsqueeze(2)
            else:
                tau = self.tau(x, gate)
                x = torch.sign(x) * torch.relu(x.abs() - tau)
        if self.fault == "dropout":
            x = F.dropout(x, 0.5)
        if self.fault == "batch statistics":
            x = F.batch_norm(x, None, None, training=True)
        logits: Tensor = self.fc(x.mean(dim=2))
        return torch.softmax(logits, dim=1) if self.fault == "softmax" else logits


def suspect(fault: str) -> Suspect:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Suspect(fault).eval()


def traced(fault: str) -> CanonicalGraph:
    return export_network(suspect(fault), contract=CONTRACT, labels=LABELS)


def file(fault: str, **options: Any) -> bytes:
    stream: Any = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            suspect(fault), (torch.zeros(2, 3, 16),), stream, dynamo=False, input_names=["x"], output_names=["y"],
            dynamic_axes={"x": {0: "n"}, "y": {0: "n"}}, **options,
        )  # fmt: skip
    data: bytes = stream.getvalue()
    return data


@pytest.mark.parametrize(("model", "dims"), [("drsn-cw", 1), ("drsn-cw", 2), ("drsn-cs", 1), ("resnet", 1)])
def test_our_networks_have_no_fault(exported: Fixture, model: str, dims: int) -> None:
    network, _, graph = exported(model, dims=dims)
    assert diagnose(graph, shrinks=network.config.shrinks) == ()


@pytest.mark.parametrize("fault", ["none", "shared"])
def test_a_right_network_of_somebody_else_has_none(fault: str) -> None:
    graph = traced(fault)
    assert len(graph.units) == 2
    assert diagnose(graph) == ()
    found = canonicalise(parse(file(fault)), contract=CONTRACT, labels=LABELS)
    assert diagnose(found, traced=False) == ()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("no norm", "no BatchNorm between the two FC layers of the threshold branch (all 2 units)."),
        ("many coefficients", "called channel-shared differ between channels"),
        ("one coefficient", "One coefficient times the mean of each channel"),
        ("by position", "A threshold for each position"),
        ("softmax", "The network ends in Softmax (main/Softmax)"),
        ("no units", "No shrinkage unit was found"),
    ],
)
def test_a_fault_is_named(fault: str, words: str) -> None:
    (finding,) = diagnose(traced(fault), shrinks=True)
    assert words in finding
    assert finding.endswith(".")


def test_a_threshold_that_may_be_negative_is_named_and_left_alone() -> None:
    graph = traced("signed")
    assert graph.units == ()
    first, second, last = diagnose(graph)
    for finding in (first, second):
        assert "looks like a soft threshold but is left as it is: its threshold (Unsqueeze)" in finding
    assert first.split()[0] == "main/Mul_1"
    assert "No shrinkage unit was found" in last


def test_a_few_units_are_named_one_by_one() -> None:
    graph = traced("none")
    broken = replace(graph, folded=graph.folded - {node.name for node in graph.units[1].branch})
    (finding,) = diagnose(broken)
    assert f"({graph.units[1].name})." in finding


def test_what_a_file_no_longer_shows_is_not_held_against_it() -> None:
    # The old exporter folds what stands behind the convolution; behind the FC layer there is nothing to fold.
    found = canonicalise(parse(file("no norm")), contract=CONTRACT, labels=LABELS)
    assert found.folded == frozenset()
    assert diagnose(found, traced=False) == ()
    # Where other layers still have theirs, the missing ones are missing.
    found = canonicalise(
        parse(file("no norm", training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False)),
        contract=CONTRACT, labels=LABELS,
    )  # fmt: skip
    assert len(found.folded) == 1
    (finding,) = diagnose(found, traced=False)
    assert "no BatchNorm" in finding


def test_a_network_that_was_right_stays_right_in_other_precisions() -> None:
    graph = traced("none")
    assert to_half(graph).folded == graph.clone().folded == graph.folded
    assert len(graph.folded) == 3


def test_thresholds_by_position_can_be_probed(run_onnx: Fixture) -> None:
    graph = traced("by position")
    x = np.random.default_rng(0).normal(size=(3, 3, 16)).astype(np.float32)
    found = run_onnx(with_probes(graph.to_bytes()), window=x)
    network = suspect("by position")
    with torch.no_grad():
        features = network.stem(torch.from_numpy(x))
        wanted = network.tau(features, network.gates[0])
    name = graph.units[0].name
    assert found[f"{name}.threshold"].shape == found[f"{name}.zero_share"].shape == (3, 6)
    np.testing.assert_allclose(found[f"{name}.threshold"], np.repeat(wanted.numpy().mean(axis=2), 6, axis=1), rtol=1e-5)
    inside = (features.abs() <= wanted).float().mean(dim=2).numpy()
    np.testing.assert_allclose(found[f"{name}.zero_share"], inside, atol=1e-6)
    table = run_onnx(with_telemetry(graph.to_bytes()), window=x)["threshold"]
    np.testing.assert_allclose(table[:, 0], wanted.numpy().mean(axis=(1, 2)), rtol=1e-5)


def test_a_network_that_still_trains_is_refused() -> None:
    with pytest.raises(InputError, match="decides by chance in evaluation mode") as caught:
        traced("dropout")
    assert (caught.value.got, caught.value.expected) == (
        "other logits for the same windows a second time",
        "the same logits",
    )
    assert "training=self.training" in str(caught.value)
    with pytest.raises(InputError, match="depend on the other windows of the batch") as caught:
        traced("batch statistics")
    assert caught.value.got == "other logits for two windows alone than among four"
    assert "stored statistics in every BatchNorm" in str(caught.value.expected)


def test_a_file_that_still_trains_is_refused() -> None:
    with pytest.raises(InputError, match="decides by chance") as caught:
        canonicalise(parse(file("dropout")), contract=CONTRACT, labels=LABELS)
    assert "Dropout with training_mode" in str(caught.value.got)
    assert caught.value.expected == "a network in evaluation mode"
    trained = parse(file("none", training=torch.onnx.TrainingMode.TRAINING, do_constant_folding=False))
    with pytest.raises(InputError, match="canonical form") as caught:
        canonicalise(trained, contract=CONTRACT, labels=LABELS)
    assert "not in inference mode" in str(caught.value.got)
    assert "evaluation mode" in str(caught.value.expected)
