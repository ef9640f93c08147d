from __future__ import annotations

import numpy as np
import pytest

from drsn_edge.parity.localise import first_divergence, signs, summarise, tensor_errors


def fmix32(value: int) -> int:
    """MurmurHash3's finaliser in exact integers, from its published description."""
    value ^= value >> 16
    value = value * 0x85EBCA6B % 2**32
    value ^= value >> 13
    value = value * 0xC2B2AE35 % 2**32
    return value ^ (value >> 16)


def test_signs_are_those_of_the_published_hash_and_balanced() -> None:
    assert signs(500).tolist() == [1.0 if fmix32(index) & 1 else -1.0 for index in range(1, 501)]
    assert abs(signs(4096).mean()) < 0.05
    # No frequency stands out: a sketch must not be blind to a kind of error.
    spectrum = np.abs(np.fft.rfft(signs(1024))) / np.sqrt(1024)
    assert spectrum.max() < 4.5
    assert np.median(spectrum) > 0.5


@pytest.mark.parametrize("kind", ["white", "offset", "slow", "one sample"])
def test_the_error_of_a_sketch_is_that_of_the_features(kind: str) -> None:
    rng = np.random.default_rng(0)
    features = np.maximum(rng.normal(0, 1, (96, 8, 64)), 0)
    error = {
        "white": rng.normal(0, 0.05, features.shape),
        "offset": np.full(features.shape, 0.05),
        "slow": 0.07 * np.sin(np.arange(64) / 10 + rng.uniform(0, 6, (96, 8, 1))),
        "one sample": 0.4 * (np.arange(64) == 17) * np.ones((96, 8, 1)),
    }[kind]
    probe = {"u.shrunk": features}
    moved = {"u.shrunk": features + error}
    (whole,) = tensor_errors(probe, moved, ["u"]).values()
    (sketched,) = tensor_errors(summarise(probe, ["u"]), summarise(moved, ["u"]), ["u"]).values()
    assert whole / 3 < sketched < whole * 3


def test_a_fault_in_the_features_alone_is_named_by_its_sketch() -> None:
    rng = np.random.default_rng(1)
    probe = {
        f"units.{index}.{name}": rng.normal(0, 1, shape)
        for index in range(3)
        for name, shape in (("threshold", (8, 4)), ("shrunk", (8, 4, 32)))
    }
    units = [f"units.{index}" for index in range(3)]
    moved = {
        name: value * (1.01 if name in ("units.1.shrunk", "units.2.threshold") else 1) for name, value in probe.items()
    }
    found = first_divergence(summarise(probe, units), summarise(moved, units), units, 1e-4)
    assert found is not None
    assert (found.unit, found.tensor) == ("units.1", "units.1.shrunk")
    assert found.relative_error == pytest.approx(0.01, rel=1e-3)


def test_infinite_features_diverge() -> None:
    probe = {"u.shrunk": np.ones((2, 2, 8))}
    bad = {"u.shrunk": np.where(np.arange(8) == 3, np.inf, 1.0) * np.ones((2, 2, 8))}
    found = first_divergence(summarise(probe, ["u"]), summarise(bad, ["u"]), ["u"], 0.5)
    assert found is not None
    assert found.relative_error == np.inf
