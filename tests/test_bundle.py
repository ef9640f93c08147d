"""A bundle on disk: damage, mix-ups, names that leave the folder, and being killed half-way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drsn_edge.bundle import (
    MANIFEST,
    ROLES,
    Bundle,
    FileEntry,
    NewFile,
    check_bundle_output,
    fill_folder,
    graph_name,
    write_bundle,
)
from drsn_edge.errors import HashMismatch, InputError, UsageError
from drsn_edge.files import dump_json, sha256_bytes
from drsn_edge.manifest import safe_name
from drsn_edge.signals.contract import SignalContract

CONTRACT = SignalContract(sample_rate_hz=12_000.0, window=2048)
MANIFEST_JSON: dict[str, Any] = {
    "model": {"source": "test", "network": None, "units": ["units.0", "units.1"], "weights_sha256": "0" * 64},
    "contract": CONTRACT.to_json(),
    "labels": ["healthy", "inner race"],
    "tolerances": {"gate": {}},
    "provenance": {"training": None},
}
FILES = {
    "model.fp32.onnx": NewFile(b"single", "graph"),
    "model.int8.onnx": NewFile(b"eight", "graph"),
    "golden.npz": NewFile(b"gold", "golden"),
    "calibration.json": NewFile(b'{"a": [1, 2.5]}', "calibration"),
    "engines/rtx-1.7-sm86-fp16/model.fp16.engine": NewFile(b"plan", "engine"),
    "engines/rtx-1.7-sm86-fp16/engine.json": NewFile(b"{}", "engine-info"),
}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_bundle(tmp_path / "a.drsn", MANIFEST_JSON, FILES)


def tree(path: Path) -> dict[str, bytes]:
    return {str(item.relative_to(path)): item.read_bytes() for item in path.rglob("*") if item.is_file()}


def manifest_with(bundle: Bundle, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite the manifest in place."""
    value = json.loads((bundle.path / MANIFEST).read_bytes())
    change(value)
    (bundle.path / MANIFEST).write_text(json.dumps(value))


def test_round_trip(bundle: Bundle) -> None:
    again = Bundle.open(bundle.path)
    again.check()
    assert {name: again.read(name) for name in again.files} == {name: item.data for name, item in FILES.items()}
    assert again.files["golden.npz"] == FileEntry(sha256_bytes(b"gold"), 4, "golden")
    assert again.contract == CONTRACT
    assert again.labels == ("healthy", "inner race")
    assert again.units == ("units.0", "units.1")
    assert again.precisions == ("fp32", "int8")
    assert again.engines() == {"rtx-1.7-sm86-fp16": "engines/rtx-1.7-sm86-fp16/model.fp16.engine"}
    assert again.read_json("calibration.json") == {"a": [1, 2.5]}
    assert again.file("golden.npz") == bundle.path / "golden.npz"
    assert {key: again.manifest[key] for key in MANIFEST_JSON} == MANIFEST_JSON
    assert again.digest == sha256_bytes((bundle.path / MANIFEST).read_bytes())


def test_equal_bundles_have_equal_digests(tmp_path: Path, bundle: Bundle) -> None:
    other = write_bundle(tmp_path / "b.drsn", dict(reversed(MANIFEST_JSON.items())), dict(reversed(FILES.items())))
    assert other.digest == bundle.digest


def test_graph_names() -> None:
    assert graph_name("int8-fp32") == "model.int8-fp32.onnx"
    assert graph_name("fp16", probe=True) == "model.fp16.probe.onnx"


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "empty"])
def test_damaged_files_are_refused(bundle: Bundle, name: str, damage: str) -> None:
    path = bundle.path / name
    good = path.read_bytes()
    bad = {"flip": bytes([good[0] ^ 1]) + good[1:], "cut": good[:-1], "grow": good + b"\0", "empty": b""}[damage]
    path.write_bytes(bad)
    for read in (bundle.file, bundle.read, lambda _: bundle.check()):
        with pytest.raises(HashMismatch, match="not the file that the manifest lists") as caught:
            read(name)
        assert str(path) in str(caught.value.got)
        assert str(caught.value.expected) == f"sha256 {sha256_bytes(good)}, {len(good)} bytes"
        found = sha256_bytes(bad) if damage == "flip" else f"{len(bad)} bytes"
        assert found in str(caught.value.got)


def test_swapped_files_are_refused(bundle: Bundle) -> None:
    one, two = (bundle.path / name for name in ("model.fp32.onnx", "model.int8.onnx"))
    one.write_bytes(b"eight")
    two.write_bytes(b"single")
    for name in ("model.fp32.onnx", "model.int8.onnx"):
        with pytest.raises(HashMismatch):
            bundle.read(name)


