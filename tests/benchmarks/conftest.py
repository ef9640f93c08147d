"""How tests start a benchmark."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def benchmark() -> Callable[..., tuple[Any, str]]:
    """Run a benchmark in a process of its own, as users do; its document and what it said."""

    def run(name: str, *arguments: str, code: int = 0) -> tuple[Any, str]:
        done = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{name}", *arguments],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return (json.loads(done.stdout) if done.stdout else None), done.stderr

    return run
