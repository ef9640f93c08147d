"""Golden vectors: hard windows with what PyTorch said about them, so that a device can be checked without PyTorch."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge.errors import InputError

# Uncompressed size that is still read: a bundle's golden file is a few MB, a zip bomb is not.
_SIZE_LIMIT = 512 << 20


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
    """

    windows: NDArray[np.float32]
    y: NDArray[np.int64]
    snr_db: NDArray[np.float32]
    logits: Mapping[str, NDArray[np.float64] | NDArray[np.float32]]
    thresholds: Mapping[str, NDArray[np.float32]]

    def __len__(self) -> int:
        return int(self.windows.shape[0])

    def to_bytes(self) -> bytes:
        """An `.npz` file; equal values give equal bytes."""
        arrays: dict[str, NDArray[Any]] = {"windows": self.windows, "y": self.y, "snr_db": self.snr_db}
        arrays |= {f"logits.{name}": value for name, value in sorted(self.logits.items())}
        arrays |= {f"threshold.{name}": value for name, value in sorted(self.thresholds.items())}
        stream = io.BytesIO()
        np.savez_compressed(stream, allow_pickle=False, **arrays)
        return stream.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Golden:
        """What `to_bytes` wrote.

        Raises:
            InputError: Not such a file, or arrays that do not fit together.
        """
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                size = sum(item.file_size for item in archive.infolist())
            if size > _SIZE_LIMIT:
                raise ValueError(f"{size} bytes unpacked, more than {_SIZE_LIMIT}")
            with np.load(io.BytesIO(data), allow_pickle=False) as archive_arrays:
                arrays = {name: archive_arrays[name] for name in archive_arrays.files}
            golden = cls(
                windows=arrays["windows"],
                y=arrays["y"],
                snr_db=arrays["snr_db"],
                logits={k.removeprefix("logits."): v for k, v in arrays.items() if k.startswith("logits.")},
                thresholds={k.removeprefix("threshold."): v for k, v in arrays.items() if k.startswith("threshold.")},
            )
        except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
            raise InputError(
                "the golden vectors cannot be read", got=error, expected="an npz file of a bundle"
            ) from None
        count = len(golden)
        parts = [golden.y, golden.snr_db, *golden.logits.values(), *golden.thresholds.values()]
        if golden.windows.dtype != np.float32 or count == 0 or any(len(part) != count for part in parts):
            raise InputError(
                "the golden vectors do not fit together",
                got=f"{golden.windows.dtype}{list(golden.windows.shape)} with {[len(part) for part in parts]} rows",
                expected="float32 windows and as many rows of everything",
            )
        if "pytorch" not in golden.logits:
            raise InputError(
                "the golden vectors hold no reference", got=sorted(golden.logits), expected="logits.pytorch"
            )
        return golden
