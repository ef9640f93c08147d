from __future__ import annotations

import pickle
import struct
import sys
import wave
import zipfile
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
from numpy.typing import NDArray

from drsn_edge import extras
from drsn_edge.errors import ContractError, InputError, MissingDependency
from drsn_edge.signals.readers import READERS, is_unnamed, read_signal
from drsn_edge.signals.readers import wav as wav_reader

Refuses = Callable[..., AbstractContextManager[None]]

X = np.random.default_rng(0).uniform(-1, 1, (2, 300)).astype(np.float32)


def write(path: Path, data: NDArray[np.float32] = X) -> Path:
    """The same two channels in any format, samples along the axis that the format has for them."""
    kind = path.suffix
    if kind == ".wav":
        soundfile.write(path, data.T, 8000, subtype="FLOAT")
    elif kind == ".npy":
        np.save(path, data)
    elif kind == ".npz":
        np.savez(path, x=data.T)
    elif kind == ".csv":
        path.write_text("left,right\n" + "".join(f"{a!r},{b!r}\n" for a, b in data.T.tolist()))
    elif kind == ".mat":
        scipy.io.savemat(path, {"x": data.T})
    elif kind == ".parquet":
        pq.write_table(pa.table({"left": data[0], "right": data[1]}), path)
    return path


@pytest.mark.parametrize("suffix", READERS)
def test_every_format_gives_channels_by_samples(suffix: str, tmp_path: Path) -> None:
    samples, rate, names = read_signal(write(tmp_path / f"a{suffix}"))
    assert samples.dtype == np.float32
    assert samples.flags.c_contiguous
    np.testing.assert_array_equal(samples, X)
    assert rate == (8000 if suffix == ".wav" else None)
    assert len(names) == 2


@pytest.mark.parametrize("suffix", [".wav", ".npy", ".csv", ".parquet"])
def test_channels_are_chosen_and_ordered(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"a{suffix.upper()}".replace(suffix.upper(), suffix))
    samples, _, names = read_signal(path, channel="1+0")
    np.testing.assert_array_equal(samples, X[::-1])
    both = read_signal(path)[2]
    assert names == both[::-1]
    np.testing.assert_array_equal(read_signal(path, channel=both[1])[0], X[1:])


@pytest.mark.parametrize("suffix", READERS)
def test_a_file_that_was_cut_off_is_refused(suffix: str, tmp_path: Path, refuses: Refuses) -> None:
    path = write(tmp_path / f"a{suffix}")
    whole = path.read_bytes()
    for length in (0, 1, 30, len(whole) // 3, len(whole) // 2):
        path.write_bytes(whole[:length])
        if suffix == ".csv" and length > 30:
            continue  # a shorter CSV file is one
        with pytest.raises(InputError) as caught:
            read_signal(path)
        assert str(path) in str(caught.value)
        assert caught.value.expected is not None


@pytest.mark.parametrize("suffix", READERS)
def test_a_file_of_another_kind_is_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"%PDF-1.7\xff\xfe not a signal " * 30)
    with pytest.raises(InputError, match="cannot be read"):
        read_signal(path)


def test_files_that_are_not_there_or_not_known(tmp_path: Path, refuses: Refuses) -> None:
    with refuses(InputError, got="no.wav", expected="a .wav file"):
        read_signal(tmp_path / "no.wav")
    with refuses(InputError, got=".docx", expected=".wav, .npy, .npz, .csv, .mat, .parquet"):
        read_signal(tmp_path / "a.docx")
    with refuses(InputError, got="no suffix", expected=".wav"):
        read_signal(tmp_path / "a")


@pytest.mark.parametrize("suffix", [".wav", ".npy", ".csv", ".parquet"])
def test_a_channel_that_is_not_there(suffix: str, tmp_path: Path, refuses: Refuses) -> None:
    path = write(tmp_path / f"a{suffix}")
    names = read_signal(path)[2]
    for channel in ("up", "2", "-1", "0+", "+"):
        wrong = next(item for item in channel.split("+") if item not in ("0", "1"))
        with refuses(InputError, got=repr(wrong), expected=f"{', '.join(names)} (or 0 to 1)"):
            read_signal(path, channel=channel)
    with refuses(InputError, got="0+0", expected="once"):
        read_signal(path, channel="0+0")


