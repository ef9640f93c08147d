from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import pytest

from drsn_edge.errors import InputError
from drsn_edge.signals.recording import Recording

Refuses = Callable[..., AbstractContextManager[None]]

SIGNAL = np.arange(8, dtype=np.float32).reshape(2, 4)


def test_size() -> None:
    recording = Recording(SIGNAL, 8.0, "a")
    assert (recording.channels, recording.samples, recording.duration_s) == (2, 4, 0.5)


def test_fingerprint_is_of_the_measurement_alone() -> None:
    recording = Recording(SIGNAL, 8.0, "a", {"load": "1"}, "here")
    same = Recording(np.asfortranarray(SIGNAL), 8.0, "b", {}, "there")
    assert same.fingerprint == recording.fingerprint
    changed = SIGNAL.copy()
    changed[1, 3] = np.nextafter(changed[1, 3], np.float32(9))
    others = [
        dataclasses.replace(recording, sample_rate_hz=9.0),
        dataclasses.replace(recording, signal=changed),
        dataclasses.replace(recording, signal=SIGNAL.reshape(1, 8)),
    ]
    assert len({item.fingerprint for item in [recording, *others]}) == 4


def test_neither_signal_nor_groups_can_be_changed() -> None:
    groups = {"load": "1"}
    recording = Recording(SIGNAL, 8.0, "a", groups)
    groups["load"] = "2"
    assert recording.groups == {"load": "1"}
    with pytest.raises(ValueError, match="read-only"):
        recording.signal[0, 0] = 1
    assert SIGNAL.flags.writeable


@pytest.mark.parametrize(
    ("signal", "got", "expected"),
    [
        (SIGNAL[0], "(4,)", "[channels, samples]"),
        (SIGNAL[:, :0], "(2, 0)", "at least one of each"),
        (SIGNAL.astype(np.float64), "float64", "float32"),
        (np.array([[0, 1], [np.inf, np.nan]], np.float32), "inf at channel 1, sample 0 (2 in all)", "finite samples"),
    ],
)
def test_signals_that_are_none(signal: np.ndarray, got: str, expected: str, refuses: Refuses) -> None:
    with refuses(InputError, got=got, expected=expected, also=("pump.wav",)):
        Recording(signal, 8.0, "a", {}, "pump.wav")


@pytest.mark.parametrize("rate", [0.0, -1.0, float("inf"), float("nan")])
def test_rates_that_are_none(rate: float, refuses: Refuses) -> None:
    with refuses(InputError, got=str(rate), expected="a positive number of hertz", also=("pump.wav",)):
        Recording(SIGNAL, rate, "a", {}, "pump.wav")
