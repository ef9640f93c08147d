"""`engine.json` as it was read: are its fields of the kinds that everything after relies on?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from drsn_edge.errors import InputError

FORMAT_VERSION = 1
PRECISIONS = ("fp32", "fp16", "int8")
_VERSION = re.compile(r"[0-9]{1,6}(\.[0-9A-Za-z+_-]{1,32}){0,8}")
_TARGET = re.compile(r"sm[0-9]{2,3}[a-z]?")


def check_engine_info(info: Mapping[str, Any], *, where: object) -> None:
    """Refuse the notes of an engine that nothing here wrote.

    Args:
        info: The content of `engine.json`.
        where: Names it in messages.

    Raises:
        InputError: Another format version, or a field of another kind.
    """
    if info.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{where} has another format version", got=info.get("format_version"), expected=FORMAT_VERSION,
            hint="build the engine again, or install the drsn-edge that wrote it: drsn-edge build BUNDLE",
        )  # fmt: skip
    targets, flags = info.get("targets"), info.get("flags", {})
    checks = {
        "runner": (info.get("runner") in ("tensorrt", "tensorrt-rtx"), "tensorrt or tensorrt-rtx"),
        "precision": (info.get("precision") in PRECISIONS, ", ".join(PRECISIONS)),
        "version": (_text(info.get("version"), _VERSION), "a version such as 10.3.0"),
        "targets": (isinstance(targets, list) and all(_text(item, _TARGET) for item in targets), "a list of smNN"),
        "sm": (info.get("sm") is None or _text(info.get("sm"), _TARGET), "smNN, or null"),
        "flags": (isinstance(flags, Mapping) and _texts(flags.get("set", [])), "an object; set: a list of texts"),
        "plan": (_fields(info.get("plan"), sha256=str, size=int), "sha256 and size, or nothing"),
        "onnx": (_fields(info.get("onnx"), name=str, sha256=str), "name and sha256, or nothing"),
        "verified": (isinstance(info.get("verified", {}) or {}, Mapping), "an object, or null"),
    } | {
        name: (info.get(name) is None or isinstance(info[name], str), "a text, or null")
        for name in ("platform", "gpu", "driver")
    }
    for name, (good, expected) in checks.items():
        if not good:
            raise InputError(f"{where} has a bad {name}", got=repr(info.get(name))[:200], expected=expected)


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _fields(value: object, **kinds: type) -> bool:
    """Nothing, or an object with these fields of these kinds."""
    if value is None:
        return True
    return isinstance(value, Mapping) and all(isinstance(value.get(name), kind) for name, kind in kinds.items())


def _text(value: object, pattern: re.Pattern[str]) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None