def test_the_rate_of_the_file_must_be_the_one_that_was_given(tmp_path: Path, refuses: Refuses) -> None:
    path = write(tmp_path / "a.wav")
    assert read_signal(path, sample_rate_hz=8000.0)[1] == 8000
    with refuses(ContractError, got="8000 Hz", expected="44100 Hz"):
        read_signal(path, sample_rate_hz=44100.0)
    assert read_signal(write(tmp_path / "a.npy"), sample_rate_hz=12.5)[1] == 12.5


def test_rates_that_containers_carry(tmp_path: Path, refuses: Refuses) -> None:
    np.savez(tmp_path / "a.npz", x=X[0], sample_rate_hz=51_200)
    scipy.io.savemat(tmp_path / "b.mat", {"x": X[0], "fs": 51_200})
    with h5py.File(tmp_path / "c.mat", "w") as file:
        file["x"], file["fs"] = X[0], [[51_200.0]]
    table = pa.table({"x": X[0]}).replace_schema_metadata({"sample_rate_hz": "51200"})
    pq.write_table(table, tmp_path / "d.parquet")
    for path in tmp_path.iterdir():
        assert read_signal(path)[1] == 51_200
    np.savez(tmp_path / "e.npz", x=X[0], fs="fast")
    with refuses(InputError, got="fast", expected="a positive number of hertz"):
        read_signal(tmp_path / "e.npz")
    np.savez(tmp_path / "e.npz", x=X[0], fs=-1)
    with refuses(InputError, got="-1", expected="a positive number of hertz"):
        read_signal(tmp_path / "e.npz")