def test_a_missing_file_is_named(bundle: Bundle) -> None:
    (bundle.path / "golden.npz").unlink()
    for read in (bundle.file, bundle.read, lambda _: bundle.check()):
        with pytest.raises(InputError, match="a file of the bundle is absent") as caught:
            read("golden.npz")
        assert caught.value.got == str(bundle.path / "golden.npz")


def test_a_folder_in_the_place_of_a_file_is_refused(bundle: Bundle) -> None:
    (bundle.path / "golden.npz").unlink()
    (bundle.path / "golden.npz").mkdir()
    with pytest.raises(InputError, match="absent"):
        bundle.read("golden.npz")


def test_a_name_that_is_not_listed_is_refused(bundle: Bundle) -> None:
    (bundle.path / "stray.onnx").write_bytes(b"x")
    for read in (bundle.file, bundle.read, bundle.read_json):
        with pytest.raises(InputError, match=r"the bundle has no stray\.onnx") as caught:
            read("stray.onnx")
        assert "golden.npz" in str(caught.value.expected)


def test_links_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"gold")  # even with the right bytes
    (bundle.path / "golden.npz").unlink()
    (bundle.path / "golden.npz").symlink_to(outside)
    shutil.move(bundle.path / "engines", tmp_path / "engines")
    (bundle.path / "engines").symlink_to(tmp_path / "engines")
    for name, link in (("golden.npz", "golden.npz"), ("engines/rtx-1.7-sm86-fp16/engine.json", "engines")):
        for read in (bundle.file, bundle.read):
            with pytest.raises(InputError, match="is a link") as caught:
                read(name)
            assert caught.value.got == str(bundle.path / link)
            assert caught.value.expected == "the file itself"
    with pytest.raises(InputError, match="is a link"):
        bundle.update({"engines/rtx/model.fp32.engine": NewFile(b"x", "engine")})
    assert not (tmp_path / "engines" / "rtx").exists()


def test_a_pinned_digest(bundle: Bundle) -> None:
    assert Bundle.open(bundle.path, expect_digest=bundle.digest.upper()).digest == bundle.digest
    manifest_with(bundle, lambda value: value["labels"].reverse())
    Bundle.open(bundle.path)
    with pytest.raises(HashMismatch, match="not the one that was pinned") as caught:
        Bundle.open(bundle.path, expect_digest=bundle.digest)
    assert caught.value.expected == bundle.digest
    assert sha256_bytes((bundle.path / MANIFEST).read_bytes()) in str(caught.value.got)
    with pytest.raises(HashMismatch):
        Bundle.open(bundle.path, expect_digest="")


BAD_NAMES = (
    "../x", "a/../../x", "/etc/passwd", "a//b", "./a", "a/.", "", "a\\b", "a\0b", "..", ".", "a/", MANIFEST,
)  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_leave_the_folder_are_refused(bundle: Bundle, tmp_path: Path, name: str) -> None:
    before = tree(tmp_path)
    for attempt in (
        lambda: safe_name(name),
        lambda: bundle.update({name: NewFile(b"x", "graph")}),
        lambda: write_bundle(tmp_path / "new.drsn", MANIFEST_JSON, {name: NewFile(b"x", "graph")}),
    ):
        with pytest.raises(InputError) as caught:
            attempt()
        assert caught.value.got == repr(name)
        assert caught.value.expected
    assert tree(tmp_path) == before
    manifest_with(bundle, lambda value: value["files"].update({name: value["files"]["golden.npz"]}))
    with pytest.raises(InputError) as caught:
        Bundle.open(bundle.path)
    assert caught.value.got == repr(name)


@given(st.text(alphabet="ab./\\\0é ", max_size=12))
def test_a_name_that_passes_stays_in_the_folder(name: str) -> None:
    try:
        path = safe_name(name)
    except InputError:
        return
    folder = Path("/bundle")
    assert os.path.normpath(folder / path) == str(folder / name)
    assert folder in (folder / path).parents


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_format_is_refused(bundle: Bundle, version: Any) -> None:
    manifest_with(bundle, lambda value: value.update(format_version=version))
    with pytest.raises(InputError, match="another format version") as caught:
        Bundle.open(bundle.path)
    assert caught.value.got == (None if version is None else str(version))
    assert caught.value.expected == "1"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", '"x"', "{}", '{"a": 1}', "[" * 100_000, "\xff", '{"format_version": 1}']
)
def test_what_is_no_manifest_is_refused(bundle: Bundle, text: str) -> None:
    (bundle.path / MANIFEST).write_bytes(text.encode("latin1"))
    with pytest.raises(InputError) as caught:
        Bundle.open(bundle.path)
    assert caught.value.got
    assert caught.value.expected


