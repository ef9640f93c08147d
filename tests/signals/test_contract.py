from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from drsn_edge.errors import ContractError, InputError
from drsn_edge.files import dump_json
from drsn_edge.signals.contract import SignalContract
from drsn_edge.signals.recording import Recording

Refuses = Callable[..., AbstractContextManager[None]]
Measure = Callable[..., Recording]

CONTRACT = SignalContract(100.0, ("x", "y"), units="g", window=12, hop=3, image=(3, 4))


def test_shape_is_what_the_network_takes() -> None:
    assert CONTRACT.shape == (2, 3, 4)
    assert dataclasses.replace(CONTRACT, image=None).shape == (2, 12)


@pytest.mark.parametrize("contract", [CONTRACT, SignalContract(12_800.0)])
def test_json_keeps_every_field(contract: SignalContract) -> None:
    again = SignalContract.from_json(json.loads(dump_json(contract.to_json())))
    assert again == contract
    assert hash(again) == hash(contract)


def test_differences_are_named() -> None:
    assert CONTRACT.differences(CONTRACT) == []
    other = dataclasses.replace(CONTRACT, sample_rate_hz=50.0, units="mm/s")
    assert CONTRACT.differences(other) == ["sample_rate_hz: 100.0 and 50.0", "units: 'g' and 'mm/s'"]


@pytest.mark.parametrize(
    ("change", "got", "expected"),
    [
        ({"sample_rate_hz": 0.0}, "0.0", "a positive number of hertz"),
        ({"sample_rate_hz": float("nan")}, "nan", "a positive number of hertz"),
        ({"channels": ()}, "()", "at least one channel name"),
        ({"channels": ("x", "x")}, "('x', 'x')", "none twice"),
        ({"window": 1, "image": None}, "1", "at least 2 samples"),
        ({"hop": 0}, "0", "at least 1 sample"),
        ({"detrend": "linear"}, "linear", "none or mean"),
        ({"standardise": "channel"}, "channel", "none or window"),
        ({"epsilon": 0.0}, "0.0", "a positive number"),
        ({"image": (3, 5)}, "(3, 5)", "window = 12"),
    ],
)
def test_bad_fields(change: dict[str, object], got: str, expected: str, refuses: Refuses) -> None:
    with refuses(InputError, got=got, expected=expected, also=tuple(change)[:1]):
        dataclasses.replace(CONTRACT, **change)  # type: ignore[arg-type]


def test_json_that_is_no_contract(refuses: Refuses) -> None:
    value = CONTRACT.to_json()
    with refuses(InputError, got="'colour'", expected="sample_rate_hz"):
        SignalContract.from_json({**value, "colour": 1})
    with refuses(InputError, got="channels", expected="window"):
        SignalContract.from_json({key: item for key, item in value.items() if key != "window"})
    for change in ({"window": "x"}, {"channels": None}, {"image": [3]}):
        with refuses(InputError, got="", expected="the fields of to_json"):
            SignalContract.from_json({**value, **change})


def test_recordings_are_held_against_it(measure: Measure, refuses: Refuses) -> None:
    CONTRACT.check(measure(0, 12, channels=2))
    CONTRACT.check(measure(0, 12, channels=2, rate=100.00001))
    with refuses(ContractError, got="100.1 Hz", expected="100 Hz", also=("recording 7", "anti-alias")):
        CONTRACT.check(measure(7, 12, channels=2, rate=100.1))
    with refuses(ContractError, got="1", expected="2 (x, y)", also=("recording 7",)):
        CONTRACT.check(measure(7, 12))
    with refuses(ContractError, got="11 samples (0.11 s)", expected="at least 12 samples", also=("--window",)):
        CONTRACT.check(measure(7, 11, channels=2))
