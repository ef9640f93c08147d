"""What the documents say is so: links lead somewhere, commands parse, the example on one's own recordings runs."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shlex
import subprocess
import sys
import wave
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import typer.main
from typer.testing import CliRunner

import drsn_edge
from drsn_edge import errors
from drsn_edge.cli import app

if TYPE_CHECKING:
    from tests.conftest import Workshop

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")])
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
_FENCE = re.compile(r"^```([\w-]*)[^\n`]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|<img[^>]*\ssrc=\"([^\"]+)\"")
_INLINE = re.compile(r"`(drsn-edge [^`\n]+)`")


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return [body for kind, body in _FENCE.findall(page.read_text(encoding="utf-8")) if kind == language]


def commands(block: str) -> list[list[str]]:
    """The calls of drsn-edge in a block, without comments, continued lines joined."""
    lines = block.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("drsn-edge ")]


def anchors(page: Path) -> set[str]:
    """Headings as links name them."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def section(page: Path, title: str) -> str:
    """What stands under a heading of the second level."""
    return page.read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]


def subcommand(name: str) -> Any:
    """A command as the parser knows it."""
    found = typer.main.get_command(app).commands.get(name)  # type: ignore[attr-defined]  # it is a group
    assert found is not None, f"there is no command {name}"
    return found


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in (one or other for one, other in _LINK.findall(text)):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link} leads nowhere"
        assert target.is_relative_to(ROOT), f"{page.name}: {link} leads out of the repository"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link} names no heading of {target.name}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_parse(page: Path) -> None:
    """Commands, options and their values, without running anything."""
    for language in ("console", ""):
        for name, *arguments in (command for block in blocks(page, language) for command in commands(block)):
            subcommand(name).make_context(name, arguments)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_in_the_text_exist(page: Path) -> None:
    for text in _INLINE.findall(page.read_text(encoding="utf-8")):
        _, name, *rest = text.split()
        if name.startswith("-"):
            continue
        known = {option for item in subcommand(name).params for option in (*item.opts, *item.secondary_opts)}
        for option in (word.partition("=")[0] for word in rest if word.startswith("--")):
            assert option in known | {"--help"}, f"{page.name}: {text}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_python_examples_call_what_there_is(page: Path) -> None:
    for tree in map(ast.parse, blocks(page, "python")):
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            match call.func:
                case ast.Attribute(value=ast.Name(id="drsn_edge"), attr=name):
                    signature = inspect.signature(getattr(drsn_edge, name))
                    signature.bind(*call.args, **{str(item.arg): item.value for item in call.keywords})


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_make_targets_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for block in blocks(page, "console"):
        for target in re.findall(r"^make ([\w-]+)", block, flags=re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"{page.name}: make {target}"


def test_readme_lists_every_folder() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout: which folders belong to the repository is not known")
    folders = {line.partition("/")[0] for line in listed.stdout.splitlines() if "/" in line}
    assert set(re.findall(r"^\| \[([\w.]+)/\]", section(README, "The repository"), flags=re.MULTILINE)) == folders


def test_readme_lists_every_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    rows = re.findall(r"^\| (`.*?`) \|", section(README, "Install"), flags=re.MULTILINE)
    assert {extra for row in rows for extra in re.findall(r"`([\w-]+)`", row)} == {*project["optional-dependencies"]}


def test_readme_lists_every_exit_code() -> None:
    codes = {getattr(errors, name).exit_code for name in errors.__all__}
    rows = re.findall(r"^\| (\d+) \|", section(README, "Exit codes"), flags=re.MULTILINE)
    assert {int(row) for row in rows} == codes | {0}


def test_changelog_has_this_version() -> None:
    latest = re.search(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert latest is not None
    assert latest[1] == drsn_edge.__version__


def test_pictures_are_small() -> None:
    for picture in (ROOT / "docs" / "images").iterdir():
        assert picture.stat().st_size < 300_000, picture.name


# What makes the example on one's own recordings small; everything else is as the README says.
_TINY = {
    "data": ("--window", "128"),
    "train": ("--epochs", "6", "--batch", "32", "--window", "128", "--hop", "32", "--snr=8:10"),
    "export": ("--engine", "none", "--no-report", "--method", "mse", "--calibration-windows", "64"),
    "verify": ("--snr=8:10:2",),
}


@pytest.fixture
def own_recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The README's table, with a short recording for every line of it, as the current folder."""
    (table,) = blocks(README, "csv")
    header, *rows = (line.split(",") for line in table.splitlines())
    labels = sorted({row[header.index("label")] for row in rows})
    rng = np.random.default_rng(0)
    for row in rows:
        cells = dict(zip(header, row, strict=True))
        # Tones whose periods do not fit into the hop: else every window of a recording would have one phase.
        turn = (0.23 + 0.71 * labels.index(cells["label"])) * np.arange(4096)
        signal = 0.3 * np.sin(turn + rng.uniform(0, 6)) + 0.03 * rng.standard_normal(turn.size)
        path = tmp_path / cells["path"]
        path.parent.mkdir(exist_ok=True)
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 12_000, 0, "NONE", ""))
            file.writeframes((signal * 32767).astype("<i2").tobytes())
    (tmp_path / "recordings.csv").write_text(table, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_own_recordings(own_recordings: Path) -> None:
    """The very commands of the README, from table to verified bundle."""
    pytest.importorskip("onnxscript", reason="exporting needs the extra host")
    pytest.importorskip("onnxruntime", reason="exporting needs the extra host")
    (block,) = (block for block in blocks(README, "console") if "table:recordings.csv" in block)
    said = {}
    for name, *arguments in commands(block):
        result = CliRunner().invoke(app, [name, *arguments, *_TINY[name]])
        assert result.exit_code == 0, f"{name}: {result.output}"
        said[name] = result.stdout
    assert list(said) == ["data", "train", "export", "verify"]
    assert "9 recordings" in said["data"]
    assert "Within tolerance" in said["verify"]
    manifest = json.loads((own_recordings / "pumps.drsn" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["labels"] == ["bearing-fault", "cavitation", "good"]


def test_golden_windows_by_hand(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The snippets for a device without drsn-edge, around a trtexec that answers as PyTorch did."""
    onnx = pytest.importorskip("onnx", reason="one of the snippets reads the graph")
    workshop.copy(tmp_path).rename(tmp_path / "cw.drsn")
    monkeypatch.chdir(tmp_path)
    hold, write, compare = blocks(ROOT / "docs" / "jetson.md", "python")
    exec(compile(hold, "jetson.md", "exec"), {})
    obey, precisions, types = (tmp_path / "held.txt").read_text().split()
    held = {name.removesuffix(":fp32") for name in precisions.partition("=")[2].split(",")}
    graph = onnx.load("cw.drsn/model.fp32.onnx").graph
    kinds = {node.name: node.op_type for node in graph.node}
    assert (obey, types.partition("=")[2]) == ("--precisionConstraints=obey", precisions.partition("=")[2])
    assert {name for name, kind in kinds.items() if kind == "GlobalAveragePool"} <= held <= set(kinds)
    assert "Conv" not in {kinds[name] for name in held}
    assert held <= {node.name for node in onnx.load("cw.drsn/model.int8-fp32.onnx").graph.node}
    exec(compile(write, "jetson.md", "exec"), {})
    golden = np.load("cw.drsn/golden.npz")
    window = np.fromfile("window.bin", np.float32).reshape(golden["windows"].shape)
    np.testing.assert_array_equal(window, golden["windows"])
    answer = [{"name": "logits", "values": golden["logits.pytorch"].ravel().tolist()}]
    (tmp_path / "output.json").write_text(json.dumps(answer), encoding="utf-8")
    exec(compile(compare, "jetson.md", "exec"), {})
    assert capsys.readouterr().out.split() == [
        str(len(window)), "windows", "largest", "difference", "0.0", "same", "decision", "1.0",
    ]  # fmt: skip
