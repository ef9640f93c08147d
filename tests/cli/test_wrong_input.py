"""What users get wrong: one clear message, exit code 2 or 4, nothing left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Cli = Callable[..., Any]


@pytest.fixture
def refused(cli: Cli, tmp_path: Path, listing: Callable[[Path], dict[str, str]]) -> Callable[..., None]:
    """Run a command that must be refused with a code and words, and must leave everything as it was."""

    def check(code: int, words: tuple[object, ...], *args: object) -> None:
        before = listing(tmp_path)
        said = cli(*args)
        assert said.code == code, (said.out, said.err)
        for word in words:
            assert str(word) in said.err
        assert said.err.startswith("error: ")
        assert said.out == ""
        assert listing(tmp_path) == before
        structured = cli(*args, "--json")
        assert structured.code == structured.json["exit_code"] == code
        assert structured.json["what"] in said.err
        assert listing(tmp_path) == before

    return check


@pytest.fixture
def dataset(write_table: Callable[..., str], tmp_path: Path) -> str:
    return write_table(tmp_path / "data", samples=1600)


def small(dataset: str, tmp_path: Path) -> list[object]:
    return ["train", dataset, "--window", 64, "--hop", 32, "--epochs", 1, "--out", tmp_path / "run"]


def test_no_such_file(refused: Callable[..., None], tmp_path: Path) -> None:
    table = tmp_path / "none.csv"
    refused(
        4, (table, "a CSV file with the columns path and label"), "train", f"table:{table}", "--out", tmp_path / "r"
    )
    refused(
        4,
        (tmp_path / "none", "config.json and model.safetensors"),
        "export",
        tmp_path / "none",
        "--out",
        tmp_path / "b",
    )
    refused(4, (tmp_path / "none", "manifest.json"), "verify", tmp_path / "none")
    refused(4, (tmp_path / "none", "manifest.json"), "build", tmp_path / "none")
    refused(4, (tmp_path / "none", "a bundle, a run, an engine"), "inspect", tmp_path / "none")
    refused(4, (tmp_path / "none", "manifest.json"), "doctor", tmp_path / "none")


def test_no_such_data_set(refused: Callable[..., None], tmp_path: Path) -> None:
    refused(2, ("cwrv", "synthetic", "table"), "train", "cwrv:x", "--out", tmp_path / "run")


def test_a_file_of_another_kind(refused: Callable[..., None], tmp_path: Path, dataset: str) -> None:
    (tmp_path / "data" / "low-one.npy").write_bytes(b"RIFF not a NumPy file")
    refused(4, ("recordings.csv, line 2", "low-one.npy"), *small(dataset, tmp_path))
    (tmp_path / "text.onnx").write_text("this is no graph")
    config = tmp_path / "mine.json"
    contract = {"sample_rate_hz": 1000, "channels": ["a"], "window": 64, "hop": 32, "detrend": "none"}
    config.write_text(json.dumps({"contract": contract, "labels": ["a", "b"]}))
    args = ("export", tmp_path / "text.onnx", "--config", config, "--out", tmp_path / "b.drsn", "--engine", "none")
    refused(4, ("signal contract", "channels, detrend, hop", "standardise, window", "image"), *args)
    config.write_text(json.dumps({"contract": contract | {"standardise": "none"}, "labels": ["a", "b"]}))
    refused(4, ("no ONNX file", "a serialised ModelProto"), *args)
    refused(4, (tmp_path / "text.onnx", "no ONNX file"), "inspect", tmp_path / "text.onnx")
    (tmp_path / "x.safetensors").write_bytes(b"\x04" + bytes(7) + b"[12]")
    refused(4, ("x.safetensors", "a JSON header"), "inspect", tmp_path / "x.safetensors")
    (tmp_path / "plan.engine").write_bytes(b"ULTR" + bytes(100))
    refused(4, ("plan.engine", "an engine, .onnx or .safetensors"), "inspect", tmp_path / "plan.engine")
    (tmp_path / "config.json").write_text('{"layers": 3}')
    refused(4, ("config.json", "without format_version, network", "drsn-edge train"), "inspect", tmp_path)


def test_another_sample_rate(
    refused: Callable[..., None], workshop: Any, write_table: Callable[..., str], tmp_path: Path
) -> None:
    fast = write_table(tmp_path / "fast", rate=2000)
    refused(4, ("sample rate 2000 Hz", "sample rate 1000 Hz"), "verify", workshop.bundle, "--data", fast)
    args = ("export", workshop.run, "--calibrate", fast, "--out", tmp_path / "b.drsn")
    refused(4, ("sample rate 2000 Hz", "sample rate 1000 Hz"), *args)


def test_samples_that_are_not_numbers(refused: Callable[..., None], tmp_path: Path, dataset: str) -> None:
    file = tmp_path / "data" / "high-two.npy"
    signal = np.load(file)
    signal[1234] = np.nan
    np.save(file, signal)
    refused(4, ("high-two.npy", "nan", "1234"), *small(dataset, tmp_path))


def test_a_recording_shorter_than_a_window(refused: Callable[..., None], tmp_path: Path, dataset: str) -> None:
    np.save(tmp_path / "data" / "low-one.npy", np.zeros(50, np.float32))
    refused(4, ("low-one.npy", "50 samples", "at least"), *small(dataset, tmp_path))


def test_one_class_only(refused: Callable[..., None], write_table: Callable[..., str], tmp_path: Path) -> None:
    refused(4, ("low", "at least 2"), *small(write_table(tmp_path / "one", labels=1), tmp_path))


def test_a_class_that_the_network_does_not_have(
    refused: Callable[..., None], workshop: Any, write_table: Callable[..., str], tmp_path: Path
) -> None:
    spec = write_table(tmp_path / "other")
    table = tmp_path / "other" / "recordings.csv"
    table.write_text(table.read_text().replace(",middle,", ",broken,"))
    refused(4, ("broken", "high, low, middle"), "verify", workshop.bundle, "--data", spec)


@pytest.mark.parametrize("command", ["train", "data"])
def test_an_unknown_protocol(refused: Callable[..., None], tmp_path: Path, dataset: str, command: str) -> None:
    out = ["--out", tmp_path / "run"] if command == "train" else []
    refused(2, ("weekday", "time, load, bearing, speaker, random"), command, dataset, "--protocol", "weekday", *out)


def test_outputs_that_exist(refused: Callable[..., None], workshop: Any, tmp_path: Path, dataset: str) -> None:
    run, bundle = tmp_path / "run", tmp_path / "tiny.drsn"
    run.mkdir()
    (run / "mine.txt").write_text("do not lose this")
    workshop.copy(tmp_path)
    refused(2, (run, "a new name", "--force"), *small(dataset, tmp_path))
    refused(2, (bundle, "a new name", "--force"), "export", workshop.run, "--out", bundle)
    refused(2, (run, "a new name", "--force"), "demo", "--out", run)
    # --force replaces bundles, never a folder of something else.
    refused(2, (run, "manifest.json"), "export", workshop.run, "--out", run, "--force")


def test_a_truncated_checkpoint(refused: Callable[..., None], workshop: Any, tmp_path: Path) -> None:
    import shutil

    run = Path(shutil.copytree(workshop.run, tmp_path / "run"))
    weights = run / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    args = ("export", run, "--out", tmp_path / "b.drsn", "--engine", "none")
    refused(4, (weights, f"{weights.stat().st_size} bytes with sha256", "copy the folder again"), *args)
    (run / "config.json").write_text("{")
    refused(4, (run / "config.json", "is not JSON"), *args)


class Trap:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.write_text, (self.path, "code was run"))


def test_a_pickle_with_code_in_it(refused: Callable[..., None], workshop: Any, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"weights": Trap(tmp_path / "proof")}, tmp_path / "evil.pt")
    config = workshop.run / "config.json"
    args = ("export", tmp_path / "evil.pt", "--config", config, "--out", tmp_path / "b.drsn", "--engine", "none")
    refused(4, ("evil.pt", "pickles with code are refused", "torch.save(model.state_dict()"), *args)
    assert not (tmp_path / "proof").exists()


def test_a_run_of_something_else(refused: Callable[..., None], tmp_path: Path, workshop: Any) -> None:
    """Every option that only turns out wrong after minutes of work is refused before it."""
    args = ("export", workshop.run, "--out", tmp_path / "b.drsn")
    int8 = ("no --calibrate", "--calibrate DATASET")
    refused(2, int8, *args, "--precision", "int8")
    refused(2, int8, *args, "--precision", "fp32,int8")
    refused(2, int8, *args, "--engine", "int8")
    refused(2, ("fp64", "fp32, fp16, int8"), *args, "--precision", "fp64")
    refused(
        2, ("engine fp16, graphs fp32", "fp16 among the precisions"), *args, "--precision", "fp32", "--engine", "fp16"
    )
    for more in ((), ("--dry-run",)):
        refused(2, ("16", "17 to 21"), *args, "--opset", "16", *more)
        refused(2, ("guess", "auto, min-max, percentile, mse, entropy"), *args, "--method", "guess", *more)
        refused(2, ("openvino", "auto, tensorrt"), *args, "--backend", "openvino", *more)
        refused(2, ("orin", "sm86"), *args, "--target", "orin", *more)


def test_an_option_of_int8_without_int8(refused: Callable[..., None], tmp_path: Path, workshop: Any) -> None:
    args = ("export", workshop.run, "--out", tmp_path / "b.drsn", "--engine", "none")
    data = ("--calibrate", workshop.data)
    idle = "an option of the int8 graph is given, and no such graph would be made"
    refused(2, (idle, "--rounding learned without --calibrate"), *args, "--rounding", "learned")
    refused(2, (idle, "--method mse without int8"), *args, *data, "--precision", "fp16", "--method", "mse")
    refused(2, (idle, "--quantize-first without int8"), *args, *data, "--precision", "fp16", "--quantize-first")
    refused(2, (idle, "--calibration-windows 64 without"), *args, "--calibration-windows", "64")


@pytest.mark.parametrize("command", ["export", "build"])
def test_a_gpu_that_rtx_does_not_build_for(
    refused: Callable[..., None], tmp_path: Path, workshop: Any, command: str
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="it has the list of targets")
    source = workshop.run if command == "export" else workshop.copy(tmp_path)
    out = ["--out", tmp_path / "b.drsn"] if command == "export" else []
    words = ("sm87", "sm75", "sm86", "sm89", "build on the device itself")
    for more in ((), ("--dry-run",)):
        refused(2, words, command, source, *out, "--target", "sm87", *more)


def test_calibration_data_that_mean_nothing(
    cli: Cli,
    listing: Callable[[Path], dict[str, str]],
    tmp_path: Path,
    workshop: Any,
    write_table: Callable[..., str],
) -> None:
    """Random signals with the right rate, channel and class names."""
    spec = write_table(tmp_path / "noise")
    rng = np.random.default_rng(0)
    for file in (tmp_path / "noise").glob("*.npy"):
        np.save(file, rng.standard_normal(6400).astype(np.float32))
    before = listing(tmp_path)
    said = cli("export", workshop.run, "--calibrate", spec, "--out", tmp_path / "b.drsn", "--engine", "none", "--json")
    assert said.code == said.json["exit_code"] == 4
    assert "means nothing to this network" in said.json["what"]
    assert "its FP32 accuracy is" in said.json["got"]
    assert "clearly above chance" in said.json["expected"]
    assert listing(tmp_path) == before
