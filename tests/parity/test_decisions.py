from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics as oracle

from drsn_edge.errors import InputError
from drsn_edge.files import dump_json
from drsn_edge.parity import intervals, metrics
from drsn_edge.parity.decision_point import DecisionPoint
from drsn_edge.parity.decisions import CONFUSION_CLASSES, DecisionTally, decide

Logits = dict[str, NDArray[np.float64]]


def sweep(seed: int = 0, windows: int = 40, draws: int = 5, classes: int = 4) -> tuple[Any, Any, Logits]:
    """Labels, clusters and logits of a reference and of one noisy candidate."""
    rng = np.random.default_rng(seed)
    y = np.repeat(rng.integers(0, classes, windows), draws)
    cluster = np.repeat(np.arange(windows) * 7 + 100, draws)
    reference = rng.normal(0, 1, (windows * draws, classes)) + 2 * np.eye(classes)[y]
    return y, cluster, {"pytorch": reference, "onnx-int8": reference + rng.normal(0, 0.3, reference.shape)}


def point(y: Any, cluster: Any, logits: Logits, **given: Any) -> DecisionPoint:
    return decide(
        y, cluster, logits, **{"reference": "pytorch", "noise": "gaussian", "snr_db": -4, "gated": True, **given}
    )


def test_counts_against_numpy_and_scikit_learn() -> None:
    y, cluster, logits = sweep()
    found = point(y, cluster, logits)
    right = {name: values.argmax(1) == y for name, values in logits.items()}
    moved = logits["pytorch"].argmax(1) != logits["onnx-int8"].argmax(1)
    assert (found.windows, found.draws, found.gated, found.noise, found.snr_db) == (40, 200, True, "gaussian", -4)
    for name, values in logits.items():
        decision = values.argmax(1)
        assert found.accuracy[name] == pytest.approx(oracle.accuracy_score(y, decision))
        assert found.balanced_accuracy[name] == pytest.approx(oracle.balanced_accuracy_score(y, decision))
        assert found.macro_f1[name] == pytest.approx(oracle.f1_score(y, decision, average="macro"))
        assert np.array_equal(np.array(found.confusion[name])[:, :4], oracle.confusion_matrix(y, decision))
        low, high = found.accuracy_ci95[name]
        assert low < found.accuracy[name] < high
    changed = found.changed["onnx-int8"]
    assert changed.count == moved.sum()
    assert changed.rate == moved.mean()
    assert changed.windows == len(set(cluster[moved]))
    expected = intervals.clustered(moved, cluster)
    assert changed.ci95 == (expected.low, expected.high)
    assert changed.design_effect == expected.design_effect
    lost = [int(right["pytorch"][cluster == c].sum() - right["onnx-int8"][cluster == c].sum()) for c in set(cluster)]
    b, c = sum(x > 0 for x in lost), sum(x < 0 for x in lost)
    assert found.mcnemar_p["onnx-int8"] == pytest.approx(stats.binomtest(b, b + c).pvalue if b + c else 1)
    assert "pytorch" not in found.changed


def test_mcnemar_is_the_usual_one_with_one_draw_per_window() -> None:
    y, cluster, logits = sweep(seed=2, windows=400, draws=1)
    b, c = (
        int(np.sum((logits[one].argmax(1) == y) & (logits[other].argmax(1) != y)))
        for one, other in (("pytorch", "onnx-int8"), ("onnx-int8", "pytorch"))
    )
    assert b != c
    assert point(y, cluster, logits).mcnemar_p["onnx-int8"] == pytest.approx(stats.binomtest(b, b + c).pvalue)


@given(cuts=st.lists(st.integers(1, 199), max_size=6))
def test_batches_do_not_matter(cuts: list[int]) -> None:
    y, cluster, logits = sweep(seed=1)
    order = np.random.default_rng(9).permutation(200)
    tally = DecisionTally("pytorch", noise="gaussian", snr_db=-4, gated=True)
    for rows in np.split(order, sorted(set(cuts))):
        tally.add(y[rows], cluster[rows], {name: values[rows] for name, values in logits.items()})
    assert tally.point() == point(y, cluster, logits)


def test_memory_grows_with_windows_only() -> None:
    y, cluster, logits = sweep()
    tally = DecisionTally("pytorch", noise="gaussian", snr_db=0, gated=True)
    for _ in range(20):
        tally.add(y, cluster, logits)
    counters = [tally._draws, *tally._changed.values(), *tally._correct.values()]
    assert all(values.shape == (40,) for values in counters)
    assert tally.point().draws == 4000
    assert tally.point().changed["onnx-int8"].rate == point(y, cluster, logits).changed["onnx-int8"].rate


def test_without_labels_there_is_no_accuracy() -> None:
    _, cluster, logits = sweep()
    found = point(None, cluster, logits, noise="none", snr_db=None)
    assert not found.accuracy
    assert not found.mcnemar_p
    assert not found.confusion
    assert found.changed["onnx-int8"].count > 0
    assert found.name == "clean"


