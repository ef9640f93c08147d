"""MATLAB files of versions 4 to 7 against SciPy, and files that would end a process that SciPy reads them in."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from drsn_edge.errors import InputError
from drsn_edge.signals.readers import read_signal
from drsn_edge.signals.readers.mat5 import list_variables, read_variable

scipy_io = pytest.importorskip("scipy.io", reason="the reference")

KINDS = ("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")
numbers = st.sampled_from(KINDS).flatmap(
    lambda kind: arrays.arrays(kind, arrays.array_shapes(min_dims=2, max_dims=3, max_side=5))
)
names = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,20}", fullmatch=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mat5")


@settings(max_examples=40)
@given(variables=st.dictionaries(names, numbers, min_size=1, max_size=3), packed=st.booleans())
def test_arrays_are_those_that_scipy_reads(folder: Path, variables: dict[str, Any], packed: bool) -> None:
    path = folder / "a.mat"
    scipy_io.savemat(path, variables, do_compression=packed)
    listed, reference = list_variables(path), scipy_io.loadmat(path)
    assert set(listed) == set(variables)
    for name, item in listed.items():
        found = read_variable(path, item)
        assert found.dtype == variables[name].dtype
        np.testing.assert_array_equal(found, reference[name])
    assert {(name, shape) for name, shape, _ in scipy_io.whosmat(path)} == {(n, v.shape) for n, v in listed.items()}


@pytest.mark.parametrize("kind", ["f8", "f4", "i4", "i2", "u2", "u1"])
def test_version_4(folder: Path, kind: str) -> None:
    path = folder / "old.mat"
    values = np.arange(12).reshape(3, 4).astype(kind)
    scipy_io.savemat(path, {"x": values, "t": "text", "fs": 8000.0}, format="4")
    listed = list_variables(path)
    assert {name: item.dtype is not None for name, item in listed.items()} == {"x": True, "t": False, "fs": True}
    np.testing.assert_array_equal(read_variable(path, listed["x"]), scipy_io.loadmat(path)["x"])
    samples, rate, _ = read_signal(path, channel="x")
    assert (rate, samples.shape) == (8000.0, (3, 4))


def test_what_is_no_array_of_real_numbers_is_listed_and_not_read(folder: Path) -> None:
    path = folder / "b.mat"
    odd = {"text": "abc", "cell": np.array([1, "a"], object), "truth": np.array([[True]]), "z": np.array([[1j, 2]]),
           "record": {"a": 1.0, "b": "x"}, "signal": np.arange(9.0)}  # fmt: skip
    scipy_io.savemat(path, odd, do_compression=True)
    listed = list_variables(path)
    assert {name for name, item in listed.items() if item.dtype is not None} == {"signal"}
    assert set(listed) == set(odd)
    np.testing.assert_array_equal(read_signal(path)[0], np.arange(9.0)[None])
    with pytest.raises(InputError, match=r"(?s)truth does not hold real numbers"):
        read_signal(path, channel="truth")


def big_endian(values: Any) -> bytes:
    """A file of version 5 as a machine with the other byte order writes it, put together by hand."""
    data: bytes = values.astype(">f8").tobytes(order="F")
    body = struct.pack(">IIII", 6, 8, 6, 0) + struct.pack(">IIii", 5, 8, *values.shape)
    body += struct.pack(">HH4s", 1, 1, b"x") + struct.pack(">II", 9, len(data)) + data
    head = b"MATLAB 5.0".ljust(124) + struct.pack(">H", 0x0100) + b"MI"
    return head + struct.pack(">II", 14, len(body)) + body


def test_the_other_byte_order(folder: Path) -> None:
    path = folder / "big.mat"
    values = np.arange(6.0).reshape(2, 3)
    path.write_bytes(big_endian(values))
    np.testing.assert_array_equal(scipy_io.loadmat(path)["x"], values)
    np.testing.assert_array_equal(read_variable(path, list_variables(path)["x"]), values)


def whole(packed: bool) -> bytes:
    stream = io.BytesIO()
    scipy_io.savemat(stream, {"x": np.arange(40.0), "fs": 100.0, "note": "text"}, do_compression=packed)
    return stream.getvalue()


FILES = (whole(False), whole(True), big_endian(np.arange(6.0).reshape(2, 3)))


@settings(max_examples=200)
@given(
    st.sampled_from(FILES),
    st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(0, 600),
)
def test_damage_is_an_error_of_ours(folder: Path, data: bytes, flips: list[tuple[int, int]], cut: int) -> None:
    changed = bytearray(data)
    for position, value in flips:
        changed[position % len(changed)] = value
    path = folder / "damaged.mat"
    path.write_bytes(changed[: len(changed) - cut] if cut < 60 else changed)
    with contextlib.suppress(InputError):
        read_signal(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:124] + b"\0\x03" + data[126:], "version 0003"),
        (lambda data: data[:126] + b"XX" + data[128:], "byte order b'XX'"),
        (lambda data: data[:128] + struct.pack("<I", 99) + data[132:], "type 99 at byte 128, expected a matrix"),
        (lambda data: data[:132] + struct.pack("<I", 1 << 31) + data[136:], "2147483648 bytes at byte 128"),
        (lambda data: data[:160] + struct.pack("<ii", 1 << 30, 1 << 30) + data[168:], "shape of"),
        (lambda data: data[:160] + struct.pack("<ii", -1, 40) + data[168:], r"shape of \[-1, 40\]"),
        (lambda data: data[:160] + struct.pack("<ii", 2, 40) + data[168:], "320 bytes, expected 640"),
        (lambda data: data + data[128:], "fs is there twice|x is there twice"),
    ],
)
def test_a_file_that_lies(folder: Path, change: Any, words: str) -> None:
    path = folder / "lies.mat"
    path.write_bytes(change(FILES[0]))
    with pytest.raises(InputError, match=rf"(?s){words}"):
        read_signal(path)


def test_a_bomb_is_not_unpacked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drsn_edge.signals.readers.mat5.SIZE_LIMIT", 1 << 20)
    values = bytes(8 << 20)
    body = struct.pack("<IIII", 6, 8, 6, 0) + struct.pack("<IIii", 5, 8, 1, 1 << 20)
    body += struct.pack("<HH4s", 1, 1, b"x") + struct.pack("<II", 9, len(values)) + values
    packed = zlib.compress(struct.pack("<II", 14, len(body)) + body)
    path = folder / "bomb.mat"
    path.write_bytes(FILES[0][:128] + struct.pack("<II", 15, len(packed)) + packed)
    assert path.stat().st_size < 20_000
    with pytest.raises(InputError, match=r"more than 1048576 bytes unpacked"):
        read_signal(path)
