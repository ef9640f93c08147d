"""Rows of decimals as JSON has them, a batch at a time: `repr` of floats costs more than all else on a line."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MOST = 1000.0  # three digits before the point, six behind it


def _words(texts: list[str]) -> NDArray[np.uint32]:
    """Four characters each as one number, which is looked up faster than four; spaces are taken out afterwards."""
    return np.frombuffer("".join(text.ljust(4) for text in texts).encode(), np.uint32)


_WHOLE = _words([f"{number:3d}." for number in range(1000)])
_HIGH = _words([f"{number:03d}" for number in range(1000)])
# Where nothing follows: no zeros at the end, but one place at least.
_HIGH_LAST = _words([f"{number:03d}".rstrip("0") or "0" for number in range(1000)])
_LOW_LAST = _words([f"{number:03d}".rstrip("0") for number in range(1000)])
# Below 0.0001 `repr` takes an exponent.
_TINY = _words([part for number in range(100) for part in (f"{number / 1e6!r:11s}"[at : at + 4] for at in (0, 4, 8))])
_TINY = _TINY.reshape(100, 3)


def decimal_rows(values: NDArray[np.float64]) -> list[str]:
    """The rows of `[n, m]` as `json.dumps` writes lists of them, without brackets.

    Args:
        values: Rounded to six places. What is not finite becomes `null`: JSON has no word for it.
    """
    if values.size and bool(((values < _MOST) & ~np.signbit(values)).all()):
        return _plain_rows(values)
    return [",".join(repr(one) if np.isfinite(one) else "null" for one in row) for row in values.tolist()]


def _plain_rows(values: NDArray[np.float64]) -> list[str]:
    """Of numbers from 0 to 1000, out of tables."""
    millionths = np.rint(values * 1e6).astype(np.int32)
    thousandths = millionths // 1000
    whole = thousandths // 1000
    low, high = millionths - 1000 * thousandths, thousandths - 1000 * whole
    text = np.empty((*values.shape, 3), np.uint32)
    text[..., 0], text[..., 2] = _WHOLE[whole], _LOW_LAST[low]
    text[..., 1] = np.where(low > 0, _HIGH[high], _HIGH_LAST[high])
    tiny = (millionths > 0) & (millionths < 100)
    if tiny.any():
        text[tiny] = _TINY[millionths[tiny]]
    characters = text.view(np.uint8)
    characters[..., -1] = ord(",")
    characters[:, -1, -1] = ord("\n")
    return characters.tobytes().translate(None, b" ").decode("ascii").splitlines()
