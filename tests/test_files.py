"""Files are whole or absent, whatever happens in between."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drsn_edge import files
from drsn_edge.errors import InputError, UsageError
from drsn_edge.files import (
    check_output,
    dump_json,
    new_folder,
    read_json,
    replace_folder,
    sha256_bytes,
    sha256_file,
    write_bytes,
    write_json,
)

scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(max_size=8)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and not math.isfinite(one):
        return other is None
    return bool(one == other)


def no_constants(name: str) -> Any:
    raise AssertionError(f"{name} is no JSON")


@given(values)
def test_json_can_be_read_by_a_strict_reader_and_says_the_same(value: Any) -> None:
    assert same(value, json.loads(dump_json(value), parse_constant=no_constants))


@given(st.dictionaries(st.text(max_size=5), st.integers(), max_size=6))
def test_json_does_not_depend_on_the_order_of_keys(value: dict[str, int]) -> None:
    assert dump_json(value) == dump_json(dict(reversed(value.items())))


def test_json_of_numpy_values_is_that_of_plain_ones() -> None:
    numpy = {
        "a": np.float32(0.5), "b": np.arange(3), "c": np.array([1.0, np.nan, np.inf]), "d": np.bool_(True),
        "e": (np.int64(3), [np.array(2.5)]), 1: "key",
    }  # fmt: skip
    plain = {"a": 0.5, "b": [0, 1, 2], "c": [1.0, None, None], "d": True, "e": [3, [2.5]], "1": "key"}
    assert dump_json(numpy) == dump_json(plain)
    assert dump_json({"unit": "µm"}).endswith('"unit": "µm"\n}\n')


def test_json_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(TypeError):
        dump_json({"x": object()})


def test_read_json_names_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(InputError, match=r"the plan is not there[\s\S]*x.json"):
        read_json(path, what="the plan")
    for content, named in ((b"{", "line 1"), (b"\xff\xfe", "x.json"), (b"[1]", "list"), (b"[" * 100_000, "x.json")):
        path.write_bytes(content)
        with pytest.raises(InputError, match=named) as caught:
            read_json(path)
        assert caught.value.expected == "a JSON object"
    with pytest.raises(InputError, match="cannot be read"):
        read_json(tmp_path)
    write_json(path, {"a": [1]})
    assert read_json(path) == {"a": [1]}


def test_hashes_are_sha256(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000  # more than one piece
    (tmp_path / "x").write_bytes(data)
    assert sha256_file(tmp_path / "x") == sha256_bytes(data) == hashlib.sha256(data).hexdigest()
    # FIPS 180-2, appendix B.1
    assert sha256_bytes(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_write_bytes_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.bin"
    for data in (b"old", b"", b"new" * 1000):
        write_bytes(path, data)
        assert path.read_bytes() == data
    assert [item.name for item in path.parent.iterdir()] == ["x.bin"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.bin"
    write_bytes(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_check_output(tmp_path: Path) -> None:
    check_output(tmp_path / "free", force=False)
    for path in (tmp_path / "file", tmp_path / "link"):
        path.write_text("x") if path.name == "file" else path.symlink_to(tmp_path / "nowhere")
        with pytest.raises(UsageError) as caught:
            check_output(path, force=False)
        assert caught.value.got == str(path)
        assert caught.value.hint is not None
        assert "--force" in caught.value.hint
        check_output(path, force=True)


@pytest.mark.parametrize("name", [".", "..", "../.."])
def test_the_current_folder_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    work = tmp_path / "home" / "project" / "inner"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    with pytest.raises(UsageError, match="current folder") as caught, new_folder(Path(name), force=True):
        pytest.fail("must not be entered")
    assert caught.value.got == name
    assert work.is_dir()


@pytest.mark.parametrize("there", ["nothing", "folder", "file", "link", "dangling"])
def test_a_new_folder_appears_whole(tmp_path: Path, there: str) -> None:
    path, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    if there == "folder":
        (path / "inner").mkdir(parents=True)
    elif there == "file":
        path.write_text("old")
    elif there in ("link", "dangling"):
        path.symlink_to(elsewhere)
        if there == "link":
            elsewhere.mkdir()
            (elsewhere / "kept").write_text("kept")
    with new_folder(path, force=True) as work:
        (work / "new").write_text("new")
        assert work.parent == path.parent
        assert not (path / "new").exists()
    assert [item.name for item in path.iterdir()] == ["new"]
    assert not path.is_symlink()
    left = {item.name for item in tmp_path.iterdir()} - {"out", "elsewhere"}
    assert left == set(), "no temporary folder stays"
    if there == "link":
        assert (elsewhere / "kept").read_text() == "kept", "what a link pointed at is not touched"


@pytest.mark.parametrize("atomic", [True, False])
def test_an_exception_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, atomic: bool) -> None:
    if not atomic:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    path = tmp_path / "out"
    path.mkdir()
    (path / "old").write_text("old")

    def stopped(error: type[BaseException]) -> None:
        with new_folder(path, force=True) as work:
            (work / "half").write_text("half")
            raise error

    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error):
            stopped(error)
    assert [item.name for item in tmp_path.iterdir()] == ["out"]
    assert [item.name for item in path.iterdir()] == ["old"]
    with new_folder(path, force=True) as work:
        (work / "new").write_text("new")
    assert [item.name for item in tmp_path.iterdir()] == ["out"]
    assert [item.name for item in path.iterdir()] == ["new"]


def test_without_an_exchange_a_failed_rename_puts_the_old_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    with pytest.raises(FileNotFoundError):
        replace_folder(tmp_path / "absent", tmp_path / "out")
    assert (tmp_path / "out" / "old").read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["out"]


def test_without_force_an_existing_folder_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists already"), new_folder(tmp_path / "..", force=False):
        pytest.fail("must not be entered")


def test_a_folder_that_appeared_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out"

    def overtaken() -> None:
        with new_folder(path) as work:
            (work / "mine").write_text("mine")
            path.mkdir()
            (path / "theirs").write_text("theirs")

    with pytest.raises(UsageError, match="exists already"):
        overtaken()
    assert [item.name for item in path.iterdir()] == ["theirs"]
    assert [item.name for item in tmp_path.iterdir()] == ["out"]


WRITER = """
import sys
from pathlib import Path
from drsn_edge.files import new_folder, write_bytes
kind, target = sys.argv[1], Path(sys.argv[2])
number = 0
while True:
    number += 1
    if kind == "file":
        write_bytes(target, (b"%08d" % number) * 1_000_000)
    else:
        with new_folder(target, force=True) as work:
            for index in range(20):
                (work / str(index)).write_text(str(number))
    if number == 1:
        print("ready", flush=True)
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_kill_9_leaves_the_old_or_the_new_and_never_a_half(tmp_path: Path, kind: str) -> None:
    seeded = random.Random(7)
    for attempt in range(10):
        target = tmp_path / f"{kind}{attempt}" / "out"
        target.parent.mkdir()
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, kind, str(target)], stdout=subprocess.PIPE, text=True,
            cwd=Path(__file__).parents[1],
        ) as process:  # fmt: skip
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(seeded.uniform(0.0, 0.05))
            os.kill(process.pid, signal.SIGKILL)
        if kind == "file":
            data = target.read_bytes()
            assert data == data[:8] * 1_000_000
        else:
            contents = {item.name: item.read_text() for item in target.iterdir()}
            assert set(contents) == set(map(str, range(20)))
            assert len(set(contents.values())) == 1, "all files of one writing"


