"""`python -m benchmarks`: one after the other, past those that cannot run here."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks import __main__ as everything


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Exit codes of benchmarks, by name; each call is noted in turn."""
    codes: dict[str, int] = {}

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        name = command[2].removeprefix("benchmarks.")
        return subprocess.CompletedProcess(command, codes.get(name, 0))

    monkeypatch.setattr(subprocess, "run", run)
    return codes


def test_those_that_need_arguments_or_a_gpu_are_passed_over(
    answers: dict[str, int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers |= {"int8_quality": 2, "gpu": 3}
    monkeypatch.setattr(sys, "argv", ["benchmarks"])
    assert everything.main() == 0
    said = capsys.readouterr().out
    assert "int8_quality: not measured, it needs arguments: python -m benchmarks.int8_quality --help" in said
    assert "gpu: not measured, see above" in said
    assert "== verify_cost" in said


@pytest.mark.parametrize(("code", "names"), [(1, []), (2, ["startup"]), (1, ["kill", "startup"])])
def test_one_that_fails_ends_it(
    code: int, names: list[str], answers: dict[str, int], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    answers["startup"] = code
    monkeypatch.setattr(sys, "argv", ["benchmarks", *names])
    assert everything.main() == code
    assert capsys.readouterr().out.splitlines()[-1] == "== startup"


def test_an_unknown_name_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "speed"])
    assert everything.main() == 2
    assert "there is no benchmark speed; there are calibration_cost" in capsys.readouterr().err
