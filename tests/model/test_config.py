"""Network configurations: what is refused, and what survives a file."""

from __future__ import annotations

import json
from typing import Any

import pytest

from drsn_edge.errors import InputError, UsageError
from drsn_edge.model.config import MODELS, PRESETS, NetworkConfig

GOOD: dict[str, Any] = {"model": "drsn-cw", "classes": 8}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("preset", PRESETS)
def test_survives_a_file(model: str, preset: str) -> None:
    config = NetworkConfig.preset(preset, model=model, classes=3, in_channels=2, dims=2)
    assert NetworkConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_defaults_are_the_papers() -> None:
    config = NetworkConfig.from_json(GOOD)
    assert (config.widths, config.units, config.kernel) == ((4, 8, 16), (4, 4, 4), 3)
    assert len(config.unit_names) == 12


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("model", "drsn", "drsn-cs, drsn-cw"),
        ("classes", 1, "at least 2"),
        ("in_channels", 0, "at least 1"),
        ("dims", 3, "1 or 2"),
        ("widths", (8, 4), "never shrink"),
        ("widths", (), "positive"),
        ("widths", (0, 4), "positive"),
        ("units", (1, 1), "3 stages"),
        ("units", (1, 0, 1), "at least one unit"),
        ("kernel", 4, "odd"),
        ("kernel", -1, "odd"),
    ],
)
def test_a_bad_value_is_named_with_what_was_expected(field: str, value: Any, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        NetworkConfig(**(GOOD | {field: value}))
    assert field in caught.value.what
    assert str(value) in str(caught.value)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"classes": "8"}, "'8'"),
        ({"classes": 8.0}, "8.0"),
        ({"classes": True}, "True"),
        ({"widths": "48"}, "'4'"),
        ({"widths": [4.5, 8, 16]}, "4.5"),
        ({"widths": 4}, "not iterable"),
        ({"kernel": None}, "None"),
        ({"depth": 3}, "depth"),
    ],
)
def test_a_bad_file_is_refused(change: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError) as caught:
        NetworkConfig.from_json(GOOD | change)
    assert named in str(caught.value)
    assert caught.value.expected


@pytest.mark.parametrize("value", [None, [], "drsn-cw", {}, {"model": "drsn-cw"}])
def test_something_else_than_a_configuration_is_refused(value: Any) -> None:
    with pytest.raises(InputError) as caught:
        NetworkConfig.from_json(value)
    assert caught.value.expected


def test_unknown_presets_and_models_are_named() -> None:
    with pytest.raises(UsageError, match=r"tiny[\s\S]*paper, edge"):
        NetworkConfig.preset("tiny", model="drsn-cw", classes=2)
    with pytest.raises(UsageError, match=r"vgg[\s\S]*drsn-cw"):
        NetworkConfig.preset("paper", model="vgg", classes=2)