@pytest.mark.parametrize("key", [*MANIFEST_JSON, "files"])
@pytest.mark.parametrize("value", [None, 3, "x"])
def test_a_field_of_the_wrong_kind_is_refused(bundle: Bundle, key: str, value: Any) -> None:
    manifest_with(bundle, lambda manifest: manifest.update({key: value}))
    with pytest.raises(InputError, match=f"no usable {key}") as caught:
        Bundle.open(bundle.path)
    assert caught.value.got == type(value).__name__
    assert caught.value.expected in ("dict", "list")


def test_units_must_be_named(bundle: Bundle) -> None:
    manifest_with(bundle, lambda manifest: manifest["model"].pop("units"))
    with pytest.raises(InputError, match="names no units") as caught:
        Bundle.open(bundle.path)
    assert "weights_sha256" in str(caught.value.got)


@pytest.mark.parametrize(
    "entry",
    [None, {}, {"size": -1}, {"size": "4"}, {"size": True}, {"sha256": "0"}, {"sha256": "g" * 64}, {"sha256": 3},
     {"role": "virus"}, {"role": None}],
)  # fmt: skip
def test_unusable_entries_are_refused(bundle: Bundle, entry: Any) -> None:
    def change(manifest: dict[str, Any]) -> None:
        old = manifest["files"]["golden.npz"]
        manifest["files"]["golden.npz"] = None if entry is None else {} if entry == {} else old | entry

    manifest_with(bundle, change)
    with pytest.raises(InputError, match=r"entry for golden\.npz is unusable") as caught:
        Bundle.open(bundle.path)
    assert ROLES[0] in str(caught.value.expected)


def test_a_manifest_that_is_too_large_is_not_read(bundle: Bundle) -> None:
    with (bundle.path / MANIFEST).open("wb") as handle:
        handle.truncate(17 << 20)
    with pytest.raises(InputError, match="too large") as caught:
        Bundle.open(bundle.path)
    assert caught.value.got == str(17 << 20)


