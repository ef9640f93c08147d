"""Golden vectors: the file, and what a damaged or hostile one gets."""

from __future__ import annotations

import io
import random
import tracemalloc
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from drsn_edge.errors import InputError
from drsn_edge.golden import Golden

Array = NDArray[Any]


def make(count: int = 5, *, seed: int = 0, shape: tuple[int, ...] = (2, 16), units: int = 2) -> Golden:
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((count, 3))
    return Golden(
        windows=rng.standard_normal((count, *shape)).astype(np.float32),
        y=rng.integers(-1, 3, count),
        snr_db=np.where(np.arange(count) % 2, np.nan, 4).astype(np.float32),
        logits={"pytorch": logits.astype(np.float32), "pytorch-fp64": logits, "onnx-int8": (logits + 1).astype("f4")},
        thresholds={f"units.{i}": rng.random((count, 4 + i)).astype(np.float32) for i in range(units)},
    )


def same(one: Golden, two: Golden) -> bool:
    pairs: list[tuple[Array, Array]] = [(one.windows, two.windows), (one.y, two.y), (one.snr_db, two.snr_db)]
    assert set(one.logits) == set(two.logits)
    assert set(one.thresholds) == set(two.thresholds)
    pairs += [(one.logits[name], two.logits[name]) for name in one.logits]
    pairs += [(one.thresholds[name], two.thresholds[name]) for name in one.thresholds]
    return all(a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True) for a, b in pairs)


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(parts: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return stream.getvalue()


def npy(array: Array, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(array), **options)
    return stream.getvalue()


def replaced(**arrays: Array) -> bytes:
    """A good file with other arrays in it."""
    return pack(members(make().to_bytes()) | {f"{name}.npy": npy(array) for name, array in arrays.items()})


@settings(max_examples=25)
@given(st.integers(1, 9), st.integers(0, 99), st.sampled_from([(1, 8), (3, 5), (1, 6, 7)]), st.integers(0, 3))
def test_round_trip(count: int, seed: int, shape: tuple[int, ...], units: int) -> None:
    golden = make(count, seed=seed, shape=shape, units=units)
    data = golden.to_bytes()
    again = Golden.from_bytes(data)
    assert same(golden, again)
    assert again.to_bytes() == data
    assert len(again) == count


def test_equal_values_give_equal_bytes_whatever_the_memory_looks_like() -> None:
    golden = make()
    other = Golden(
        windows=np.asfortranarray(golden.windows),
        y=golden.y.astype(">i8"),
        snr_db=np.repeat(golden.snr_db, 2)[::2],
        logits=dict(sorted(golden.logits.items(), reverse=True)),
        thresholds={name: value.T.copy().T for name, value in sorted(golden.thresholds.items(), reverse=True)},
    )
    assert other.to_bytes() == golden.to_bytes()


def test_numpy_reads_it_and_it_reads_numpys() -> None:
    golden = make()
    with np.load(io.BytesIO(golden.to_bytes()), allow_pickle=False) as arrays:
        assert np.array_equal(arrays["windows"], golden.windows)
        assert np.array_equal(arrays["threshold.units.1"], golden.thresholds["units.1"])
        content = {name: arrays[name] for name in arrays.files}
    assert set(content) == {
        "windows", "y", "snr_db", "logits.pytorch", "logits.pytorch-fp64", "logits.onnx-int8", "threshold.units.0",
        "threshold.units.1",
    }  # fmt: skip
    stream = io.BytesIO()
    np.savez_compressed(stream, **content)
    assert same(Golden.from_bytes(stream.getvalue()), golden)


def test_the_file_has_no_clock_in_it() -> None:
    with zipfile.ZipFile(io.BytesIO(make().to_bytes())) as archive:
        assert {item.date_time for item in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_read_arrays_may_be_written_to() -> None:
    again = Golden.from_bytes(make().to_bytes())
    again.windows[0, 0, 0] = 3.0
    assert again.windows.flags.c_contiguous


def test_pickles_are_refused() -> None:
    class Boom:
        def __reduce__(self) -> Any:
            return pytest.fail, ("the pickle was opened",)

    objects = np.array([Boom()], dtype=object)
    stream = io.BytesIO()
    np.savez(stream, y=objects, windows=np.zeros((1, 1, 2), np.float32))
    with pytest.raises(InputError, match="cannot be read") as caught:
        Golden.from_bytes(stream.getvalue())
    assert "'|O'" in str(caught.value.got)
    with pytest.raises(InputError, match="no such type") as caught:
        Golden(objects, objects, objects, {"pytorch": objects}, {}).to_bytes()
    assert caught.value.got == "object"


def test_a_zip_bomb_is_refused_by_its_size() -> None:
    stream = io.BytesIO()
    # 600 MB of zeros, never whole in memory here either.
    with (
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("windows.npy", "w", force_zip64=True) as member,
    ):
        for _ in range(600):
            member.write(bytes(1 << 20))
    data = stream.getvalue()
    assert len(data) < 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            Golden.from_bytes(data)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert f"{600 << 20} bytes unpacked, more than {512 << 20}" in str(caught.value.got)


@pytest.mark.parametrize(
    "shape", ["(1000000000000,)", "(1000000, 1000000, 4)", "(0, 9999999999999)", "(-1,)", "(True,)"]
)
def test_a_header_cannot_ask_for_memory(shape: str) -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    member = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0\0\0\0"
    with pytest.raises(InputError, match="cannot be read") as caught:
        Golden.from_bytes(pack(members(make().to_bytes()) | {"windows.npy": member}))
    assert "windows.npy" in str(caught.value.got)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "{",
        "3",
        "()",
        "{'descr': '<f4'}",
        "{'descr': [], 'fortran_order': False, 'shape': (1,)}",
        "(" * 900,
        "__import__('os')",
    ],
)
def test_a_damaged_header_is_refused(header: str) -> None:
    member = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    with pytest.raises(InputError, match="cannot be read") as caught:
        Golden.from_bytes(pack({"windows.npy": member}))
    assert caught.value.expected == "golden.npz of a bundle"


