"""Which precision is worth it: over a grid of made-up measurements, the rule and the words."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drsn_edge.parity.precision_verdict import (
    WORTH_IT,
    PrecisionEvidence,
    PrecisionTiming,
    PrecisionVerdict,
    judge_precision,
)
from drsn_edge.parity.variants import Precision

NAMES: tuple[Precision, ...] = ("fp32", "fp16", "int8")


def timings(*p50_ms: float, batch: int = 1, growth: float = 1.0) -> list[PrecisionTiming]:
    """fp32, fp16, int8 at a batch, and at sixteen times that batch."""
    return [
        PrecisionTiming(name, size, value * factor)
        for name, value in zip(NAMES, p50_ms, strict=False)
        for size, factor in ((batch, 1.0), (16 * batch, growth))
    ]


def said(verdict: PrecisionVerdict) -> str:
    return "; ".join(verdict.reasons)


@pytest.mark.parametrize(
    ("fp16", "int8", "keeps16", "keeps8"),
    list(
        itertools.product((0.5, 0.99, 1.0, 2.0), (0.4, 0.495, 0.98, 1.0, 1.9), (True, False, None), (True, False, None))
    ),
)
def test_the_rule_over_a_grid(fp16: float, int8: float, keeps16: bool | None, keeps8: bool | None) -> None:
    evidence = {"fp16": PrecisionEvidence(passed=keeps16), "int8": PrecisionEvidence(passed=keeps8)}
    verdict = judge_precision(timings(1.0, fp16, int8), evidence)  # type: ignore[arg-type]
    worth = fp16 / int8 >= WORTH_IT and 1 / int8 >= WORTH_IT and keeps8 is not False
    assert verdict.int8_worth_it is worth
    expected = "fp32"
    if keeps16 is not False and 1 / fp16 >= WORTH_IT:
        expected = "fp16"
    if keeps8 is not False and (fp16 if expected == "fp16" else 1) / int8 >= WORTH_IT:
        expected = "int8"
    assert verdict.precision == expected
    assert verdict.reasons[0].startswith(f"use {expected} on this device")
    assert ("int8 is worth it" in said(verdict)) is worth


@pytest.mark.parametrize(("gain", "worth"), [(1.0199, False), (1.02, True), (1.0201, True)])
def test_the_least_gain(gain: float, worth: bool) -> None:
    assert judge_precision(timings(3.0, gain, 1.0)).int8_worth_it is worth


def test_reasons_name_what_was_measured() -> None:
    evidence: dict[Precision, PrecisionEvidence] = {
        "fp16": PrecisionEvidence(passed=True, changed=0.002, kernels=69),
        "int8": PrecisionEvidence(passed=True, changed=0.021, kernels=81, reformats=7, int8_share=24 / 25),
    }
    text = said(judge_precision(timings(1.0, 0.9, 0.95, growth=1.2), evidence))
    for part in (
        "int8 is not worth it: 0.95 times as fast as fp16",
        "7 of 81 kernels on reformatting",
        "81 kernels, the fp16 one 69",
        "96% of the products",
        "int8 changes at most 2.10% of decisions",
        "grows 1.2 times: launches and not arithmetic",
    ):
        assert part in text


@pytest.mark.parametrize(("growth", "bound"), [(1.0, True), (1.49, True), (1.6, False), (15.0, False)])
def test_launch_bound(growth: float, bound: bool) -> None:
    assert judge_precision(timings(1.0, 0.9, growth=growth)).launch_bound is bound


def test_one_batch_size_says_nothing_of_launches() -> None:
    assert judge_precision([PrecisionTiming("fp32", 1, 1.0)]).launch_bound is None


def test_without_fp16_int8_is_not_judged() -> None:
    verdict = judge_precision([PrecisionTiming("fp32", 1, 2.0), PrecisionTiming("int8", 1, 1.0)])
    assert verdict.int8_worth_it is None
    assert "unknown" in said(verdict)


def test_nothing_measured_or_nothing_usable() -> None:
    assert judge_precision([]).precision is None
    failed = {name: PrecisionEvidence(passed=False) for name in NAMES}
    verdict = judge_precision(timings(1.0, 0.5, 0.3), failed)
    assert (verdict.precision, verdict.int8_worth_it) == (None, False)
    assert "out of tolerance" in said(verdict)


def test_other_batch_sizes_are_named_where_they_differ() -> None:
    rows = [
        PrecisionTiming("fp16", 1, 1.0), PrecisionTiming("int8", 1, 1.1),
        PrecisionTiming("fp16", 256, 9.0), PrecisionTiming("int8", 256, 6.0),
    ]  # fmt: skip
    assert "at batch 256 (1.50 times) int8 is worth it" in said(judge_precision(rows))
    assert judge_precision(rows, batch=256).int8_worth_it is True


def test_rounds_that_were_measured_side_by_side_beat_medians() -> None:
    # The machine was twice as slow in most of fp16's rounds and in as many of int8's: equal, whatever the medians say.
    rounds = (1.0, 1.0, 2.0, 2.0, 2.0)
    rows = [PrecisionTiming("fp16", 1, 2.0, rounds), PrecisionTiming("int8", 1, 1.0, rounds)]
    assert judge_precision(rows).int8_worth_it is False


@given(
    st.dictionaries(st.sampled_from(NAMES), st.floats(1e-3, 1e3), max_size=3), st.sampled_from([1, 4, 256]),
    st.dictionaries(st.sampled_from(NAMES), st.sampled_from([True, False, None]), max_size=3),
)  # fmt: skip
def test_any_measurement_has_a_verdict_that_scaling_time_does_not_change(
    p50: dict[Precision, float], batch: int, passed: dict[Precision, bool | None]
) -> None:
    evidence = {name: PrecisionEvidence(passed=value) for name, value in passed.items()}
    rows = [PrecisionTiming(name, batch, value) for name, value in p50.items()]
    scaled = [PrecisionTiming(name, batch, value * 2.0) for name, value in p50.items()]
    one, other = judge_precision(rows, evidence), judge_precision(scaled, evidence)
    assert one == other
    assert one.precision is None or passed.get(one.precision) is not False
    assert one.int8_worth_it is not True or passed.get("int8") is not False
    json.dumps(one.to_json(), allow_nan=False)
