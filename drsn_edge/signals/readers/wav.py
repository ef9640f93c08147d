"""WAV: soundfile where it is installed, else the standard library for 16, 24 and 32 bit PCM.

Integer samples are divided by 2^(bits - 1), so that full scale is 1 in every bit depth; both paths agree to the bit.
Floating-point files (soundfile only) are taken as they are.
"""

from __future__ import annotations

import os
import struct
import wave
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from drsn_edge import extras
from drsn_edge.errors import InputError
from drsn_edge.signals.readers import Signal, pick, rate_of, unnamed, unreadable


def read(path: Path, wanted: tuple[str, ...] | None) -> Signal:
    """All channels, or the wanted ones by number.

    Raises:
        InputError: Not a whole WAV file, or without the channel.
    """
    with path.open("rb") as handle:
        _refuse_truncated(handle, path)
    samples, rate = _soundfile(path) if extras.available("soundfile") else _wave(path)
    names = unnamed(samples.shape[0])
    if wanted is not None:
        places = pick(names, wanted, path)
        samples, names = samples[places], tuple(names[place] for place in places)
    return Signal(np.ascontiguousarray(samples), rate_of(rate, path), names)


def _soundfile(path: Path) -> tuple[NDArray[np.float32], float]:
    soundfile = extras.require("soundfile", purpose="reading WAV files")
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (RuntimeError, MemoryError) as error:  # soundfile.LibsndfileError; more samples than any file holds
        raise unreadable(path, "WAV", error) from None
    return samples.T, rate


def _wave(path: Path) -> tuple[NDArray[np.float32], float]:
    try:
        with wave.open(str(path), "rb") as file:
            channels, width, rate = file.getnchannels(), file.getsampwidth(), file.getframerate()
            data = file.readframes(file.getnframes())
    except (wave.Error, EOFError, struct.error) as error:
        raise InputError(
            f"{path} cannot be read with the standard library",
            got=error or type(error).__name__,
            expected="a whole PCM WAV file of 16, 24 or 32 bits",
            hint=f"for other kinds of WAV: {extras.install_hint('data')}",
        ) from None
    if width not in (2, 3, 4):
        raise InputError(
            f"{path} has a bit depth that needs soundfile",
            got=f"{8 * width} bits",
            expected="16, 24 or 32 bits",
            hint=extras.install_hint("data"),
        )
    return _scale(data, width).reshape(-1, channels).T, rate


def _scale(data: bytes, width: int) -> NDArray[np.float32]:
    integers: NDArray[Any]
    if width == 3:
        # 24 bits into the upper three bytes of 32: the sign comes with them.
        wide = np.zeros((len(data) // 3, 4), dtype=np.uint8)
        wide[:, 1:] = np.frombuffer(data, dtype=np.uint8).reshape(-1, 3)
        integers, full = wide.view("<i4")[:, 0], 2.0**31
    else:
        integers, full = np.frombuffer(data, dtype=f"<i{width}"), 2.0 ** (8 * width - 1)
    return (integers / full).astype(np.float32)


def _refuse_truncated(handle: BinaryIO, path: Path) -> None:
    """Both libraries return what is there of a file that was cut off, and say nothing."""
    size = os.fstat(handle.fileno()).st_size
    head = handle.read(12)
    if head[:4] != b"RIFF":
        return  # RF64 and others: soundfile knows them, or refuses
    while len(chunk := handle.read(8)) == 8:
        name, length = struct.unpack("<4sI", chunk)
        left = size - handle.tell()
        if name == b"data":
            # A recorder that streams writes the largest number, for "to the end".
            if length > left and length != 0xFFFFFFFF:
                raise unreadable(path, "WAV", f"{left} bytes of samples where its header says {length}")
            return
        handle.seek(length + length % 2, os.SEEK_CUR)
    raise unreadable(path, "WAV", "no chunk of samples")