@pytest.mark.parametrize("data", [b"", b"PK", b"no zip at all", pack({}), pack({"windows.npy": b"short"})])
def test_what_is_no_golden_file_is_refused(data: bytes) -> None:
    with pytest.raises(InputError, match="cannot be read") as caught:
        Golden.from_bytes(data)
    assert caught.value.got


def test_a_member_that_is_there_twice_is_refused() -> None:
    stream = io.BytesIO(make().to_bytes())
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("y.npy", npy(np.zeros(5, np.int64)))
    with pytest.raises(InputError) as caught:
        Golden.from_bytes(stream.getvalue())
    assert "twice" in str(caught.value.got)


@pytest.mark.parametrize("name", ["windows", "y", "snr_db"])
def test_a_missing_array_is_named(name: str) -> None:
    parts = members(make().to_bytes())
    del parts[f"{name}.npy"]
    with pytest.raises(InputError, match="cannot be read") as caught:
        Golden.from_bytes(pack(parts))
    assert name in str(caught.value.got)


def test_a_missing_reference_is_named() -> None:
    parts = members(make().to_bytes())
    del parts["logits.pytorch.npy"]
    with pytest.raises(InputError, match="hold no reference") as caught:
        Golden.from_bytes(pack(parts))
    assert caught.value.expected == "logits.pytorch"
    assert "onnx-int8" in str(caught.value.got)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("windows", np.zeros((4, 2, 16), np.float32)),
        ("windows", np.zeros((5, 2, 16), np.float64)),
        ("windows", np.zeros((5, 16), np.float32)),
        ("windows", np.zeros((), np.float32)),
        ("windows", np.zeros((0, 2, 16), np.float32)),
        ("y", np.zeros(4, np.int64)),
        ("y", np.zeros((), np.int64)),
        ("y", np.zeros(5, np.float32)),
        ("snr_db", np.zeros((5, 1), np.float32)),
        ("snr_db", np.zeros(5, np.float64)),
        ("logits.pytorch", np.zeros((5,), np.float32)),
        ("logits.pytorch", np.zeros((4, 3), np.float32)),
        ("logits.onnx-int8", np.zeros((5, 2), np.float32)),
        ("logits.onnx-int8", np.zeros((6, 3), np.float32)),
        ("logits.onnx-int8", np.zeros((5, 3), np.int64)),
        ("threshold.units.0", np.zeros((4, 4), np.float32)),
        ("threshold.units.0", np.zeros((5,), np.float32)),
        ("threshold.units.0", np.zeros((5, 4), np.float64)),
    ],
)
def test_arrays_that_do_not_fit_together_are_named(name: str, array: Array) -> None:
    with pytest.raises(InputError, match="do not fit together") as caught:
        Golden.from_bytes(replaced(**{name: array}))
    # Where the windows or the reference set the count or the classes, the others are named too.
    if name in ("windows", "logits.pytorch"):
        assert caught.value.got
    else:
        assert caught.value.got == f"{name} {array.dtype}{list(array.shape)}"
    assert "N rows of everything" in str(caught.value.expected)


def test_no_damaged_byte_is_more_than_an_input_error() -> None:
    """Whatever a disk does to the file: another value (the bundle's hash finds it) or a refusal, no other error."""
    data = make(2).to_bytes()
    rng = random.Random(3)
    refused = 0
    for _ in range(400):
        damaged = bytearray(data)
        for _ in range(rng.choice([1, 1, 4])):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        if rng.random() < 0.2:
            del damaged[rng.randrange(len(damaged)) :]
        try:
            Golden.from_bytes(bytes(damaged))
        except InputError:
            refused += 1
    assert refused > 300
