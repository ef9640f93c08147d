from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from drsn_edge.errors import ContractError, InputError, UsageError
from drsn_edge.signals import datasets
from drsn_edge.signals.contract import SignalContract
from drsn_edge.signals.datasets import Dataset, load_dataset
from drsn_edge.signals.datasets.spec import DatasetSpec
from drsn_edge.signals.recording import Recording

Refuses = Callable[..., AbstractContextManager[None]]
Measure = Callable[..., Recording]
Collect = Callable[..., Dataset]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, measure: Measure, collect: Collect) -> Dataset:
    """A data set under the name `made`, loaded through the registry."""
    pairs = [("a", "0"), ("b", "0"), ("a", "1"), ("b", "10"), ("c", "9")]
    recordings = [measure(n, 60, label=label, load=load, rig=load[0]) for n, (label, load) in enumerate(pairs)]
    dataset = collect(recordings, window=8, hop=2)
    module = type(sys)("made_data")
    module.load = lambda spec, protocol: dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "made_data", module)
    monkeypatch.setitem(datasets.DATASETS, "made", "made_data:load")
    return dataset


@pytest.mark.parametrize(
    ("text", "name", "path", "options"),
    [
        ("synthetic", "synthetic", None, {}),
        ("synthetic:seed=1,seconds=8", "synthetic", None, {"seed": "1", "seconds": "8"}),
        ("cwru:data", "cwru", "data", {}),
        ("cwru:data,or=all", "cwru", "data", {"or": "all"}),
        ("cwru:C:/a,b/c,or=all", "cwru", "C:/a,b/c", {"or": "all"}),
        ("table:", "table", None, {}),
        ("table:a=b/c.csv", "table", None, {"a": "b/c.csv"}),
    ],
)
def test_names_are_taken_apart(text: str, name: str, path: str | None, options: dict[str, str]) -> None:
    spec = DatasetSpec.parse(text)
    assert (spec.name, spec.path, spec.options) == (name, None if path is None else Path(path), options)


def test_an_existing_path_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "a,or=3"
    folder.mkdir()
    assert DatasetSpec.parse(f"cwru:{folder}").path == folder


def test_names_that_cannot_be_used(refuses: Refuses) -> None:
    with refuses(UsageError, got="''", expected="NAME:PATH"):
        load_dataset("")
    with refuses(UsageError, got="mnist", expected="synthetic, cwru, table", also=("table:recordings.csv",)):
        load_dataset("mnist:x")
    with refuses(UsageError, got="synthetic:seed=1,seed=2", expected="seed once"):
        load_dataset("synthetic:seed=1,seed=2")
    with refuses(UsageError, got="synthetic:some/folder", expected="synthetic:seed=...,seconds=..."):
        load_dataset("synthetic:some/folder")
    with refuses(UsageError, got="synthetic:speed=2", expected="seed=..., seconds=..."):
        load_dataset("synthetic:speed=2")
    for name, usage in (("cwru", "cwru:DIR"), ("table", "table:FILE.csv")):
        with refuses(UsageError, got=name, expected=usage):
            load_dataset(name)


def test_where_keeps_groups_and_the_classes_that_are_left(made: Dataset, refuses: Refuses) -> None:
    assert made.groups() == {"load": ("0", "1", "9", "10"), "rig": ("0", "1", "9")}
    kept = load_dataset("made", where={"load": "0"})
    assert kept.recordings == made.recordings[:2]
    assert kept.labels == ("a", "b")
    assert load_dataset("made", where={"load": "1", "rig": "1"}).recordings == (made.recordings[2],)
    with refuses(UsageError, got="speed=3", expected="load, rig"):
        load_dataset("made", where={"speed": "3"})
    with refuses(UsageError, got="load=3", expected="load = 0, 1, 9, 10"):
        load_dataset("made", where={"load": "3"})
    with refuses(UsageError, got="load=0, rig=9", expected="load = 0, 1, 9, 10; rig = 0, 1, 9"):
        load_dataset("made", where={"load": "0", "rig": "9"})


def test_window_and_hop(made: Dataset, refuses: Refuses) -> None:
    def sizes(**options: int) -> tuple[int, int]:
        contract = load_dataset("made", **options).contract  # type: ignore[arg-type]
        return contract.window, contract.hop

    assert sizes() == (8, 2)
    assert sizes(window=16) == (16, 4)
    assert sizes(window=3) == (3, 1)
    assert sizes(window=16, hop=5) == (16, 5)
    assert sizes(hop=5) == (8, 5)
    with refuses(InputError, got="1", expected="at least 2 samples"):
        load_dataset("made", window=1)


def test_a_model_that_exists_gives_its_contract(made: Dataset) -> None:
    expect = dataclasses.replace(made.contract, window=32, hop=9, epsilon=1e-6)
    assert load_dataset("made", expect=expect).contract == expect
    assert load_dataset("made", expect=expect, window=32).contract == expect
    assert load_dataset("made", expect=expect, hop=32).contract == dataclasses.replace(expect, hop=32)
    # Units are for people as long as the model standardises.
    assert load_dataset("made", expect=dataclasses.replace(expect, units="g")).contract.units == "g"
    # A file without channel names fits any name.
    assert load_dataset("made", expect=dataclasses.replace(expect, channels=("channel-0",))).contract.hop == 9


@pytest.mark.parametrize(
    ("change", "got", "expected"),
    [
        ({"sample_rate_hz": 50.0}, "sample rate 100 Hz", "sample rate 50 Hz"),
        ({"channels": ("x",)}, "channels c0", "channels x"),
        ({"channels": ("c0", "c1")}, "channels c0", "channels c0+c1"),
        ({"window": 16, "image": (4, 4)}, "image None", "image (4, 4)"),
        ({"sample_rate_hz": 50.0, "channels": ("x",)}, "sample rate 100 Hz, channels c0", "50 Hz, channels x"),
    ],
)
def test_data_that_do_not_keep_the_contract_of_the_model(
    change: dict[str, object], got: str, expected: str, made: Dataset, refuses: Refuses
) -> None:
    expect = dataclasses.replace(made.contract, **change)  # type: ignore[arg-type]
    with refuses(ContractError, got=got, expected=expected, also=("made",)):
        load_dataset("made", expect=expect)


def test_a_window_that_is_not_the_models(made: Dataset, refuses: Refuses) -> None:
    with refuses(ContractError, got="window 16", expected="window 8"):
        load_dataset("made", expect=made.contract, window=16)


def test_units_matter_to_a_model_that_does_not_standardise(
    made: Dataset, monkeypatch: pytest.MonkeyPatch, refuses: Refuses
) -> None:
    metric = dataclasses.replace(made, contract=dataclasses.replace(made.contract, units="g"))
    monkeypatch.setattr(sys.modules["made_data"], "load", lambda spec, protocol: metric)
    expect = dataclasses.replace(made.contract, units="mm/s", standardise="none")
    with refuses(ContractError, got="units g", expected="units mm/s"):
        load_dataset("made", expect=expect)
    assert load_dataset("made", expect=dataclasses.replace(expect, units="unknown")).contract.units == "unknown"


def test_a_data_set_must_hold_something_of_its_classes(measure: Measure, refuses: Refuses) -> None:
    contract = SignalContract(100.0)
    with refuses(InputError, got="0 recordings", expected="at least one", also=("x:y",)):
        Dataset("x", "x:y", (), ("a",), contract)
    with refuses(InputError, got="'b'", expected="a, c", also=("recording 3",)):
        Dataset("x", "x:y", (measure(3, 9, label="b"),), ("a", "c"), contract)
