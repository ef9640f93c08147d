from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drsn_edge.errors import InputError, UsageError
from drsn_edge.signals.datasets import load_dataset
from drsn_edge.signals.splits import PARTS, split
from drsn_edge.signals.windows import cut

Refuses = Callable[..., AbstractContextManager[None]]


def arrays(count: int = 40, *, channels: int = 3, height: int = 6, width: int = 8, **changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    found: dict[str, Any] = {"classes": np.array(["ant", "bee", "cow", "dog"])}
    for part, size in (("train", count), ("test", 12)):
        found[f"x_{part}"] = rng.integers(0, 256, (size, channels, height, width), dtype=np.uint8)
        found[f"y_{part}"] = np.arange(size) % 4
    return {key: value for key, value in (found | changes).items() if value is not None}


def save(folder: Path, **changes: Any) -> Path:
    path = folder / "pictures.npz"
    np.savez_compressed(path, **arrays(**changes))
    return path


def test_a_picture_is_a_window(tmp_path: Path) -> None:
    dataset = load_dataset(f"images:{save(tmp_path)}", protocol="given")
    contract = dataset.contract
    assert (contract.shape, contract.hop, contract.channels) == ((3, 6, 8), 48, ("red", "green", "blue"))
    assert dataset.labels == ("ant", "bee", "cow", "dog")
    made = split(dataset, protocol="given", seed=1)
    windows = cut(dataset, made.segments("test", dataset), contract, labels=made.labels)
    wanted = arrays()
    np.testing.assert_allclose(windows.x, wanted["x_test"] / 255, atol=1e-7)
    np.testing.assert_array_equal(windows.y, wanted["y_test"])
    assert windows.independent == len(windows) == 12


def test_a_tenth_of_each_class_validates_drawn_by_seed(tmp_path: Path) -> None:
    dataset = load_dataset(f"images:{save(tmp_path, count=80)}", protocol="given")
    made = split(dataset, protocol="given", seed=1)
    counts = {
        part: Counter(dataset.recordings[item.recording].label for item in made.segments(part, dataset))
        for part in PARTS
    }
    assert set(counts["validation"].values()) == {2}
    assert set(counts["train"].values()) == {18}
    assert set(counts["test"].values()) == {3}
    assert split(dataset, protocol="given", seed=1) == made
    assert split(dataset, protocol="given", seed=2).parts != made.parts
    assert "8 recordings validate" in made.notes[0]


def test_names_and_channels_may_be_absent(tmp_path: Path) -> None:
    path = save(tmp_path, classes=None, channels=1)
    dataset = load_dataset(f"images:{path}")
    assert (dataset.labels, dataset.contract.channels) == (("0", "1", "2", "3"), ("grey",))
    assert load_dataset(f"images:{save(tmp_path, channels=2)}").contract.channels == ("channel-0", "channel-1")


def test_a_picture_that_is_there_twice_trains_and_does_not_test(tmp_path: Path) -> None:
    wanted = arrays()
    wanted["x_test"][0] = wanted["x_train"][5]
    dataset = load_dataset(f"images:{save(tmp_path, x_test=wanted['x_test'])}")
    assert dataset.notes == ("1 pictures are there twice and are used once.",)
    assert Counter(item.groups["part"] for item in dataset.recordings) == {"train": 40, "test": 11}


def test_protocols_and_windows_that_make_no_sense(tmp_path: Path, refuses: Refuses) -> None:
    spec = f"images:{save(tmp_path)}"
    with refuses(UsageError, got="protocol time", expected="given", also=("--protocol given",)):
        load_dataset(spec, protocol="time")
    with refuses(UsageError, got="--window 16", expected="6 x 8"):
        load_dataset(spec, window=16)
    with refuses(UsageError, got="--hop 4", expected="6 x 8"):
        load_dataset(spec, hop=4)


@pytest.mark.parametrize(
    ("changes", "got", "expected"),
    [
        ({"y_test": None}, "x_train", "y_train [N]"),
        ({"x_train": np.zeros((40, 3, 6, 8), np.float32)}, "float32[40, 3, 6, 8]", "uint8[N, C, H, W]"),
        ({"x_test": np.zeros((12, 3, 6, 9), np.uint8)}, "uint8[12, 3, 6, 9]", "the same C, H and W"),
        ({"y_train": np.arange(39)}, "int64[39]", "N whole numbers"),
        ({"y_train": np.arange(40) % 5}, "numbers 0 to 4", "a name of its own for every number"),
        ({"y_train": np.arange(40) % 4 - 1}, "numbers -1 to", "every number from 0"),
        ({"classes": np.array(["a", "a", "b", "c"])}, "a, a, b, c", "a name of its own"),
    ],
)
def test_arrays_that_do_not_fit(
    tmp_path: Path, refuses: Refuses, changes: dict[str, Any], got: str, expected: str
) -> None:
    with refuses(InputError, got=got, expected=expected, also=("pictures.npz",)):
        load_dataset(f"images:{save(tmp_path, **changes)}")


def member(array: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, **options)
    return stream.getvalue()


def rewrite(path: Path, **members: bytes) -> None:
    """Replace whole members of an archive."""
    with zipfile.ZipFile(path) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (found | {f"{key}.npy": value for key, value in members.items()}).items():
            archive.writestr(name, data)


def test_pickles_and_bombs_are_refused_before_they_are_unpacked(
    tmp_path: Path, refuses: Refuses, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Danger:
        def __reduce__(self) -> tuple[Any, ...]:
            return (tmp_path.joinpath("executed").touch, ())

    path = save(tmp_path)
    rewrite(path, classes=member(np.array([Danger()], dtype=object), allow_pickle=True))
    with refuses(InputError, got="a pickle", expected="plain numbers", also=("classes.npy",)):
        load_dataset(f"images:{path}")
    assert not (tmp_path / "executed").exists()

    # A header that asks for 40 GB, with a few bytes behind it: NumPy would set all of it aside.
    path = save(tmp_path)
    honest = member(np.zeros((40, 3, 6, 8), np.uint8))
    lying = honest.replace(b"(40, 3, 6, 8)", b"(40, 3, 60000, 6000)").replace(b" " * 7 + b"\n", b"\n")
    rewrite(path, x_train=lying)
    with refuses(InputError, got="5760 bytes", expected="43200000000 bytes"):
        load_dataset(f"images:{path}")

    path = save(tmp_path)
    monkeypatch.setattr("drsn_edge.signals.datasets.images._LIMIT_BYTES", 1000)
    with refuses(InputError, got="bytes", expected="at most 1000 bytes"):
        load_dataset(f"images:{path}")


def test_files_that_are_damaged(tmp_path: Path, refuses: Refuses) -> None:
    with refuses(InputError, got="nowhere.npz", expected="x_train uint8"):
        load_dataset("images:nowhere.npz")
    path = save(tmp_path)
    whole = path.read_bytes()
    for data in (whole[: len(whole) // 2], b"", whole[:2000] + bytes(300) + whole[2300:]):
        path.write_bytes(data)
        with refuses(InputError, got="", expected="a whole NumPy archive", also=("pictures.npz",)):
            load_dataset(f"images:{path}")


def test_the_cifar_subset() -> None:
    path = Path(__file__).parents[3] / "shared" / "data" / "cifar10_subset" / "cifar10_subset.npz"
    if not path.is_file():
        pytest.skip(f"needs the CIFAR-10 subset in {path}")
    dataset = load_dataset(f"images:{path}", protocol="given")
    assert (len(dataset.recordings), len(dataset.labels), dataset.contract.shape) == (6000, 10, (3, 32, 32))
    made = split(dataset, protocol="given")
    assert [len(made.segments(part, dataset)) for part in PARTS] == [4500, 500, 1000]
