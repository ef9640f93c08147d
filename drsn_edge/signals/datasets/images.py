"""Pictures out of one archive: `images:FILE.npz`.

The arrays `x_train` uint8 `[N, C, H, W]`, `y_train` `[N]`, `x_test`, `y_test` and, if it likes, `classes` (names). A
picture is one window; its samples are intensities from 0 to 1, and the contract standardises each channel of each
picture. The protocol is `given`: what the archive calls test tests, and of what it calls train a tenth validates.

Noise: the colours, and `distractor`, a patch of a picture of another class (see `interference.py`).
"""

from __future__ import annotations

import math
import pickle
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drsn_edge.errors import InputError, UsageError
from drsn_edge.signals.contract import SignalContract
from drsn_edge.signals.datasets import Dataset
from drsn_edge.signals.datasets.spec import DatasetSpec
from drsn_edge.signals.recording import Recording

_REQUIRED = ("x_train", "y_train", "x_test", "y_test")
_LIMIT_BYTES = 4 << 30  # of all arrays, unpacked
_DAMAGE = (
    ValueError,
    EOFError,
    OSError,
    KeyError,
    RuntimeError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
)
_CHANNELS = {1: ("grey",), 3: ("red", "green", "blue")}
_FORM = "x_train uint8 [N, C, H, W], y_train [N], x_test, y_test, and classes if it likes"


def load(spec: DatasetSpec, protocol: str | None) -> Dataset:
    """The pictures of an archive, as recordings `[channels, height * width]` at 1 Hz, for want of a sample rate.

    Groups: `part`, as the archive has it. A picture that is there twice is used once, where it trains.

    Raises:
        UsageError: An option, or a protocol that divides a recording in time.
        InputError: No file, a damaged one, one with a pickle in it or too large, or arrays that do not fit together.
    """
    spec.check(path="FILE.npz", options=())
    if protocol == "time":
        raise UsageError(
            "pictures cannot be split in time",
            got="protocol time",
            expected="given (the archive's own division) or random",
            hint="add --protocol given",
        )
    path = spec.path
    if path is None or not path.is_file():
        raise InputError("the archive of pictures is not there", got=path, expected=f"an .npz file with {_FORM}")
    arrays = _read(path)
    names = _names(arrays, path)
    recordings: dict[str, Recording] = {}
    twice = 0
    for part in ("train", "test"):
        pictures = arrays[f"x_{part}"]
        flat = (pictures.reshape(*pictures.shape[:2], -1) / np.float32(255)).astype(np.float32, copy=False)
        for index, (signal, code) in enumerate(zip(flat, arrays[f"y_{part}"], strict=True)):
            picture = Recording(signal, 1.0, names[int(code)], {"part": part}, f"{path} {part} {index}")
            twice += picture.fingerprint in recordings
            recordings.setdefault(picture.fingerprint, picture)
    channels, height, width = arrays["x_train"].shape[1:]
    present = {recording.label for recording in recordings.values()}
    return Dataset(
        name=path.stem,
        spec=spec.text,
        recordings=tuple(recordings.values()),
        labels=tuple(name for name in names if name in present),
        contract=SignalContract(
            sample_rate_hz=1.0,
            channels=_CHANNELS.get(channels, tuple(f"channel-{index}" for index in range(channels))),
            units="intensity",
            window=height * width,
            hop=height * width,
            image=(height, width),
        ),
        notes=(f"{twice} pictures are there twice and are used once.",) if twice else (),
    )


def _read(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays, none of which is unpacked before its size is known."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            missing = [name for name in _REQUIRED if name not in members]
            if missing:
                raise InputError(f"{path} lacks {missing[0]}", got=", ".join(members) or "nothing", expected=_FORM)
            wanted = [*_REQUIRED, *(["classes"] if "classes" in members else [])]
            for name in wanted:
                _ensure_honest(archive, members[name], path)
            _ensure_small(sum(members[name].file_size for name in wanted), path)
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in wanted}
    except _DAMAGE as error:
        raise InputError(
            f"{path} cannot be read", got=str(error) or type(error).__name__,
            expected="a whole NumPy archive without pickles", hint="copy the file again, or save plain arrays",
        ) from None  # fmt: skip
    for name in ("train", "test"):
        x, y = found[f"x_{name}"], found[f"y_{name}"]
        good = x.dtype == np.uint8 and x.ndim == 4 and x.size > 0 and y.shape == x.shape[:1] and y.dtype.kind in "iu"
        if not good or x.shape[1:] != found["x_train"].shape[1:]:
            raise InputError(
                f"{path} holds no pictures of one kind under x_{name} and y_{name}",
                got=f"{x.dtype}{list(x.shape)} and {y.dtype}{list(y.shape)}",
                expected="uint8[N, C, H, W], the same C, H and W for training and test, and N whole numbers",
            )
    return found


def _ensure_honest(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    """Whether an array has as many bytes as its header says: what NumPy sets aside is what the header says."""
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
        said, held = math.prod(shape) * dtype.itemsize, member.file_size - stream.tell()
    if dtype.hasobject or said != held:
        raise InputError(
            f"{path}: {member.filename} is not the array that it says",
            got="a pickle" if dtype.hasobject else f"{held} bytes",
            expected=f"{said} bytes of {list(shape)} plain numbers",
        )


def _ensure_small(size: int, path: Path) -> None:
    if size > _LIMIT_BYTES:
        raise InputError(
            f"{path} is too large to be unpacked", got=f"{size} bytes", expected=f"at most {_LIMIT_BYTES} bytes"
        )


def _names(arrays: Mapping[str, NDArray[Any]], path: Path) -> tuple[str, ...]:
    """Class names by number."""
    codes = np.concatenate([arrays["y_train"], arrays["y_test"]]).astype(np.int64)
    names = [str(name) for name in arrays["classes"].ravel()] if "classes" in arrays else None
    if names is None:
        names = [str(code) for code in range(int(codes.max()) + 1)]
    if codes.min() < 0 or codes.max() >= len(names) or len(set(names)) < len(names):
        raise InputError(
            f"{path}: the classes do not fit the pictures",
            got=f"{', '.join(names)}; numbers {codes.min()} to {codes.max()}",
            expected="a name of its own for every number from 0",
        )
    return tuple(names)
