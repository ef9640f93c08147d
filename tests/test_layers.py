"""Imports point one way, as docs/architecture.md draws it; a torch-free part stays torch-free."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "drsn_edge"
# Highest first; parts of one layer do not import each other, unless PEERS says so.
LAYERS = (
    ("cli",),
    ("pipeline",),
    ("report", "training", "exporters", "calibration"),
    ("parity", "model", "runtime", "stream"),
    ("bundle", "golden", "manifest", "signals"),
    ("errors", "extras", "files", "progress", "_version"),
)
# calibration works on canonical graphs; the PyTorch runner stands with the model; a bundle carries its contract.
PEERS = {
    ("calibration", "exporters"),
    ("model", "runtime"),
    ("bundle", "signals"),
    ("bundle", "manifest"),
    ("extras", "errors"),
    ("files", "errors"),
}
# The facade and the command line's entry resolve names of the layers above; nothing imports them.
ENTRIES = {"__init__", "__main__"}
RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}
TOP_LEVEL = {"exporters": ROOT / "exporters", "calibration": ROOT / "calibration"}


def modules() -> dict[str, Path]:
    """Every module by its dotted name."""
    found: dict[str, Path] = {}
    for folder, prefix in (
        (ROOT / PACKAGE, PACKAGE),
        *((path, f"{PACKAGE}.{name}") for name, path in TOP_LEVEL.items()),
    ):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            if prefix == PACKAGE and parts[0] in TOP_LEVEL:
                continue  # the links to the folders at the top
            found[".".join((prefix, *parts)).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(path: Path, *, at_run_time: bool = True) -> Iterator[str]:
    """Absolute names of what a file imports anywhere in it; without those under `if TYPE_CHECKING` if asked."""
    tree = ast.parse(path.read_text(), str(path))
    skipped: set[ast.AST] = set()
    if at_run_time:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
                skipped.update(inner for statement in node.body for inner in ast.walk(statement))
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in MODULES else node.module
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            # Names resolved at run time, "drsn_edge.model.runner:TorchRunner", are imports too.
            match = re.fullmatch(r"(drsn_edge\.[\w.]+):\w+", node.value)
            if match:
                yield f"late:{match[1]}"


def part_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def test_every_part_has_a_layer() -> None:
    parts = {part_of(name) for name in MODULES} - ENTRIES
    assert parts <= set(RANK), f"say in LAYERS and in docs/architecture.md where {parts - set(RANK)} belongs"


def test_layers_are_those_of_the_architecture_page() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("cli ─► pipeline"))
    drawn = [{part.strip() for part in group.split(",")} for group in line.split("─►")]
    assert len(drawn) == len(LAYERS)
    for group, layer in zip(drawn, LAYERS, strict=True):
        assert group <= set(layer)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_downwards(module: str) -> None:
    part = part_of(module)
    if part in ENTRIES:
        return
    for target in imports(MODULES[module]):
        if target.startswith("late:") or not target.startswith(f"{PACKAGE}."):
            continue
        other = part_of(target)
        allowed = other == part or RANK[other] > RANK[part] or (part, other) in PEERS
        assert allowed, f"{module} imports {target}: {part} must not know {other}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_nobody_imports_the_facade_or_a_bare_top_level_name(module: str) -> None:
    for target in imports(MODULES[module], at_run_time=False):
        top = target.removeprefix("late:").split(".")[0]
        assert top not in TOP_LEVEL, f"{module}: {target} would be a second copy of the module"
        if part_of(module) not in ENTRIES | {"cli"}:
            assert target != PACKAGE, f"{module} imports the facade, which knows everything above it"


@pytest.mark.parametrize(("part", "other"), sorted(PEERS))
def test_peers_know_each_other_one_way_only(part: str, other: str) -> None:
    assert (other, part) not in PEERS
    users = [name for name in MODULES if part_of(name) == part]
    assert any(part_of(target) == other for name in users for target in imports(MODULES[name])), "no longer needed"


def test_late_names_exist() -> None:
    for module, path in MODULES.items():
        for target in imports(path):
            assert not target.startswith("late:") or target.removeprefix("late:") in MODULES, (module, target)


@pytest.mark.parametrize("module", sorted(name for name in MODULES if part_of(name) == "runtime"))
def test_runtime_never_needs_torch_or_onnx(module: str) -> None:
    tops = {target.split(".")[0] for target in imports(MODULES[module])}
    assert not tops & {"torch", "onnx", "onnx_ir", "onnxscript"}


@pytest.mark.parametrize("module", sorted(name for name in MODULES if part_of(name) == "stream"))
def test_streaming_needs_numpy_alone(module: str) -> None:
    tops = {target.split(".")[0] for target in imports(MODULES[module])}
    assert not tops & {"torch", "onnx", "onnx_ir", "onnxruntime", "scipy", "tensorrt", "tensorrt_rtx", "cuda"}


@pytest.mark.parametrize("module", sorted(name for name in MODULES if part_of(name) == "parity"))
def test_parity_needs_numpy_alone(module: str) -> None:
    tops = {target.split(".")[0] for target in imports(MODULES[module])}
    assert not tops & {"torch", "onnx", "onnx_ir", "onnxruntime", "scipy", "sklearn", "matplotlib"}


ENGINE = sorted(name for name in MODULES if name.startswith(f"{PACKAGE}.exporters.trt_"))


def test_there_is_an_engine_builder() -> None:
    assert f"{PACKAGE}.exporters.trt_engine" in ENGINE
    assert list(imports(MODULES[f"{PACKAGE}.exporters"])) == [], "exporters/__init__.py imports nothing"


@pytest.mark.parametrize("module", ENGINE)
def test_engines_are_built_where_there_is_no_torch_and_no_onnx(module: str) -> None:
    for target in imports(MODULES[module]):
        top, other = target.split(".")[0], part_of(target)
        assert top not in {"torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime"}, (module, target)
        if top == PACKAGE and other == "exporters":
            assert target.startswith(f"{PACKAGE}.exporters.trt_"), (module, target)
        elif top == PACKAGE:
            assert other == "runtime" or RANK[other] > RANK["runtime"], (module, target)


def test_the_check_sees_what_it_should(tmp_path: Path) -> None:
    source = tmp_path / "x.py"
    source.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from drsn_edge.cli import app\n"
        "def f():\n    from drsn_edge.model import network\n    import torch.nn\n"
        "LATE = 'drsn_edge.model.runner:TorchRunner'\n"
    )
    assert set(imports(source)) == {"typing", "drsn_edge.model.network", "torch.nn", "late:drsn_edge.model.runner"}
    assert "drsn_edge.cli" in set(imports(source, at_run_time=False))
