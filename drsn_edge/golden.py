"""Golden vectors: hard windows with what PyTorch said about them, so that a device can be checked without PyTorch."""

from __future__ import annotations

import ast
import io
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge.errors import InputError

# Uncompressed size that is still read: a bundle's golden file is a few MB, a zip bomb is not.
_SIZE_LIMIT = 512 << 20
_DTYPES = {item.str: item for item in (np.dtype("<f4"), np.dtype("<f8"), np.dtype("<i8"))}
# zipfile's and zlib's own errors, and what damaged headers make of Python's parsers.
_DAMAGE = (
    KeyError, TypeError, ValueError, OSError, EOFError, SyntaxError, MemoryError, RecursionError, RuntimeError,
    struct.error, zlib.error, zipfile.BadZipFile,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Golden:
    """Windows and recorded results.

    Attributes:
        windows: `[N, C, ...]` raw float32.
        y: `[N]` int64, the true class; -1 where unknown.
        snr_db: `[N]` float32, SNR of the noise added; NaN for clean.
        logits: By variant name, `[N, classes]`: `pytorch` (float32), `pytorch-fp64` (the noise floor), and what each
            precision gave in ONNX Runtime when the bundle was made (`onnx-fp32`, `onnx-fp16`, `onnx-int8`).
        thresholds: By unit, `[N, channels]` float32, PyTorch's.
        probes: By `VARIANT/UNIT.threshold` and `VARIANT/UNIT.sketch`, `[N, channels]` float32: what every form gave
            inside when the bundle was made (`parity.localise.summarise`); empty in older bundles.
    """

    windows: NDArray[np.float32]
    y: NDArray[np.int64]
    snr_db: NDArray[np.float32]
    logits: Mapping[str, NDArray[np.float64] | NDArray[np.float32]]
    thresholds: Mapping[str, NDArray[np.float32]]
    probes: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    def probes_of(self, variant: str) -> dict[str, NDArray[np.float32]]:
        """Thresholds and sketches of one form, as `summarise` gives them."""
        start = f"{variant}/"
        return {name.removeprefix(start): value for name, value in self.probes.items() if name.startswith(start)}

    def __len__(self) -> int:
        return int(self.windows.shape[0])

    def to_bytes(self) -> bytes:
        """An `.npz` file, as `numpy.load` reads it; equal values give equal bytes."""
        arrays: dict[str, NDArray[Any]] = {"windows": self.windows, "y": self.y, "snr_db": self.snr_db}
        arrays |= {f"logits.{name}": value for name, value in sorted(self.logits.items())}
        arrays |= {f"threshold.{name}": value for name, value in sorted(self.thresholds.items())}
        arrays |= {f"probe.{name}": value for name, value in sorted(self.probes.items())}
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, value in arrays.items():
                # A ZipInfo made here has no clock in it.
                item = zipfile.ZipInfo(f"{name}.npy")
                item.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(item, _npy(value))
        return stream.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Golden:
        """What `to_bytes` wrote.

        Raises:
            InputError: Not such a file, or arrays that do not fit together.
        """
        try:
            arrays = _read(data)
            golden = cls(
                windows=arrays["windows"],
                y=arrays["y"],
                snr_db=arrays["snr_db"],
                logits={k.removeprefix("logits."): v for k, v in arrays.items() if k.startswith("logits.")},
                thresholds={k.removeprefix("threshold."): v for k, v in arrays.items() if k.startswith("threshold.")},
                probes={k.removeprefix("probe."): v for k, v in arrays.items() if k.startswith("probe.")},
            )
        except _DAMAGE as error:
            raise InputError(
                "the golden vectors cannot be read",
                got=f"{type(error).__name__}: {error}",
                expected="golden.npz of a bundle",
                hint="copy the bundle again, or export it again",
            ) from None
        golden._check()
        return golden

    def _check(self) -> None:
        if "pytorch" not in self.logits:
            raise InputError("the golden vectors hold no reference", got=sorted(self.logits), expected="logits.pytorch")
        count, classes = len(self.windows) if self.windows.ndim else 0, self.logits["pytorch"].shape[-1:]
        forms: dict[str, tuple[NDArray[Any], str, tuple[int, ...]]]
        forms = {"y": (self.y, "int64", (count,)), "snr_db": (self.snr_db, "float32", (count,))}
        forms |= {f"logits.{k}": (v, "float32 float64", (count, *classes)) for k, v in self.logits.items()}
        inner = {f"threshold.{k}": v for k, v in self.thresholds.items()}
        inner |= {f"probe.{k}": v for k, v in self.probes.items()}
        forms |= {k: (v, "float32", (count, *(v.shape[1:2] or (0,)))) for k, v in inner.items()}
        wrong = [
            f"{name} {value.dtype}{list(value.shape)}"
            for name, (value, kinds, shape) in forms.items()
            if value.shape != shape or value.dtype.name not in kinds.split()
        ]
        if self.windows.ndim not in (3, 4) or self.windows.dtype != np.float32 or count == 0:
            wrong.insert(0, f"windows {self.windows.dtype}{list(self.windows.shape)}")
        if wrong:
            raise InputError(
                "the golden vectors do not fit together",
                got="; ".join(wrong),
                expected="float32 windows [N, C, ...], and N rows of everything",
            )


def _npy(value: NDArray[Any]) -> bytes:
    """The `.npy` form, little-endian and in C order whatever the array is."""
    array = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
    if array.dtype.str not in _DTYPES:
        raise InputError("golden vectors hold no such type", got=array.dtype, expected="float32, float64 or int64")
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=(1, 0), allow_pickle=False)
    return stream.getvalue()


def _read(data: bytes) -> dict[str, NDArray[Any]]:
    """Arrays of an `.npz` file by name.

    Read here and not by `numpy.load`, which allocates whatever a header asks for before it looks at the data.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        items = archive.infolist()
        size = sum(item.file_size for item in items)
        if size > _SIZE_LIMIT:
            raise ValueError(f"{size} bytes unpacked, more than {_SIZE_LIMIT}")
        if len({item.filename for item in items}) < len(items):
            raise ValueError("an array is there twice")
        return {item.filename.removesuffix(".npy"): _array(archive.read(item), item.filename) for item in items}


def _array(data: bytes, name: str) -> NDArray[Any]:
    if data[:8] != b"\x93NUMPY\x01\x00":
        raise ValueError(f"{name} is no array of npy format 1.0")
    start = 10 + struct.unpack("<H", data[8:10])[0]
    header = ast.literal_eval(data[10:start].decode("latin1").strip())
    shape, dtype = header["shape"], _DTYPES.get(header["descr"])
    if dtype is None or header["fortran_order"] is not False:
        raise ValueError(f"{name} holds {header['descr']!r}, and not float32, float64 or int64 in C order")
    if not isinstance(shape, tuple) or not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError(f"{name} has the shape {shape!r}")
    if math.prod(shape) * dtype.itemsize != len(data) - start:
        raise ValueError(f"{name} of {list(shape)} in {len(data) - start} bytes")
    array: NDArray[Any] = np.frombuffer(data, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))
    return array
