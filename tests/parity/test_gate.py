from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drsn_edge.errors import InputError
from drsn_edge.files import dump_json
from drsn_edge.parity import intervals
from drsn_edge.parity.decision_point import Changed, DecisionPoint
from drsn_edge.parity.gate import Failure, Gate, judge, load_gate, undecided
from drsn_edge.parity.ledger import HopError, compare
from drsn_edge.parity.result import Hop, ParityResult
from drsn_edge.parity.shrinkage import ShrinkageDrift
from drsn_edge.parity.tolerances import Tolerance, derive, just_passes
from drsn_edge.parity.variants import precision_of


def error(moved: float = 1e-6) -> HopError:
    reference = np.random.default_rng(0).normal(0, 8, (64, 10))
    return compare(reference, reference + moved * np.sin(reference))


def point(
    counts: dict[str, int], *, snr_db: float | None = 0.0, windows: int = 1200, draws: int = 10, ties: int = 0
) -> DecisionPoint:
    """A noise level at which each variant changed so many draws, one per window."""
    changed = {}
    for variant, count in counts.items():
        each = np.bincount(np.arange(count) % windows, minlength=windows)
        found = intervals.clustered_counts(each, np.full(windows, draws))
        changed[variant] = Changed(count, found.rate, (found.low, found.high), ties=ties)
    gated = Gate().gates("none" if snr_db is None else "gaussian", snr_db)
    return DecisionPoint("none" if snr_db is None else "gaussian", snr_db, windows, windows * draws, gated, {}, changed)


def hops() -> tuple[Hop, ...]:
    return (
        Hop.measured("pytorch", "onnx-fp32", runner="onnxruntime", error=error(), tolerance=derive("export", "fp32")),
        Hop.measured("onnx-fp32", "onnx-int8", runner="onnxruntime", error=error(0.5), tolerance=Tolerance(rmse=1.0)),
        Hop.not_run("onnx-int8", "engine-int8", runner="tensorrt-rtx", reason="no GPU"),
    )


def result(*points: DecisionPoint) -> ParityResult:
    drift = ShrinkageDrift("units.0", "onnx-int8", 0.004, 0.002, 0.31, 0.31)
    return ParityResult("pytorch", hops(), points, (drift,)).judged()


def test_a_good_result_passes() -> None:
    found = result(point({"onnx-fp32": 0, "onnx-fp16": 5, "onnx-int8": 90}), point({"onnx-fp16": 0}, snr_db=None))
    assert found.passed
    assert found.failures == ()
    assert [hop.status for hop in found.hops] == ["passed", "passed", "not_run"]


@pytest.mark.parametrize(
    ("counts", "variant", "what", "limit"),
    [
        ({"onnx-fp32": 1}, "onnx-fp32", "changed decisions other than ties", 0.0),
        ({"onnx-fp16": 70}, "onnx-fp16", "upper end of changed decisions", 0.005),
        ({"engine-int8": 350}, "engine-int8", "upper end of changed decisions", 0.03),
    ],
)
def test_changed_decisions_fail(counts: dict[str, int], variant: str, what: str, limit: float) -> None:
    found = result(point(counts))
    assert [(item.where, item.what, item.limit) for item in found.failures] == [
        (f"{variant} at gaussian 0 dB", what, limit)
    ]
    assert found.failures[0].value is not None
    assert found.failures[0].value > limit


def test_the_upper_end_counts_and_not_the_rate() -> None:
    few = point({"onnx-int8": 340})
    assert few.changed["onnx-int8"].rate < 0.03 < few.changed["onnx-int8"].ci95[1]
    assert not result(few).passed


def test_what_is_not_gated_is_only_shown() -> None:
    assert result(point({"onnx-int8": 4000}, snr_db=-8)).passed
    assert not result(point({"onnx-int8": 4000}, snr_db=-4)).passed


def test_ties_of_fp32_are_no_failures() -> None:
    assert result(point({"onnx-fp32": 2}, ties=2)).passed
    assert not result(point({"onnx-fp32": 3}, ties=2)).passed


def test_fp16_on_clean_windows() -> None:
    clean = point({"onnx-fp16": 2}, snr_db=None, windows=1500, draws=1)
    assert [item.what for item in result(clean).failures] == ["top-1 agreement"]
    assert result(point({"onnx-fp16": 0}, snr_db=None, windows=1500, draws=1)).passed


def test_too_few_windows_are_judged_by_the_rate_and_said() -> None:
    clean = point({"onnx-fp16": 0, "onnx-int8": 1}, snr_db=None, windows=240, draws=1)
    assert clean.changed["onnx-fp16"].ci95[1] > 0.005
    found = result(clean)
    assert found.passed
    assert len(found.notes) == 1
    assert "240 windows and 240 draws cannot show 0.5 %" in found.notes[0]
    assert "clean. 10 draws of each window could" in found.notes[0]
    assert not result(point({"onnx-fp16": 2}, snr_db=None, windows=240, draws=1)).passed


