"""kill -9 while a bundle is written: `benchmarks/kill.py` in miniature, and that it would see half a bundle."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest

if not hasattr(os, "fork"):
    pytest.skip("kills processes that it forked", allow_module_level=True)

_SPEC = importlib.util.spec_from_file_location("kill", Path(__file__).parents[1] / "benchmarks" / "kill.py")
assert _SPEC is not None
assert _SPEC.loader is not None
kill: Any = importlib.util.module_from_spec(_SPEC)
sys.modules["kill"] = kill
_SPEC.loader.exec_module(kill)


def test_the_old_bundle_or_a_new_one(tmp_path: Path) -> None:
    found = kill.kill(kill.write, tmp_path / "a b.drsn", 15, seed=0)
    assert found["half"] == []
    assert found["old"] + found["new"] == 15
    assert found["leftovers_in_the_end"] == []


def test_half_a_bundle_would_be_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.drsn"
    kill.write(path)
    spare = Path(shutil.copytree(path, tmp_path / "spare"))

    def careless(target: Path) -> None:
        """Removes the old bundle first, and takes its time."""
        shutil.rmtree(target, ignore_errors=True)
        time.sleep(0.3)
        shutil.copytree(spare, target)

    assert kill.kill(careless, path, 5, seed=1)["half"]