# --- what killed processes leave

_HOLDS = """
import sys, time
from pathlib import Path
from drsn_edge.files import new_folder, work_folder

with new_folder(Path(sys.argv[1])) as work, work_folder(work) as inner:
    (inner / "half").write_text("half")
    print("there", flush=True)
    time.sleep(600)
"""


def hidden(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir() if item.name.startswith("."))


def test_the_next_run_removes_what_a_killed_one_left_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "a b.drsn"
    strangers = [".a b.drsn.mine.tmp", ".other.drsn.abcdefgh.tmp", ".a b.drsn.abcdefgh.tmp.d", ".a b.drsn.ABCDEFGH.tmp"]
    for name in strangers:
        (tmp_path / name).write_text("x")
    (tmp_path / ".a b.drsn.linklink.tmp").symlink_to(tmp_path / strangers[0])
    child = subprocess.Popen([sys.executable, "-c", _HOLDS, str(out)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "there\n"
    left = set(hidden(tmp_path))
    assert len(left) == len(strangers) + 1 + 4, "a lock and a folder for each of two"
    with new_folder(tmp_path / "a b.drsn") as work:
        assert left <= set(hidden(tmp_path)), "its process is alive: what it works in stays"
        (work / "whole").write_text("whole")
    assert left <= set(hidden(tmp_path))
    child.kill()
    child.wait()
    child.stdout.close()
    with new_folder(out, force=True) as work:
        (work / "whole").write_text("again")
        assert len(hidden(tmp_path)) == len(strangers) + 1 + 2
    assert hidden(tmp_path) == sorted([*strangers, ".a b.drsn.linklink.tmp"])
    assert (out / "whole").read_text() == "again"


def test_the_next_write_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    (tmp_path / ".plan.abcdefgh.tmp").write_bytes(b"half of")
    write_bytes(tmp_path / "plan", b"whole")
    assert [item.name for item in tmp_path.iterdir()] == ["plan"]
