"""The notes of an engine in a bundle: where they are, and read so that their fields can be relied on."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from drsn_edge.bundle import Bundle
from drsn_edge.errors import InputError
from drsn_edge.runtime.engine_info import check_engine_info


def notes_of(bundle: Bundle, key: str) -> str:
    """Name of an engine's `engine.json`.

    Raises:
        InputError: The bundle has no such engine.
    """
    plans = bundle.engines()
    if key not in plans:
        raise InputError("the bundle has no such engine", got=key, expected=", ".join(plans) or "an engine")
    return str(PurePosixPath(plans[key]).with_name("engine.json"))


def engine_info(bundle: Bundle, key: str) -> dict[str, Any]:
    """Its content.

    Raises:
        InputError: No such engine, or notes that nothing here wrote.
        HashMismatch: Other bytes than the manifest lists.
    """
    name = notes_of(bundle, key)
    info = bundle.read_json(name)
    check_engine_info(info, where=name)
    return info
