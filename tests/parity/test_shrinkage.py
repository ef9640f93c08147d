from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from drsn_edge.errors import InputError
from drsn_edge.files import dump_json
from drsn_edge.parity.localise import first_divergence, tensor_errors
from drsn_edge.parity.shrinkage import ShrinkageDrift, drift, units_of

Probe = dict[str, NDArray[Any]]
UNITS = [f"units.{index}" for index in range(12)]


def shrink(values: NDArray[np.float64], tau: NDArray[np.float64]) -> NDArray[np.float64]:
    return values - np.clip(values, -tau, tau)


def network(*, damage: dict[int, float] | None = None, noise: float = 0.0, seed: int = 0) -> Probe:
    """A chain of twelve shrinkage units; `damage` scales the thresholds of some, `noise` disturbs every threshold."""
    rng, jitter = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    x = rng.normal(0, 1, (16, 8, 64))
    probe: Probe = {"logits": x.mean(2)}
    for index, unit in enumerate(UNITS):
        alpha = rng.uniform(0.2, 0.8, (16, 8))
        tau = alpha * np.abs(x).mean(2) * (damage or {}).get(index, 1.0)
        tau = tau * (1 + noise * jitter.normal(size=tau.shape))
        shrunk = shrink(x, tau[..., None])
        probe |= {
            f"{unit}.threshold": tau,
            f"{unit}.zero_share": (shrunk == 0).mean(2),
            f"{unit}.shrunk": shrunk,
        }
        x = shrunk + x + rng.normal(0, 0.5, x.shape)
    return probe


def test_units_in_the_order_of_the_graph() -> None:
    assert units_of(network()) == UNITS


def test_no_drift_against_itself() -> None:
    probe = network()
    for item in drift(probe, probe, "onnx-fp32"):
        assert (item.variant, item.tau_relative_error, item.dead_zone_flips) == ("onnx-fp32", 0.0, 0.0)
        assert item.zero_share == item.zero_share_reference
        assert 0 < (item.zero_share or 0) < 1


def test_a_threshold_ten_percent_too_large_is_a_drift_of_ten_percent() -> None:
    reference, candidate = network(), network(damage={3: 1.1})
    found = drift(reference, candidate, "onnx-int8")
    assert [item.tau_relative_error for item in found[:3]] == [0, 0, 0]
    assert found[3].tau_relative_error == pytest.approx(0.1)
    flips = np.mean((reference["units.3.shrunk"] == 0) != (candidate["units.3.shrunk"] == 0))
    assert found[3].dead_zone_flips == pytest.approx(flips)
    assert flips > 0.01
    assert (found[3].zero_share or 0) > (found[3].zero_share_reference or 1)


def test_without_features_there_are_no_flips() -> None:
    only = {name: value for name, value in network().items() if name.endswith(".threshold")}
    found = drift(network(), only, "engine-fp16")[0]
    assert (found.tau_relative_error, found.dead_zone_flips, found.zero_share) == (0.0, None, None)


def test_nan_is_an_infinite_drift_and_no_dead_zone() -> None:
    bad = network()
    bad["units.2.threshold"] = np.full((16, 8), np.nan)
    bad["units.2.shrunk"] = np.full((16, 8, 64), np.nan)
    found = drift(network(), bad, "onnx-fp16")[2]
    assert found.tau_relative_error == math.inf
    assert found.dead_zone_flips == pytest.approx(found.zero_share_reference)
    written = json.loads(dump_json(found.to_json()))
    assert written["tau_relative_error"] is None
    assert ShrinkageDrift.from_json(written) == found


def test_round_trip_and_named_keys() -> None:
    found = drift(network(), network(damage={0: 0.9}), "onnx-int8")[0]
    written = json.loads(dump_json(found.to_json()))
    named = {"unit", "variant", "tau_relative_error", "dead_zone_flips"}
    assert named <= set(written)
    assert ShrinkageDrift.from_json(written) == found
    assert ShrinkageDrift.from_json({key: written[key] for key in named}).unit == "units.0"


def test_images_and_shared_thresholds() -> None:
    features = np.random.default_rng(0).normal(size=(3, 4, 5, 6))
    probe = {"a.threshold": np.ones((3, 1)), "a.shrunk": shrink(features, np.ones((3, 1, 1, 1)))}
    assert drift(probe, probe, "onnx-fp32")[0].dead_zone_flips == 0


@pytest.mark.parametrize(
    ("reference", "candidate", "words"),
    [
        ({"logits": np.zeros(3)}, {}, ["logits", "units.0.threshold"]),
        ({"a.threshold": np.ones((2, 3))}, {"b": np.ones(1)}, ["b", "a.threshold"]),
        ({"a.threshold": np.ones((2, 3))}, {"a.threshold": np.ones((2, 1))}, ["(2, 1)", "(2, 3)"]),
        ({"a.threshold": np.array([[np.nan]])}, {"a.threshold": np.ones((1, 1))}, ["NaN or infinity", "numbers"]),
    ],
)
def test_probes_that_do_not_fit(reference: Probe, candidate: Probe, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        drift(reference, candidate, "onnx-int8")
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("faulty", range(12))
def test_the_damaged_unit_is_named(faulty: int) -> None:
    found = first_divergence(network(), network(damage={faulty: 1.05}), UNITS, 1e-3)
    assert found is not None
    assert (found.unit, found.tensor) == (f"units.{faulty}", f"units.{faulty}.threshold")
    assert found.relative_error == pytest.approx(0.05, rel=1e-6)


@pytest.mark.parametrize("faulty", range(12))
def test_the_damaged_unit_is_named_under_quantization_noise(faulty: int) -> None:
    reference, clean = network(), network(noise=0.01)
    errors = tensor_errors(reference, clean, UNITS)
    assert first_divergence(reference, clean, UNITS) is not None  # without the record, ordinary noise is out of limits
    assert first_divergence(reference, clean, UNITS, clean=errors) is None
    found = first_divergence(reference, network(noise=0.01, damage={faulty: 1.1}), UNITS, clean=errors)
    assert found is not None
    assert found.unit == f"units.{faulty}"


def test_damage_between_threshold_and_features_is_named_there() -> None:
    bad = network()
    bad["units.4.shrunk"] = bad["units.4.shrunk"] * 1.01
    found = first_divergence(network(), bad, UNITS)
    assert found is not None
    assert found.tensor == "units.4.shrunk"


def test_nan_diverges() -> None:
    bad = network()
    bad["units.6.threshold"] = bad["units.6.threshold"] * np.nan
    found = first_divergence(network(), bad, UNITS, {"units.6": 1e9})
    assert found is not None
    assert (found.unit, found.relative_error) == ("units.6", math.inf)


def test_tolerances_per_unit_and_per_tensor() -> None:
    bad = network(damage={2: 1.05})
    assert first_divergence(network(), bad, UNITS[:3], {"units.2": 0.2}) is None
    found = first_divergence(network(), bad, UNITS[:3], {"units.2": 0.2, "units.2.threshold": 0.01})
    assert found is not None
    assert found.limit == 0.01
