from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.signal

from drsn_edge.errors import InputError, UsageError
from drsn_edge.signals.datasets import load_dataset
from drsn_edge.signals.datasets.cwru import FILES
from drsn_edge.signals.splits import PARTS, split

Refuses = Callable[..., AbstractContextManager[None]]

TEN = ("healthy", "B007", "B014", "B021", "IR007", "IR014", "IR021", "OR007", "OR014", "OR021")


def save(folder: Path, name: str, **variables: object) -> None:
    scipy.io.savemat(folder / name, {key: np.asarray(value) for key, value in variables.items()})


def test_the_tables_agree_with_the_files(cwru_folder: Path) -> None:
    with (cwru_folder / "MANIFEST.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 53
    for row in rows:
        file = FILES[int(row["number"])]
        match = re.fullmatch(r"12k_Drive_End_(B|IR|OR)(\d+)(?:@(\d+))?_(\d)_\d+\.mat", row["file"])
        expected = match.groups() if match else ("healthy", "", None, "0")
        assert (file.fault, file.size, file.position or None, file.load) == expected


def test_ten_classes_at_one_load(cwru_folder: Path) -> None:
    dataset = load_dataset(f"cwru:{cwru_folder}", where={"load": "0"})
    assert dataset.labels == TEN
    assert [item.label for item in dataset.recordings] == [
        *("healthy", "IR007", "B007", "OR007", "IR014", "B014", "OR014", "IR021", "B021", "OR021")
    ]
    assert dataset.contract.units == "g"
    assert dataset.contract.channels == ("DE",)
    assert {item.sample_rate_hz for item in dataset.recordings} == {12_000.0}
    assert split(dataset).labels == TEN


def test_the_healthy_recording_is_brought_from_48_to_12_khz(cwru_folder: Path) -> None:
    dataset = load_dataset(f"cwru:{cwru_folder}", where={"fault": "healthy"})
    (healthy,) = dataset.recordings
    raw = scipy.io.loadmat(cwru_folder / "normal_0_97.mat")["X097_DE_time"][:, 0]
    assert healthy.samples == -(-raw.size // 4)
    assert healthy.duration_s == pytest.approx(raw.size / 48_000, abs=1e-3)

    # Below the filter's edge the spectra agree, frequency by frequency; what was above 6 kHz has not folded down.
    def density(signal: np.ndarray, rate: float) -> tuple[np.ndarray, np.ndarray]:
        frequency, power = scipy.signal.welch(signal, rate, nperseg=int(rate // 10))
        return frequency, power

    low, ours = density(healthy.signal[0].astype(np.float64), 12_000.0)
    high, theirs = density(raw, 48_000.0)
    assert np.array_equal(low[low < 5000], high[high < 5000])
    below = (low > 50) & (low < 4500)
    np.testing.assert_allclose(10 * np.log10(ours[below] / theirs[: low.size][below]), 0, atol=0.5)
    # Taking every fourth sample without a filter would be off by far more than that.
    _, aliased = density(raw[::4], 12_000.0)
    assert np.abs(10 * np.log10(aliased[below] / theirs[: low.size][below])).max() > 3


def test_outer_race_positions(cwru_folder: Path, refuses: Refuses) -> None:
    counts = {}
    for option in ("", ",or=6", ",or=3", ",or=12", ",or=all"):
        dataset = load_dataset(f"cwru:{cwru_folder}{option}")
        outer = [item for item in dataset.recordings if item.groups["fault"] == "OR"]
        counts[option] = (len(outer), {item.groups["position"] for item in outer})
        assert len(dataset.recordings) - len(outer) == 25
    assert counts[""] == counts[",or=6"] == (12, {"6"})
    assert counts[",or=3"] == (8, {"3"})
    assert counts[",or=12"] == (8, {"12"})
    assert counts[",or=all"] == (28, {"3", "6", "12"})
    with refuses(UsageError, got="or=9", expected="6, 3, 12 or all"):
        load_dataset(f"cwru:{cwru_folder},or=9")


def test_leaving_a_load_out_leaves_nine_faults(cwru_folder: Path) -> None:
    dataset = load_dataset(f"cwru:{cwru_folder}")
    for fold in range(4):
        made = split(dataset, protocol="load", fold=fold)
        assert made.labels == TEN[1:]
        assert made.dropped == ("healthy",)
        tested = {dataset.recordings[item.recording].groups["load"] for item in made.segments("test", dataset)}
        assert tested == {str(fold)}


def test_leaving_bearings_out_leaves_three_faults_of_the_drive_end(cwru_folder: Path) -> None:
    dataset = load_dataset(f"cwru:{cwru_folder},healthy=drive-end", protocol="bearing")
    assert dataset.labels == ("healthy", "B", "IR", "OR")
    tested = []
    for fold in range(3):
        made = split(dataset, protocol="bearing", fold=fold)
        assert made.labels == ("B", "IR", "OR")
        assert made.dropped == ("healthy",)
        tested.append({dataset.recordings[item.recording].groups["bearing"] for item in made.segments("test", dataset)})
    assert tested == [{"B014", "IR007", "OR014"}, {"B021", "IR021", "OR007"}, {"B007", "IR014", "OR021"}]


def test_the_fan_end_is_the_healthy_bearing_when_bearings_are_left_out(cwru_folder: Path) -> None:
    dataset = load_dataset(f"cwru:{cwru_folder}", protocol="bearing")
    assert dataset.labels == ("healthy", "B", "IR", "OR")
    assert dataset.contract.channels == ("housing",)
    assert "one physical bearing" in dataset.notes[0]
    assert len(dataset.recordings) == 72  # both ends of 36, without the recording of the healthy drive end
    for item in dataset.recordings:
        assert (item.label == "healthy") == (item.groups["end"] == "fan") == item.groups["bearing"].startswith("FE@")
    tested = []
    for fold in range(3):
        made = split(dataset, protocol="bearing", fold=fold)
        assert (made.labels, made.dropped) == (dataset.labels, ())
        part_of: dict[str, str] = {}
        for part in PARTS:
            for segment in made.segments(part, dataset):
                recording = dataset.recordings[segment.recording]
                # What was measured at one time, at either end, is on one side.
                assert part_of.setdefault(recording.source.removesuffix(", fan end"), part) == part
        tested.append({path for path, part in part_of.items() if part == "test"})
        assert len(part_of) == 36
    assert len(set.union(*tested)) == sum(len(paths) for paths in tested) == 36


def test_the_fan_end_gives_every_load_a_healthy_bearing(cwru_folder: Path, refuses: Refuses) -> None:
    dataset = load_dataset(f"cwru:{cwru_folder},healthy=fan-end", where={"size": "007"})
    assert set(dataset.labels) == {"B007", "IR007", "OR007"}  # a healthy bearing has no size of fault
    dataset = load_dataset(f"cwru:{cwru_folder},healthy=fan-end")
    assert split(dataset, protocol="load").labels == TEN
    signal = scipy.io.loadmat(cwru_folder / "12k_Drive_End_B007_0_118.mat")["X118_FE_time"][:, 0]
    (found,) = [item for item in dataset.recordings if item.source.endswith("118.mat, fan end")]
    np.testing.assert_array_equal(found.signal[0], signal.astype(np.float32))
    with refuses(UsageError, got="healthy=yes", expected="drive-end or fan-end"):
        load_dataset(f"cwru:{cwru_folder},healthy=yes")


def test_a_split_by_bearing_needs_the_classes_of_that_protocol(cwru_folder: Path, refuses: Refuses) -> None:
    # Named by fault and size, every class has one bearing.
    with refuses(InputError, got="0 in all three parts", expected="at least 2 classes"):
        split(load_dataset(f"cwru:{cwru_folder}"), protocol="bearing")


def test_the_variable_is_chosen_by_the_files_number(tmp_path: Path) -> None:
    # As in 99.mat, which holds the variables of 98.mat in front of its own.
    wave = np.sin(np.arange(9000.0))
    save(tmp_path, "119.mat", X118_DE_time=wave, X119_DE_time=2 * wave, X119_FE_time=3 * wave, X119RPM=1772)
    (recording,) = load_dataset(f"cwru:{tmp_path}").recordings
    np.testing.assert_array_equal(recording.signal[0], (2 * wave).astype(np.float32))
    assert (recording.label, dict(recording.groups)) == (
        "B007",
        {"load": "1", "fault": "B", "size": "007", "bearing": "B007"},
    )


def test_files_of_other_sets_are_left_out_and_counted(tmp_path: Path) -> None:
    wave = np.sin(np.arange(9000.0))
    save(tmp_path, "118.mat", X118_DE_time=wave)
    save(tmp_path, "109.mat", X109_DE_time=wave)  # 48 kHz drive end
    save(tmp_path, "3001.mat", X056_DE_time=wave)  # 28 mil
    save(tmp_path, "100_Normal_0.mat", X100_DE_time=wave)  # synthetic look-alikes have such names
    (tmp_path / "README.md").write_text("notes")
    dataset = load_dataset(f"cwru:{tmp_path}")
    assert len(dataset.recordings) == 1
    assert dataset.notes == ("3 .mat files are not of the 12 kHz drive-end set and are left out.",)


def test_files_that_cannot_be_used(tmp_path: Path, refuses: Refuses) -> None:
    spec = f"cwru:{tmp_path}"
    with refuses(InputError, got="nowhere", expected=".mat files", also=("https://engineering.case.edu",)):
        load_dataset("cwru:nowhere")
    with refuses(InputError, got="0 other .mat files", expected="118.mat", also=("https://engineering.case.edu",)):
        load_dataset(spec)
    save(tmp_path, "118.mat", X105_DE_time=np.arange(9000.0))
    with refuses(InputError, got="X118_DE_time", expected="X105_DE_time [1, 9000]", also=("118.mat",)):
        load_dataset(spec)
    save(tmp_path, "118.mat", X118_DE_time=np.arange(9000.0))
    shutil.copy(tmp_path / "118.mat", tmp_path / "12k_Drive_End_B007_0_118.mat")
    with refuses(InputError, got="118.mat and 12k_Drive_End_B007_0_118.mat", expected="every number once"):
        load_dataset(spec)
    (tmp_path / "12k_Drive_End_B007_0_118.mat").unlink()
    whole = (tmp_path / "118.mat").read_bytes()
    (tmp_path / "118.mat").write_bytes(whole[: len(whole) // 2])
    with refuses(InputError, got="", expected="a whole MATLAB file", also=("118.mat",)):
        load_dataset(spec)