def test_an_unknown_role_is_not_written(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown role") as caught:
        bundle.update({"x": NewFile(b"", "virus")})
    assert caught.value.got == "virus"
    assert "graph" in str(caught.value.expected)


@pytest.mark.parametrize("path", ["absent.drsn", "."])
def test_what_is_no_bundle_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(InputError, match="this is no bundle") as caught:
        Bundle.open(tmp_path / path)
    assert caught.value.got == str(tmp_path / path)
    assert "drsn-edge export" in str(caught.value.hint)


@pytest.mark.parametrize("data", [b"[1]", b"{", b"\xff", b"3"])
def test_json_that_is_none_is_refused(bundle: Bundle, data: bytes) -> None:
    changed = bundle.update({"calibration.json": NewFile(data, "calibration")})
    with pytest.raises(InputError, match=r"calibration\.json") as caught:
        changed.read_json("calibration.json")
    assert caught.value.expected == "a JSON object"


def test_update_adds(bundle: Bundle) -> None:
    before = tree(bundle.path)
    new = bundle.update(
        {"engines/k/model.int8.engine": NewFile(b"p2", "engine"), "report.html": NewFile(b"r", "report")}
    )
    new.check()
    assert set(new.engines()) == {"rtx-1.7-sm86-fp16", "k"}
    assert new.read("report.html") == b"r"
    after = tree(new.path)
    assert {name: data for name, data in after.items() if name in before and name != MANIFEST} == {
        name: data for name, data in before.items() if name != MANIFEST
    }
    assert {key: new.manifest[key] for key in MANIFEST_JSON} == MANIFEST_JSON


def test_update_replaces_and_removes(bundle: Bundle, tmp_path: Path) -> None:
    (bundle.path / "notes.txt").write_text("of the user")
    new = bundle.update({"golden.npz": NewFile(b"silver!", "golden")}, remove=("model.int8.onnx",))
    new.check()
    assert new.read("golden.npz") == b"silver!"
    assert new.files["golden.npz"].size == 7
    assert "model.int8.onnx" not in new.files
    assert not (new.path / "model.int8.onnx").exists()
    assert (new.path / "notes.txt").read_text() == "of the user"
    assert new.precisions == ("fp32",)
    assert [item.name for item in tmp_path.iterdir()] == ["a.drsn"], "something was left beside it"


def test_update_of_a_bundle_that_somebody_changed_is_refused(bundle: Bundle) -> None:
    other = Bundle.open(bundle.path)
    newer = other.update({"report.html": NewFile(b"theirs", "report")})
    for files in ({"report.json": NewFile(b"mine", "report")}, {"golden.npz": NewFile(b"mine", "golden")}):
        with pytest.raises(InputError, match="was changed while it was being added to") as caught:
            bundle.update(files)
        assert newer.digest in str(caught.value.got)
        assert bundle.digest in str(caught.value.expected)
    assert Bundle.open(bundle.path).read("report.html") == b"theirs"


def test_a_failing_update_leaves_the_bundle(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import drsn_edge.bundle as module

    def fail(path: Path, _data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    before = tree(bundle.path)
    monkeypatch.setattr(module, "write_bytes", fail)
    for files in ({"golden.npz": NewFile(b"x", "golden")}, {"new.onnx": NewFile(b"x", "graph")}):
        with pytest.raises(OSError, match="No space"):
            bundle.update(files)
        assert tree(bundle.path) == before
    assert [item.name for item in tmp_path.iterdir()] == ["a.drsn"]


def test_force_replaces_bundles_only(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists already") as caught:
        write_bundle(bundle.path, MANIFEST_JSON, {})
    assert caught.value.got == str(bundle.path)
    assert "--force" in str(caught.value.hint)
    replaced = write_bundle(bundle.path, MANIFEST_JSON, {"golden.npz": NewFile(b"new", "golden")}, force=True)
    assert tree(replaced.path).keys() == {"golden.npz", MANIFEST}

    web = tmp_path / "site"
    web.mkdir()
    (web / "manifest.json").write_text('{"name": "a web app"}')
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("years")
    file = tmp_path / "file.drsn"
    file.write_text("no folder")
    before = tree(tmp_path)
    for path in (web, home, file):
        for attempt in (
            lambda path=path: check_bundle_output(path, force=True),
            lambda path=path: write_bundle(path, MANIFEST_JSON, FILES, force=True),
        ):
            with pytest.raises(UsageError, match="--force replaces bundles only") as caught:
                attempt()
            assert str(path) in str(caught.value.got)
            assert "a bundle" in str(caught.value.expected)
    assert tree(tmp_path) == before


def test_force_replaces_a_damaged_bundle(bundle: Bundle, tmp_path: Path) -> None:
    (bundle.path / MANIFEST).write_text("{")
    check_bundle_output(bundle.path, force=True)
    older = tmp_path / "renamed"
    fill_folder(older, MANIFEST_JSON, {})
    (older / MANIFEST).write_text(dump_json(MANIFEST_JSON | {"format_version": 0, "files": {}}))
    check_bundle_output(older, force=True)


# One process that makes many: each child writes without end and is killed at some moment.
KILLS = """
import itertools, os, random, signal, sys, time
from pathlib import Path
from drsn_edge.bundle import Bundle, NewFile, write_bundle
import json

path, manifest, trials = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
rng = random.Random(5)

def files(turn):
    data = str(turn).encode() * 50_000
    return {name: NewFile(data, "graph") for name in ("a.onnx", "b.onnx")}

def child():
    for turn in itertools.count(os.getpid()):
        bundle = write_bundle(path, manifest, files(turn), force=True)
        bundle = bundle.update({f"engines/{turn}/model.engine": NewFile(b"e" * 100_000, "engine")})
        bundle.update(files(f"{turn}.5"))

write_bundle(path, manifest, files(0))
seen = set()
trial = 0
# On a slow disk, until somebody was killed late enough to have got as far as the engine.
while trial < trials or {count for _, count in seen} != {0, 1}:
    trial += 1
    pid = os.fork()
    if pid == 0:
        try:
            child()
        finally:
            os._exit(3)
    time.sleep(rng.uniform(0.002, 0.12))
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), "the writer ended by itself"
    bundle = Bundle.open(path)
    bundle.check()
    one, two = bundle.read("a.onnx"), bundle.read("b.onnx")
    assert one == two, "files of two writings"
    seen.add((one[:20], len(bundle.engines())))
print(len(seen))
"""


@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform != "linux", reason="needs fork, and an atomic exchange")
def test_kill_9_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path / "a.drsn"), json.dumps(MANIFEST_JSON), "40"],
        capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[1], check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 10, "the kills did not meet the writers at work"
