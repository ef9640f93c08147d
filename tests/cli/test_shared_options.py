"""What every command has in common: --help, --version, --json, --quiet, --dry-run, --config, exit codes."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from drsn_edge import __version__
from drsn_edge import cli as cli_package
from drsn_edge.cli import app
from drsn_edge.cli.commands import COMMANDS as LISTED
from drsn_edge.cli.ui import session

Cli = Callable[..., Any]
COMMANDS = tuple(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
WRITING = ("demo", "train", "adapt", "export", "build", "study")


def test_the_commands_of_the_design() -> None:
    assert {"demo", "train", "export", "build", "verify", "inspect", "doctor", "data"} <= set(COMMANDS)


def test_the_list_of_commands_is_what_their_modules_say() -> None:
    """`--help` loads none of them."""
    folder = Path(cli_package.__file__).parent
    modules = {path.stem for path in folder.glob("*.py") if "\nEPILOG = " in path.read_text()}
    assert set(LISTED) == modules
    for name, text in LISTED.items():
        command = importlib.import_module(f"drsn_edge.cli.{name}").command
        assert f"{command.__doc__} ".split(". ")[0].rstrip(". ") == text.rstrip("."), name


def test_the_list_of_commands_loads_none() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom drsn_edge.cli import app\n"
        "said = CliRunner().invoke(app, ['--help'])\nassert 'vibration' in said.output, said.output\n"
        "print([name for name in sys.modules if name in ('rich', 'numpy', 'drsn_edge.cli.demo', 'drsn_edge.cli.ui')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_each_example_on_a_line_of_its_own(cli: Cli, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    said = cli(command, "--help")
    assert said.code == 0
    epilog = importlib.import_module(f"drsn_edge.cli.{command}").EPILOG
    examples = [line.strip() for line in epilog.splitlines() if line.strip().startswith("drsn-edge ")]
    assert examples
    shown = [line.strip() for line in said.out.splitlines()]
    for example in examples:
        assert example in shown, f"{example!r} is folded at 80 columns"
        assert example.split()[1] == command


@pytest.mark.parametrize("command", COMMANDS)
def test_every_example_has_options_that_exist(command: str) -> None:
    epilog = importlib.import_module(f"drsn_edge.cli.{command}").EPILOG
    known = {name for item in typer.main.get_command(app).commands[command].params for name in item.opts}  # type: ignore[attr-defined]
    # What stands in front of the command is another program's: torchrun --nproc-per-node 2 -m drsn_edge train ...
    ours = [line.partition(f" {command} ")[2] for line in epilog.splitlines()]
    used = {word.partition("=")[0] for line in ours for word in line.split() if word.startswith("--")}
    assert any(ours)
    assert used <= known


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_the_common_options(command: str) -> None:
    params = {item.name for item in typer.main.get_command(app).commands[command].params}  # type: ignore[attr-defined]
    assert {"json", "quiet", "debug"} <= params
    if command in WRITING:
        assert "dry_run" in params
    if "out" in params and command != "study":  # which goes on with what is there
        assert "force" in params


def test_version(cli: Cli, python: Callable[..., Any]) -> None:
    assert cli("--version").out == f"drsn-edge {__version__}\n"
    done = python("-m", "drsn_edge", "--version")
    assert (done.code, done.out) == (0, f"drsn-edge {__version__}\n")


def test_as_a_process_of_its_own(python: Callable[..., Any], tmp_path: Path) -> None:
    done = python("-m", "drsn_edge", "data", "synthetic:seconds=1", "--window", "512", "--json")
    assert done.code == 0
    assert done.json["labels"][0] == "healthy"
    assert "Traceback" not in done.err
    assert "note: Synthetic vibration" in done.err
    done = python("-m", "drsn_edge", "verify", tmp_path / "none", "--json")
    assert done.code == 4
    assert done.json["got"] == str(tmp_path / "none")
    assert done.err.startswith("error: this is no bundle\n")


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["train", "synthetic", "--json"], "--out"),
        (["verify", "--bogus", "--json"], "--bogus"),
        (["train", "synthetic", "--out", "x", "--epochs", "many", "--json"], "--epochs"),
        (["build", "x", "--max-batch", "0", "--json"], "--max-batch"),
    ],
)
def test_what_the_parser_refuses_is_json_too(cli: Cli, args: list[str], word: str) -> None:
    said = cli(*args)
    assert said.code == 2
    assert said.json["error"] == "UsageError"
    assert said.json["exit_code"] == 2
    assert word in said.json["what"]
    assert word in said.err


def test_quiet_says_nothing_but_the_result(cli: Cli, workshop: Any) -> None:
    said = cli("data", "synthetic:seconds=1", "--window", 512, "--quiet")
    assert said.err == ""
    assert "216 recordings" in said.out
    loud = cli("data", "synthetic:seconds=1", "--window", 512)
    assert loud.out == said.out
    assert "note: " in loud.err


def test_what_is_piped_is_not_folded(cli: Cli, workshop: Any) -> None:
    lines = cli("inspect", workshop.bundle).out.splitlines()
    assert any(
        "its error moves the dead zone of every feature; the mean of magnitudes stays fp32" in line for line in lines
    )
    assert max(map(len, lines)) < 200


# --- dry runs


def test_a_dry_run_of_train(cli: Cli, workshop: Any, tmp_path: Path, listing: Callable[[Path], Any]) -> None:
    args = ("train", workshop.data, "--window", 64, "--hop", 32, "--epochs", 7, "--out", tmp_path / "run", "--dry-run")
    assert "would train 7 epochs" in cli(*args).out
    value = cli(*args, "--json").json
    assert value["windows"] == {"train": 696, "validation": 114, "test": 114}
    assert value["training"]["epochs"] == 7
    assert listing(tmp_path) == {}


def test_a_dry_run_of_export(cli: Cli, workshop: Any, tmp_path: Path, listing: Callable[[Path], Any]) -> None:
    args = ("export", workshop.run, "--out", tmp_path / "b.drsn", "--dry-run")
    value = cli(*args, "--calibrate", workshop.data, "--json").json
    assert value["graphs"] == ["fp32", "fp16", "int8"]
    assert value["calibration_windows"] == 512
    assert value["network"]["model"] == "drsn-cw"
    assert cli(*args, "--precision", "fp16", "--json", "--engine", "none").json["graphs"] == ["fp32", "fp16"]
    shown = cli(*args, "--engine", "none")
    assert "nothing was written" in shown.out
    assert listing(tmp_path) == {}


def test_a_dry_run_of_build(cli: Cli, workshop: Any, tmp_path: Path, listing: Callable[[Path], Any]) -> None:
    pytest.importorskip("tensorrt_rtx", reason="a builder that needs no GPU")
    bundle = workshop.copy(tmp_path)
    before = listing(tmp_path)
    args = ("build", bundle, "--precision", "fp16,int8", "--target", "sm86", "--backend", "rtx", "--dry-run")
    said = cli(*args)
    assert [line.split()[:4] for line in said.out.splitlines()] == [
        ["would", "build", "fp16", "from"],
        ["would", "build", "int8", "from"],
    ]
    assert "for sm86" in said.out
    assert len(cli(*args, "--json").json["planned"]) == 2
    assert listing(tmp_path) == before


# --- options in a file


def test_a_flag_beats_the_file(cli: Cli, workshop: Any, tmp_path: Path) -> None:
    file = tmp_path / "train.toml"
    file.write_text(
        f'dataset = "{workshop.data}"\nout = "{tmp_path / "run"}"\nwindow = 64\nhop = 32\nepochs = 7\nlr = 1\n'
        'noise = ["gaussian", "pink"]\nsnr = "-4:4"\nwhere = ["machine=one"]\ndry-run = true\n'
    )
    training = cli("train", "--config", file, "--json").json["training"]
    assert training["epochs"] == 7
    assert training["noises"] == ["gaussian", "pink"]
    assert training["snr_db"] == [-4, 4]
    assert training["where"] == {"machine": "one"}
    training = cli("train", "--config", file, "--epochs", 2, "--noise", "none", "--where", "machine=two", "--json").json
    assert training["training"]["epochs"] == 2
    assert training["training"]["noises"] == []
    assert training["training"]["where"] == {"machine": "two"}


def test_options_of_an_export_in_a_file(cli: Cli, workshop: Any, tmp_path: Path) -> None:
    file = tmp_path / "export.toml"
    file.write_text('precision = ["fp32"]\nengine = "none"\nopset = 18\nquiet = true\ndry-run = true\n')
    args = ("export", workshop.run, "--out", tmp_path / "b.drsn", "--config", file, "--json")
    assert cli(*args).json["graphs"] == ["fp32"]
    assert cli(*args, "--precision", "fp16").json["graphs"] == ["fp32", "fp16"]


@pytest.mark.parametrize(
    ("command", "text", "code", "words"),
    [
        ("train", "epoch = 3", 2, ["epoch", "epochs", "does not have"]),
        ("train", 'epochs = "three"', 2, ["epochs", "'three'", "a whole number"]),
        ("train", "epochs = true", 2, ["epochs", "True", "a whole number"]),
        ("train", 'lr = "fast"', 2, ["lr", "'fast'", "a number"]),
        ("train", "resume = 1", 2, ["resume", "1", "true or false"]),
        ("train", "where = 3", 2, ["where", "3", "a list of texts"]),
        ("train", "init = 3", 2, ["init", "3", "a path"]),
        ("train", "config = 'x'", 2, ["config", "epochs"]),
        ("train", "epochs = = 3", 4, ["options.toml", "is not TOML"]),
        ("train", None, 4, ["options.toml", "is not there"]),
        ("export", "epochs = 3", 2, ["epochs", "opset", "does not have"]),
        ("export", "engine = false", 2, ["engine", "False", "a text, or a list of texts"]),
        ("export", None, 4, ["options.toml", "is not there"]),
    ],
)
def test_options_files_that_cannot_be_used(
    cli: Cli, tmp_path: Path, command: str, text: str | None, code: int, words: list[str]
) -> None:
    file = tmp_path / "options.toml"
    if text is not None:
        file.write_text(text)
    said = cli(command, "x", "--out", tmp_path / "y", "--config", file)
    assert said.code == code, said.err
    for word in words:
        assert word in said.err
    assert cli(command, "x", "--out", tmp_path / "y", "--config", file, "--json").json["exit_code"] == code


def test_options_of_train_are_no_json(cli: Cli, workshop: Any, tmp_path: Path) -> None:
    said = cli("train", "synthetic", "--out", tmp_path / "x", "--config", workshop.run / "config.json")
    assert said.code == 2
    assert "config.json" in said.err
    assert "FILE.toml" in said.err


# --- exit codes


def test_exit_code_1_for_what_nobody_foresaw(cli: Cli, workshop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **options: object) -> None:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr("drsn_edge.pipeline.inspect.inspect", broken)
    said = cli("inspect", workshop.bundle, "--json")
    assert said.code == 1
    assert said.json["error"] == "ZeroDivisionError"
    assert "unexpected: ZeroDivisionError: by nothing" in said.err
    assert "--debug" in said.err


def test_exit_code_1_where_the_system_refuses(cli: Cli, workshop: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    said = cli("verify", workshop.bundle, "--report", tmp_path / "file" / "report.html")
    assert said.code == 1
    assert "refused" in said.err
    assert str(tmp_path / "file") in said.err
    assert said.out == ""


def test_debug_shows_the_traceback(workshop: Any, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from drsn_edge.errors import InputError

    result = CliRunner().invoke(app, ["verify", str(tmp_path), "--debug"])
    assert isinstance(result.exception, InputError)


def test_exit_code_6_for_an_engine_that_cannot_be_built(
    cli: Cli, workshop: Any, tmp_path: Path, rehash: Callable[..., None], listing: Callable[[Path], Any]
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="a builder that needs no GPU")
    onnx = pytest.importorskip("onnx")
    bundle = workshop.copy(tmp_path)
    model = onnx.load(bundle / "model.fp32.onnx")
    node = next(node for node in model.graph.node if node.op_type == "Relu")
    node.op_type, node.domain = "Unheard", "nobody"
    rehash(bundle, "model.fp32.onnx", model.SerializeToString())
    before = listing(tmp_path)
    said = cli("build", bundle, "--precision", "fp32", "--backend", "rtx", "--target", "sm86", "--json")
    assert said.code == 6
    assert said.json["error"] == "BuildError"
    assert node.name in said.json["got"]
    assert listing(tmp_path) == before


def test_one_document_on_stdout_even_when_a_result_is_out_of_tolerance(
    cli: Cli, workshop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`export` keeps the bundle, prints the result, and exits with 5."""
    from drsn_edge.parity.gate import Failure
    from drsn_edge.pipeline.verify import verify

    def strict(*args: Any, **options: Any) -> Any:
        import dataclasses

        return dataclasses.replace(verify(*args, **options), failures=(Failure("here", "figure", 2.0, 1.0),))

    monkeypatch.setattr("drsn_edge.pipeline.export.verify", strict)
    args = ("--precision", "fp32", "--engine", "none", "--no-report", "--json")
    said = cli("export", workshop.run, "--out", tmp_path / "b.drsn", *args)
    assert said.code == 5
    assert said.json["passed"] is False
    assert "out of tolerance: 1 failed" in said.err
    assert "drsn-edge verify" in said.err
    assert (tmp_path / "b.drsn" / "manifest.json").is_file()


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """As at a prompt: what a script starts in its background is born deaf to SIGINT, and so would the tests be."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_stopped_clears_up(number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from drsn_edge.files import new_folder

    before = signal.getsignal(number)

    def stopped() -> None:
        with session(), new_folder(tmp_path / "out") as work:
            (work / "half").write_text("written")
            os.kill(os.getpid(), number)
            pytest.fail("the signal did nothing")

    with pytest.raises(typer.Exit) as caught:
        stopped()
    assert caught.value.exit_code == 130
    assert "nothing half-written is left" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(number) == before


def test_json_of_results_is_plain(cli: Cli, workshop: Any) -> None:
    for command in (["inspect", workshop.bundle], ["doctor"], ["data", workshop.data, "--window", "64"]):
        value = cli(*command, "--json").json
        assert json.loads(json.dumps(value, allow_nan=False)) == value
