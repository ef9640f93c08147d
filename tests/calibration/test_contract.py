"""calibration.json: what it is bound to, and that no change of it passes."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import random
from collections.abc import Iterator
from typing import Any

import pytest

from drsn_edge.calibration.contract import Bindings, Calibration, digest
from drsn_edge.calibration.plan import LayerPlan, PrecisionPlan
from drsn_edge.errors import InputError
from drsn_edge.files import dump_json, sha256_bytes

CONTRACT = {"sample_rate_hz": 12_000.0, "window": 2048, "channels": ["DE"]}
PLAN = PrecisionPlan(
    (
        LayerPlan("stem/Conv", "Conv", "fp16", "first layer"),
        LayerPlan("units.0.conv1/Conv", "Conv", "int8", "convolution", "narrow", "units.0/Relu:0"),
        LayerPlan("units.0/threshold", "threshold branch", "fp16", "dead zone"),
        LayerPlan("units.0.conv2/Conv", "Conv", "int8", "convolution", "", "units.0/Relu_1:0"),
    )
)


@pytest.fixture
def calibration() -> Calibration:
    return Calibration(
        method="mse",
        scales={"units.0.conv1/Conv": 0.0234375, "units.0.conv2/Conv": 0.011718750931322575},
        plan=PLAN,
        bindings=Bindings(
            weights="1" * 64, data="2" * 64, contract=digest(CONTRACT), plan=digest(PLAN.to_json()),
            tools={"numpy": "2.4.6", "onnxruntime": "1.32.0"},
        ),
        windows=512, cost=0.05,
        trials={"min-max": 0.09, "mse": 0.06, "entropy": math.inf},
    )  # fmt: skip


def sealed(body: dict[str, Any]) -> dict[str, Any]:
    """A value with a seal that is right for it: what somebody does who knows how it is made."""
    body = {key: item for key, item in body.items() if key != "seal"}
    return body | {"seal": sha256_bytes(dump_json(body).encode())}


def test_round_trip_through_a_file(calibration: Calibration) -> None:
    assert Calibration.from_json(json.loads(dump_json(calibration.to_json()))) == calibration


def test_scales_come_back_bit_for_bit(calibration: Calibration) -> None:
    again = Calibration.from_json(json.loads(dump_json(calibration.to_json())))
    for name, scale in calibration.scales.items():
        assert again.scales[name].hex() == scale.hex()


def test_the_seal_is_over_everything_else(calibration: Calibration) -> None:
    value = calibration.to_json()
    assert value == sealed(value)
    assert dump_json(value) == dump_json(json.loads(dump_json(value)))


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every number, text and null."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = False
    for key, item in items:
        found = True
        yield from leaves(item, (*path, key))
    if not found:
        yield path


def mutate(value: dict[str, Any], rng: random.Random) -> str:
    """Change one thing, anything, and say what."""
    path = rng.choice(list(leaves(value)))
    holder: Any = value
    for key in path[:-1]:
        holder = holder[key]
    key, old = path[-1], holder[path[-1]]
    way = rng.choice(["other", "remove", "type", "add"])
    if way == "remove":
        holder.pop(key)
    elif way == "add":
        if isinstance(holder, list):
            holder.append(copy.deepcopy(old))
        else:
            holder[f"{key}."] = old
    elif way == "type":
        holder[key] = [old]
    elif isinstance(old, str):
        at = rng.randrange(len(old) + 1)
        holder[key] = old[:at] + rng.choice("0aZ ") + old[at:]
    elif isinstance(old, int | float):
        holder[key] = old * rng.choice([3, 0.5, 1 + 2**-23, -1]) + (old == 0)
    else:
        holder[key] = 0
    return f"{way} at {path}"


def test_no_mutation_is_accepted(calibration: Calibration) -> None:
    original = json.loads(dump_json(calibration.to_json()))
    rng = random.Random(20)
    accepted, tried = [], 0
    while tried < 200:
        value = copy.deepcopy(original)
        what = mutate(value, rng)
        if value == original:
            continue
        tried += 1
        with contextlib.suppress(InputError):
            Calibration.from_json(value)
            accepted.append(what)
    assert accepted == []


def test_no_damaged_byte_is_accepted(calibration: Calibration) -> None:
    """Bytes that change nothing, spaces between values, are the only ones that may be another."""
    data = dump_json(calibration.to_json()).encode()
    rng = random.Random(0)
    for _ in range(200):
        damaged = bytearray(data)
        damaged[rng.randrange(len(data))] = rng.randrange(256)
        try:
            value = json.loads(bytes(damaged))
        except ValueError:
            continue
        if value == calibration.to_json() | {"trials": {"min-max": 0.09, "mse": 0.06, "entropy": None}}:
            continue
        with pytest.raises(InputError):
            Calibration.from_json(value)


def test_a_changed_scale_is_named_as_a_change(calibration: Calibration) -> None:
    value = calibration.to_json()
    value["scales"]["units.0.conv1/Conv"] *= 3
    with pytest.raises(InputError, match="was changed after it was written") as caught:
        Calibration.from_json(value)
    assert str(caught.value.got) == f"seal {value['seal']}"
    assert str(caught.value.expected) == f"seal {sealed(value)['seal']}"
    assert "calibrate again" in str(caught.value.hint)


def test_a_missing_seal_is_refused(calibration: Calibration) -> None:
    value = calibration.to_json()
    del value["seal"]
    with pytest.raises(InputError) as caught:
        Calibration.from_json(value)
    assert caught.value.got == "seal None"


@pytest.mark.parametrize("version", [0, 2, None, "1"])
def test_another_format_is_refused(calibration: Calibration, version: Any) -> None:
    with pytest.raises(InputError, match="another format version") as caught:
        Calibration.from_json(sealed(calibration.to_json() | {"format_version": version}))
    assert caught.value.got == (None if version is None else str(version))
    assert caught.value.expected == "1"


@pytest.mark.parametrize("value", [None, [], "x", 3])
def test_what_is_no_object_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="this is no calibration") as caught:
        Calibration.from_json(value)
    assert caught.value.got == type(value).__name__


@pytest.mark.parametrize(
    ("field", "value"),
    [("scales", None), ("scales", {"units.0.conv1/Conv": "wide"}), ("plan", {}), ("plan", [3]), ("bindings", {}),
     ("bindings", None), ("windows", "many"), ("trials", [1]), ("method", ...),
     ("full_range", "units.0.conv1/Conv"), ("full_range", ["stem/Conv"]),
     ("rounding", "lucky"), ("rounding", "learned"), ("rounded", {"stem/Conv": "0" * 64}), ("cost", "low")],
)  # fmt: skip
def test_wrong_fields_under_a_right_seal_are_refused(calibration: Calibration, field: str, value: Any) -> None:
    body = calibration.to_json()
    if value is ...:
        del body[field]
    else:
        body[field] = value
    with pytest.raises(InputError) as caught:
        Calibration.from_json(sealed(body))
    assert caught.value.got
    assert caught.value.expected


@pytest.mark.parametrize("scale", [0.0, -0.5, None])
def test_what_is_no_scale_is_refused_under_a_right_seal(calibration: Calibration, scale: Any) -> None:
    body = calibration.to_json()
    body["scales"]["units.0.conv2/Conv"] = scale
    with pytest.raises(InputError) as caught:
        Calibration.from_json(sealed(body))
    assert str(scale) in str(caught.value.got)


def test_scales_of_other_layers_than_the_plans_are_refused(calibration: Calibration) -> None:
    body = calibration.to_json()
    body["scales"]["units.7.conv1/Conv"] = body["scales"].pop("units.0.conv1/Conv")
    with pytest.raises(InputError, match="other layers than its plan") as caught:
        Calibration.from_json(sealed(body))
    assert caught.value.got == "units.0.conv1/Conv, units.7.conv1/Conv"


def test_another_plan_under_a_right_seal_is_refused(calibration: Calibration) -> None:
    body = calibration.to_json()
    body["plan"][0]["reason"] = "edited"
    with pytest.raises(InputError, match="belongs to another plan") as caught:
        Calibration.from_json(sealed(body))
    assert caught.value.got == calibration.bindings.plan


def test_what_it_belongs_to_passes(calibration: Calibration) -> None:
    calibration.check(weights="1" * 64, contract=CONTRACT)
    calibration.check(weights="1" * 64, contract=dict(reversed(CONTRACT.items())), plan=PLAN, data="2" * 64)
    assert calibration.differences(weights="1" * 64, contract=CONTRACT) == []


def test_other_weights_are_refused(calibration: Calibration) -> None:
    with pytest.raises(InputError, match="the calibration belongs to other weights") as caught:
        calibration.check(weights="9" * 64, contract=CONTRACT)
    assert caught.value.got == f"sha256 {'9' * 64}"
    assert caught.value.expected == f"sha256 {'1' * 64}"
    assert "--calibrate" in str(caught.value.hint)


def test_another_contract_is_refused(calibration: Calibration) -> None:
    other = CONTRACT | {"window": 1024}
    with pytest.raises(InputError, match="the calibration belongs to another signal contract") as caught:
        calibration.check(weights="1" * 64, contract=other)
    assert caught.value.got == f"sha256 {digest(other)}"
    assert caught.value.expected == f"sha256 {digest(CONTRACT)}"


def test_other_data_are_refused(calibration: Calibration) -> None:
    with pytest.raises(InputError, match="the calibration belongs to other data") as caught:
        calibration.check(weights="1" * 64, contract=CONTRACT, data="8" * 64)
    assert caught.value.got == f"sha256 {'8' * 64}"


def test_another_plan_is_refused_by_its_layers(calibration: Calibration) -> None:
    other = PrecisionPlan((LayerPlan("stem/Conv", "Conv", "int8", "first layer", "", "window"), *PLAN.layers[1:]))
    with pytest.raises(InputError, match="the calibration belongs to another precision plan") as caught:
        calibration.check(weights="1" * 64, contract=CONTRACT, plan=other)
    assert caught.value.got == "stem/Conv: int8 and fp16"


def test_every_difference_is_listed(calibration: Calibration) -> None:
    found = calibration.differences(weights="9" * 64, contract={}, plan=PrecisionPlan(()), data="")
    assert [what for what, _, _ in found] == [
        "other weights", "another signal contract", "other data", "another precision plan",
    ]  # fmt: skip