def test_too_few_draws_names_the_number() -> None:
    notes = result(point({"onnx-fp16": 0}, windows=240, draws=2)).notes
    assert not intervals.decidable(0.005, 240, 2 * 240)
    assert intervals.decidable(0.005, 240, 10 * 240)
    assert "10 draws of each window could" in notes[0]


def test_one_change_among_few_windows_does_not_fail_where_none_would_pass() -> None:
    # 104 windows: no change in 123 draws of each leaves 0.5 %, a single one 0.6 %, for want of windows alone.
    for changed in (0, 1, 3):
        assert result(point({"onnx-fp16": changed}, windows=104, draws=123)).passed
    assert not result(point({"onnx-fp16": 80}, windows=104, draws=123)).passed


def test_a_hop_out_of_tolerance_fails_with_its_figure() -> None:
    bad = Hop.measured(
        "onnx-fp32", "onnx-int8", runner="onnxruntime", error=error(9.0), tolerance=just_passes(error(0.5))
    )
    assert bad.status == "failed"
    failures = judge(ParityResult("pytorch", (bad,)), Gate())
    assert {item.where for item in failures} == {"onnx-fp32 to onnx-int8"}
    assert {"max_abs", "rmse", "sqnr_db"} <= {item.what for item in failures}


def test_nan_fails_even_without_a_tolerance() -> None:
    reference = np.eye(4)
    bad = Hop.measured("onnx-fp32", "onnx-fp16", runner="onnxruntime", error=compare(reference, reference * np.nan))
    assert bad.status == "failed"
    assert [item.what for item in judge(ParityResult("pytorch", (bad,)), Gate())] == ["nonfinite"]
    written = json.loads(dump_json(ParityResult("pytorch", (bad,)).judged().to_json()))
    assert written["hops"][0]["max_abs"] is None
    assert written["hops"][0]["status"] == "failed"


def test_a_crashed_hop_fails_with_its_reason() -> None:
    bad = Hop("onnx-int8", "engine-int8", "tensorrt", "failed", "the engine could not be executed")
    assert judge(ParityResult("pytorch", (bad,)), Gate()) == (
        Failure("onnx-int8 to engine-int8", "the engine could not be executed", None, None),
    )


def test_fp32_must_be_identical_also_without_a_tolerance() -> None:
    reference = np.array([[1.0, 0.9]])
    hop = Hop.measured("onnx-fp32", "engine-fp32", runner="tensorrt", error=compare(reference, reference[:, ::-1]))
    assert [item.what for item in judge(ParityResult("pytorch", (hop,)), Gate())] == ["top1_agreement"]
    assert not judge(ParityResult("pytorch", (hop,)), Gate(fp32_identical=False))


def test_saved_results_are_judged_again_without_running() -> None:
    saved = json.loads(dump_json(result(point({"onnx-int8": 200}), point({"onnx-int8": 900}, snr_db=-8)).to_json()))
    found = ParityResult.from_json(saved)
    assert found.passed
    strict = found.judged(Gate(changed_limit={"int8": 0.01}))
    assert [item.where for item in strict.failures] == ["onnx-int8 at gaussian 0 dB"]
    wider = found.judged(Gate(gated_from_db=-10.0))
    assert [item.where for item in wider.failures] == ["onnx-int8 at gaussian -8 dB"]
    assert [item.gated for item in wider.decisions] == [True, True]
    assert wider.judged(Gate()) == found


def test_a_status_that_the_figures_do_not_bear_out_is_corrected() -> None:
    saved = result().to_json()
    saved["hops"][1]["rmse"] = 5.0
    again = ParityResult.from_json(saved).judged()
    assert again.hops[1].status == "failed"
    assert not again.passed


def test_json_has_the_shape_that_others_rely_on() -> None:
    written = json.loads(dump_json(result(point({"onnx-int8": 19}, snr_db=-4)).to_json()))
    assert {"format_version", "passed", "reference", "hops", "decisions", "shrinkage"} <= set(written)
    assert (written["format_version"], written["passed"], written["reference"]) == (1, True, "pytorch")
    hop_keys = ["from", "to", "runner", "status", "reason", "windows", "max_abs", "sqnr_db", "cosine", "top1_agreement"]
    for hop in written["hops"]:
        assert {*hop_keys, "tolerance", "first_divergence"} <= set(hop)
    absent = written["hops"][2]
    assert (absent["status"], absent["reason"]) == ("not_run", "no GPU")
    assert all(absent[key] is None for key in [*hop_keys[5:], "tolerance", "first_divergence"])
    assert written["shrinkage"][0]["tau_relative_error"] == 0.004
    assert written["decisions"][0]["changed"]["onnx-int8"]["count"] == 19


