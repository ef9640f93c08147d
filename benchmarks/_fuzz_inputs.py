"""The input of a seed: a good example, changed by a seeded draw."""

from __future__ import annotations

import contextlib
import json
import random
import struct
from typing import Any

from benchmarks._fuzz_files import Kind

EXTREMES = tuple(
    struct.pack(f"{order}{form}", value)
    for order in "<>"
    for form, values in (("H", (0xFFFF, 0x8000)), ("I", (0xFFFFFFFF, 1 << 31, 1 << 30)), ("Q", (1 << 63, 1 << 62)))
    for value in values
)
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**70, 1e308, -1e-308, "", "x", "../../x", "/etc/passwd", "\0",
    "a" * 5000, "sm", "smx", "9.x", "٣", [], [[]], [None], {}, {"": {}}, [[0, 1, 2]], ["sm87", 3], {"sha256": 1},
)  # fmt: skip


def changed(kind: Kind, seed: int) -> bytes:
    """The input of a seed."""
    draw = random.Random(seed)  # noqa: S311 - a seeded draw, not a secret
    data = draw.choice(kind.examples)
    if kind.json and draw.random() < 0.7:
        value = json.loads(data)
        for _ in range(draw.randint(1, 3)):
            value = _replaced(value, draw)
        if kind.seal is not None and draw.random() < 0.9:
            with contextlib.suppress(ValueError, TypeError, RecursionError, OverflowError):
                value = kind.seal(value)
        return json.dumps(value).encode("utf-8", "surrogatepass")
    content = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at, size = draw.randrange(len(content) + 1), draw.randint(1, 16)
        match draw.randrange(7):
            case 0 if content:
                content[at % len(content)] ^= 1 << draw.randrange(8)
            case 1 if content:
                content[at % len(content)] = draw.randrange(256)
            case 2:
                del content[at : at + size]
            case 3:
                content[at:at] = content[at : at + size * 8]
            case 4:
                extreme = draw.choice(EXTREMES)
                content[at : at + len(extreme)] = extreme
            case 5:
                content[at:] = draw.choice(kind.examples)[at:]
            case 6 if draw.random() < 0.3:
                del content[at:]
            case _:
                content[at:at] = draw.randbytes(size)
    return bytes(content)


def _replaced(value: Any, draw: random.Random) -> Any:
    """The document with another value in one place, or without the place."""
    if isinstance(value, dict | list) and value and draw.random() < 0.85:
        keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = draw.choice(keys)
        copy: Any = dict(value) if isinstance(value, dict) else list(value)
        if draw.random() < 0.1:
            del copy[key]
        elif isinstance(value, dict) and draw.random() < 0.1:
            copy[str(draw.choice(VALUES))] = copy.pop(key)
        else:
            copy[key] = _replaced(value[key], draw)
        return copy
    return draw.choice(VALUES)