def test_nan_is_a_changed_and_a_wrong_decision() -> None:
    y, cluster, logits = sweep()
    logits["onnx-int8"] = np.full_like(logits["pytorch"], np.nan)
    found = point(y, cluster, logits)
    assert found.changed["onnx-int8"].rate == 1
    assert found.changed["onnx-int8"].ties == 0
    assert found.accuracy["onnx-int8"] == 0
    assert np.array(found.confusion["onnx-int8"])[:, -1].sum() == 200
    assert found.accuracy["pytorch"] > 0.5


def test_nan_in_both_is_still_a_changed_decision() -> None:
    y, cluster, logits = sweep()
    for values in logits.values():
        values[0] = np.nan
    assert (
        point(y, cluster, logits).changed["onnx-int8"].count
        == 1
        + point(y[1:], cluster[1:], {name: values[1:] for name, values in logits.items()}).changed["onnx-int8"].count
    )


def test_ties_are_told_apart_from_real_changes() -> None:
    reference = np.array([[10.0, 10.0 - 1e-5], [10.0, 9.0]])
    candidate = np.array([[10.0 - 2e-5, 10.0], [9.0, 10.0]])
    changed = point(None, np.arange(2), {"pytorch": reference, "onnx-fp32": candidate}).changed["onnx-fp32"]
    assert (changed.count, changed.ties) == (2, 1)


def test_confusion_is_left_out_for_many_classes() -> None:
    y, cluster, logits = sweep(classes=CONFUSION_CLASSES + 1)
    assert not point(y, cluster, logits).confusion
    assert point(y, cluster, logits).accuracy


def test_round_trip_and_the_named_keys() -> None:
    y, cluster, logits = sweep()
    found = point(y, cluster, logits)
    written = json.loads(dump_json(found.to_json()))
    named = {"noise", "snr_db", "windows", "draws", "gated", "accuracy", "changed", "mcnemar_p"}
    assert named <= set(written)
    assert {"count", "rate", "ci95"} <= set(written["changed"]["onnx-int8"])
    assert DecisionPoint.from_json(written) == found
    short = {key: value for key, value in written.items() if key in named}
    short["changed"] = {"onnx-int8": {"count": 1, "rate": 0.5, "ci95": [0.1, 0.9]}}
    assert DecisionPoint.from_json(short).changed["onnx-int8"].ci95 == (0.1, 0.9)


def broken(what: str) -> tuple[Any, Any, Logits]:
    y, cluster, logits = sweep()
    if what == "no reference":
        del logits["pytorch"]
    if what == "shape":
        logits["onnx-int8"] = logits["onnx-int8"][:, :3]
    if what == "cluster":
        cluster = cluster[:10]
    if what == "label":
        y = np.where(np.arange(200) == 5, 9, y)
    return y, cluster, logits


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("no reference", ["onnx-int8", "pytorch"]),
        ("shape", ["(200, 3)", "(200, 4)"]),
        ("cluster", ["one cluster per draw", "(10,)", "(200,)"]),
        ("label", ["9", "0 to 3"]),
    ],
)
def test_what_cannot_be_counted(what: str, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        point(*broken(what))
    for word in words:
        assert word in str(caught.value)


def test_batches_must_be_alike() -> None:
    y, cluster, logits = sweep()
    tally = DecisionTally("pytorch", noise="none", snr_db=None, gated=True)
    tally.add(y, cluster, logits)
    with pytest.raises(InputError) as caught:
        tally.add(None, cluster, logits)
    assert "without labels" in str(caught.value)
    assert "4 classes, with labels, onnx-int8, pytorch" in str(caught.value)


def test_nothing_to_count() -> None:
    with pytest.raises(InputError) as caught:
        DecisionTally("pytorch", noise="none", snr_db=None, gated=True).point()
    assert "no batch" in str(caught.value)
    assert "at least one window" in str(caught.value)


@given(
    y=st.lists(st.integers(0, 4), min_size=1, max_size=40),
    seed=st.integers(0, 1000),
)
def test_metrics_are_scikit_learns(y: list[int], seed: int) -> None:
    labels = np.array(y)
    decision = np.random.default_rng(seed).integers(0, 5, len(y))
    matrix = metrics.confusion(labels, decision, 5)
    recalls = oracle.recall_score(labels, decision, average=None, labels=sorted(set(y)), zero_division=0)
    assert metrics.accuracy(matrix) == pytest.approx(oracle.accuracy_score(labels, decision))
    assert metrics.balanced_accuracy(matrix) == pytest.approx(np.mean(recalls))
    assert metrics.macro_f1(matrix) == pytest.approx(
        oracle.f1_score(labels, decision, average="macro", zero_division=0)
    )
