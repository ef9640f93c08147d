from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from drsn_edge.errors import InputError, UsageError
from drsn_edge.model.fake_quant import FakeQuantNetwork
from drsn_edge.signals.windows import Windows
from drsn_edge.training.loop import fit
from drsn_edge.training.options import FitOptions, NoiseRange
from drsn_edge.training.qat import QatOptions, fine_tune

SCALES = {f"units.{unit}.{conv}/Conv": 1.5 for unit in (0, 1) for conv in ("conv1", "conv2")}


@pytest.fixture
def teacher(make_network: Callable[..., Any], make_windows: Callable[..., Windows]) -> Any:
    network = make_network(classes=4)
    # A few steps: statistics that fit, and logits that tell tones apart.
    options = FitOptions(epochs=4, batch=32, lr=0.05)
    fit(network, make_windows(128, classes=4, seed=3), make_windows(32, classes=4, seed=4), options=options)
    return network


@pytest.fixture
def tones(make_windows: Callable[..., Windows]) -> Callable[..., Windows]:
    return functools.partial(make_windows, classes=4)


def divergence(student: torch.nn.Module, teacher: torch.nn.Module, windows: Windows) -> float:
    """Of distributions, written out."""
    with torch.no_grad():
        p, q = (torch.softmax(net.eval()(torch.from_numpy(windows.x)).double(), dim=1) for net in (teacher, student))
    return float((p * (p.log() - q.log())).sum(dim=1).mean())


def test_distillation_brings_a_coarse_int8_network_nearer_to_the_original(
    teacher: Any, tones: Callable[..., Windows]
) -> None:
    train, validation, other = tones(96, seed=0), tones(48, seed=1), tones(96, seed=2)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = FakeQuantNetwork(copy.deepcopy(teacher), SCALES)
    start = divergence(student, teacher, other)
    options = QatOptions(epochs=8, batch=32, lr=3e-3)
    result = fine_tune(student, teacher, train, validation, options=options)
    assert divergence(student, teacher, other) < 0.5 * start
    assert student.scales == SCALES
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert result.best.validation_loss == min(record.validation_loss for record in result.records)
    assert result.best.validation_loss == pytest.approx(divergence(student, teacher, validation), rel=1e-3)
    rates = [record.lr for record in result.records]
    assert rates[0] < rates[1] <= 3e-3, "it rises, then falls"
    assert rates[1:] == sorted(rates[1:], reverse=True)


def test_equal_options_give_equal_weights_and_another_seed_others(teacher: Any, tones: Callable[..., Windows]) -> None:
    def run(seed: int) -> dict[str, torch.Tensor]:
        network = copy.deepcopy(teacher)
        noise = NoiseRange(("gaussian",), (0.0, 10.0))
        options = QatOptions(epochs=1, batch=32, noise=noise, validation_draws=1, seed=seed)
        fine_tune(
            FakeQuantNetwork(network, SCALES, learned=True),
            teacher,
            tones(64, seed=0),
            tones(16, seed=1),
            options=options,
        )
        return dict(network.state_dict())

    first, again, other = run(0), run(0), run(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_labels_are_an_objective_too_and_need_no_original(teacher: Any, tones: Callable[..., Windows]) -> None:
    train, validation = tones(96, seed=0), tones(48, seed=1)
    network = copy.deepcopy(teacher)
    statistics = {name: value.clone() for name, value in network.named_buffers()}
    result = fine_tune(
        network, teacher, train, validation, options=QatOptions(epochs=6, batch=32, lr=1e-2, objective="labels")
    )
    assert result.best.validation_loss < 0.7 * result.records[0].validation_loss
    assert all(torch.equal(statistics[name], value) for name, value in network.named_buffers())


@pytest.mark.parametrize(
    ("change", "got"),
    [({"epochs": 0}, 0), ({"batch": 1}, 1), ({"lr": 0.0}, 0.0), ({"objective": "guess"}, "guess"), ({"seed": -1}, -1)],
)
def test_options_out_of_bounds_are_named(change: dict[str, Any], got: object) -> None:
    (name,) = change
    with pytest.raises(UsageError, match=name) as caught:
        QatOptions(**change)
    assert caught.value.got == got or str(got) in str(caught.value.got)


def test_a_divergence_is_an_error_and_not_a_network(teacher: Any, tones: Callable[..., Windows]) -> None:
    student = FakeQuantNetwork(copy.deepcopy(teacher), SCALES)
    options = QatOptions(epochs=3, batch=32, lr=1e30)
    with pytest.raises(UsageError, match="diverged") as caught:
        fine_tune(student, teacher, tones(64, seed=0), tones(16, seed=1), options=options)
    assert "--lr" in str(caught.value.hint)


def test_windows_of_another_kind_are_refused(teacher: Any, tones: Callable[..., Windows]) -> None:
    odd = tones(64, seed=0)
    odd = Windows(x=odd.x, y=np.zeros_like(odd.y), cluster=odd.cluster, labels=odd.labels)
    with pytest.raises(InputError, match="too few classes"):
        fine_tune(FakeQuantNetwork(teacher, SCALES), teacher, odd, tones(16, seed=1), options=QatOptions(epochs=1))
