"""What a plan says of itself, and what `engine.json` beside it says of it. What neither says stays unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from drsn_edge.errors import InputError
from drsn_edge.files import read_json
from drsn_edge.runtime.engine_info import check_engine_info
from drsn_edge.runtime.plan import read_plan_header

NOTES = "engine.json"


def inspect_engine(path: Path, *, size: int, sha256: str) -> dict[str, Any]:
    """Facts of a plan, in a bundle or by itself; null is what is not known.

    Args:
        path: The plan.
        size: Of the file in bytes.
        sha256: Of the file.

    Raises:
        InputError: Not a plan that is recognised, and no `engine.json` says that it is one.
    """
    header, beside = read_plan_header(path), path.with_name(NOTES)
    info, damaged = (None, []) if not beside.is_file() else _notes(beside)
    if header.kind == "unknown" and info is None and not damaged:
        raise InputError(
            "this file is of no kind that is known", got=path, expected="an engine, .onnx or .safetensors",
            hint="an engine of another toolkit may have a header of its own in front of the plan",
        )  # fmt: skip
    notes = list(header.notes)
    if info is None and not damaged:
        notes.append(f"no {NOTES} beside it: precision, layers and batch sizes are not known")
    described = (info or {}).get("plan") or {}
    if described.get("sha256", sha256) != sha256:
        damaged.append(
            {"file": path.name, "problem": f"{path.name} is not the plan that {NOTES} describes", "got": sha256}
        )
    elif header.size not in (None, size):
        problem = f"{path.name} is not whole: {size} bytes, its header says {header.size}"
        damaged.append({"file": path.name, "problem": problem, "got": f"{size} bytes"})
    return {
        "kind": "engine",
        "backend": None if header.kind == "unknown" else header.kind,
        "version": header.version,
        "targets": None if header.targets is None else list(header.targets),
        "notes": notes,
        "info": info,
        "damaged": damaged,
    }


def _notes(path: Path) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """`engine.json`; what is wrong with it where it cannot be relied on."""
    try:
        info = read_json(path, what=f"the {NOTES} beside the plan")
        check_engine_info(info, where=NOTES)
    except InputError as error:
        return None, [{"file": NOTES, "problem": error.what, "got": error.got}]
    return info, []
