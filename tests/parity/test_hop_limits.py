"""Limits that are printed, overridden and shared out: what a reader does with a hop that failed."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from drsn_edge.errors import InputError
from drsn_edge.parity.gate import Gate, load_gate
from drsn_edge.parity.ledger import compare
from drsn_edge.parity.result import Hop, ParityResult
from drsn_edge.parity.tolerances import Tolerance, derive

CHAIN = [
    ("recorded-fp32", "onnx-fp32", 1e-7),
    ("pytorch-fp64", "pytorch", 1e-6),
    ("pytorch", "onnx-fp32", 2e-6),
    ("onnx-fp32", "onnx-fp16", 3e-3),
    ("onnx-fp32", "onnx-int8", 0.1),
    ("onnx-int8", "engine-int8", 0.05),
]


def chain(limit: float | None = None) -> ParityResult:
    rng = np.random.default_rng(0)
    reference = rng.normal(0, 8, (96, 5))
    hops = []
    for start, end, size in CHAIN:
        error = compare(reference, reference + size * rng.normal(size=reference.shape))
        tolerance = Tolerance(rmse=limit, top1_agreement=0.9) if limit is not None else None
        hops.append(Hop.measured(start, end, runner="onnxruntime", error=error, tolerance=tolerance))
    return ParityResult("pytorch", tuple(hops)).judged()


def test_shares_are_of_the_squared_error_of_the_chain_to_the_last_form() -> None:
    result = chain()
    shares = dict(zip([hop.name for hop in result.hops], result.shares, strict=True))
    assert shares["recorded-fp32 to onnx-fp32"] is None
    int8, engine = shares["onnx-fp32 to onnx-int8"], shares["onnx-int8 to engine-int8"]
    fp16 = shares["onnx-fp32 to onnx-fp16"]
    floor, export = shares["pytorch-fp64 to pytorch"], shares["pytorch to onnx-fp32"]
    assert int8 is not None
    assert engine is not None
    assert fp16 is not None
    assert floor is not None
    assert export is not None
    assert int8 + engine == pytest.approx(1, abs=1e-6)
    assert int8 / engine == pytest.approx(4, rel=0.3)  # twice the error is four times the power
    assert fp16 == pytest.approx(1, abs=1e-5)
    assert floor + export == pytest.approx(1)
    written = result.to_json()["hops"]
    assert [item["share"] for item in written] == list(result.shares)
    assert ParityResult.from_json(result.to_json()).shares == pytest.approx(result.shares)


def test_what_would_just_pass_passes_as_an_override_and_a_hair_less_fails() -> None:
    result = chain(limit=0.01)
    assert {failure.where for failure in result.failures} == {"onnx-fp32 to onnx-int8", "onnx-int8 to engine-int8"}
    hop = next(item for item in result.hops if item.to == "onnx-int8")
    assert hop.just_passes is not None
    assert set(hop.just_passes) == {"rmse", "top1_agreement"}
    engine = {"rmse": 1.0}
    just = Gate(hops={hop.name: hop.just_passes, "onnx-int8 to engine-int8": engine})
    again = result.judged(just)
    assert again.passed
    assert all(item.status == "passed" for item in again.hops)
    tight = {**hop.just_passes, "rmse": hop.just_passes["rmse"] * 0.999}
    failed = result.judged(Gate(hops={hop.name: tight, "onnx-int8 to engine-int8": engine}))
    assert [(item.where, item.what) for item in failed.failures] == [(hop.name, "rmse")]
    # Derived limits are kept: a later gate without the override judges by them.
    assert again.judged(Gate()).failures == result.failures


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[gate.hops."onnx-int8"]\nrmse = 1.0', ["onnx-int8", "FROM to TO"]),
        ('[gate.hops."pytorch to onnx-fp32"]\nloudness = 1.0', ["loudness", "sqnr_db"]),
        ('[gate.hops."pytorch to onnx-fp32"]\nrmse = "small"', ["rmse", "'small'"]),
        ("[gate]\nhops = 3", ["hops is no table", "3"]),
    ],
)
def test_overrides_that_cannot_be(tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "gate.toml").write_text(text)
    with pytest.raises(InputError) as caught:
        load_gate(tmp_path / "gate.toml")
    for word in words:
        assert word in str(caught.value)


def test_the_tightest_figure_is_the_one_nearest_to_its_limit() -> None:
    reference = np.random.default_rng(2).normal(0, 5, (50, 4))
    error = compare(reference, reference + 0.01)
    near = Tolerance(max_abs=1.0, rmse=0.011, top1_agreement=0.5).tightest(error)
    assert near is not None
    assert near.figure == "rmse"
    swapped = compare(reference, reference[:, ::-1])
    broken = Tolerance(max_abs=100.0, top1_agreement=1.0).tightest(swapped)
    assert broken is not None
    assert broken.figure == "top1_agreement"
    loud = Tolerance(sqnr_db=60.0, max_abs=10.0).tightest(error)
    assert loud is not None
    assert loud.figure == "sqnr_db"
    assert Tolerance().tightest(error) is None


def test_rebuild_noise_sets_the_limit_of_a_recorded_hop() -> None:
    rng = np.random.default_rng(3)
    reference = rng.normal(0, 8, (96, 5))
    recorded = reference + 0.1 * rng.normal(size=reference.shape)
    rebuild = compare(recorded, recorded + 0.004 * rng.normal(size=reference.shape))
    tolerance = derive("recorded", "int8", reference=reference, recorded=recorded, rebuild=rebuild)
    assert tolerance.rmse == pytest.approx(4 * rebuild.rmse)
    assert not tolerance.violations(compare(recorded, recorded + 0.008 * rng.normal(size=reference.shape)))
    assert tolerance.violations(compare(recorded, recorded + 0.024 * rng.normal(size=reference.shape)))
    # Identical rebuilds leave FP32 rounding, and a rebuild that broke down leaves the old rule.
    exact = derive("recorded", "int8", reference=reference, recorded=recorded, rebuild=compare(recorded, recorded))
    assert exact.max_abs == pytest.approx(2e-5 * np.abs(reference).max())
    nan = compare(recorded, np.full_like(recorded, math.nan))
    fallback = derive("recorded", "int8", reference=reference, recorded=recorded, rebuild=nan)
    assert fallback == derive("recorded", "int8", reference=reference, recorded=recorded)
