"""The error tree is the one that its module draws, and messages have their four parts."""

from __future__ import annotations

import importlib
import inspect
import json
import pickle
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from drsn_edge import errors, extras
from drsn_edge.errors import DrsnError, InputError, MissingDependency
from drsn_edge.extras import EXTRAS, available, install_hint, require


def drawn() -> dict[str, tuple[str | None, int]]:
    """Name -> (parent, exit code) as the module's docstring draws them."""
    found: dict[str, tuple[str | None, int]] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^ {4}([│├└─ ]*)(\w+) +(\d)\b", line)
        if match:
            depth = len(match[1]) // 4
            above[depth:] = [match[2]]
            found[match[2]] = (above[depth - 1] if depth else None, int(match[3]))
    return found


def classes() -> dict[str, type[DrsnError]]:
    return {
        name: value for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, DrsnError)
    }


def test_tree_and_exit_codes_are_as_drawn() -> None:
    tree = drawn()
    assert set(tree) == set(classes()) == set(errors.__all__)
    for name, (parent, code) in tree.items():
        cls = classes()[name]
        assert cls.exit_code == code, name
        assert cls.__bases__ == ((Exception,) if parent is None else (classes()[parent],)), name


def test_each_number_that_a_user_can_see_has_one_branch() -> None:
    """A code must not mean two things: every class of a code is under the first class of it."""
    top: dict[int, type[DrsnError]] = {}
    for cls in classes().values():
        first = top.setdefault(cls.exit_code, cls)
        assert issubclass(cls, first) or issubclass(first, cls), (cls, first)
    assert sorted(top) == [1, 2, 3, 4, 5, 6]


def test_a_message_has_its_four_parts_in_order() -> None:
    error = InputError("the window is short", got=3, expected="at least 4", hint="give more samples")
    assert str(error).splitlines() == [
        "the window is short",
        "  got:      3",
        "  expected: at least 4",
        "  to do:    give more samples",
    ]
    assert (error.what, error.got, error.expected, error.hint) == (
        "the window is short", "3", "at least 4", "give more samples",
    )  # fmt: skip


def test_absent_parts_leave_no_empty_lines_and_false_values_are_kept() -> None:
    assert str(DrsnError("all is lost")) == "all is lost"
    assert str(InputError("no windows", got=0)) == "no windows\n  got:      0"
    assert "got:      \n" in str(InputError("no name", got="", expected="a name"))


def test_json_has_type_code_and_parts() -> None:
    value = errors.HashMismatch("x", got=Path("a"), expected=None, hint="h").to_json()
    assert json.loads(json.dumps(value)) == {
        "error": "HashMismatch", "exit_code": 4, "what": "x", "got": "a", "expected": None, "hint": "h",
    }  # fmt: skip


def test_an_error_survives_another_process() -> None:
    error = pickle.loads(pickle.dumps(InputError("x", got=1, expected=2, hint="h")))
    assert (type(error), str(error)) == (InputError, str(InputError("x", got=1, expected=2, hint="h")))


def test_every_extra_of_the_table_is_in_pyproject() -> None:
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    section = text.split("[project.optional-dependencies]")[1].split("\n[project")[0]
    declared = set(re.findall(r"^(\w+) = \[", section, flags=re.MULTILINE))
    assert set(EXTRAS.values()) <= declared
    for extra in EXTRAS.values():
        assert f"drsn-edge[{extra}]" in install_hint(extra)


def test_require_gives_the_first_module() -> None:
    assert require("json", "json.decoder", purpose="testing") is json
    assert require("json.decoder", purpose="testing") is importlib.import_module("json.decoder")
    with pytest.raises(ValueError, match="at least one"):
        require(purpose="testing")


def test_an_absent_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(extras.EXTRAS, "no_such_package", "host")
    with pytest.raises(MissingDependency) as caught:
        require("no_such_package.part", purpose="exporting")
    assert caught.value.what == "exporting needs the package no_such_package"
    assert caught.value.got == "no_such_package is not installed"
    assert caught.value.hint == "pip install 'drsn-edge[host]'"
    assert caught.value.exit_code == 3
    assert not available("no_such_package")
    assert available("json")


@pytest.mark.parametrize(
    "body", ["import no_such_dependency", "raise ImportError('libx.so.3: cannot open')", "raise OSError('libx.so.3')"]
)
def test_a_broken_package_is_not_reported_as_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    (tmp_path / "broken_package.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingDependency) as caught:
        require("broken_package", purpose="reading sound")
    assert caught.value.got is not None
    assert "cannot be imported" in caught.value.got
    assert "no_such_dependency" in caught.value.got or "libx.so.3" in caught.value.got
    assert available("broken_package")


def test_available_survives_a_module_without_a_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "half_made", ModuleType("half_made"))
    assert not available("half_made")
