from __future__ import annotations

import wave
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drsn_edge.errors import ContractError, InputError, UsageError
from drsn_edge.signals.datasets import load_dataset
from drsn_edge.signals.datasets.one_window import as_one_window
from drsn_edge.signals.recording import Recording
from drsn_edge.signals.splits import PARTS, split

Refuses = Callable[..., AbstractContextManager[None]]


def save(path: Path, samples: np.ndarray, *, rate: int = 8000, channels: int = 1) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.asarray(samples, "<i2").tobytes())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for speaker in ("ada", "ben", "cleo", "dan"):
        for digit in range(3):
            for index in (0, 7, 8):
                save(tmp_path / f"{digit}_{speaker}_{index}.wav", rng.integers(-9000, 9000, 300 + 10 * digit))
    return tmp_path


def test_names_say_what_a_recording_is(folder: Path) -> None:
    save(folder / "noise.wav", np.arange(100))
    dataset = load_dataset(f"spoken-digits:{folder}", protocol="speaker", window=512)
    assert dataset.labels == ("0", "1", "2")
    assert dataset.groups() == {
        "index": ("0", "7", "8"), "part": ("test", "train"), "speaker": ("ada", "ben", "cleo", "dan"),
    }  # fmt: skip
    assert dataset.contract.sample_rate_hz == 8000
    assert dataset.notes[0].startswith("1 .wav files are not named")
    assert "fill 61% of their window" in dataset.notes[1]
    assert "2.2 dB higher" in dataset.notes[1]  # 10 log10(512 / 310)
    assert {item.samples for item in dataset.recordings} == {512}
    # DIR may be the folder above.
    (folder / "recordings").mkdir()
    for path in folder.glob("*.wav"):
        path.rename(folder / "recordings" / path.name)
    again = load_dataset(f"spoken-digits:{folder}", protocol="speaker", window=512)
    assert [a.fingerprint for a in again.recordings] == [b.fingerprint for b in dataset.recordings]


def test_one_speaker_is_left_out(folder: Path) -> None:
    dataset = load_dataset(f"spoken-digits:{folder}", protocol="speaker")
    for fold, tester in enumerate(("ada", "ben", "cleo", "dan")):
        made = split(dataset, protocol="speaker", fold=fold)
        heard = {
            part: {dataset.recordings[item.recording].groups["speaker"] for item in made.segments(part, dataset)}
            for part in PARTS
        }
        assert heard["test"] == {tester}
        assert not heard["train"] & (heard["test"] | heard["validation"])
        assert len(heard["train"]) == 2


def test_the_sets_own_division_has_every_voice_on_both_sides_and_says_so(folder: Path) -> None:
    dataset = load_dataset(f"spoken-digits:{folder}", protocol="given")
    assert any("speakers that it trained on" in note for note in dataset.notes)
    made = split(dataset, protocol="given", seed=3)
    tested = [dataset.recordings[item.recording] for item in made.segments("test", dataset)]
    assert {item.groups["index"] for item in tested} == {"0"}
    assert {item.groups["speaker"] for item in tested} == {"ada", "ben", "cleo", "dan"}


def test_a_word_cannot_be_split_in_time(folder: Path, refuses: Refuses) -> None:
    with refuses(UsageError, got="protocol time", expected="speaker", also=("--protocol speaker",)):
        load_dataset(f"spoken-digits:{folder}", protocol="time")
    with refuses(UsageError, got="without it", expected="speaker"):
        split(load_dataset(f"spoken-digits:{folder}", protocol="load"), protocol="load")


def test_files_that_cannot_be_used(tmp_path: Path, refuses: Refuses) -> None:
    spec = f"spoken-digits:{tmp_path}"
    with refuses(InputError, got="nowhere", expected="7_jackson_32.wav", also=("https://",)):
        load_dataset("spoken-digits:nowhere")
    save(tmp_path / "seven.wav", np.arange(100))
    with refuses(InputError, got="1 other .wav files", expected="{digit}_{speaker}_{index}.wav"):
        load_dataset(spec)
    save(tmp_path / "7_ada_0.wav", np.arange(100), rate=16000)
    with refuses(ContractError, got="1 channels at 16000 Hz", expected="1 channel at 8000 Hz", also=("7_ada_0.wav",)):
        load_dataset(spec)
    save(tmp_path / "7_ada_0.wav", np.arange(100), channels=2)
    with refuses(ContractError, got="2 channels at 8000 Hz", expected="1 channel at 8000 Hz"):
        load_dataset(spec)
    with refuses(UsageError, got="seed=1", expected="no options"):
        load_dataset(f"{spec},seed=1")


@given(length=st.integers(1, 60), window=st.integers(2, 40), seed=st.integers(0, 5))
def test_a_recording_is_one_window(length: int, window: int, seed: int) -> None:
    signal = np.random.default_rng(seed).normal(size=(2, length)).astype(np.float32)
    ((fitted,), notes) = as_one_window([Recording(signal, 100.0, "a", {"speaker": "x"}, "r")], window)
    assert fitted.signal.shape == (2, window)
    assert (fitted.label, dict(fitted.groups), fitted.source) == ("a", {"speaker": "x"}, "r")
    if length <= window:
        before = (window - length) // 2
        np.testing.assert_array_equal(fitted.signal[:, before : before + length], signal)
        assert not fitted.signal[:, :before].any()
        assert not fitted.signal[:, before + length :].any()
        assert len(notes) == (length < window)
    else:
        energies = [float((signal[:, at : at + window] ** 2).sum()) for at in range(length - window + 1)]
        assert float((fitted.signal**2).sum()) == pytest.approx(max(energies), rel=1e-5)
        assert "the most energy is kept" in notes[0]


def test_the_free_spoken_digit_dataset() -> None:
    folder = Path(__file__).parents[3] / "shared" / "data" / "fsdd"
    if not folder.is_dir():
        pytest.skip(f"needs the Free Spoken Digit Dataset in {folder}")
    dataset = load_dataset(f"spoken-digits:{folder}", protocol="speaker")
    assert (len(dataset.recordings), dataset.labels) == (3000, tuple("0123456789"))
    assert dataset.notes[0].startswith("17 of 3000")
    made = split(dataset, protocol="speaker", fold=5)
    assert [len(made.segments(part, dataset)) for part in PARTS] == [2000, 500, 500]
