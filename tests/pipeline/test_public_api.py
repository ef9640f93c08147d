"""What `import drsn_edge` offers: every command as a function, nothing heavy before it is called."""

from __future__ import annotations

import inspect as reflection
import subprocess
import sys

import pytest
import typer

import drsn_edge
from drsn_edge.cli import app

COMMANDS = ("build", "data", "demo", "doctor", "export", "inspect", "train", "verify")


def test_the_public_names_are_these() -> None:
    assert set(drsn_edge.__all__) >= {"Bundle", "ExportOptions", "SweepOptions", "__version__", *COMMANDS}
    assert drsn_edge.__all__ == sorted(drsn_edge.__all__)
    assert dir(drsn_edge) == sorted(drsn_edge.__all__)
    for name in drsn_edge.__all__:
        assert getattr(drsn_edge, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = drsn_edge.nothing


def test_every_command_is_a_documented_function_of_the_same_name() -> None:
    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert set(COMMANDS) <= commands <= set(drsn_edge.__all__)
    for name in commands:
        function = getattr(drsn_edge, name)
        assert callable(function)
        text = reflection.getdoc(function) or ""
        assert text.splitlines()[0].endswith(".")
        assert "Raises:" in text
        # Everything of the signature is documented, but what is the same for all.
        for parameter in reflection.signature(function).parameters:
            assert parameter in text, f"{name}: {parameter} is not documented"


def test_importing_it_loads_nothing() -> None:
    code = (
        "import sys, drsn_edge\n"
        "from drsn_edge import export, train, verify, build, demo, Bundle\n"
        "heavy = {'torch', 'onnx', 'onnx_ir', 'onnxruntime', 'matplotlib', 'scipy', 'typer', 'rich'}\n"
        "assert not heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
