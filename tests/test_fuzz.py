"""Whatever is read, only errors of drsn-edge may come of it: `benchmarks/fuzz.py` in miniature, and can it fail?"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drsn_edge.errors import InputError

pytest.importorskip("onnx_ir", reason="one kind of file is ONNX")
pytest.importorskip("onnxruntime", reason="which runs it")
if sys.platform != "linux":
    pytest.skip("limits the memory of its processes", allow_module_level=True)

from benchmarks import fuzz

KINDS = fuzz.kinds()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize("name", KINDS)
def test_good_examples_are_read(name: str, folder: Path) -> None:
    for data in KINDS[name].examples:
        path = folder / f"good{KINDS[name].suffix}"
        path.write_bytes(data)
        try:
            KINDS[name].read(path)
        except InputError as error:
            # No file stands behind this manifest, and no engine behind these headers.
            assert name in ("manifest", "engine"), error  # noqa: PT017


@pytest.mark.parametrize("name", sorted(set(KINDS) - {"onnx"}))
@settings(max_examples=60)
@given(seed=st.integers(0, 2**40))
def test_only_errors_of_ours(name: str, seed: int, folder: Path) -> None:
    assert fuzz.judge(KINDS[name], fuzz.changed(KINDS[name], seed), folder) is None


def test_graphs_in_a_process_of_their_own() -> None:
    """What compiled parsers do with damage may end a process, and they speak on its streams."""
    assert list(fuzz.fuzz("onnx", 150)) == []


@pytest.mark.parametrize(
    ("reader", "words"),
    [
        ("raise KeyError('x')", "KeyError"),
        ("import os; os._exit(7)", "the process ended with 7"),
        ("bytearray(8 << 30)", "MemoryError"),
    ],
)
def test_what_it_would_find(reader: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = fuzz.Kind(".json", (b"{}",), lambda path: exec(reader))
    monkeypatch.setattr(fuzz, "kinds", lambda: {"x": kind})
    found = list(fuzz.fuzz("x", 2))
    assert [seed for seed, _ in found] == [0, 1]
    assert all(words in problem for _, problem in found)


def test_a_seed_is_an_input() -> None:
    for kind in KINDS.values():
        assert fuzz.changed(kind, 5) == fuzz.changed(kind, 5)
    assert len({fuzz.changed(KINDS["manifest"], seed) for seed in range(50)}) > 40
