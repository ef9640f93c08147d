"""Every attribute of TensorRT that our code uses exists in every genuine TensorRT, or is missing where we know it.

The code is read (`usage.py`) and held against tables that were made from NVIDIA's own bindings (`make_tables.py`).
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from drsn_edge.extras import available

ROOT = Path(__file__).parents[2]
VERSIONS = ("8.6.0", "10.3.0", "10.7.0", "10.13.3.9", "10.16.1.11", "11.4.0.106", "rtx-1.7")
EIGHT, NEW, RTX = ("8.6.0",), ("11.4.0.106", "rtx-1.7"), ("rtx-1.7",)
FULL = VERSIONS[:-1]
FILES = sorted(
    path
    for folder in (ROOT / "drsn_edge" / "runtime", ROOT / "exporters", ROOT / "drsn_edge" / "pipeline")
    for path in folder.rglob("*.py")
    if any(isinstance(node, ast.arg) and node.arg == "trt" for node in ast.walk(ast.parse(path.read_text())))
    or "TensorRTRunner" in path.read_text()
    or path.name.startswith("trt_")
)
# Which versions a file meets, where that is not all of them.
SCOPE = {"rtx_runner.py": RTX}
# What some versions lack. Each is behind a question in the code, which the fakes of those versions put to the test.
MISSING = {
    "IBuilderConfig.num_compute_capabilities": FULL,  # is_rtx
    "IBuilderConfig.progress_monitor": EIGHT,
    "IBuilderConfig.set_compute_capability": FULL,  # is_rtx
    "ILayer.precision": NEW,  # weak typing only
    "ILayer.set_output_type": NEW,
    "IProgressMonitor.phase_finish": EIGHT,
    "IProgressMonitor.phase_start": EIGHT,
    "IProgressMonitor.step_complete": EIGHT,
    "NetworkDefinitionCreationFlag.EXPLICIT_BATCH": NEW,
    "OnnxParserRefitter.get_error": EIGHT,
    "OnnxParserRefitter.num_errors": EIGHT,
    "OnnxParserRefitter.refit_from_bytes": EIGHT,
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED": EIGHT,
    "ParserError.node_name": EIGHT,
    "ParserError.node_operator": EIGHT,
    "PreviewFeature.PROFILE_SHARING_0806": NEW,  # always on there
    "module.ComputeCapability": FULL,  # is_rtx
    "module.OnnxParserRefitter": EIGHT,
    "module.IProgressMonitor": EIGHT,
}


def kind_of(table: dict[str, Any], owner: str, name: str) -> str | None:
    """What a table says of an attribute; None where it has none."""
    if owner == "module":
        known = {*table["classes"], *table["enums"], *table["functions"], *table["values"]}
        return "r" if name in known else None
    if owner in table["enums"]:
        return "r" if name in table["enums"][owner] or name in ("name", "value") else None
    kind: str | None = table["classes"].get(owner, {}).get(name)
    return kind


def fits(use: Any, kind: str) -> bool:
    """Whether an attribute of this kind can be used so."""
    what, *rest = kind.split()
    if use.kind in ("call", "override"):
        least, most = rest[0].split("-") if what == "m" else ("0", "0")
        few = use.arguments >= 0 and use.arguments < int(least)
        return what == "m" and not few and (most == "*" or use.arguments <= int(most))
    return what == "rw" if use.kind == "set" else what != "m"


@pytest.fixture(scope="module")
def used(usage: Any, tables: dict[str, Any]) -> dict[str, list[Any]]:
    classes = usage.merged(tables.values())
    return {path.name: usage.uses(path, classes) for path in FILES}


def test_all_versions_have_their_table(tables: dict[str, Any]) -> None:
    assert set(tables) == set(VERSIONS)
    for name, table in tables.items():
        assert table["version"].startswith(name.removeprefix("rtx-")), "the table is of the version that it is named by"
        assert len(table["classes"]) > 60


def test_the_code_is_seen(used: dict[str, list[Any]]) -> None:
    """The inference follows objects through assignments, results, loops and classes; a break would empty the list."""
    seen = {f"{use.owner}.{use.name}" for found in used.values() for use in found}
    assert {
        "Builder.build_serialized_network", "EngineInspector.get_engine_information",
        "IExecutionContext.execute_async_v3", "ILayer.type", "ITensor.dtype", "ITimingCache.serialize",
        "IRuntimeCache.serialize", "ParserError.desc", "IOptimizationProfile.set_shape", "DataType.FLOAT",
    } <= seen  # fmt: skip
    assert sum(map(len, used.values())) > 120


@pytest.mark.parametrize("version", VERSIONS)
def test_every_use_is_genuine(version: str, used: dict[str, list[Any]], tables: dict[str, Any]) -> None:
    table, absent, wrong = tables[version], set(), []
    for file, found in used.items():
        for use in found if version in SCOPE.get(file, VERSIONS) else ():
            kind = kind_of(table, use.owner, use.name)
            if use.kind == "asked":
                continue
            if kind is None:
                absent.add(f"{use.owner}.{use.name}")
            elif not fits(use, kind):
                wrong.append(f"{use.where}: {use.kind} {use.owner}.{use.name} ({use.arguments}), which is {kind!r}")
    assert wrong == []
    assert absent == {name for name, versions in MISSING.items() if version in versions}


def test_whatever_is_asked_for_exists_somewhere(used: dict[str, list[Any]], tables: dict[str, Any]) -> None:
    """A question with a typing error in it is answered with no for ever."""
    asked = {(use.owner, use.name, use.where) for found in used.values() for use in found if use.kind == "asked"}
    assert asked
    for owner, name, where in asked:
        assert any(kind_of(table, owner, name) is not None for table in tables.values()), f"{where}: {owner}.{name}"


def test_the_facts_that_the_design_rests_on(tables: dict[str, Any]) -> None:
    weak = {name for name, table in tables.items() if "FP16" in table["enums"]["BuilderFlag"]}
    assert weak == set(VERSIONS) - set(NEW)
    for table in tables.values():
        assert {"VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME", "REFIT"} <= set(table["enums"]["BuilderFlag"])


SEEDED = """
from typing import Any


