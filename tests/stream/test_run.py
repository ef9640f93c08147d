"""The command and the function: files, folders, pipes and sockets into decisions, against windows cut by hand."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import threading
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import drsn_edge
from drsn_edge import SmoothingOptions, StreamOptions
from drsn_edge.bundle import Bundle
from drsn_edge.cli import app
from drsn_edge.errors import ContractError, DrsnError, InputError, MissingDevice, UsageError
from drsn_edge.runtime.runner import open_runner

Lines = Callable[..., list[dict[str, Any]]]
Tone = Callable[..., Any]


@pytest.fixture(scope="module")
def signal(make_tone: Tone) -> Any:
    return np.concatenate([make_tone("low", 1000), make_tone("high", 1000, seed=1), make_tone("middle", 777, seed=2)])


@pytest.fixture(scope="module")
def expected(watched: Path, signal: Any) -> list[str]:
    """Decisions of an offline pass: windows by NumPy alone, the graph through the bare runner."""
    bundle = Bundle.open(watched)
    hop = bundle.contract.hop
    windows = np.lib.stride_tricks.sliding_window_view(signal, 64)[::hop]
    with open_runner("onnxruntime", bundle.read("model.fp32.onnx"), optimise=True) as runner:
        logits = runner.run({"window": np.ascontiguousarray(windows[:, None])})["logits"]
    return [bundle.labels[index] for index in logits.argmax(axis=1)]


SURE = SmoothingOptions(min_confidence=0.0)


def test_a_file_gives_the_decisions_of_an_offline_pass(
    watched: Path, signal: Any, expected: list[str], tmp_path: Path, lines: Lines
) -> None:
    np.save(tmp_path / "pump.npy", signal)
    result = drsn_edge.run(
        watched, [str(tmp_path / "pump.npy")], events=str(tmp_path / "all.jsonl"), smoothing=SURE,
        options=StreamOptions(batch=7),
    )  # fmt: skip
    decisions = lines(tmp_path / "all.jsonl", "decision")
    assert [item["label"] for item in decisions] == expected
    assert [item["seq"] for item in decisions] == list(range(len(expected)))
    assert [item["start"] for item in decisions] == [32 * seq for seq in range(len(expected))]
    assert {item["sensor"] for item in decisions} == {"pump"}
    counters = result.sensors["pump"]["counters"]
    assert counters["windows"] == counters["decided"] == result.windows == len(expected)
    assert counters["samples"] == len(signal)
    states = [item["label"] for item in lines(tmp_path / "all.jsonl", "alarm") if item["kind"] == "state"]
    assert states == ["low", "high", "middle"]
    assert result.latency["p99_ms"] is not None


def test_three_sensors_in_one_batch(
    watched: Path, signal: Any, expected: list[str], tmp_path: Path, lines: Lines
) -> None:
    """Of different formats, with different decisions; nothing is mixed up."""
    np.save(tmp_path / "a.npy", signal)
    np.savetxt(tmp_path / "b.csv", signal[:1500], header="x", comments="")
    with wave.open(str(tmp_path / "c.wav"), "wb") as file:
        file.setparams((1, 2, 1000, 0, "NONE", ""))
        file.writeframes((signal[1000:] / 2 * 32767).astype("<i2").tobytes())
    sources = [f"a={tmp_path / 'a.npy'}", f"b={tmp_path / 'b.csv'}", f"c={tmp_path / 'c.wav'}"]
    result = drsn_edge.run(watched, sources, events=str(tmp_path / "all.jsonl"), smoothing=SURE)
    found: dict[str, list[str]] = {"a": [], "b": [], "c": []}
    for item in lines(tmp_path / "all.jsonl", "decision"):
        found[item["sensor"]].append(item["label"])
    assert found["a"] == expected
    assert found["b"] == expected[: len(found["b"])]
    assert len(found["b"]) == (1500 - 64) // 32 + 1
    assert found["c"].count("high") > 25
    assert result.batches < result.windows / 10


@pytest.mark.parametrize(("form", "kind"), [("int16", "<i2"), ("float32", "<f4"), ("int24", "")])
def test_raw_samples_on_stdin(
    watched: Path, signal: Any, expected: list[str], tmp_path: Path, lines: Lines, form: str, kind: str
) -> None:
    """Two interleaved channels, of which the second is ours; as a user types it."""
    two = np.stack([np.zeros_like(signal), signal / 2], axis=1)
    if form == "float32":
        data = two.astype(kind).tobytes()
    elif form == "int16":
        data = (two * 32767).astype(kind).tobytes()
    else:
        data = (two * (2**23 - 1)).astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    done = subprocess.run(
        [
            sys.executable, "-m", "drsn_edge", "run", str(watched), f"stdin,format={form},channels=2,channel=1",
            "--fast", "--events", "-", "--min-confidence", "0",
        ],
        input=data, capture_output=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    decisions = [item for line in done.stdout.splitlines() if (item := json.loads(line))["type"] == "decision"]
    labels = [item["label"] for item in decisions]
    assert len(labels) == len(expected)
    # Integers round: of windows across two tones a few may fall otherwise.
    assert sum(one != other for one, other in zip(labels, expected, strict=True)) <= 2


def test_a_folder_that_is_being_written_to(watched: Path, make_tone: Tone, tmp_path: Path, lines: Lines) -> None:
    """Whole files in the order of their names; windows never reach from one into the next; damage is passed over."""
    folder = tmp_path / "in"
    folder.mkdir()
    np.save(folder / "1.npy", make_tone("low", 500))
    (folder / "2.npy").write_bytes(b"no array")
    (folder / "note.txt").write_text("not a recording")
    stop = threading.Event()

    def write() -> None:
        np.save(folder / ".3.npy", make_tone("high", 500))
        (folder / ".3.npy").rename(folder / "3.npy")

    writer = threading.Timer(0.3, write)
    writer.start()
    result = drsn_edge.run(
        watched, [f"rig={folder}"], events=str(tmp_path / "all.jsonl"), smoothing=SURE, stop=stop.is_set,
        options=StreamOptions(idle_exit_s=2.5),
    )  # fmt: skip
    writer.join()
    decisions = lines(tmp_path / "all.jsonl", "decision")
    each = (500 - 64) // 32 + 1
    assert [item["label"] for item in decisions] == ["low"] * each + ["high"] * each
    assert [item["start"] for item in decisions[each:]] == [500 + 32 * index for index in range(each)]
    events = lines(tmp_path / "all.jsonl", "sensor")
    assert [(item["event"], item["file"]) for item in events] == [
        ("file", "1.npy"), ("unreadable", "2.npy"), ("file", "3.npy"),
    ]  # fmt: skip
    assert result.sensors["rig"]["counters"]["gaps"] == 0


def test_telemetry_stands_beside_every_decision_and_tells_of_another_noise(
    watched: Path, make_tone: Tone, tmp_path: Path, lines: Lines
) -> None:
    """The range recorded at export holds what training looked like; a loose sensor leaves it."""
    recorded = Bundle.open(watched).manifest["model"]["telemetry"]
    assert recorded["snr_db"] == [-6.0, 10.0]
    assert len(recorded["threshold"]["low"]) == 2
    # A cable that hangs in the air: hum of the mains and hardly anything else.
    loose = np.sin(2 * np.pi * np.arange(3000) / 640) + 0.001 * np.random.default_rng(3).standard_normal(3000)
    np.save(tmp_path / "good.npy", make_tone("low", 3000))
    np.save(tmp_path / "loose.npy", np.concatenate([make_tone("low", 3000), loose]).astype(np.float32))
    result = drsn_edge.run(
        watched, [str(tmp_path / "good.npy"), str(tmp_path / "loose.npy")], events=str(tmp_path / "all.jsonl")
    )
    assert result.sensors["good"]["drift"] is False
    alarms = [item for item in lines(tmp_path / "all.jsonl", "alarm") if item["kind"] == "drift"]
    assert [(item["sensor"], item["event"]) for item in alarms] == [("loose", "raised")]
    low, high = alarms[0]["range"]
    assert not low <= alarms[0]["value"] <= high
    assert alarms[0]["start"] > 2900
    for item in lines(tmp_path / "all.jsonl", "decision"):
        assert len(item["threshold"]) == len(item["zero_share"]) == 2
        assert all(0 <= share <= 1 for share in item["zero_share"])


def test_without_telemetry_it_says_so(workshop: Any, make_tone: Tone, tmp_path: Path) -> None:
    assert json.loads((workshop.bundle / "manifest.json").read_text())["model"]["telemetry"] is None
    np.save(tmp_path / "a.npy", make_tone("low", 500))
    result = drsn_edge.run(workshop.bundle, [str(tmp_path / "a.npy")])
    assert any("--telemetry" in note for note in result.notes)
    assert result.sensors["a"]["drift"] is None


def test_another_rate_is_refused_unless_resampling_is_asked_for(watched: Path, tmp_path: Path, lines: Lines) -> None:
    """At twice the rate, the tone is the same once it is resampled."""
    turn = 2 * np.pi * 3 * np.arange(4000) / 128
    np.savez(tmp_path / "fast.npz", signal=np.sin(turn).astype(np.float32), fs=2000.0)
    with pytest.raises(ContractError, match="--resample") as caught:
        drsn_edge.run(watched, [str(tmp_path / "fast.npz")])
    assert "2000 Hz" in str(caught.value)
    assert "1000 Hz" in str(caught.value)
    drsn_edge.run(
        watched, [str(tmp_path / "fast.npz")], events=str(tmp_path / "all.jsonl"), options=StreamOptions(resample=True)
    )
    found = [item["label"] for item in lines(tmp_path / "all.jsonl", "decision")]
    assert found.count("low") == len(found) == (2000 - 64) // 32 + 1


def test_csv_has_a_line_for_every_decision(watched: Path, make_tone: Tone, tmp_path: Path) -> None:
    import csv

    np.save(tmp_path / "a.npy", make_tone("low", 500))
    drsn_edge.run(watched, [str(tmp_path / "a.npy")], events=str(tmp_path / "a.csv"), alarms=str(tmp_path / "b.csv"))
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["seq"] for row in rows if row["type"] == "decision"] == [str(n) for n in range((500 - 64) // 32 + 1)]
    assert float(rows[-1]["confidence"]) > 0.5
    with (tmp_path / "b.csv").open() as file:
        assert [(row["kind"], row["event"], row["label"]) for row in csv.DictReader(file)] == [
            ("state", "raised", "low")
        ]


def test_a_normal_label_is_no_alarm(watched: Path, signal: Any, tmp_path: Path, lines: Lines) -> None:
    np.save(tmp_path / "a.npy", signal)
    out = tmp_path / "alarms.jsonl"
    drsn_edge.run(
        watched, [str(tmp_path / "a.npy")], alarms=str(out), smoothing=SmoothingOptions(normal=("low", "middle"))
    )
    assert [(item["event"], item["label"], item["before"]) for item in lines(out) if item["kind"] == "state"] == [
        ("changed", "low", "unknown"), ("raised", "high", "low"), ("cleared", "middle", "high"),
    ]  # fmt: skip


def test_a_command_gets_every_alarm(watched: Path, signal: Any, tmp_path: Path, lines: Lines) -> None:
    np.save(tmp_path / "a.npy", signal)
    script = tmp_path / "tell.py"
    script.write_text(f"import sys\nopen({str(tmp_path / 'told')!r}, 'a').write(sys.stdin.read())\n")
    result = drsn_edge.run(
        watched, [str(tmp_path / "a.npy")], alarms=str(tmp_path / "a.jsonl"), command=f"{sys.executable} {script}"
    )
    assert lines(tmp_path / "told") == lines(tmp_path / "a.jsonl")
    assert result.commands[0]["started"] == len(lines(tmp_path / "told")) >= 3


def test_a_socket(watched: Path, signal: Any, expected: list[str], tmp_path: Path, lines: Lines) -> None:
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.sendall(signal.astype("<f4").tobytes())

    thread = threading.Thread(target=serve)
    thread.start()
    place = f"de=tcp://127.0.0.1:{server.getsockname()[1]},format=float32"
    drsn_edge.run(
        watched, [place], events=str(tmp_path / "all.jsonl"), smoothing=SURE,
        options=StreamOptions(real_time=False, once=True),
    )  # fmt: skip
    thread.join()
    server.close()
    assert [item["label"] for item in lines(tmp_path / "all.jsonl", "decision")] == expected


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        ([], ["no source", "tcp://HOST:PORT"]),
        (["nowhere.wav"], ["not there", "nowhere.wav"]),
        (["tcp://host"], ["tcp://host", "tcp://HOST:PORT"]),
        (["tcp://host:99999,format=int16"], ["99999"]),
        (["-"], ["format", "int16"]),
        (["stdin,format=int8"], ["int8", "int24"]),
        (["stdin,format=int16,colour=red"], ["colour", "channels"]),
        (["-,format=int16,channels=0"], ["channels=0"]),
        (["a=-,format=int16", "b=-,format=int16"], ["stdin"]),
        (["-,format=int16,channels=4"], ["another number of channels", "4"]),
        (["-,format=int16,channels=4,channel=7"], ["'7'"]),
        (["-,format=int16,rate=500"], ["500 Hz", "1000 Hz", "--resample"]),
    ],
)
def test_sources_that_cannot_be_meant(watched: Path, sources: list[str], words: list[str]) -> None:
    with pytest.raises(DrsnError) as caught:
        drsn_edge.run(watched, sources)
    for word in words:
        assert word in str(caught.value)
    assert caught.value.exit_code in (2, 4)


def test_misuse_of_the_command(watched: Path, make_tone: Tone, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", make_tone("low", 500))
    np.save(tmp_path / "b.npy", make_tone("low", 500))
    (tmp_path / "taken.jsonl").write_text("mine\n")
    a = str(tmp_path / "a.npy")
    for arguments, code, words in (
        ([a, "--votes", "5"], 2, ["--votes", "3/5"]),
        ([a, "--votes", "2/5"], 2, ["2 of 5"]),
        ([a, "--votes", "3/5", "--release", "4"], 2, ["hysteresis"]),
        ([a, "--min-confidence", "1.5"], 2, ["1.5"]),
        ([a, "--normal", "fine"], 2, ["fine", "middle"]),
        ([a, "--hop", "8", "--overlap", "0.5"], 2, ["--overlap"]),
        ([a, "--events", str(tmp_path / "taken.jsonl")], 2, ["taken.jsonl", "--force"]),
        ([a, "--events", str(tmp_path / "x"), "--alarms", str(tmp_path / "x")], 2, ["one place"]),
        ([a, "--events", str(tmp_path / "no" / "x")], 4, ["No such file"]),
        ([a, "--command", "no-such-program-here"], 2, ["no-such-program-here"]),
        ([a, "--runner", "abacus"], 2, ["abacus"]),
        ([a, "--precision", "int8"], 2, ["int8", "fp32"]),
        ([a, "--runner", "engine"], 3, ["no engine", "drsn-edge build"]),
        ([a, f"a={tmp_path / 'b.npy'}"], 2, ["one name"]),
        ([a, "--events", "-", "--json"], 2, ["stdout"]),
    ):
        said = CliRunner().invoke(app, ["run", str(watched), *arguments])
        assert said.exit_code == code, (arguments, said.output)
        for word in words:
            assert word in said.stderr, (arguments, said.stderr)
    assert (tmp_path / "taken.jsonl").read_text() == "mine\n"


def test_the_command_shows_counters_and_its_json(watched: Path, make_tone: Tone, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", make_tone("low", 500))
    (tmp_path / "run.toml").write_text(f'sources = ["{tmp_path / "a.npy"}"]\noverlap = 0.75\n')
    said = CliRunner().invoke(app, ["run", str(watched), "--config", str(tmp_path / "run.toml")])
    assert said.exit_code == 0, said.output
    assert "28 windows with onnx-fp32" in said.stdout
    assert "raised" in said.stderr
    said = CliRunner().invoke(app, ["run", str(watched), str(tmp_path / "a.npy"), "--json"])
    value = json.loads(said.stdout)
    assert value["sensors"]["a"]["counters"]["windows"] == 14
    assert value["planned"] is False
    before = sorted(tmp_path.iterdir())
    said = CliRunner().invoke(
        app,
        ["run", str(watched), str(tmp_path / "a.npy"), "--events", str(tmp_path / "x.jsonl"), "--dry-run", "--json"],
    )
    assert json.loads(said.stdout)["planned"] is True
    assert sorted(tmp_path.iterdir()) == before


def test_an_engine_must_have_passed_its_check(
    workshop: Any, make_tone: Tone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a GPU that takes the plan: refused by name, passed over by default, taken when told or when verified."""
    bundle = Bundle.open(workshop.bundle)
    if not bundle.engines():
        pytest.skip("TensorRT for RTX is not installed: the bundle has no engine")
    from drsn_edge.bundle import NewFile
    from drsn_edge.pipeline import run_runner
    from drsn_edge.runtime import preflight
    from drsn_edge.runtime.driver import DeviceInfo, DeviceProbe
    from drsn_edge.runtime.verification import Verification, VerifiedOn

    monkeypatch.setattr(preflight, "preflight", lambda *args: [])
    found = preflight.describe_here()
    gpu = DeviceProbe(DeviceInfo("NVIDIA A10", "sm86", "13.0", 1 << 33, integrated=False))
    here = preflight.Here(found.backends, gpu, found.platform)
    monkeypatch.setattr(preflight, "describe_here", lambda: here)
    monkeypatch.setattr(run_runner, "open_runner", lambda name, *args, **options: name)
    chosen = run_runner.choose_runner(bundle)
    assert (chosen.name, chosen.verified) == ("onnx-fp32", None)
    assert "not verified on this device yet" in chosen.notes[0]
    with pytest.raises(MissingDevice, match="--allow-unverified"):
        run_runner.choose_runner(bundle, runner="engine")
    chosen = run_runner.choose_runner(bundle, runner="engine", allow_unverified=True)
    assert (chosen.name, chosen.verified) == ("engine-fp16", False)
    assert "not verified" in chosen.notes[0]
    copy = Bundle.open(workshop.copy(tmp_path))
    (key,) = copy.engines()
    on = VerifiedOn.here("tensorrt-rtx", here)
    assert on is not None
    elsewhere = dataclasses.replace(on, driver="12.0")
    for passed, device, wanted in ((False, on, "onnx-fp32"), (True, elsewhere, "onnx-fp32"), (True, on, "engine-fp16")):
        verified = Verification(passed, device, None, 0.0, 1.0, 96).to_json()
        info = {**copy.read_json(f"engines/{key}/engine.json"), "verified": verified}
        copy = copy.update({f"engines/{key}/engine.json": NewFile(json.dumps(info).encode(), "engine-info")})
        assert run_runner.choose_runner(copy).name == wanted


def test_a_bundle_whose_telemetry_was_tampered_with(watched: Path, make_tone: Tone, tmp_path: Path) -> None:
    import shutil

    bundle = Path(shutil.copytree(watched, tmp_path / "t.drsn"))
    np.save(tmp_path / "a.npy", make_tone("low", 500))
    manifest = json.loads((bundle / "manifest.json").read_text())
    for bad in ({"windows": 1}, {**manifest["model"]["telemetry"], "threshold": {"low": [0], "high": [1]}}):
        manifest["model"]["telemetry"] = bad
        (bundle / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(InputError, match="telemetry"):
            drsn_edge.run(bundle, [str(tmp_path / "a.npy")])
    with pytest.raises(UsageError, match="batch"):
        StreamOptions(batch=0)
