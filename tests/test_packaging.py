"""The wheel holds what the folders hold, under `drsn_edge` alone."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"drsn_edge": ROOT / "drsn_edge", "drsn_edge/exporters": ROOT / "exporters",
           "drsn_edge/calibration": ROOT / "calibration"}  # fmt: skip
DATA = {".css", ".js", ".typed"}


def on_disk() -> set[str]:
    """Files that belong into the wheel, by their path in it."""
    found: set[str] = set()
    for prefix, folder in FOLDERS.items():
        for path in folder.rglob("*"):
            inside = path.relative_to(folder)
            linked = prefix == "drsn_edge" and inside.parts[0] in ("exporters", "calibration")
            if not linked and path.is_file() and (path.suffix in {".py"} | DATA):
                found.add(f"{prefix}/{inside.as_posix()}")
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, as a clean checkout would be: `build/` of an earlier version must not leak into it."""
    pytest.importorskip("setuptools", minversion="77", reason="needs setuptools 77 for SPDX licence strings")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    if not (source / "README.md").exists():
        (source / "README.md").write_text("drsn-edge\n")
    for name in ("drsn_edge", "exporters", "calibration"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*command, "--wheel-dir", out, source], check=True, capture_output=True, text=True)
    (found,) = out.glob("*.whl")
    return found


def test_wheel_holds_every_module_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == on_disk()


def test_wheel_takes_no_other_top_level_name(wheel: Path) -> None:
    """PyPI has an unrelated package that imports as `exporters`: each would overwrite the other."""
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
        (top_level,) = (name for name in archive.namelist() if name.endswith("top_level.txt"))
        assert archive.read(top_level).decode().split() == ["drsn_edge"]
    assert {name for name in tops if not name.endswith(".dist-info")} == {"drsn_edge"}


def test_wheel_brings_the_command_and_the_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        text = {Path(name).name: archive.read(name).decode() for name in archive.namelist() if ".dist-info/" in name}
    assert "drsn-edge = drsn_edge.cli:main" in text["entry_points.txt"]
    assert re.search(r"^License-Expression: Apache-2.0$", text["METADATA"], flags=re.MULTILINE)
    assert "LICENSE" in text


def test_wheel_does_not_depend_on_the_links(wheel: Path) -> None:
    """setuptools maps the folders; a checkout without symbolic links builds the same."""
    text = (ROOT / "pyproject.toml").read_text()
    for name in ("exporters", "calibration"):
        assert f'"drsn_edge.{name}" = "{name}"' in text
        assert (ROOT / "drsn_edge" / name).is_symlink()
        assert str((ROOT / "drsn_edge" / name).readlink()) == f"../{name}"