def run(trt: Any, engine: Any) -> Any:
    context = engine.create_execution_context()
    context.execute_async_v2([1], 2)
    context.num_things = 3
    context.infer_shapes(4)
    hasattr(trt, "IProgresMonitor")
    flag = trt.BuilderFlag
    return flag.FP17
"""


def test_faults_are_found(usage: Any, tables: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "seeded.py"
    path.write_text(SEEDED)
    found = {f"{use.owner}.{use.name}": use for use in usage.uses(path, usage.merged(tables.values()))}
    new = tables["11.4.0.106"]
    for name in ("IExecutionContext.execute_async_v2", "IExecutionContext.num_things", "BuilderFlag.FP17"):
        assert kind_of(new, found[name].owner, found[name].name) is None
    assert not fits(found["IExecutionContext.infer_shapes"], new["classes"]["IExecutionContext"]["infer_shapes"])
    assert kind_of(new, "module", found["module.IProgresMonitor"].name) is None


def test_an_object_of_no_known_name_cannot_hide(usage: Any, tables: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "seeded.py"
    path.write_text("from typing import Any\n\n\ndef run(machine: Any) -> None:\n    machine.go()\n")
    with pytest.raises(AssertionError, match="what machine is"):
        usage.uses(path, usage.merged(tables.values()))


@pytest.mark.skipif(not available("tensorrt_rtx"), reason="needs TensorRT for RTX")
def test_the_table_of_rtx_is_that_of_the_installed_one(make_tables: Any, tables: dict[str, Any]) -> None:
    import tensorrt_rtx

    if not tensorrt_rtx.__version__.startswith("1.7."):
        pytest.skip(f"TensorRT for RTX {tensorrt_rtx.__version__} is installed, the table is of 1.7")
    assert make_tables.describe(tensorrt_rtx) == tables["rtx-1.7"]


@pytest.mark.slow
@pytest.mark.parametrize("version", [name for name in FULL if name != "8.6.0"])  # that wheel has 819 MB
def test_tables_come_from_the_genuine_bindings(version: str, make_tables: Any, tables: dict[str, Any]) -> None:
    try:
        table = make_tables.make_table(version)
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        said = getattr(error, "stderr", "") or str(error)
        if "download" in str(error) or isinstance(error, FileNotFoundError):
            pytest.skip(
                f"no wheel for Python {sys.version_info[0]}.{sys.version_info[1]}, or no compiler: {said[-200:]}"
            )
        raise
    assert table == tables[version]
