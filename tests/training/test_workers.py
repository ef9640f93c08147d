from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from drsn_edge.errors import DrsnError, InputError
from drsn_edge.training.workers import run_jobs

JOBS = """
import os, signal, time
from pathlib import Path
from drsn_edge.errors import InputError

def work(folder, job, tell):
    kind, name = job
    mark = Path(folder) / name
    first = not mark.exists()
    mark.write_text(str(os.getpid()))
    tell(("begun", first))
    if kind == "dies" or kind == "dies once" and first:
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "leaves":
        os._exit(7)
    if kind == "refuses":
        raise InputError("the data are wrong", got="mud", expected="water", hint="drink")
    if kind == "breaks":
        {}["absent"]
    if kind == "sleeps":
        time.sleep(60)
    tell(("ended", kind))
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that a spawned process can import."""
    (tmp_path / "jobs_of_a_test.py").write_text(JOBS)
    monkeypatch.syspath_prepend(tmp_path)
    yield __import__("jobs_of_a_test").work
    __import__("sys").modules.pop("jobs_of_a_test")


def test_jobs_are_done_whatever_happens_to_others(work: Any, tmp_path: Path) -> None:
    jobs = [
        ("good", "a"), ("dies once", "b"), ("refuses", "c"), ("dies", "d"), ("breaks", "e"), ("leaves", "f"),
        ("good", "g"), ("good", "h"),
    ]  # fmt: skip
    said: list[Any] = []
    done: list[Any] = []
    failures = run_jobs(
        jobs, work, str(tmp_path), workers=2, on_message=lambda job, what: said.append((job, what)), on_done=done.append
    )
    assert sorted(done) == [("dies once", "b"), ("good", "a"), ("good", "g"), ("good", "h")]
    assert said.count((("dies once", "b"), ("begun", True))) == 1
    assert said.count((("dies once", "b"), ("begun", False))) == 1
    assert [what for job, what in said if job[1] == "d"] == [("begun", True), ("begun", False)]
    by_job = {failure.job[1]: failure.error for failure in failures}
    assert sorted(by_job) == ["c", "d", "e", "f"]
    assert isinstance(by_job["c"], InputError)
    assert (by_job["c"].got, by_job["c"].expected, by_job["c"].hint) == ("mud", "water", "drink")
    assert "SIGKILL" in str(by_job["d"])
    assert "--workers" in str(by_job["d"])
    assert "exit code 7" in str(by_job["f"])
    assert "KeyError: 'absent'" in str(by_job["e"])
    assert "jobs_of_a_test.py" in str(by_job["e"])
    assert multiprocessing.active_children() == []


def test_an_exception_here_ends_the_workers(work: Any, tmp_path: Path) -> None:
    def stop(job: Any, what: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs(
            [("sleeps", "a"), ("sleeps", "b")],
            work,
            str(tmp_path),
            workers=2,
            on_message=stop,
            on_done=lambda job: None,
        )
    assert multiprocessing.active_children() == []


def test_workers_that_cannot_begin_are_not_started_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drsn_edge.training.workers._serve", int)  # int(connection, ...) is a TypeError
    with pytest.raises(DrsnError, match=r"(?s)worker process died.*exit code 1.*lives"):
        run_jobs([1, 2], print, None, workers=2, on_message=lambda job, what: None, on_done=lambda job: None)
    assert multiprocessing.active_children() == []


def test_no_jobs_start_no_workers(tmp_path: Path) -> None:
    assert run_jobs([], print, None, workers=3, on_message=lambda job, what: None, on_done=lambda job: None) == []


@pytest.mark.parametrize(("gpus", "expected"), [(0, {"0"}), (2, {"0", "1"}), (3, {"0", "1", "2"})])
def test_workers_share_the_gpus(gpus: int, expected: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "where_i_am.py").write_text(
        "import os, time\n"
        "def work(folder, job, tell):\n"
        "    (folder / str(job)).write_text(os.environ['LOCAL_RANK'])\n"
        "    while len(list(folder.iterdir())) < 3: time.sleep(0.01)\n"  # all workers at once
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = __import__("where_i_am")
    folder = tmp_path / "places"
    folder.mkdir()
    options: Any = {"workers": 3, "gpus": gpus, "on_message": lambda job, what: None, "on_done": lambda job: None}
    assert run_jobs([0, 1, 2], module.work, folder, **options) == []
    __import__("sys").modules.pop("where_i_am")
    assert {path.read_text() for path in folder.iterdir()} == expected
