"""The tables of genuine interfaces, and the two tools that stand beside them."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


def load(name: str) -> Any:
    """A file of this folder as a module; it is on no path, since tests import nothing from each other."""
    full = f"trt_api_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, HERE / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[full] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
    return sys.modules[full]


@pytest.fixture(scope="session")
def usage() -> Any:
    """`usage.py`."""
    return load("usage")


@pytest.fixture(scope="session")
def make_tables() -> Any:
    """`make_tables.py`."""
    return load("make_tables")


@pytest.fixture(scope="session")
def tables() -> dict[str, Any]:
    """Every version's table by its name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((HERE / "tables").glob("*.json"))}
