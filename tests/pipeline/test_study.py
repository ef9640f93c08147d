from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from drsn_edge.errors import InputError, MissingDependency, MissingDevice, UsageError
from drsn_edge.pipeline.study import study
from drsn_edge.pipeline.study_result import StudyResult, summarise_study
from drsn_edge.pipeline.train import train
from drsn_edge.training.study import StudyOptions

OPTIONS = StudyOptions(
    models=("resnet", "drsn-cw"), seeds=(0, 1), snrs_db=(-4.0, 4.0), epochs=2, batch=16, lr=0.05, window=64, hop=32
)
Cells = dict[str, bytes]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three tones on three machines, 1,600 samples each."""
    folder = tmp_path_factory.mktemp("tones")
    rng = np.random.default_rng(0)
    lines = ["path,label,sample_rate_hz,bearing"]
    for label, order in (("low", 3), ("middle", 9), ("high", 17)):
        for machine in ("one", "two", "three"):
            signal_ = np.sin(2 * np.pi * order * np.arange(1600) / 64) + 0.1 * rng.standard_normal(1600)
            np.save(folder / f"{label}-{machine}.npy", signal_.astype(np.float32))
            lines.append(f"{label}-{machine}.npy,{label},1000,{machine}")
    (folder / "recordings.csv").write_text("\n".join(lines) + "\n")
    return f"table:{folder / 'recordings.csv'}"


@pytest.fixture(scope="module")
def finished(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole study; tests work on copies of it."""
    out = tmp_path_factory.mktemp("study") / "whole"
    study(dataset, out=out, options=OPTIONS, workers=2)
    return out


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "out"))


def cells(out: Path) -> Cells:
    return {path.name: path.read_bytes() for path in (out / "cells").iterdir()}


def figures(out: Path) -> dict[str, Any]:
    """Everything but how long it took."""
    found = {}
    for name, content in cells(out).items():
        value = json.loads(content)
        found[name] = {key: item for key, item in value.items() if not key.endswith("seconds")}
    return found


class Watch:
    """Progress that calls a function on every epoch."""

    def __init__(self, call: Callable[[str], None] = lambda note: None) -> None:
        self.call, self.total, self.done, self.notes = call, 0, 0, list[str]()

    @contextmanager
    def step(self, title: str, total: int | None = None) -> Iterator[Watch]:
        self.total = total or 0
        yield self

    def advance(self, amount: int = 1, note: str | None = None) -> None:
        self.done += amount
        self.notes.append(note or "")
        self.call(note or "")

    def notice(self, text: str) -> None:
        pass


def test_a_whole_grid(finished: Path) -> None:
    assert sorted(cells(finished)) == [
        f"{model}.gaussian.fold0.seed{seed}.json" for model in ("drsn-cw", "resnet") for seed in (0, 1)
    ]
    assert {path.name for path in finished.iterdir()} == {"cells", "config.json", "study.json", "study.html", ".lock"}
    value = json.loads((finished / "study.json").read_text())
    assert (value["format_version"], value["planned"], len(value["cells"])) == (1, 4, 4)
    assert value["config"]["options"]["epochs"] == 2
    at = value["summary"]["conditions"][1]
    assert (at["snr_db"], at["draws"]) == (-4.0, 10 * at["windows"])
    runs = {(cell["model"], cell["seed"]): cell["scores"][1]["balanced_accuracy"] for cell in value["cells"]}
    for model in ("resnet", "drsn-cw"):
        assert at["models"][model]["balanced_accuracy"]["mean"] == pytest.approx(
            np.mean([runs[model, seed] for seed in (0, 1)])
        )
    assert at["models"]["drsn-cw"]["difference"]["mean"] == pytest.approx(
        np.mean([runs["drsn-cw", seed] - runs["resnet", seed] for seed in (0, 1)])
    )
    page = (finished / "study.html").read_text()
    assert len(re.findall("<svg", page)) == 3
    assert "://" not in page


def test_a_cell_is_what_train_makes(finished: Path, dataset: str, tmp_path: Path) -> None:
    import torch

    threads = torch.get_num_threads()
    result = train(
        dataset,
        out=tmp_path / "run",
        model="drsn-cw",
        seed=1,
        epochs=2,
        batch=16,
        lr=0.05,
        window=64,
        hop=32,
        threads=1,
    )
    assert torch.get_num_threads() == threads
    cell = json.loads((finished / "cells" / "drsn-cw.gaussian.fold0.seed1.json").read_text())
    wanted = [score for score in result.scores if score.snr_db in (None, -4.0, 4.0)]
    assert [score["confusion"] for score in cell["scores"]] == [score.to_json()["confusion"] for score in wanted]
    assert cell["temperature"] == pytest.approx(result.training.temperature)
    assert cell["best_epoch"] == result.training.best_epoch
    assert cell["windows"] == dict(result.windows)


