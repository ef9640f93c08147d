from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
import soundfile

from drsn_edge.errors import ContractError, InputError
from drsn_edge.signals.datasets import Dataset, load_dataset
from drsn_edge.signals.splits import split
from drsn_edge.signals.windows import cut

Refuses = Callable[..., AbstractContextManager[None]]

RNG = np.random.default_rng(0)


def noise() -> np.ndarray:
    """A signal of its own for every file, exact in 16 bits and in decimal."""
    return RNG.integers(-(2**15), 2**15, 400) / 2.0**15


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Recordings in every format beside a table."""
    soundfile.write(tmp_path / "a.wav", noise(), 8000, subtype="PCM_16")
    np.save(tmp_path / "b.npy", noise())
    np.savez(tmp_path / "c.npz", DE=noise(), FE=noise())
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "d.csv").write_text(
        "t,x\n" + "".join(f"{n},{value!r}\n" for n, value in enumerate(noise().tolist()))
    )
    scipy.io.savemat(tmp_path / "e.mat", {"X1_DE_time": noise(), "X1RPM": 1796.0})
    with h5py.File(tmp_path / "f.mat", "w") as file:
        file["signal"] = noise()[None, :]
    pq.write_table(pa.table({"x": noise()}), tmp_path / "g.parquet")
    return tmp_path


def table(folder: Path, text: str) -> str:
    (folder / "recordings.csv").write_text(text)
    return f"table:{folder / 'recordings.csv'}"


def load(folder: Path, text: str) -> Dataset:
    return load_dataset(table(folder, text))


def test_every_format_in_one_table(folder: Path) -> None:
    # The channels of all must have one name, so the wav's unnamed one is left to the other test.
    rows = [("b.npy", ""), ("b.npy", "0")]
    dataset = load(folder, "path,label,sample_rate_hz,channel\n" + "".join(f"{p},a,8000,{c}\n" for p, c in rows))
    assert dataset.contract.channels == ("channel-0",)
    for path, channel in (
        ("a.wav", ""),
        ("b.npy", ""),
        ("c.npz", "DE"),
        ("sub/d.csv", "x"),
        ("e.mat", ""),
        ("e.mat", "X1_DE_time"),
        ("f.mat", "signal"),
        ("g.parquet", "x"),
    ):
        dataset = load(folder, f"path,label,sample_rate_hz,channel\n{path},a,8000,{channel}\n")
        (recording,) = dataset.recordings
        assert recording.signal.shape == (1, 400)
        assert recording.sample_rate_hz == dataset.contract.sample_rate_hz == 8000
        assert recording.source == str(folder / path)
        # Exact, whatever the file: read as numbers, not as text or rounded.
        np.testing.assert_array_equal(recording.signal * 2**15, np.rint(recording.signal * 2**15))


def test_groups_labels_and_units(folder: Path) -> None:
    np.save(folder / "other.npy", noise())
    dataset = load_dataset(
        table(
            folder,
            "\ufeffpath, label ,sample_rate_hz,bearing,speaker\n\nb.npy,worn,8000,7,anna\n\nother.npy,10,8000,8,\n",
        )
        + ",units=g"
    )
    assert dataset.labels == ("10", "worn")
    assert dataset.contract.units == "g"
    assert [dict(item.groups) for item in dataset.recordings] == [{"bearing": "7", "speaker": "anna"}, {"bearing": "8"}]


def test_a_file_may_know_its_rate(folder: Path, refuses: Refuses) -> None:
    assert load(folder, "path,label\na.wav,a\n").contract.sample_rate_hz == 8000
    assert load(folder, "path,label,sample_rate_hz\na.wav,a,\n").contract.sample_rate_hz == 8000
    with refuses(ContractError, got="8000 Hz in the file", expected="16000 Hz", also=("line 2", "a.wav")):
        load(folder, "path,label,sample_rate_hz\na.wav,a,16000\n")
    with refuses(
        InputError, got="b.npy", expected="a positive number of hertz", also=("line 2, column sample_rate_hz",)
    ):
        load(folder, "path,label\nb.npy,a\n")


def test_several_channels_joined(folder: Path) -> None:
    dataset = load(folder, "path,label,sample_rate_hz,channel\nc.npz,a,8000,FE+DE\n")
    assert dataset.contract.channels == ("FE", "DE")
    assert dataset.recordings[0].channels == 2


def test_from_table_to_windows(folder: Path) -> None:
    lines = ["path,label,sample_rate_hz,speaker"]
    for number in range(6):
        np.save(folder / f"{number}.npy", noise())
        lines.append(f"{number}.npy,{'ab'[number % 2]},8000,{number // 2}")
    dataset = load_dataset(table(folder, "\n".join(lines)), window=64)
    made = split(dataset, protocol="speaker")
    windows = cut(dataset, made.segments("train", dataset), dataset.contract, labels=made.labels)
    assert windows.x.shape == (2 * ((400 - 64) // 16 + 1), 1, 64)


HEAD = "path,label,sample_rate_hz,channel\n"


@pytest.mark.parametrize(
    ("text", "got", "expected", "also"),
    [
        ("", "nothing", "columns path, label", "line 1"),
        ("path,class\nb.npy,a\n", "path,class", "columns path, label", "line 1"),
        ("path;label\nb.npy;a\n", "path;label", "separated by commas", "line 1"),
        ("path,label,label\n", "path,label,label", "every name once", "line 1"),
        ("path,label,\n", "path,label,", "none empty", "line 1"),
        (HEAD, "a header alone", "one line for each recording", "recordings.csv"),
        (HEAD + "b.npy,a,8000\n", "3: b.npy,a,8000", "4: path,label", "line 2"),
        (HEAD + "b.npy,a,8000,,\n", "5:", "4: path,label", "line 2"),
        (HEAD + "b.npy,a,8000,\nb.npy,,8000,\n", "label ''", "a label", "line 3 is labelled otherwise"),
        (HEAD + "\n,a,8000,\n", "nothing", "a path", "line 3, column path"),
        (HEAD + "b.npy,a,fast,\n", "'fast'", "a positive number of hertz", "line 2, column sample_rate_hz"),
        (HEAD + "b.npy,a,-1,\n", "'-1'", "a positive number of hertz", "line 2, column sample_rate_hz"),
        (HEAD + "b.npy,a,inf,\n", "'inf'", "a positive number of hertz", "line 2, column sample_rate_hz"),
        (HEAD + "b.npy,a,8000,\nz.npy,a,8000,\n", "z.npy", "a .npy file", "line 3"),
        (HEAD + "c.npz,a,8000,\n", "2 that could be: DE [400], FE [400]", "a channel to choose", "line 2"),
        (HEAD + "c.npz,a,8000,BA\n", "BA", "DE [400], FE [400]", "line 2"),
        (HEAD + "sub/d.csv,a,8000,y\n", "'y'", "t, x", "line 2"),
        (HEAD + '"b.npy,a,8000,\n', "unexpected end of data", "CSV with commas", "line 2"),
        (HEAD + "nan.npy,a,8000,\n", "nan at channel 0, sample 3", "finite samples", "line 2"),
    ],
)
def test_tables_that_cannot_be_used(
    text: str, got: str, expected: str, also: str, folder: Path, refuses: Refuses
) -> None:
    np.save(folder / "nan.npy", np.array([0, 0, 0, np.nan, 0]))
    with refuses(InputError, got=got, expected=expected, also=(also,)):
        load(folder, text)


@pytest.mark.parametrize(
    ("second", "got", "expected"),
    [
        ("b.npy,b,16000,", "16000 Hz", "8000 Hz"),
        ("sub/d.csv,b,8000,x", "x", "channel-0"),
        ("c.npz,b,8000,DE+FE", "DE+FE", "channel-0"),
    ],
)
def test_recordings_that_do_not_go_together(
    second: str, got: str, expected: str, folder: Path, refuses: Refuses
) -> None:
    with refuses(ContractError, got=got, expected=expected, also=("line 3", "line 2")):
        load(folder, HEAD + f"b.npy,a,8000,\n{second}\n")


def test_no_table(folder: Path, refuses: Refuses) -> None:
    with refuses(InputError, got="nowhere.csv", expected="the columns path and label"):
        load_dataset("table:nowhere.csv")
    (folder / "recordings.csv").write_bytes("path,label\nb.npy,größer\n".encode("latin-1"))
    with refuses(InputError, got="utf-8", expected="CSV in UTF-8"):
        load_dataset(f"table:{folder / 'recordings.csv'}")
