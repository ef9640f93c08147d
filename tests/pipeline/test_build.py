"""`build`: engines that are added to a bundle, whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from drsn_edge.bundle import Bundle
from drsn_edge.errors import MissingDependency, UsageError
from drsn_edge.extras import available
from drsn_edge.pipeline.build import build
from drsn_edge.pipeline.build_plan import plan_build
from drsn_edge.pipeline.inspect import inspect
from drsn_edge.pipeline.verify import verify
from drsn_edge.runtime.plan import read_plan_header

needs_rtx = pytest.mark.skipif(
    not available("tensorrt_rtx"), reason="needs TensorRT for RTX, which builds without a GPU"
)


@needs_rtx
def test_an_engine_is_added(workshop: Any, tmp_path: Path) -> None:
    path = workshop.copy(tmp_path)
    before = Bundle.open(path)
    result = build(path, precisions=("int8",), backend="rtx", targets=("sm86", "sm89"))
    (record,) = result.engines
    after = Bundle.open(path)
    after.check()
    assert set(before.files) < set(after.files)
    assert set(after.files) - set(before.files) == {record.file, f"engines/{record.key}/engine.json"}
    assert record.key.startswith("rtx-")
    assert record.key.endswith("-sm86-sm89-int8")
    assert after.read_json(f"engines/{record.key}/engine.json") == json.loads(json.dumps(record.info))
    assert read_plan_header(path / record.file).targets == ("sm86", "sm89")
    plan = after.read_json("calibration.json")["plan"]
    int8 = {row["layer"] for row in plan if row["precision"] == "int8"}
    built = {node for layer in record.info["layers"] if layer["precision"] == "int8" for node in layer["onnx_nodes"]}
    assert int8 <= built, "the engine has int8 where the plan says so"
    assert record.info["onnx"] == {"name": "model.int8.onnx", "sha256": after.files["model.int8.onnx"].sha256}
    assert str(record.size) == str((path / record.file).stat().st_size)
    assert "int8 with rtx" in record.summary
    # No FP16 engine for both targets is there to compare with; what integers cost shows all the same.
    (worth,) = [note for note in result.notes if "INT8" in note]
    assert worth.startswith(
        f"{record.key}: INT8 is not worth it here, by structure: {len(int8)} of {len(int8)} planned"
    )
    assert "Latency is not measured" in worth
    assert inspect(path)["int8_worth"] == {record.key: worth.removeprefix(f"{record.key}: ")}
    hops = {hop.to: hop for hop in verify(path).hops}
    assert {"engine-fp16", "engine-int8"} <= set(hops)
    assert hops["engine-int8"].from_ == "onnx-int8"


@needs_rtx
def test_engines_for_two_devices_are_one_hop(workshop: Any, tmp_path: Path) -> None:
    path = workshop.copy(tmp_path)
    build(path, backend="rtx", targets=("sm89",))
    assert len(Bundle.open(path).engines()) == 2
    assert [hop.to for hop in verify(path).hops].count("engine-fp16") == 1


@needs_rtx
def test_built_again_it_takes_the_place_of_the_old_one(workshop: Any, tmp_path: Path) -> None:
    path = workshop.copy(tmp_path)
    keys = set(Bundle.open(path).engines())
    result = build(path, backend="rtx", targets=("sm86",), max_batch=4)
    after = Bundle.open(path)
    after.check()
    assert set(after.engines()) == keys == {result.engines[0].key}
    profile = next(tensor["profile"] for tensor in result.engines[0].info["tensors"] if tensor["mode"] == "input")
    assert (profile["opt"][0], profile["max"][0]) == (4, 4)


_KILLED = """
import os, sys
import drsn_edge.bundle
from drsn_edge.pipeline.build import build

written = 0
write = drsn_edge.bundle.write_bytes

def stop(path, data):
    global written
    written += 1
    if written == int(sys.argv[2]):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(f".{path.name}.half.tmp").write_bytes(data[: len(data) // 2])
        os._exit(9)
    write(path, data)

drsn_edge.bundle.write_bytes = stop
build(sys.argv[1], backend="rtx", targets=("sm89",))
"""


@needs_rtx
@pytest.mark.parametrize("when", [1, 3])
def test_killed_half_way_it_leaves_the_bundle_that_was(workshop: Any, tmp_path: Path, when: int) -> None:
    """Before the plan is whole, and before the manifest is."""
    path = workshop.copy(tmp_path)
    before = Bundle.open(path)
    command = [sys.executable, "-c", _KILLED, str(path), str(when)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 9, done.stderr
    after = Bundle.open(path)
    after.check()
    assert after.digest == before.digest
    assert list(after.engines()) == list(before.engines())
    build(path, backend="rtx", targets=("sm89",))
    Bundle.open(path).check()
    assert len(Bundle.open(path).engines()) == 2


@needs_rtx
def test_a_dry_run_builds_nothing(workshop: Any) -> None:
    before = Bundle.open(workshop.bundle).digest
    result = build(workshop.bundle, precisions=("fp32", "int8", "fp32"), backend="rtx", targets=("sm86",), dry_run=True)
    assert result.engines == ()
    assert [line.split(" with ")[0] for line in result.planned] == [
        "fp32 from model.fp32.onnx",
        "int8 from model.int8.onnx",
    ]
    assert result.to_json()["planned"] == list(result.planned)
    assert Bundle.open(workshop.bundle).digest == before


@needs_rtx
def test_a_graph_that_the_bundle_does_not_hold(workshop: Any, tmp_path: Path) -> None:
    bundle = Bundle.open(workshop.copy(tmp_path)).update({}, remove=("model.int8.onnx",))
    with pytest.raises(UsageError, match=r"(?s)no int8 graph.*model.int8.onnx.*fp32, fp16.*--calibrate DATASET"):
        build(bundle, precisions=("fp16", "int8"), backend="rtx")
    assert len(Bundle.open(bundle.path).engines()) == 1, "nothing is built before everything can be"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precisions": ()}, "no precision.*fp32, fp16, int8"),
        ({"precisions": ("int4",)}, "int4.*fp32, fp16, int8"),
        ({"backend": "openvino"}, "openvino.*auto, tensorrt"),
        ({"targets": ("orin",)}, "orin.*sm86"),
        ({"max_batch": 0}, "max 0.*1 <= min <= opt <= max"),
        ({"workspace_mb": 0}, "0.*at least 1 MiB"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=rf"(?s){words}"):
        plan_build(**{"precisions": ("fp16",), **options})


def test_no_builder_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drsn_edge.exporters.trt_choice.available", lambda module: False)
    with pytest.raises(MissingDependency, match=r"neither is installed"):
        plan_build(("fp16",))