def test_what_is_finished_is_not_made_again(out: Path, dataset: str) -> None:
    before, content = figures(out), cells(out)
    gone = "resnet.gaussian.fold0.seed1.json"
    (out / "cells" / gone).unlink()
    watch = Watch()
    result = study(dataset, out=out, options=OPTIONS, workers=2, progress=watch)
    assert figures(out) == before
    assert {name for name, now in cells(out).items() if now != content[name]} <= {gone}
    assert watch.total == watch.done == 2
    assert watch.notes[-1] == "4 of 4 cells, resnet.gaussian.fold0.seed1"
    assert len(result.cells) == 4
    # Nothing is left to do: no process is started, the results are written all the same.
    (out / "study.json").unlink()
    study(dataset, out=out, options=OPTIONS, progress=Watch(lambda note: pytest.fail("something was trained")))
    assert (out / "study.json").is_file()


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_nothing(out: Path, dataset: str) -> None:
    before = figures(out)
    for name in ("resnet.gaussian.fold0.seed1.json", "drsn-cw.gaussian.fold0.seed1.json"):
        (out / "cells" / name).unlink()
    killed: list[int] = []

    def kill(note: str) -> None:
        if not killed and "2 of 4" in note:
            worker = multiprocessing.active_children()[0]
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGKILL)
            killed.append(worker.pid)

    watch = Watch(kill)
    study(dataset, out=out, options=OPTIONS, workers=1, progress=watch)
    assert killed
    assert figures(out) == before
    assert watch.done == watch.total == 4
    assert not (out / "work").exists()