def test_round_trip() -> None:
    found = result(point({"onnx-int8": 900}), point({"onnx-fp16": 1}, snr_db=None, windows=100))
    assert not found.passed
    assert found.notes
    assert ParityResult.from_json(json.loads(dump_json(found.to_json()))) == found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format_version": 2}, ["format_version 2", "format_version 1"]),
        ({"hops": [{}]}, ["KeyError: 'status'", "verify --json"]),
        ({"hops": None}, ["TypeError", "verify --json"]),
        ({"gate": {"strict": True}}, ["strict", "changed_limit"]),
    ],
)
def test_saved_results_that_cannot_be_read(change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        ParityResult.from_json({**result().to_json(), **change})
    for word in words:
        assert word in str(caught.value)


def test_unknown_status_is_named() -> None:
    saved = result().to_json()
    saved["hops"][0]["status"] = "maybe"
    with pytest.raises(InputError) as caught:
        ParityResult.from_json(saved)
    assert "'maybe'" in str(caught.value)
    assert "passed, failed, not_run" in str(caught.value)


def test_gate_files(tmp_path: Path) -> None:
    gate = Gate(changed_limit={"int8": 0.01, "fp16": 0.002}, gated_from_db=-6.0, fp16_top1_clean=None)
    (tmp_path / "gate.json").write_text(dump_json(gate.to_json()))
    assert load_gate(tmp_path / "gate.json") == gate
    (tmp_path / "gate.toml").write_text("[gate]\ngated_from_db = -2\nchanged_limit = {int8 = 0.01}\n")
    assert load_gate(tmp_path / "gate.toml") == Gate(changed_limit={"int8": 0.01}, gated_from_db=-2.0)
    (tmp_path / "flat.toml").write_text("fp32_identical = false\n")
    assert load_gate(tmp_path / "flat.toml") == Gate(fp32_identical=False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("changed_limits = {int8 = 0.01}", ["changed_limits", "changed_limit, gated_from_db"]),
        ("changed_limit = {int4 = 0.01}", ["int4", "fp32, fp16 or int8"]),
        ("changed_limit = {int8 = 3}", ["int8", "3", "0 to 1"]),
        ("changed_limit = 0.01", ["0.01", "{fp16 = 0.005"]),
        ("gated_from_db = 'low'", ["'low'", "a number"]),
        ("fp32_identical = 1", ["1", "true or false"]),
        ("fp16_top1_clean = 99.9", ["99.9", "0 to 1"]),
        ("gated_from_db = ", ["gate.toml", "a TOML file"]),
    ],
)
def test_gate_files_that_cannot_be_used(tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "gate.toml").write_text(text)
    with pytest.raises(InputError) as caught:
        load_gate(tmp_path / "gate.toml")
    for word in words:
        assert word in str(caught.value)


def test_a_gate_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_gate(tmp_path / "none.toml")
    assert "none.toml" in str(caught.value)
    assert "a TOML or JSON file" in str(caught.value)


def test_nothing_below_the_trained_noise_is_gated() -> None:
    gate = Gate().for_trained(0.0)
    assert (gate.gates("gaussian", -2.0), gate.gates("gaussian", 0.0), gate.gates("none", None)) == (False, True, True)
    assert Gate().for_trained(-8.0) == Gate().for_trained(None) == Gate()


@pytest.mark.parametrize(
    ("variant", "precision"),
    [("pytorch", "fp32"), ("onnx-fp16", "fp16"), ("engine-int8", "int8"), ("onnx-int8-fp32", "int8")],
)
def test_precision_of_a_variant(variant: str, precision: str) -> None:
    assert precision_of(variant) == precision


@pytest.mark.parametrize("variant", ["", "int8", "onnx-", "onnx-fp8"])
def test_names_without_a_precision(variant: str) -> None:
    with pytest.raises(InputError) as caught:
        precision_of(variant)
    assert f"got:      {variant}" in str(caught.value)
    assert "onnx-int8" in str(caught.value)


def test_undecided_points_that_are_not_gated_are_not_noted() -> None:
    assert undecided(result(point({"onnx-fp16": 0}, snr_db=-8, windows=20)), Gate()) == ()


def test_hopelessly_few_windows_need_more_windows() -> None:
    notes = result(point({"onnx-fp16": 0}, windows=10, draws=5)).notes
    assert "More windows are needed" in notes[0]
