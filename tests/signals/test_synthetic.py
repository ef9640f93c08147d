from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import pytest
from numpy.typing import NDArray

from drsn_edge.errors import UsageError
from drsn_edge.signals.datasets import Dataset, load_dataset
from drsn_edge.signals.datasets.synthetic import ORDERS, STATES
from drsn_edge.signals.recording import Recording
from drsn_edge.signals.splits import split
from drsn_edge.signals.windows import cut

Refuses = Callable[..., AbstractContextManager[None]]


@pytest.fixture(scope="module")
def made() -> Dataset:
    return load_dataset("synthetic")


def envelope_spectrum(
    recording: Recording, low_hz: float, high_hz: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Orders of the shaft, and the spectrum of the squared envelope of a band: how a person finds a bearing fault."""
    signal = recording.signal[0].astype(np.float64)
    spectrum = np.fft.fft(signal)
    frequency = np.fft.fftfreq(signal.size, 1 / recording.sample_rate_hz)
    spectrum[(frequency < low_hz) | (frequency > high_hz)] = 0
    envelope = np.abs(np.fft.ifft(spectrum)) ** 2
    shaft = float(recording.groups["speed"])
    orders = np.fft.rfftfreq(signal.size, shaft / recording.sample_rate_hz)
    return orders.astype(np.float64), np.abs(np.fft.rfft(envelope - envelope.mean())).astype(np.float64) ** 2


def strength(recording: Recording, order: float, band: tuple[float, float]) -> float:
    """How far an order stands above its surroundings in the envelope spectrum, slip and motor slip allowed for."""
    orders, power = envelope_spectrum(recording, *band)
    near = np.abs(orders - order) < 0.03 * order
    around = (np.abs(orders - order) < 0.25 * order) & ~near
    return float(power[near].max() / np.median(power[around]))


def test_the_size_is_right_for_a_demo(made: Dataset) -> None:
    assert len(made.recordings) == 216
    assert made.labels == STATES
    made_split = split(made)
    train = cut(made, made_split.segments("train", made), made.contract)
    assert len(train) == 4752
    assert np.bincount(train.y).tolist() == [len(train) // 8] * 8
    test = cut(made, made_split.segments("test", made), made.contract, hop=made.contract.window)
    assert len(test) == test.independent == 432


def test_generating_it_takes_a_moment() -> None:
    start = time.perf_counter()
    load_dataset("synthetic:seed=3")
    assert time.perf_counter() - start < 5  # 1.4 s here; the test machine may be busy


def test_loads_specimens_and_speeds_are_balanced(made: Dataset) -> None:
    assert made.groups()["load"] == ("1", "6", "18")
    assert made.groups()["speed"] == ("20", "30", "40")
    assert len(made.groups()["bearing"]) == 24
    # No class can be told from its speed or load.
    cells = {(item.groups["bearing"], item.groups["load"], item.groups["speed"]) for item in made.recordings}
    assert len(cells) == 24 * 3 * 3
    for protocol in ("load", "bearing"):
        for fold in range(3):
            assert split(made, protocol=protocol, fold=fold).labels == STATES


@pytest.mark.parametrize("fault", ["inner", "outer", "ball"])
def test_a_bearing_fault_strikes_at_its_own_order_and_no_other_state_does(fault: str, made: Dataset) -> None:
    for state in STATES:
        found = [strength(item, ORDERS[fault], (2800.0, 4000.0)) for item in made.recordings if item.label == state]
        if state == fault:
            assert np.median(found) > 100
        else:
            assert np.median(found) < 15, state


def test_characteristic_orders_are_those_of_the_geometry() -> None:
    # Nine balls of 0.2 pitch diameters: BPFO + BPFI = number of balls, and BSF from the cage's speed.
    assert ORDERS["outer"] + ORDERS["inner"] == pytest.approx(9)
    assert ORDERS["outer"] == pytest.approx(3.6)
    assert ORDERS["ball"] == pytest.approx(2 * 2.4)


def test_damaged_teeth_strike_once_per_revolution(made: Dataset) -> None:
    # At the sixth harmonic of the shaft: the first is in every mesh, the sixth takes something short.
    found = {
        state: np.median([strength(item, 6.0, (1500.0, 2300.0)) for item in made.recordings if item.label == state])
        for state in STATES
    }
    assert min(found["broken-tooth"], found["missing-tooth"]) > 400
    assert found["root-crack"] > 100
    assert max(found[state] for state in ("healthy", "inner", "outer", "ball")) < 15


def test_the_seed_decides_everything() -> None:
    one, again, other = (load_dataset(f"synthetic:seed={seed},seconds=0.5") for seed in (1, 1, 2))
    assert [item.fingerprint for item in one.recordings] == [item.fingerprint for item in again.recordings]
    assert not {item.fingerprint for item in one.recordings} & {item.fingerprint for item in other.recordings}
    assert len({item.fingerprint for item in one.recordings}) == 216
    assert one.recordings[0].samples == 6400


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("seed=-1", "a whole number from 0"),
        ("seed=1.5", "a whole number"),
        ("seconds=0.1", "a number from 0.5 to 60"),
        ("seconds=nan", "a number from 0.5 to 60"),
        ("seconds=long", "a number from 0.5 to 60"),
    ],
)
def test_options_out_of_bounds(option: str, expected: str, refuses: Refuses) -> None:
    with refuses(UsageError, got=option, expected=expected):
        load_dataset(f"synthetic:{option}")