# wav ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("subtype", "bits"), [("PCM_16", 16), ("PCM_24", 24), ("PCM_32", 32)])
@pytest.mark.parametrize("channels", [1, 2])
def test_wav_without_soundfile_is_the_same(
    subtype: str, bits: int, channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.wav"
    data = X[:channels].T.astype(np.float64)
    data[0], data[1] = -1.0, 1 - 2.0 ** (1 - bits)
    soundfile.write(path, data, 12_800, subtype=subtype)
    with_soundfile, rate, _ = read_signal(path)
    monkeypatch.setattr(extras, "available", lambda name: False)
    without, bare_rate, _ = read_signal(path)
    np.testing.assert_array_equal(with_soundfile, without)
    assert rate == bare_rate == 12_800
    assert without[0, 0] == -1.0
    assert with_soundfile[0, 2] == pytest.approx(data[2, 0], abs=2.0 ** (1 - bits))


def test_wav_that_the_standard_library_does_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuses: Refuses
) -> None:
    monkeypatch.setattr(extras, "available", lambda name: False)
    floating = write(tmp_path / "float.wav")
    with refuses(InputError, got="unknown format: 3", expected="PCM WAV file of 16, 24 or 32 bits", also=("pip",)):
        read_signal(floating)
    with wave.open(str(tmp_path / "eight.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(8000)
        file.writeframes(bytes(100))
    with refuses(InputError, got="8 bits", expected="16, 24 or 32", also=("drsn-edge[data]",)):
        read_signal(tmp_path / "eight.wav")


def test_a_wav_that_lost_its_end_is_not_read_in_silence(tmp_path: Path, refuses: Refuses) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, X.T, 8000, subtype="PCM_16")
    whole = path.read_bytes()
    path.write_bytes(whole[:-400])
    assert len(soundfile.read(path)[0]) == 200  # what the library makes of it
    with refuses(InputError, got="800 bytes of samples where its header says 1200", expected="a whole WAV file"):
        read_signal(path)
    # A streaming recorder cannot know the length and writes the largest number.
    path.write_bytes(whole[:40] + struct.pack("<I", 0xFFFFFFFF) + whole[44:])
    assert read_signal(path)[0].shape == (2, 300)


def test_a_wav_with_a_chunk_in_front_of_the_samples(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, X.T, 8000, subtype="PCM_16")
    whole = path.read_bytes()
    note = b"LIST" + struct.pack("<I", 3) + b"abc\0"  # odd length, padded
    path.write_bytes(whole[:36] + note + whole[36:])
    assert read_signal(path)[0].shape == (2, 300)


# npy and npz -------------------------------------------------------------------------------------------------------


def test_npy_axes_and_types(tmp_path: Path, refuses: Refuses) -> None:
    path = tmp_path / "a.npy"
    for array in (X[0], X, X.T):
        np.save(path, array)
        np.testing.assert_array_equal(read_signal(path)[0], np.atleast_2d(X[: array.ndim]))
    np.save(path, (1000 * X[0]).astype(np.int16))
    np.testing.assert_array_equal(read_signal(path)[0][0], np.trunc(1000 * X[0]))
    for array, got, expected in (
        (X.astype(complex), "complex", "floating point"),
        (np.array(["a", "b"]), "<U1", "floating point"),
        (X[0] > 0, "bool", "floating point"),
        (np.zeros((3, 3)), "[3, 3]", "the longer one is time"),
        (np.zeros((2, 3, 4)), "[2, 3, 4]", "the longer one is time"),
        (np.float64(3), "[]", "[samples]"),
        (np.zeros(0), "0 samples", "at least one"),
    ):
        np.save(path, array)
        with refuses(InputError, got=got, expected=expected):
            read_signal(path)


class Trap:
    """A pickle that leaves a mark when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("form", ["pickle", "npy", "npz"])
def test_a_pickle_is_refused_and_not_run(form: str, tmp_path: Path, refuses: Refuses) -> None:
    mark = tmp_path / "mark"
    path = tmp_path / f"a.{'npz' if form == 'npz' else 'npy'}"
    if form == "pickle":
        path.write_bytes(pickle.dumps(Trap(mark)))
    elif form == "npy":
        np.save(path, np.array([Trap(mark)], dtype=object), allow_pickle=True)
    else:
        np.savez(path, x=np.array([Trap(mark)], dtype=object))
    with refuses(
        InputError, got="pickles are refused" if form == "pickle" else "allow_pickle=False", expected="a whole NumPy"
    ):
        read_signal(path)
    assert not mark.exists()


def test_npy_and_npz_under_each_others_names(tmp_path: Path, refuses: Refuses) -> None:
    write(tmp_path / "a.npz").rename(tmp_path / "b.npy")
    with refuses(InputError, got="starts with b'PK", expected="NumPy array"):
        read_signal(tmp_path / "b.npy")
    write(tmp_path / "a.npy").rename(tmp_path / "b.npz")
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:
        archive.writestr("x.txt", "no array")
    with refuses(InputError, got="0 that could be", expected="one"):
        read_signal(tmp_path / "c.npz")
    with refuses(InputError, got="starts with b'\\x93NUM", expected="NumPy archive"):
        read_signal(tmp_path / "b.npz")


# files with variables ----------------------------------------------------------------------------------------------


def _npz(path: Path, **variables: object) -> Path:
    np.savez(path.with_suffix(".npz"), **variables)  # type: ignore[arg-type]
    return path.with_suffix(".npz")


def _mat5(path: Path, **variables: object) -> Path:
    scipy.io.savemat(path.with_suffix(".mat"), variables, do_compression=True)
    return path.with_suffix(".mat")


def _mat73(path: Path, **variables: object) -> Path:
    # As MATLAB writes: 512 bytes of its own, axes reversed, text as numbers with an attribute.
    with h5py.File(path.with_suffix(".mat"), "w", userblock_size=512) as file:
        for name, value in variables.items():
            if isinstance(value, str):
                file[name] = np.array([[ord(letter)] for letter in value], np.uint16)
                file[name].attrs["MATLAB_class"] = np.bytes_("char")
            else:
                file[name] = np.atleast_2d(np.asarray(value)).T
        file.create_group("#refs#")
    return path.with_suffix(".mat")


@pytest.mark.parametrize("make", [_npz, _mat5, _mat73])
def test_variables(make: Callable[..., Path], tmp_path: Path, refuses: Refuses) -> None:
    # A scalar and a text are no signals: the one that is left is the one.
    path = make(tmp_path / "one", X118_DE_time=X[0], X118RPM=1796.0, note="text")
    samples, _, names = read_signal(path)
    assert names == ("X118_DE_time",)
    np.testing.assert_array_equal(samples, X[:1])
    # Two that could be: nobody guesses.
    path = make(tmp_path / "two", DE=X[0], FE=X[1], short=X[0, :9], pair=X.T)
    with refuses(InputError, got="4 that could be: DE [", expected="a channel to choose", also=("FE [", "short [")):
        read_signal(path)
    samples, _, names = read_signal(path, channel="FE+DE")
    np.testing.assert_array_equal(samples, X[::-1])
    assert names == ("FE", "DE")
    assert read_signal(path, channel="pair")[2] == ("pair.0", "pair.1")
    with refuses(InputError, got="BA", expected="DE ["):
        read_signal(path, channel="DE+BA")
    with refuses(InputError, got="DE+DE", expected="once"):
        read_signal(path, channel="DE+DE")
    with refuses(InputError, got="DE 300, short 9", expected="the same number of samples"):
        read_signal(path, channel="DE+short")
    path = make(tmp_path / "none", RPM=1796.0)
    with refuses(InputError, got="0 that could be: none", expected="one"):
        read_signal(path)


def test_a_damaged_variable_of_a_good_listing(tmp_path: Path, refuses: Refuses) -> None:
    path = _mat5(tmp_path / "a", x=np.arange(5000.0))
    data = bytearray(path.read_bytes())
    data[-40] ^= 0xFF
    path.write_bytes(data)
    with refuses(InputError, got="", expected="a whole MATLAB file"):
        read_signal(path)


def test_damage_inside_a_mat_file_of_version_7_3(tmp_path: Path, refuses: Refuses) -> None:
    path = tmp_path / "a.mat"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=np.sin(np.arange(5000.0)), compression="gzip")
    data = bytearray(path.read_bytes())
    data[-20_000:-10_000] = bytes(10_000)
    path.write_bytes(data)
    with refuses(InputError, got="", expected="a whole MATLAB 7.3 file"):
        read_signal(path)


# csv and parquet ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("1,2\n3,4\n", ("channel-0", "channel-1")),
        ("1;2\r\n3;4\r\n", ("channel-0", "channel-1")),
        ("1\t2\n3\t4", ("channel-0", "channel-1")),
        ("  1   2\n3 4\n\n", ("channel-0", "channel-1")),
        ("\ufeffa,b\n1,2\n3,4\n", ("a", "b")),
        ('# made by a logger\n"a (g)"; b \n1;2\n# a pause\n3;4\n', ("a (g)", "b")),
        ('a,b\n"1","2"\n3,4\n', ("a", "b")),
    ],
)
def test_csv_dialects(text: str, names: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text, encoding="utf-8", newline="")
    samples, _, found = read_signal(path)
    assert samples.tolist() == [[1, 3], [2, 4]]
    assert found == names


def test_csv_with_one_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1\n2\n3\n")
    assert read_signal(tmp_path / "a.csv")[0].tolist() == [[1, 2, 3]]


def test_csv_columns_that_were_not_asked_for_may_hold_anything(tmp_path: Path, refuses: Refuses) -> None:
    path = tmp_path / "a.csv"
    path.write_text("time,x\n12:00,1\n12:01,2\n")
    assert read_signal(path, channel="x")[0].tolist() == [[1, 2]]
    with refuses(InputError, got="'12:00'", expected="a number", also=("line 2, column time", "column channel")):
        read_signal(path)


@pytest.mark.parametrize(
    ("text", "got", "expected", "also"),
    [
        ("", "no line", "one line for each sample", "is empty"),
        ("# only\n\n", "no line", "one line for each sample", "is empty"),
        ("a,b\n", "a header and no samples", "one line for each sample", "is empty"),
        ("a,b\n1,2\n# pause\n\n3\n", "1 columns", "2 columns", "line 5 is too short"),
        ("a,b\n1,2\n3,\n", "''", "a number", "line 3, column b"),
        ("a;b\n1;2\n3,5;4\n", "'3,5'", "a decimal point", "line 3, column a"),
        ("a,a\n1,2\n", "a, a", "every name once", "two columns"),
        ("a,b\n1_000,2\n", "NumPy does not read", "a whole CSV file", "a.csv"),  # a number to Python alone
    ],
)
def test_csv_refusals(text: str, got: str, expected: str, also: str, tmp_path: Path, refuses: Refuses) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    with refuses(InputError, got=got, expected=expected, also=(also,)):
        read_signal(path)


def test_parquet_columns(tmp_path: Path, refuses: Refuses) -> None:
    path = tmp_path / "a.parquet"
    columns = {"when": ["a", "b"], "x": [1, 2], "y": [1.5, None]}
    pq.write_table(pa.table(columns), path)
    samples, _, names = read_signal(path, channel="y+x")
    assert names == ("y", "x")
    np.testing.assert_array_equal(samples, [[1.5, np.nan], [1, 2]])
    with refuses(InputError, got="string", expected="integers or floating point", also=("column when",)):
        read_signal(path)


# packages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("module", "name"), [("h5py", "b.mat"), ("pyarrow", "a.parquet")])
def test_a_missing_package_is_named_with_the_command(
    module: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _mat73(tmp_path / "b", x=X[0]) if name == "b.mat" else write(tmp_path / name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependency, match=r"drsn-edge\[data\]"):
        read_signal(path)


def test_only_generated_names_count_as_unnamed(tmp_path: Path) -> None:
    assert all(is_unnamed(name) for name in read_signal(write(tmp_path / "a.wav"))[2])
    assert not is_unnamed("channel-x")
    assert not is_unnamed("my channel-1")


def test_wav_integers_of_24_bits_keep_their_sign() -> None:
    data = b"".join(value.to_bytes(3, "little", signed=True) for value in (-(2**23), -1, 0, 1, 2**23 - 1))
    expected = np.array([-1, -(2.0**-23), 0, 2.0**-23, 1 - 2.0**-23], np.float32)
    np.testing.assert_array_equal(wav_reader._scale(data, 3), expected)


# files that lie about their size, or lead to others ----------------------------------------------------------------


def test_giant_shapes_are_refused(tmp_path: Path, refuses: Refuses) -> None:
    head = np.lib.format.magic(1, 0) + (118).to_bytes(2, "little")
    text = "{'descr': '<f4', 'fortran_order': False, 'shape': (1152921504606846975,), }"
    array = head + text.ljust(117).encode() + b"\n"
    (tmp_path / "a.npy").write_bytes(array)
    with refuses(InputError, got="", expected="a whole NumPy array"):
        read_signal(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("x.npy", array)
    with refuses(InputError, got="", expected="a whole NumPy archive"):
        read_signal(tmp_path / "b.npz")
    with h5py.File(tmp_path / "c.mat", "w") as file:
        file.create_dataset("x", shape=(1 << 40,), chunks=(1024,), dtype="f4")
    with refuses(InputError, got="4398046511104 bytes unpacked", expected="a whole MATLAB 7.3 file"):
        read_signal(tmp_path / "c.mat")


def test_bombs_are_refused_before_they_are_unpacked(tmp_path: Path, refuses: Refuses) -> None:
    with (
        zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w") as member,
    ):
        for _ in range(300):
            member.write(bytes(1 << 20))
    assert (tmp_path / "a.npz").stat().st_size < 1 << 20
    with refuses(InputError, got="314572800 bytes unpacked out of", expected="a whole NumPy archive"):
        read_signal(tmp_path / "a.npz")
    column = pa.array(np.zeros(40_000_000, np.int8))
    pq.write_table(pa.table({"x": column}), tmp_path / "b.parquet")
    with refuses(InputError, got="320000000 bytes unpacked out of", expected="a whole Parquet file"):
        read_signal(tmp_path / "b.parquet")


def test_a_mat_file_does_not_lead_to_other_files(tmp_path: Path, refuses: Refuses) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = X[0]
    (tmp_path / "raw.bin").write_bytes(X[0].tobytes())
    with h5py.File(tmp_path / "a.mat", "w") as file:
        file["linked"] = h5py.ExternalLink("secret.h5", "/x")
        file.create_dataset("stored", shape=(300,), dtype="f4", external=[("raw.bin", 0, 1200)])
        layout = h5py.VirtualLayout(shape=(300,), dtype="f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "x", shape=(300,))
        file.create_virtual_dataset("virtual", layout)
        assert file["linked"].shape == (300,), "the link leads somewhere"
    for name in ("linked", "stored", "virtual"):
        with refuses(InputError, got=name, expected="one of those it has: none"):
            read_signal(tmp_path / "a.mat", channel=name)
