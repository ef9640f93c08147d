"""The tables of genuine interfaces, and the two tools that stand beside them."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(scope="session")
def usage(trt_api: Any) -> Any:
    """`usage.py`."""
    return trt_api.load("usage")


@pytest.fixture(scope="session")
def make_tables(trt_api: Any) -> Any:
    """`make_tables.py`."""
    return trt_api.load("make_tables")


@pytest.fixture(scope="session")
def tables(trt_api: Any) -> Any:
    """Every version's table by its name."""
    return trt_api.tables