@pytest.mark.slow
def test_a_study_that_is_killed_goes_on(finished: Path, dataset: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = dataclasses.replace(OPTIONS, models=("resnet",))
    arguments = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    code = (
        "from pathlib import Path\nfrom drsn_edge.pipeline.study import study\n"
        "from drsn_edge.training.study import StudyOptions\n"
        "if __name__ == '__main__':\n"
        f"    study({dataset!r}, out=Path({str(out)!r}), options=StudyOptions(**{arguments!r}), workers=1)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    process = subprocess.Popen([sys.executable, str(script)])
    deadline = time.monotonic() + 120
    while not (out / "work").is_dir() and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    with pytest.raises(UsageError, match=r"(?s)another study is running.*out"):
        study(dataset, out=out, options=options)
    process.kill()
    process.wait()
    # The worker ends by itself: nothing in the folder changes any more.
    time.sleep(1.0)
    left = cells(out)
    assert all(json.loads(content)["scores"] for content in left.values())
    study(dataset, out=out, options=options, workers=1)
    assert figures(out) == {name: item for name, item in figures(finished).items() if name.startswith("resnet")}
    assert {name: content for name, content in cells(out).items() if name in left} == left


def test_another_configuration_is_refused_and_named(out: Path, dataset: str, tmp_path: Path) -> None:
    before = cells(out)
    changes: list[tuple[dict[str, Any], str]] = [
        ({"epochs": 3}, "epochs = 3\n.*expected: epochs = 2"),
        ({"lr": 0.1, "batch": 8}, "batch = 8; lr = 0.1\n.*batch = 16; lr = 0.05"),
        ({"snrs_db": (0.0,)}, r"snrs_db = \[0\]\n.*\[-4, 4\]"),
        ({"train_snr_db": None}, r"train_snr_db = None\n.*\[-6, 10\]"),
        ({"noise_once": True}, "noise_once = True\n.*noise_once = None"),
        ({"draws": 11}, "draws = 11\n.*draws = 10"),
        ({"preset": "edge"}, "preset = edge\n.*preset = paper"),
        ({"protocol": "bearing"}, "protocol = bearing\n.*protocol = time"),
        ({"hop": 16}, "contract = .*16.*\n.*contract = .*32"),
    ]
    for change, words in changes:
        with pytest.raises(UsageError, match=f"(?s)another configuration.*{words}.*another --out"):
            study(dataset, out=out, options=dataclasses.replace(OPTIONS, **change))
    with pytest.raises(UsageError, match=r"(?s)recordings = 3, sha256.*recordings = 9, sha256"):
        study(dataset, out=out, options=OPTIONS, where={"bearing": "one"})
    assert cells(out) == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"(?s)something else than a study.*other"):
        study(dataset, out=tmp_path / "other", options=OPTIONS)
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["mine.txt"]


@pytest.mark.slow
def test_the_grid_may_grow(out: Path, dataset: str) -> None:
    before = cells(out)
    smaller = dataclasses.replace(OPTIONS, models=("drsn-cw",), seeds=(0,), noises=("pink",))
    result = study(dataset, out=out, options=smaller, workers=1)
    assert {name: content for name, content in cells(out).items() if name in before} == before
    assert result.planned == 1
    assert {(cell.model, cell.noise) for cell in result.cells} == {
        ("resnet", "gaussian"), ("drsn-cw", "gaussian"), ("drsn-cw", "pink"),
    }  # fmt: skip


def test_a_dry_run_checks_and_writes_nothing(dataset: str, tmp_path: Path, out: Path) -> None:
    planned = dataclasses.replace(OPTIONS, protocol="bearing", folds=None, epochs=None)
    result = study(dataset, out=tmp_path / "none", options=planned, dry_run=True)
    assert not (tmp_path / "none").exists()
    assert result.planned == 3 * 2 * 2
    assert result.config["options"]["folds"] == [0, 1, 2]
    assert result.config["options"]["epochs"] > 10
    assert result.summary is None
    assert any("12 of 12 cells" in note for note in result.notes)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = study(dataset, out=out, options=OPTIONS, dry_run=True)
    assert any("0 of 4 cells" in note for note in again.notes)
    assert again.summary is not None
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    json.dumps(again.to_json(), allow_nan=False)
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"protocol": "sometimes"}, UsageError, "sometimes.*time"),
        ({"folds": (1,)}, UsageError, "no such fold.*1.*0"),
        ({"window": 100_000}, InputError, "too short|shorter"),
        ({"lr": 0.0}, UsageError, "learning rate.*0.0.*positive"),
    ]
    for change, kind, words in cases:
        with pytest.raises(kind, match=f"(?s){words}"):
            study(dataset, out=tmp_path / "none", options=dataclasses.replace(OPTIONS, **change), dry_run=True)
    with pytest.raises(UsageError, match=r"(?s)workers.*0.*at least 1"):
        study(dataset, out=tmp_path / "none", options=OPTIONS, workers=0)
    assert not (tmp_path / "none").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_where_cells_are_made(dataset: str, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingDevice, match=r"(?s)finds no GPU.*--device cuda.*--device cpu"):
        study(dataset, out=tmp_path / "none", options=OPTIONS, device="cuda", dry_run=True)
    with pytest.raises(UsageError, match=r"(?s)tpu.*auto, cpu, cuda"):
        study(dataset, out=tmp_path / "none", options=OPTIONS, device="tpu", dry_run=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    given: dict[str, Any] = {}

    class Enough(Exception):
        pass

    def jobs(*arguments: Any, **options: Any) -> None:
        given.update(options)
        raise Enough

    monkeypatch.setattr("drsn_edge.pipeline.study.run_jobs", jobs)
    with pytest.raises(Enough):
        study(dataset, out=tmp_path / "gpu", options=OPTIONS)
    assert json.loads((tmp_path / "gpu" / "config.json").read_text())["identity"]["device"] == "cuda"
    assert (given["workers"], given["gpus"]) == (4, 4)
    with pytest.raises(UsageError, match=r"(?s)another configuration.*device = cuda.*device = None"):
        study(dataset, out=out, options=OPTIONS, dry_run=True)
    assert "device" not in study(dataset, out=out, options=OPTIONS, device="cpu", dry_run=True).config["identity"]


def test_cells_that_fail_are_named_and_the_others_kept(dataset: str, tmp_path: Path) -> None:
    wild = dataclasses.replace(OPTIONS, lr=1e30, models=("resnet",), seeds=(0, 1))
    with pytest.raises(UsageError, match=r"(?s)2 of 2 cells could not.*resnet.gaussian.fold0.seed0.*diverged.*--lr"):
        study(dataset, out=tmp_path / "out", options=wild, workers=1)
    assert list((tmp_path / "out" / "cells").iterdir()) == []


def test_summarising_needs_neither_torch_nor_data(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: (out / name).read_bytes() for name in ("study.json", "study.html")}
    for name in before:
        (out / name).unlink()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch", None)
        patch.setattr("drsn_edge.pipeline.study.load_dataset", lambda *args, **options: pytest.fail("loaded"))
        result = summarise_study(out)
        again: StudyResult = summarise_study(out, confusion=(-4.0,))
    assert result.summary is not None
    assert again.summary is not None
    assert {item.snr_db for item in result.summary.confusion} == {None}
    assert {item.snr_db for item in again.summary.confusion} == {-4.0}
    summarise_study(out)
    now = json.loads((out / "study.json").read_text())
    then = json.loads(before["study.json"])
    assert now["summary"] == then["summary"]
    assert now["cells"] == then["cells"]


def test_what_cannot_be_summarised(out: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)configuration of the study is not there.*absent"):
        summarise_study(tmp_path / "absent")
    for path in (out / "cells").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"(?s)no finished cell.*cells.*at least one"):
        summarise_study(out)
    (out / "config.json").write_text('{"format_version": 9}')
    with pytest.raises(InputError, match=r"(?s)another format version.*9.*1"):
        summarise_study(out)


def test_without_matplotlib_the_page_is_left_out(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (out / "study.html").unlink()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = summarise_study(out)
    assert not (out / "study.html").exists()
    assert any("study.html was not written" in note and "drsn-edge[report]" in note for note in result.notes)


def test_without_torch(dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependency, match=r"(?s)training needs the package torch.*drsn-edge\[host\]"):
        study(dataset, out=tmp_path / "out", options=OPTIONS)
