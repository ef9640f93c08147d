from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from drsn_edge.parity.decisions import decide
from drsn_edge.parity.ledger import compare
from drsn_edge.parity.result import Hop, ParityResult
from drsn_edge.parity.shrinkage import ShrinkageDrift
from drsn_edge.parity.tolerances import derive
from drsn_edge.report.data import Example, ReportData, WorstWindow

LABELS = ("normal", "inner 7", "inner 14", "outer 7", "outer 14", "ball 7")
ERRORS = {"pytorch": 0.0, "onnx-fp32": 2e-6, "onnx-fp16": 6e-3, "onnx-int8": 0.25}


def parity(*, damage: float = 1.0, draws: int = 10) -> ParityResult:
    """A sweep over made-up logits whose classes drown in noise as a network's do."""
    rng = np.random.default_rng(0)
    points, windows, classes = [], 240, len(LABELS)
    for snr_db in [None, *range(-10, 11, 2)]:
        each = 1 if snr_db is None else draws
        y = np.repeat(np.arange(windows) % classes, each)
        spread = 0.4 if snr_db is None else 5 * 10 ** (-(snr_db + 4) / 20)
        pytorch = 14 * np.eye(classes)[y] + rng.normal(0, spread, (len(y), classes))
        logits = {
            name: pytorch + error * (damage if name == "onnx-int8" else 1) * rng.normal(size=pytorch.shape)
            for name, error in ERRORS.items()
        }
        noise = "none" if snr_db is None else "gaussian"
        gated = snr_db is None or snr_db >= -4
        cluster = np.repeat(np.arange(windows), each)
        points.append(decide(y, cluster, logits, reference="pytorch", noise=noise, snr_db=snr_db, gated=gated))
    golden = 14 * np.eye(classes)[np.arange(512) % classes] + rng.normal(0, 2, (512, classes))
    step = {name: compare(golden, golden + error * rng.normal(size=golden.shape)) for name, error in ERRORS.items()}
    loud = compare(golden, golden + ERRORS["onnx-int8"] * damage * rng.normal(size=golden.shape))
    int8 = derive("precision", "int8", reference=golden)
    hops = (
        Hop.measured(
            "pytorch", "onnx-fp32", runner="onnxruntime", error=step["onnx-fp32"], tolerance=derive("export", "fp32")
        ),
        Hop.measured("onnx-fp32", "onnx-fp16", runner="onnxruntime", error=step["onnx-fp16"]),
        Hop.measured("onnx-fp32", "onnx-int8", runner="onnxruntime", error=loud, tolerance=int8),
        Hop.not_run("onnx-fp16", "engine-fp16", runner="tensorrt-rtx", reason="no GPU"),
        Hop.not_run("onnx-int8", "engine-int8", runner="tensorrt-rtx", reason="no GPU"),
    )
    drifts = tuple(
        ShrinkageDrift(
            f"units.{unit}", variant, size * damage * (0.5 + unit / 12), size * 0.4 * (0.5 + unit / 12), 0.31, 0.312
        )
        for variant, size in (("onnx-fp16", 2e-4), ("onnx-int8", 8e-3))
        for unit in range(12)
    )
    return ParityResult("pytorch", hops, tuple(points), drifts).judged()


def report(**change: Any) -> ReportData:
    rng = np.random.default_rng(1)
    before = rng.normal(0, 0.4, 256) + 1.5 * (rng.random(256) > 0.96)
    tau = 0.45
    time = np.arange(2048) / 12_000
    example = Example(
        window=np.sin(2 * np.pi * 157 * time) * np.exp(-((time * 157) % 1) * 6) + 0.3 * rng.normal(size=2048),
        sample_rate_hz=12_000,
        units="m/s²",
        caption="inner 7 with gaussian noise at -4 dB, decided rightly",
        unit="units.5",
        before=before,
        after=before - np.clip(before, -tau, tau),
        threshold=tau,
    )
    worst = [
        WorstWindow(
            number=place,
            window=example.window + 0.1 * rng.normal(size=2048),
            sample_rate_hz=12_000,
            units="m/s²",
            caption=f"inner 7, {snr} dB",
            variant="onnx-int8",
            reference="inner 7",
            decided="inner 14" if place == 1 else "inner 7",
            margin_eaten=1.3 / place,
        )
        for place, snr in ((1, -6), (2, -4), (3, -6))
    ]
    values: dict[str, Any] = {
        "title": "bearing.drsn",
        "verdict": "The int8 graph decides as PyTorch does in at least 97 of 100 noisy windows from -4 dB up; no "
        "engine could be run here.",
        "parity": parity().to_json(),
        "model": {"model": "drsn-cw", "preset": "edge", "parameters": 181_542, "classes": len(LABELS), "dims": 1},
        "provenance": {
            "data set": "synthetic",
            "protocol": "time",
            "seed": 7,
            "trained SNR": "-6 to 10 dB",
            "weights": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        },
        "plan": [
            {"layer": f"units.{unit}.conv{conv}", "precision": "int8", "reason": "convolution on shrunk features"}
            for unit in range(3)
            for conv in (1, 2)
        ]
        + [{"layer": "units.0.threshold.fc1", "precision": "fp32", "reason": "threshold branch is never quantized"}],
        "engines": [{"key": "sm86-rtx-1.7", "precision": "int8", "gpu": "RTX A2000", "p50_ms": 0.041}],
        "files": [
            {
                "name": "model.int8.onnx",
                "size": 412_804,
                "sha256": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
            }
        ],
        "labels": LABELS,
        "example": example,
        "worst": worst,
    }
    return ReportData(**{**values, **change})


@pytest.fixture(scope="session")
def make_report() -> Callable[..., ReportData]:
    return report


@pytest.fixture(scope="session")
def make_parity() -> Callable[..., ParityResult]:
    return parity
